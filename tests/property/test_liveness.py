"""Memory pressure never becomes a standstill: whatever must be computed again, the agents get further, and all come to their end.

Contexts that the tiers cannot hold together drop each other's pages. New ground is a token of a burst that was never computed
or sampled before: between two such tokens lie no more steps than computing every context once takes, and a few for copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings, strategies as st
from machine import Machine

from llmos.kernel.burst import Burst
from llmos.kernel.param import Params
from llmos.kernel.process import Class

SLOTS = 4


@dataclass(frozen=True)
class Shape:
    frames: int
    host_frames: int
    max_tokens: int
    max_rows: int
    params: Params
    policy: str = "fair"

    @property
    def window(self) -> int:
        return (self.frames - 2) * SLOTS


@dataclass(frozen=True)
class Agent:
    prompt: float
    """As a share of the window; the rest may be generated."""
    output: float
    nice: int
    cls: Class
    contexts: int


@st.composite
def params(draw):
    return Params(
        low_water=draw(st.sampled_from([0, 2, 8])),
        write_back=draw(st.sampled_from([1, 4, 32])),
        min_progress=draw(st.sampled_from([1, 2, 16])),
        preempt_gap=draw(st.sampled_from([0.0, 8.0, 64.0, 256.0])),
    )


SHAPES = st.builds(
    Shape,
    frames=st.integers(8, 24),
    host_frames=st.sampled_from([0, 2, 8, 20, 40]),
    max_tokens=st.sampled_from([3, 7, 24, 64]),
    max_rows=st.sampled_from([1, 3, 6]),
    params=params(),
    policy=st.sampled_from(["fair", "fair", "fcfs"]),
)
SHARES = st.floats(0.0, 1.0)
AGENTS = st.builds(Agent, SHARES, SHARES, nice=st.integers(-3, 3), cls=st.sampled_from([Class.NORMAL, *Class]), contexts=st.integers(1, 2))
LONG = [Agent(prompt, output, 0, Class.NORMAL, 2) for prompt, output in [(0.8, 1.0), (0.5, 1.0), (0.9, 0.5), (0.3, 1.0)]]


def ground(burst: Burst) -> int:
    """How much of a burst is done for good, were its pages never dropped."""
    return burst.context.computed + len(burst.output) if not burst.done else 10**9


def begin(shape: Shape, agents: list[Agent]) -> tuple[Machine, list[Burst]]:
    machine = Machine(
        policy=shape.policy,
        params=shape.params,
        frames=shape.frames,
        host_frames=shape.host_frames,
        page_slots=SLOTS,
        window=shape.window,
        max_rows=shape.max_rows,
        max_tokens=shape.max_tokens,
        vocabulary=10**6,
    )
    bursts = []
    for number, agent in enumerate(agents):
        pid = machine.spawn(nice=agent.nice, cls=agent.cls, capabilities=frozenset({"*"}))
        for twin in range(agent.contexts):
            length = 1 + int(agent.prompt * (shape.window - 2))
            most = 1 + int(agent.output * (shape.window - length - 1))
            tokens = [(2 * number + twin) * 1000 + i for i in range(length)]
            bursts.append(machine.generate(pid, machine.open(pid), most, tokens))
    return machine, bursts


def somebody_gets_further(shape: Shape, agents: list[Agent]) -> None:
    machine, bursts = begin(shape, agents)
    reached = [0] * len(bursts)
    idle = 0
    while (step := machine.plan()) is not None:
        machine.retire(step)
        now = [ground(burst) for burst in bursts]
        idle = 0 if any(new > old for new, old in zip(now, reached, strict=True)) else idle + 1
        reached = [max(pair) for pair in zip(now, reached, strict=True)]
        again = sum(-(-len(burst.context.tokens) // shape.max_tokens) + 1 for burst in bursts)
        assert idle <= again + 8, f"{idle} steps in which nobody got further"
    assert all(burst.reason == "length" for burst in bursts)


@example(Shape(12, 20, 24, 6, Params(low_water=2, write_back=4, min_progress=2, preempt_gap=8.0)), LONG)
@example(Shape(12, 40, 24, 3, Params(low_water=8, write_back=4, min_progress=2, preempt_gap=8.0)), LONG)
@settings(max_examples=150, deadline=None)
@given(SHAPES, st.lists(AGENTS, min_size=2, max_size=6))
def test_somebody_gets_further_within_one_computation_of_everything(shape, agents):
    somebody_gets_further(shape, agents)


@pytest.mark.soak
@settings(max_examples=5_000, deadline=None)
@given(SHAPES, st.lists(AGENTS, min_size=2, max_size=6))
def test_somebody_gets_further_over_many_cases(shape, agents):
    somebody_gets_further(shape, agents)
