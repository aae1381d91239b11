"""A row's numbers are the same bits whatever else is in its step, however it was cut, wherever its pages come from.

Hypothesis makes small models and programs of steps: contexts grow by chunks and by single tokens, batched with others, on
pages shared after a fork or a prefix hit, after a swap, on 1 to 3 threads. What each then says is compared, bit for bit,
with a device that computes the context's tokens all at once and alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from contexts import Context, Frontend
from hypothesis import HealthCheck, event, given, settings, strategies as st
from native import ISAS, Floats, compiled, config, device, random_weights

from llmos.drivers.config import ModelConfig
from llmos.drivers.cpu.compiler import Isa
from llmos.drivers.cpu.device import NativeDevice
from llmos.drivers.cpu.pages import Kv
from llmos.drivers.cpu.weights import Weights
from llmos.kernel.device import GREEDY, Row, Sampling, Step, Tier

FRAMES, HOST = 160, 40
HOWS = (
    GREEDY,
    Sampling(logprobs=5),
    Sampling(temperature=1.0, seed=3),
    Sampling(temperature=1.4, seed=4, top_k=20, top_p=0.9, repetition_penalty=1.2, logprobs=3),
)


@st.composite
def shapes(draw: st.DrawFn) -> ModelConfig:
    kv_heads, share = draw(st.sampled_from([(1, 1), (1, 3), (2, 1), (2, 2), (1, 9), (3, 5)]))
    layers = draw(st.integers(1, 2))
    changes: dict[str, Any] = {
        "layers": layers,
        "width": draw(st.sampled_from([16, 37, 64, 97])),
        "heads": kv_heads * share,
        "kv_heads": kv_heads,
        "head_width": draw(st.sampled_from([16, 32, 48, 64, 80])),
        "ffn_width": draw(st.sampled_from([16, 33, 90])),
        "vocabulary": draw(st.sampled_from([29, 64, 131])),
        "tied": draw(st.booleans()),
        "qk_norm": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "windows": tuple(draw(st.sampled_from([None, None, 5, 100, 200])) for _ in range(layers)),
    }
    return config(**changes)


@dataclass
class Agent:
    """A context, and the numbers of its tokens so far."""

    context: Context
    hidden: list[Floats]


class World:
    """Contexts over one device, whose every hidden state is kept."""

    def __init__(self, shape: ModelConfig, isa: Isa, threads: int, slots: int, kind: Weights, kv: Kv) -> None:
        self.shape = shape
        self.weights = random_weights(shape, 1)
        how = {"threads": threads, "page_slots": slots, "weights": kind, "kv": kv}
        self.device = device(shape, self.weights, isa, frames=FRAMES, host_frames=HOST, **how)
        self.frontend = Frontend(self.device)
        self.agents: list[Agent] = []

    def open(self, count: int, seed: int) -> None:
        tokens = np.random.default_rng(seed).integers(0, self.shape.vocabulary, count).tolist()
        self.agents.append(Agent(Context(tokens), []))

    def grow(self, wanted: list[tuple[int, int]]) -> None:
        """One step: up to `count` tokens of each of these contexts; a token of those that have no more."""
        rows = []
        for index, count in wanted:
            context = self.agents[index].context
            if context.stored == len(context.tokens):
                context.tokens.append((context.tokens[-1] * 7 + len(context.tokens)) % self.shape.vocabulary)
            rows.append(self.frontend.row(context, min(len(context.tokens), context.stored + count), None))
        out = self.device.hidden(rows)
        for (index, _), row in zip(wanted, rows, strict=True):
            self.agents[index].hidden.append(out[: len(row.tokens)])
            out = out[len(row.tokens) :]

    def fork(self, index: int, twist: int) -> None:
        parent = self.agents[index]
        twin, copies = self.frontend.fork(parent.context)
        self.frontend.step([], copies)
        twin.tokens = [*twin.tokens[: twin.stored], *twin.tokens[twin.stored :][:twist], twist % self.shape.vocabulary]
        self.agents.append(Agent(twin, list(parent.hidden)))

    def hit(self, index: int, seed: int, more: int) -> None:
        """A context that begins on full pages of another one, with other tokens behind."""
        parent = self.agents[index]
        full = parent.context.stored // self.frontend.slots
        kept = full * self.frontend.slots
        for frame in parent.context.frames[:full]:
            self.frontend.holders[frame] += 1
        tokens = np.random.default_rng(seed).integers(0, self.shape.vocabulary, more).tolist()
        context = Context([*parent.context.tokens[:kept], *tokens], parent.context.frames[:full], kept)
        self.agents.append(Agent(context, [np.concatenate(parent.hidden)[:kept]] if kept else []))

    def swap(self, index: int) -> None:
        context = self.agents[index].context
        copies = self.frontend.swap(context, range(HOST))
        half = len(copies) // 2
        self.frontend.step([], copies[:half])
        self.device.frames[Tier.DEVICE][self.frontend.free[-3:]] = 0x7FC1  # who gets these frames next must not mind
        self.frontend.step([], copies[half:])

    def sample(self, sampled: list[tuple[int, Sampling]]) -> list[tuple[Any, Any, tuple[int, ...], Sampling]]:
        """The last token of each again, as one batch, without storing: what is sampled, and for which tokens."""
        rows = []
        for index, how in sampled:
            context = self.agents[index].context
            end = context.stored
            rows.append(Row(index, (context.tokens[end - 1],), end - 1, tuple(context.frames), False, how, tuple(context.tokens[:end])))
        outcome = self.device.execute(Step(1, tuple(rows)))
        logprobs = outcome.logprobs or ((),) * len(rows)
        return [(token, log, row.history, how) for token, log, row, (_, how) in zip(outcome.tokens, logprobs, rows, sampled, strict=True)]


def alone(one: NativeDevice, tokens: tuple[int, ...]) -> tuple[Row, Floats]:
    row = Row(0, tokens, 0, tuple(range(-(-len(tokens) // one.geometry.page_slots))), history=tokens)
    return row, one.hidden([row])


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Contexts and what happens to them; numbers are taken modulo how many contexts there are."""
    index = st.integers(0, 99)
    counts = st.one_of(st.just(1), st.integers(1, 20), st.integers(100, 300))
    action = st.one_of(
        st.tuples(st.just("grow"), st.lists(st.tuples(index, counts), min_size=1, max_size=6)),
        st.tuples(st.just("grow"), st.lists(st.tuples(index, st.just(1)), min_size=2, max_size=6)),
        st.tuples(st.just("fork"), index, st.integers(1, 40)),
        st.tuples(st.just("hit"), index, st.integers(0, 999), st.integers(1, 60)),
        st.tuples(st.just("swap"), index),
    )
    lengths = draw(st.lists(st.sampled_from([1, 2, 15, 16, 17, 100, 127, 128, 129, 257, 300]), min_size=1, max_size=2))
    return [*(("open", length, seed) for seed, length in enumerate(lengths)), *draw(st.lists(action, min_size=4, max_size=14))]


def play(world: World, program: list[tuple[Any, ...]]) -> None:
    for what, *rest in program:
        count = len(world.agents)
        if what == "open":
            world.open(*rest)
        elif what == "grow":
            wanted = {index % count: size for index, size in rest[0]}
            world.grow(list(wanted.items()))
        elif what == "swap":
            if world.agents[rest[0] % count].context.stored:
                world.swap(rest[0] % count)
        elif count < 6 and world.agents[rest[0] % count].context.stored:
            getattr(world, what)(rest[0] % count, *rest[1:])
            event(what)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=shapes(),
    program=programs(),
    threads=st.integers(1, 3),
    slots=st.sampled_from([16, 16, 32, 128]),
    kind=st.sampled_from(["bf16", "int8", "int4", "w8a8", "w4a8"]),
    kv=st.sampled_from(["bf16", "int8"]),
)
def test_every_context_says_what_it_says_alone(
    isa: Isa, shape: ModelConfig, program: list[tuple[Any, ...]], threads: int, slots: int, kind: Weights, kv: Kv
) -> None:
    compiled(isa)
    world = World(shape, isa, threads, slots, kind, kv)
    single = device(shape, world.weights, isa, frames=FRAMES, weights=kind, kv=kv)
    try:
        play(world, program)
        last = []
        for number, agent in enumerate(world.agents):
            stored = agent.context.stored
            if not stored:
                continue
            row, expected = alone(single, tuple(agent.context.tokens[:stored]))
            got = np.concatenate(agent.hidden)
            assert got.shape == expected.shape
            differ = np.flatnonzero((got != expected).any(1))
            assert not len(differ), f"context {number} of {stored} tokens differs at {differ[:5]} by {np.abs(got - expected).max():.1e}"
            last.append((number, HOWS[number % len(HOWS)], row))
        for (token, log, _, how), (_, _, row) in zip(world.sample([(number, how) for number, how, _ in last]), last, strict=True):
            outcome = single.execute(Step(2, (replace(row, sampling=how),)))
            assert outcome.tokens == (token,)
            assert (outcome.logprobs[0] if outcome.logprobs else ()) == log
    finally:
        world.device.close()
        single.close()
