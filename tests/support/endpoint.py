"""An OpenAI-compatible endpoint on the loopback interface, of fixed speed, that misbehaves on request.

    with Endpoint(rate=30) as endpoint:            thirty tokens a second for each request, and as many requests as come
        endpoint.url, endpoint.seen, endpoint.hung_up ...
        endpoint.scripts.append(status(429, {"retry-after": "0"}))      what the next request gets instead

`python tests/support/endpoint.py --rate 30` serves until its input ends, for benchmarks: it says its port first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Script = Callable[["Exchange"], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass
class Exchange:
    """One request and the connection it came by."""

    endpoint: Endpoint
    writer: asyncio.StreamWriter
    headers: dict[str, str]
    body: Any

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def begin(self) -> None:
        await self.raw(HEAD)

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def event(self, said: Any) -> None:
        await self.chunk(b"data: " + json.dumps(said).encode() + b"\n\n")

    async def delta(self, content: str, **more: Any) -> None:
        await self.event({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}], **more})

    async def finish(self, reason: str | None, usage: Any = None) -> None:
        """The end that a well-behaved endpoint makes."""
        if reason is not None:
            await self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if usage is not None:
            await self.event({"choices": [], "usage": usage})
        await self.chunk(b"data: [DONE]\n\n")
        await self.raw(b"0\r\n\r\n")

    def hang_up(self) -> None:
        self.writer.transport.abort()


@dataclass
class Endpoint:
    """Use as a context: it has a thread of its own."""

    rate: float = 0.0
    """Tokens a second of each request; 0: as fast as it goes."""
    delay: float = 0.0
    """Seconds before the first."""
    tokens: int = 8
    """Of a reply, if it may have as many."""
    usage: bool = True
    held: int | None = None
    """Every reply waits before this token until `release`."""
    seen: list[Exchange] = field(default_factory=list)
    scripts: deque[Script] = field(default_factory=deque)
    running: int = 0
    most: int = 0
    """Requests that were under way at once."""
    hung_up: int = 0
    """Replies that the client did not want to the end."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    port: int = 0

    def __enter__(self) -> Endpoint:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(ready)), name="endpoint")
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def release(self) -> None:
        """Let the replies that wait go on."""
        self._loop.call_soon_threadsafe(self._go.set)

    def wait(self, until: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait for something that the endpoint gets to see."""
        with self.changed:
            assert self.changed.wait_for(until, seconds), f"running {self.running}, seen {len(self.seen)}, hung up {self.hung_up}"

    def prompts(self) -> list[Any]:
        return [exchange.body["messages"] for exchange in self.seen]

    # --- in its thread

    async def _main(self, ready: threading.Event) -> None:
        self._loop, self._over, self._go = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._over.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) is not None:
                lines = head.decode().split("\r\n")
                headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines[1:] if line)}
                assert lines[0].startswith("POST /v1/chat/completions ")
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                await self._serve(Exchange(self, writer, headers, body), reader)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, exchange: Exchange, reader: asyncio.StreamReader) -> None:
        with self._counted(exchange):
            script = self.scripts.popleft() if self.scripts else self.reply
            serving = asyncio.ensure_future(script(exchange))
            gone = asyncio.ensure_future(self._gone(reader))
            try:
                await asyncio.wait((serving, gone), return_when=asyncio.FIRST_COMPLETED)
                if not serving.done() or isinstance(serving.exception(), ConnectionError):  # it may be a write that finds out
                    with self.changed:
                        self.hung_up += 1
                    raise ConnectionError
                await serving
            finally:
                serving.cancel()
                gone.cancel()
                await asyncio.gather(serving, gone, return_exceptions=True)

    async def _gone(self, reader: asyncio.StreamReader) -> None:
        """Until the client hangs up: it says nothing while it is answered."""
        try:
            while not reader.at_eof():
                await reader._wait_for_data("gone")  # type: ignore[attr-defined]  # and takes none of it: it may be the next request
        except ConnectionError:
            pass

    @contextmanager
    def _counted(self, exchange: Exchange) -> Iterator[None]:
        with self.changed:
            self.seen.append(exchange)
            self.running += 1
            self.most = max(self.most, self.running)
            self.changed.notify_all()
        try:
            yield
        finally:
            with self.changed:
                self.running -= 1
                self.changed.notify_all()

    async def reply(self, exchange: Exchange) -> None:
        """What a good endpoint does: `w0 w1 w2 ...`."""
        count = min(exchange.body.get("max_tokens", self.tokens), self.tokens)
        await exchange.begin()
        began = self._loop.time() + self.delay
        for i in range(count):
            if i == self.held:
                await self._go.wait()
            if self.rate:
                await asyncio.sleep(max(0.0, began + i / self.rate - self._loop.time()))
            await exchange.delta(f"w{i} ")
        asked = sum(len(message["content"]) for message in exchange.body["messages"])
        reason = "length" if count == exchange.body.get("max_tokens") else "stop"
        await exchange.finish(reason, {"prompt_tokens": asked, "completion_tokens": count} if self.usage else None)


# --- what a request may get instead


def status(code: int, headers: dict[str, str] | None = None, body: Any = None) -> Script:
    """A refusal."""

    async def script(exchange: Exchange) -> None:
        data = body if isinstance(body, bytes) else json.dumps({"error": {"message": "not now"}} if body is None else body).encode()
        lines = [f"HTTP/1.1 {code} No", "content-type: application/json", f"content-length: {len(data)}"]
        lines += [f"{key}: {value}" for key, value in (headers or {}).items()]
        await exchange.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    return script


def says(*pieces: str, reason: str = "stop") -> Script:
    """A reply of this text."""

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for piece in pieces:
            await exchange.delta(piece)
        await exchange.finish(reason)

    return script


def calls(name: str, *arguments: str, reason: str = "tool_calls", index: int = 0) -> Script:
    """A reply that calls a function, its arguments in pieces."""

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        functions: list[dict[str, str]] = [{"name": name, "arguments": ""}, *({"arguments": piece} for piece in arguments)]
        for function in functions:
            call = {"index": index, "function": function}
            await exchange.event({"choices": [{"index": 0, "delta": {"content": None, "tool_calls": [call]}, "finish_reason": None}]})
        await exchange.finish(reason)

    return script


def hang_up(after: int | None = None) -> Script:
    """No answer at all, or one that breaks off after so many tokens."""

    async def script(exchange: Exchange) -> None:
        if after is not None:
            await exchange.begin()
            for i in range(after):
                await exchange.delta(f"w{i} ")
            await asyncio.sleep(0.02)  # what was written must be read before the reset
        exchange.hang_up()

    return script


def stream(*events: bytes, end: bool = True) -> Script:
    """These bytes, each in a chunk of its own, and the end of the body."""

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for event in events:
            await exchange.chunk(event)
        if end:
            await exchange.raw(b"0\r\n\r\n")
        else:
            await asyncio.Event().wait()

    return script


def forever(data: bytes, seconds: float = 0.0) -> Script:
    """The same bytes without end."""

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        while True:
            await exchange.chunk(data)
            await asyncio.sleep(seconds)

    return script


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--tokens", type=int, default=8)
    found = parser.parse_args()
    with Endpoint(rate=found.rate, delay=found.delay, tokens=found.tokens) as endpoint:
        print(endpoint.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
