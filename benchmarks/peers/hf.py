"""Hugging Face transformers, in two ways: its continuous batching manager, and plain generate() behind a queue.

`Continuous` pages its cache, shares prefixes and streams. `Generate` is what people write first: one thread takes all that waits
with the same length, pads it on the left and runs one generate(). The second has more throughput on a CPU and no streaming but for
a lone request; both are oracles of correctness more than rivals.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client import Kind
from workloads import Fork

from peers.catalogue import THREADS
from peers.stateless import Stateless

PAD = 2


class Transformers(Stateless):
    """Loads the model; bf16, scaled dot product attention."""

    def __init__(self, peers: Path, options: dict[str, str]) -> None:
        self.path = str(peers / "models" / "hf")
        self.options = options

    def load(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(THREADS)
        dtype = getattr(torch, self.options.get("dtype", "bfloat16"))
        return AutoModelForCausalLM.from_pretrained(self.path, dtype=dtype, attn_implementation="sdpa").eval()

    async def answer(self, question: str) -> str:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.path)
        chat = [{"role": "user", "content": question}]
        tokens = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = [token async for piece in self.stream(tokens, 24, kind="normal", more=False) for token in piece]
        return str(tokenizer.decode(ids))


class Continuous(Transformers):
    async def start(self) -> None:
        self.model = self.load()
        self.greedy = self.manager(tokens=int(self.options.get("cache", "49152")))
        self.sampler: tuple[int, Any] | None = None
        self.requests = 0

    def manager(self, tokens: int, copies: int = 0) -> Any:
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        sampling: dict[str, Any] = {"do_sample": False}
        if copies:
            sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "num_return_sequences": copies}
        page = int(self.options.get("page", "32"))
        manager = self.model.init_continuous_batching(
            generation_config=GenerationConfig(max_new_tokens=64, eos_token_id=-1, pad_token_id=PAD, **sampling),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=page, num_blocks=tokens // page, max_batch_tokens=1024, max_requests_per_batch=64, allow_block_sharing=True
            ),
        )
        manager.start()
        return manager

    async def stop(self) -> None:
        for manager in [self.greedy] + ([self.sampler[1]] if self.sampler else []):
            await asyncio.to_thread(manager.stop, block=True)

    async def prepare(self, workload: object) -> None:
        """How many copies a request makes is a setting of a manager: W6 needs one of its own."""
        if isinstance(workload, Fork) and (self.sampler is None or self.sampler[0] != workload.copies):
            self.sampler = (workload.copies, self.manager(tokens=8192, copies=workload.copies))
            async for _ in self.samples([PAD] * 32, workload.copies, 4):
                pass

    async def follow(self, manager: Any, tokens: Sequence[int], length: int, copies: int) -> AsyncIterator[list[int]]:
        self.requests += 1
        name = f"request-{self.requests}"
        output: asyncio.Queue[Any] = asyncio.Queue()
        names = [name, *(f"{name}__child#{number}" for number in range(copies - 1))]
        for each in names:
            manager.register_result_handler(each, output.put_nowait)
        manager.add_request(list(tokens), request_id=name, max_new_tokens=length, streaming=True, eos_token_id=-1)
        seen = dict.fromkeys(names, 0)
        while any(count < length for count in seen.values()):
            result = await output.get()
            if result.error:
                raise RuntimeError(result.error)
            ids = list(result.generated_tokens)
            yield ids[seen[result.request_id] :]
            seen[result.request_id] = len(ids)

    async def stream(self, tokens: Sequence[int], length: int, *, kind: Kind, more: bool) -> AsyncIterator[list[int]]:
        async for piece in self.follow(self.greedy, tokens, length, 1):
            yield piece

    async def samples(self, prompt: Sequence[int], copies: int, length: int) -> AsyncIterator[list[int]]:
        if self.sampler is None:
            raise RuntimeError("prepare() has not seen a Fork workload")
        async for piece in self.follow(self.sampler[1], prompt, length, copies):
            yield piece


@dataclass(slots=True)
class Waiting:
    """A request in the queue of `Generate`; answers go to `output` from the worker's thread."""

    tokens: list[int]
    length: int
    copies: int
    output: asyncio.Queue[list[int] | BaseException]


class Streamer:
    """Hands on what generate() gives a lone request, less the prompt that it is given first."""

    def __init__(self, loop: asyncio.AbstractEventLoop, output: asyncio.Queue[list[int] | BaseException]) -> None:
        self.loop, self.output, self.prompt = loop, output, True

    def put(self, value: Any) -> None:
        if not self.prompt:
            self.loop.call_soon_threadsafe(self.output.put_nowait, value.flatten().tolist())
        self.prompt = False

    def end(self) -> None:
        pass


class Generate(Transformers):
    async def start(self) -> None:
        self.model = self.load()
        self.loop = asyncio.get_running_loop()
        self.waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.serve_until_stopped)
        self.thread.start()

    async def stop(self) -> None:
        self.waiting.put(None)
        await asyncio.to_thread(self.thread.join)

    def serve_until_stopped(self) -> None:
        """One batch after the other: what came within ten milliseconds and has one length, in order of arrival."""
        kept: list[Waiting] = []
        while True:
            if not kept:
                item = self.waiting.get()
                if item is None:
                    return
                kept = [item]
            time.sleep(0.01)
            while not self.waiting.empty():
                item = self.waiting.get()
                if item is None:
                    return
                kept.append(item)
            shape = (kept[0].length, kept[0].copies)
            batch = [item for item in kept if (item.length, item.copies) == shape]
            kept = [item for item in kept if (item.length, item.copies) != shape]
            try:
                self.run(batch, *shape)
            except RuntimeError as error:
                for item in batch:
                    self.loop.call_soon_threadsafe(item.output.put_nowait, error)

    def run(self, batch: list[Waiting], length: int, copies: int) -> None:
        import torch

        width = max(len(item.tokens) for item in batch)
        ids = torch.full((len(batch), width), PAD, dtype=torch.long)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for row, item in enumerate(batch):
            ids[row, width - len(item.tokens) :] = torch.tensor(item.tokens)
            mask[row, width - len(item.tokens) :] = 1
        lone = len(batch) == 1 and copies == 0
        sampling: dict[str, Any] = {"do_sample": False}
        if copies:
            sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "num_return_sequences": copies}
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=length,
                min_new_tokens=length,
                eos_token_id=None,
                pad_token_id=PAD,
                streamer=Streamer(self.loop, batch[0].output) if lone else None,
                **sampling,
            )
        if not lone:
            rows = max(1, copies)
            for number, item in enumerate(batch):
                new = output[number * rows : (number + 1) * rows, width:].flatten().tolist()
                self.loop.call_soon_threadsafe(item.output.put_nowait, new)

    async def request(self, tokens: Sequence[int], length: int, copies: int) -> AsyncIterator[list[int]]:
        output: asyncio.Queue[list[int] | BaseException] = asyncio.Queue()
        self.waiting.put(Waiting(list(tokens), length, copies, output))
        got = 0
        while got < length * max(1, copies):
            piece = await output.get()
            if isinstance(piece, BaseException):
                raise piece
            got += len(piece)
            yield piece

    async def stream(self, tokens: Sequence[int], length: int, *, kind: Kind, more: bool) -> AsyncIterator[list[int]]:
        async for piece in self.request(tokens, length, 0):
            yield piece

    async def samples(self, prompt: Sequence[int], copies: int, length: int) -> AsyncIterator[list[int]]:
        async for piece in self.request(prompt, length, copies):
            yield piece
