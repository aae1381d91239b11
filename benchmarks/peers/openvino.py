"""OpenVINO GenAI's ContinuousBatchingPipeline, stepped by a thread of its own.

Set as measured best: the exported IR rather than the GGUF, bf16 arithmetic (its own choice on a CPU that has it; asked for
here so that it is said), its default 8-bit KV cache, prefix caching on. It has no priorities.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from client import Kind

from peers.catalogue import THREADS
from peers.stateless import Stateless

Output = asyncio.Queue[list[int] | None]


class OpenVino(Stateless):
    def __init__(self, peers: Path, options: dict[str, str]) -> None:
        self.model = str(peers / "models" / options.get("model", "openvino"))
        self.options = options
        self.waiting: queue.SimpleQueue[tuple[int, list[int], Any, Output] | None] = queue.SimpleQueue()
        self.requests = 0

    async def start(self) -> None:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 2  # GiB
        scheduler.enable_prefix_caching = True
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_seqs = 64
        scheduler.max_num_batched_tokens = int(self.options.get("batch", "1024"))
        properties = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": self.options.get("precision", "bf16")}
        if "kv" in self.options:
            properties["KV_CACHE_PRECISION"] = self.options["kv"]
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(self.model, scheduler, "CPU", properties)
        self.loop = asyncio.get_running_loop()
        self.thread = threading.Thread(target=self.step_until_stopped)
        self.thread.start()

    async def stop(self) -> None:
        self.waiting.put(None)
        await asyncio.to_thread(self.thread.join)

    def step_until_stopped(self) -> None:
        """Admits what waits, steps, hands out new ids; sleeps in `waiting` when there is nothing to do."""
        import numpy
        import openvino
        import openvino_genai

        live: dict[int, tuple[Any, Output]] = {}
        while True:
            while not live or not self.waiting.empty():
                item = self.waiting.get()
                if item is None:
                    return
                number, tokens, config, output = item
                tensor = openvino.Tensor(numpy.array([tokens], dtype=numpy.int64))
                live[number] = (self.pipeline.add_request(number, tensor, config), output)
            if self.pipeline.has_non_finished_requests():
                self.pipeline.step()
            for number, (handle, output) in list(live.items()):
                while handle.can_read():
                    for sequence in handle.read().values():
                        self.loop.call_soon_threadsafe(output.put_nowait, list(sequence.generated_ids))
                if handle.get_status() != openvino_genai.GenerationStatus.RUNNING and not handle.can_read():
                    del live[number]
                    self.loop.call_soon_threadsafe(output.put_nowait, None)

    async def generate(self, tokens: Sequence[int], length: int, copies: int, temperature: float) -> AsyncIterator[list[int]]:
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = length
        config.ignore_eos = True
        config.do_sample = temperature > 0
        if temperature > 0:
            config.temperature, config.top_p, config.top_k = temperature, 1.0, 2**31
            config.num_return_sequences = copies
        self.requests += 1
        output: Output = asyncio.Queue()
        self.waiting.put((self.requests, list(tokens), config, output))
        while (piece := await output.get()) is not None:
            yield piece

    async def stream(self, tokens: Sequence[int], length: int, *, kind: Kind, more: bool) -> AsyncIterator[list[int]]:
        async for piece in self.generate(tokens, length, 1, 0.0):
            yield piece

    async def samples(self, prompt: Sequence[int], copies: int, length: int) -> AsyncIterator[list[int]]:
        async for piece in self.generate(prompt, length, copies, 1.0):
            yield piece

    async def answer(self, question: str) -> str:
        tokenizer = self.pipeline.get_tokenizer()
        text = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
        tokens = tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
        ids = [token async for piece in self.stream(tokens, 24, kind="normal", more=False) for token in piece]
        return str(tokenizer.decode(ids))
