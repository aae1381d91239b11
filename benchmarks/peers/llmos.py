"""llmos through its public SDK, embedded: every agent is a process, every conversation a context.

W6 appends its prompt once and forks the context. W3's processes each open a context of their own and give it the whole prompt: that
the common prefix is computed once is the kernel's doing. Background agents are of class "batch", visitors "interactive".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from client import Kind, Session

import llmos
from llmos.services.init.settings import read_settings
from llmos.services.init.store import library
from llmos.services.library.manifest import QUANTIZED
from peers.catalogue import THREADS

T = TypeVar("T")
CLASS: dict[Kind, str] = {"interactive": "interactive", "normal": "normal", "background": "batch"}


class ContextSession:
    """A `Session` over one context."""

    def __init__(self, context: llmos.Context) -> None:
        self.context = context

    async def generate(self, tokens: Sequence[int], length: int, *, more: bool = False) -> AsyncIterator[list[int]]:
        generation = self.context.generate(tokens=list(tokens), max_tokens=length, temperature=0.0, ignore_stop=True)
        async for piece in generation.pieces():
            yield list(piece.tokens)


class Llmos:
    streams_turns = True

    def __init__(self, peers: Path, options: dict[str, str]) -> None:
        self.options = dict(options)
        self.model = self.options.pop("model", "smollm2")
        self.speculate = self.options.pop("speculate", "off") == "on"  # no peer guesses: like for like

    async def start(self) -> None:
        for weights in QUANTIZED:  # a tag of the store, made if it is not there
            if self.model.endswith(f"-{weights}"):
                library(read_settings().home).quantize(self.model.removesuffix(f"-{weights}"), weights)
        self.booting = llmos.boot(model=self.model, threads=THREADS, speculate=self.speculate, **self.options)
        self.system = await self.booting.__aenter__()

    async def stop(self) -> None:
        await self.booting.__aexit__(None, None, None)

    def versions(self) -> dict[str, str]:
        return {}

    async def prepare(self, workload: object) -> None:
        pass

    async def run(self, program: Callable[[llmos.Process], Awaitable[None]], kind: Kind) -> None:
        child = await self.system.spawn(program, cls=CLASS[kind])
        done = await child.wait()
        if done.status != 0:
            raise RuntimeError(f"process {done.pid} ended with status {done.status}: {done.error}")

    async def agent(self, body: Callable[[Session], Awaitable[T]], *, kind: Kind = "normal") -> T:
        results: list[T] = []

        async def program(me: llmos.Process) -> None:
            results.append(await body(ContextSession(await me.open())))

        await self.run(program, kind)
        return results[0]

    async def samples(self, prompt: Sequence[int], copies: int, length: int) -> AsyncIterator[list[int]]:
        replies: list[llmos.Reply] = []

        async def program(me: llmos.Process) -> None:
            context = await me.open()
            await context.append(tokens=list(prompt))
            forks = [await context.fork() for _ in range(copies)]
            generations = [
                fork.generate(max_tokens=length, temperature=1.0, seed=seed, ignore_stop=True) for seed, fork in enumerate(forks)
            ]
            for generation in generations:  # all run already
                replies.append(await generation)

        await self.run(program, "normal")
        for each in replies:
            yield list(each.tokens)

    async def answer(self, question: str) -> str:
        texts: list[str] = []

        async def program(me: llmos.Process) -> None:
            context = await me.open()
            await context.append(user=question)
            texts.append((await context.generate(max_tokens=24, temperature=0.0)).text)

        await self.run(program, "normal")
        return texts[0]
