"""The client's side of a benchmark: the seams `Engine` and `Session`, the clock, the statistics.

Invariant: every answer has exactly the asked length, so an engine that stops early fails its run instead of looking fast. Knows
no engine, no workload, no file and no process.

What a first-token time counts from: the moment the client asks. For a new agent that includes starting the agent (llmos spawns a
process, a server gets a request); for a visitor it is the planned arrival, so that a client that is held up by its engine is
charged for it.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

T = TypeVar("T")
Kind = Literal["interactive", "normal", "background"]
"""What an agent is to its user; adapters tell it to engines that have priorities."""
Figures = dict[str, float | None]
"""What one run of a workload reports; None where the engine cannot say (an answer that was not streamed has no first token)."""


class WrongLengthError(RuntimeError):
    """An engine gave more or fewer tokens than asked. Make its adapter ignore the end of sequence."""


class Session(Protocol):
    """One conversation. Where the engine keeps contexts it lives there; where not, the adapter sends it again each turn."""

    def generate(self, tokens: Sequence[int], length: int, *, more: bool = False) -> AsyncIterator[list[int]]:
        """Appends `tokens` and yields exactly `length` new ids as they come, greedily. `more`: another turn will follow."""
        ...


class Engine(Protocol):
    """What an adapter offers. `streams_turns` is False if answers that another turn follows come whole."""

    streams_turns: bool

    async def agent(self, body: Callable[[Session], Awaitable[T]], *, kind: Kind = "normal") -> T:
        """Runs `body` as one agent with an empty conversation."""
        ...

    def samples(self, prompt: Sequence[int], copies: int, length: int) -> AsyncIterator[list[int]]:
        """`copies` continuations at temperature 1, by the engine's own best way; yields ids of any copy as they come."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds from the asking to the first token and to the last, and the ids."""

    first: float
    total: float
    tokens: list[int]


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value such that at least `percent` per cent of all are not above it."""
    if not values:
        raise ValueError("percentile of no values")
    if not 0 < percent <= 100:
        raise ValueError(f"percent is {percent}: give more than 0, at most 100")
    ordered = sorted(values)
    rank = -(-percent * len(ordered) // 100)
    return ordered[int(rank) - 1]


def spread(values: Sequence[float]) -> float:
    """Half the range, as a fraction of the median: 0.1 reads "plus or minus 10 per cent". 0 for a single value."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / 2 / middle if middle else 0.0


def prompt(rng: random.Random, length: int, low: int = 1000, high: int = 48000) -> list[int]:
    """Random ids of SmolLM2's vocabulary (49152), clear of the special tokens at its start."""
    return [rng.randrange(low, high) for _ in range(length)]


async def ask(session: Session, tokens: Sequence[int], length: int, since: float, *, more: bool = False) -> Answer:
    """One turn. `since` is the time.perf_counter() at which the client wanted it."""
    first: float | None = None
    got: list[int] = []
    async for piece in session.generate(tokens, length, more=more):
        if piece and first is None:
            first = time.perf_counter()
        got.extend(piece)
    end = time.perf_counter()
    if len(got) != length or first is None:
        raise WrongLengthError(f"asked for {length} tokens, got {len(got)}")
    return Answer(first - since, end - since, got)


async def request(engine: Engine, tokens: Sequence[int], length: int, since: float, *, kind: Kind = "normal") -> Answer:
    """An agent of one turn."""

    async def body(session: Session) -> Answer:
        return await ask(session, tokens, length, since)

    return await engine.agent(body, kind=kind)


async def at_once(engine: Engine, prompts: Sequence[list[int]], length: int) -> tuple[float, list[Answer]]:
    """All requests together: seconds until the last is done, and each one's answer."""
    start = time.perf_counter()
    answers = await asyncio.gather(*(request(engine, each, length, start) for each in prompts))
    return time.perf_counter() - start, answers


async def visit(engine: Engine, tokens: Sequence[int], length: int, arrival: float) -> Answer:
    """An interactive request that comes at `arrival`, on time.perf_counter()'s scale."""
    await asyncio.sleep(max(0.0, arrival - time.perf_counter()))
    return await request(engine, tokens, length, arrival, kind="interactive")


async def warm_up(engine: Engine, rng: random.Random) -> None:
    """Lets lazy set-up happen (compilation, thread pools, arenas) at every shape the workloads use."""
    for _ in range(2):
        await request(engine, prompt(rng, 128), 16, time.perf_counter())
    await at_once(engine, [prompt(rng, 64) for _ in range(32)], 8)
    await request(engine, prompt(rng, 1024), 4, time.perf_counter())
