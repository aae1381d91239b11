"""The agent workloads W1 to W6 and W5S: token ids in, token ids out.

Owns the shapes: frozen dataclasses whose fields are the sizes, and the metrics worth a row of the table. Invariant: every prompt is
made of random ids outside the special tokens and is fresh in every repeat, so that nothing is shared but what the workload
shares. Whoever runs one brings the engine and a seeded `random.Random`.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from client import Answer, Engine, Figures, Session, WrongLengthError, ask, at_once, percentile, prompt, request, visit


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure worth a row of the table."""

    key: str
    label: str
    lower_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Single:
    """W1: one stream."""

    title: ClassVar[str] = "one stream"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("decode_tokens_s", "decode tokens/s", lower_is_better=False),
        Metric("ttft_s", "first token, s"),
    )
    prompt: int = 128
    output: int = 128

    async def run(self, engine: Engine, rng: random.Random) -> Figures:
        answer = await request(engine, prompt(rng, self.prompt), self.output, time.perf_counter())
        decode = answer.total - answer.first
        return {
            "ttft_s": answer.first,
            "prefill_tokens_s": self.prompt / answer.first,
            "decode_tokens_s": (self.output - 1) / decode if decode > 0 else None,
            "total_s": answer.total,
        }


@dataclass(frozen=True, slots=True)
class Batch:
    """W2: many requests at once that share nothing."""

    title: ClassVar[str] = "many at once"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("wall_s", "wall, s"),
        Metric("output_tokens_s", "output tokens/s", lower_is_better=False),
        Metric("ttft_p50_s", "first token p50, s"),
    )
    requests: int = 32
    prompt: int = 256
    output: int = 128

    async def run(self, engine: Engine, rng: random.Random) -> Figures:
        wall, answers = await at_once(engine, [prompt(rng, self.prompt) for _ in range(self.requests)], self.output)
        return batch_figures(wall, answers, self.output)


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """W3: many requests at once with a common prefix that nobody has computed before."""

    title: ClassVar[str] = "shared prefix"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("wall_s", "wall, s"), Metric("ttft_p50_s", "first token p50, s"))
    requests: int = 32
    prefix: int = 1024
    own: int = 64
    output: int = 64

    async def run(self, engine: Engine, rng: random.Random) -> Figures:
        common = prompt(rng, self.prefix)
        wall, answers = await at_once(engine, [common + prompt(rng, self.own) for _ in range(self.requests)], self.output)
        return batch_figures(wall, answers, self.output)


def batch_figures(wall: float, answers: Sequence[Answer], output: int) -> Figures:
    firsts = [each.first for each in answers]
    return {
        "wall_s": wall,
        "output_tokens_s": len(answers) * output / wall,
        "ttft_p50_s": percentile(firsts, 50),
        "ttft_max_s": max(firsts),
    }


@dataclass(frozen=True, slots=True)
class Agents:
    """W4: agents with a common system prompt that pause for tools.

    `tail` > 0 draws each tool's time from a Pareto law of that shape with `tool` as its mean (1.5 is heavy); 0 makes all alike.
    """

    title: ClassVar[str] = "agents with tools"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("makespan_s", "makespan, s"),
        Metric("mean_completion_s", "mean completion, s"),
        Metric("p95_completion_s", "p95 completion, s"),
        Metric("later_ttft_p50_s", "later turns' first token p50, s"),
    )
    agents: int = 16
    system: int = 512
    own: int = 64
    turns: int = 5
    output: int = 48
    tool: float = 0.5
    result: int = 64
    tail: float = 0.0

    def pauses(self, rng: random.Random) -> list[float]:
        if self.tail <= 0:
            return [self.tool] * (self.turns - 1)
        scale = self.tool * (self.tail - 1) / self.tail if self.tail > 1 else self.tool
        return [scale * rng.paretovariate(self.tail) for _ in range(self.turns - 1)]

    async def run(self, engine: Engine, rng: random.Random) -> Figures:
        system = prompt(rng, self.system)
        firsts: list[list[float]] = [[] for _ in range(self.turns)]
        start = time.perf_counter()

        async def agent(own: list[int], results: list[list[int]], pauses: list[float]) -> float:
            async def body(session: Session) -> None:
                tokens, since = system + own, start
                for turn in range(self.turns):
                    answer = await ask(session, tokens, self.output, since, more=turn + 1 < self.turns)
                    firsts[turn].append(answer.first)
                    if turn + 1 < self.turns:
                        await asyncio.sleep(pauses[turn])
                        tokens, since = results[turn], time.perf_counter()

            await engine.agent(body)
            return time.perf_counter() - start

        plans = [
            (prompt(rng, self.own), [prompt(rng, self.result) for _ in range(self.turns - 1)], self.pauses(rng)) for _ in range(self.agents)
        ]
        start = time.perf_counter()
        done = await asyncio.gather(*(agent(*plan) for plan in plans))
        later = [first for turn in firsts[1:] for first in turn]
        streamed = engine.streams_turns and bool(later)
        return {
            "makespan_s": max(done),
            "mean_completion_s": statistics.mean(done),
            "p95_completion_s": percentile(done, 95),
            "first_ttft_p50_s": percentile(firsts[0], 50) if engine.streams_turns else None,
            "later_ttft_p50_s": percentile(later, 50) if streamed else None,
            "later_ttft_p95_s": percentile(later, 95) if streamed else None,
        }


@dataclass(frozen=True, slots=True)
class Mixed:
    """W5: a background batch, and one interactive request a second that arrives whatever the engine does."""

    title: ClassVar[str] = "interactive beside a batch"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("interactive_total_p50_s", "interactive total p50, s"),
        Metric("interactive_total_p95_s", "interactive total p95, s"),
        Metric("interactive_ttft_p50_s", "interactive first token p50, s"),
        Metric("interactive_ttft_p95_s", "interactive first token p95, s"),
        Metric("background_s", "background total, s"),
    )
    background: int = 16
    background_prompt: int = 512
    background_output: int = 256
    interactive: int = 15
    prompt: int = 64
    output: int = 32
    after: float = 2.0
    every: float = 1.0

    async def run(self, engine: Engine, rng: random.Random) -> Figures:
        batch = [prompt(rng, self.background_prompt) for _ in range(self.background)]
        visitors = [prompt(rng, self.prompt) for _ in range(self.interactive)]
        start = time.perf_counter()

        async def work(tokens: list[int]) -> float:
            await request(engine, tokens, self.background_output, start, kind="background")
            return time.perf_counter() - start

        arrivals = [start + self.after + number * self.every for number in range(self.interactive)]
        done, answers = await asyncio.gather(
            asyncio.gather(*(work(tokens) for tokens in batch)),
            asyncio.gather(
                *(visit(engine, tokens, self.output, arrival) for tokens, arrival in zip(visitors, arrivals, strict=True)),
            ),
        )
        end = max(done)
        overlapped = [answer.total for answer, arrival in zip(answers, arrivals, strict=True) if arrival - start < end]
        return interactive_figures(answers) | {
            "background_s": end,
            "background_tokens_s": self.background * self.background_output / end,
            "arrived_during_background": float(len(overlapped)),
            "overlapped_total_p50_s": percentile(overlapped, 50) if overlapped else None,
        }


@dataclass(frozen=True, slots=True)
class Steady:
    """W5S: a background that never ends: a window without visitors, then one with a visitor a second, at jittered moments."""

    title: ClassVar[str] = "interactive beside a steady load"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("interactive_total_p50_s", "interactive total p50, s"),
        Metric("interactive_total_p95_s", "interactive total p95, s"),
        Metric("interactive_ttft_p50_s", "interactive first token p50, s"),
        Metric("interactive_ttft_p95_s", "interactive first token p95, s"),
        Metric("background_tokens_s", "background tokens/s", lower_is_better=False),
        Metric("background_kept", "background kept, of quiet", lower_is_better=False),
    )
    background: int = 16
    background_prompt: int = 512
    background_output: int = 256
    prompt: int = 64
    output: int = 32
    settle: float = 5.0
    window: float = 60.0
    every: float = 1.0

    async def run(self, engine: Engine, rng: random.Random) -> Figures:
        streams = [random.Random(rng.getrandbits(64)) for _ in range(self.background)]
        start = time.perf_counter()
        quiet, busy, end = (start + self.settle + windows * self.window for windows in range(3))
        arrivals = [busy + (number + rng.random()) * self.every for number in range(int(self.window / self.every))]
        visitors = [prompt(rng, self.prompt) for _ in arrivals]
        made = {"quiet": 0, "busy": 0}

        async def work(own: random.Random) -> None:
            while time.perf_counter() < end:
                tokens = prompt(own, self.background_prompt)

                async def body(session: Session, tokens: list[int] = tokens) -> None:
                    async for piece in session.generate(tokens, self.background_output):
                        now = time.perf_counter()
                        if quiet <= now < busy:
                            made["quiet"] += len(piece)
                        elif busy <= now < end:
                            made["busy"] += len(piece)

                await engine.agent(body, kind="background")

        _, answers = await asyncio.gather(
            asyncio.gather(*(work(own) for own in streams)),
            asyncio.gather(*(visit(engine, tokens, self.output, arrival) for tokens, arrival in zip(visitors, arrivals, strict=True))),
        )
        return interactive_figures(answers) | {
            "background_tokens_s": made["busy"] / self.window,
            "background_quiet_tokens_s": made["quiet"] / self.window,
            "background_kept": made["busy"] / made["quiet"] if made["quiet"] else None,
        }


def interactive_figures(answers: Sequence[Answer]) -> Figures:
    firsts = [each.first for each in answers]
    totals = [each.total for each in answers]
    return {
        "interactive_ttft_p50_s": percentile(firsts, 50),
        "interactive_ttft_p95_s": percentile(firsts, 95),
        "interactive_total_p50_s": percentile(totals, 50),
        "interactive_total_p95_s": percentile(totals, 95),
    }


@dataclass(frozen=True, slots=True)
class Fork:
    """W6: one prompt, many sampled continuations."""

    title: ClassVar[str] = "one prompt, many continuations"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("wall_s", "wall, s"),
        Metric("output_tokens_s", "output tokens/s", lower_is_better=False),
    )
    copies: int = 16
    prompt: int = 1024
    output: int = 64

    async def run(self, engine: Engine, rng: random.Random) -> Figures:
        tokens = prompt(rng, self.prompt)
        start = time.perf_counter()
        got = 0
        async for piece in engine.samples(tokens, self.copies, self.output):
            got += len(piece)
        wall = time.perf_counter() - start
        if got != self.copies * self.output:
            raise WrongLengthError(f"asked for {self.copies} times {self.output} tokens, got {got}")
        return {"wall_s": wall, "output_tokens_s": got / wall}


Workload = Single | Batch | SharedPrefix | Agents | Mixed | Steady | Fork
WORKLOADS: dict[str, type[Workload]] = {
    "W1": Single,
    "W2": Batch,
    "W3": SharedPrefix,
    "W4": Agents,
    "W5": Mixed,
    "W5S": Steady,
    "W6": Fork,
}


def make(name: str, sizes: dict[str, float] | None = None) -> Workload:
    """The workload `name` with the given fields changed; ValueError names the fields there are."""
    if name not in WORKLOADS:
        raise ValueError(f"no workload '{name}': there are {', '.join(WORKLOADS)}")
    workload = WORKLOADS[name]()
    for key, value in (sizes or {}).items():
        known = {field.name: type(getattr(workload, field.name)) for field in fields(workload)}
        if key not in known:
            raise ValueError(f"{name} has no size '{key}': it has {', '.join(known)}")
        workload = replace(workload, **{key: known[key](value)})
    return workload
