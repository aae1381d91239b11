"""With guesses a system says what it says without them, bit for bit, whatever it is asked and however it is pressed.

Hypothesis makes small native models and programs: prompts that repeat themselves, several at once, computed in chunks, forked half
way, continued, with so few frames that pages are swapped. Each program runs on a kernel that guesses and on one that does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings, strategies as st
from native import ISAS, compiled, config, device, random_weights

from llmos.drivers.cpu.compiler import Isa
from llmos.drivers.cpu.device import NativeDevice
from llmos.kernel.burst import Burst
from llmos.kernel.device import Geometry, Sampling
from llmos.kernel.errno import Fault
from llmos.kernel.kernel import Kernel
from llmos.kernel.param import Params
from llmos.kernel.process import Limits

PARAMS = Params(low_water=2, write_back=4, min_progress=2, preempt_gap=8.0, lookup=30)
HOWS = (
    Sampling(),
    Sampling(logprobs=3),
    Sampling(repetition_penalty=1.3),
    Sampling(temperature=0.3, seed=5),
    Sampling(temperature=0.8, seed=6, top_k=5, logprobs=2),
    Sampling(temperature=1.2, seed=7, top_p=0.8, min_p=0.05, repetition_penalty=1.1),
)


@dataclass(frozen=True)
class Turn:
    """What one context is asked: a prompt, how to sample, how long, where to stop, and whether a fork of it goes on too."""

    prompt: tuple[int, ...]
    how: Sampling
    most: int
    stops: frozenset[int]
    fork: bool


@dataclass
class Said:
    """What a program came to."""

    outputs: list[Any] = field(default_factory=list)
    contexts: list[list[int]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    guessed: int = 0
    right: int = 0
    swapped: int = 0


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    unit = draw(st.lists(st.integers(0, 28), min_size=1, max_size=6))
    prompt = (unit * 20)[: draw(st.integers(1, 40))]
    stops = draw(st.sampled_from([frozenset[int](), frozenset[int](), frozenset({3}), frozenset(range(9))]))
    return Turn(tuple(prompt), draw(st.sampled_from(HOWS)), draw(st.integers(1, 60)), stops, draw(st.booleans()))


def play(one: NativeDevice, geometry: Geometry, agents: list[list[Turn]], limit: int | None, speculate: bool) -> Said:
    kernel, name, said = Kernel(replace(PARAMS, speculate=speculate)), geometry.name, Said()
    kernel.attach(geometry)

    def work(bursts: list[Burst]) -> None:
        while not all(burst.done for burst in bursts):
            step = kernel.plan(0.0, name)
            assert step is not None
            assert speculate or not any(row.guesses for row in step.rows)
            kernel.check_integrity()
            kernel.retire(0.0, name, one.execute(step))
            kernel.check_integrity()

    pids = [kernel.spawn(0.0, 1, name="agent", limits=Limits(tokens=limit)) for _ in agents]
    cids = [[kernel.open(0.0, pid, name)] for pid in pids]
    for number in range(max(len(agent) for agent in agents)):
        bursts = []
        for pid, mine, agent in zip(pids, cids, agents, strict=True):
            if number >= len(agent):
                continue
            turn = agent[number]
            if turn.fork and len(mine) < 3:
                mine.append(kernel.fork_context(0.0, pid, mine[0]))
            for cid in mine:
                try:
                    arguments = {"sampling": turn.how, "max_tokens": turn.most, "tokens": turn.prompt, "stop_ids": turn.stops}
                    bursts.append(kernel.burst(pid, kernel.generate(0.0, pid, cid, **arguments)))
                except Fault as fault:  # the window is full, or the limit reached: the same for both
                    said.outputs.append(str(fault).replace(str(cid), ""))
        work(bursts)
        said.outputs += [(burst.output, burst.logprobs, burst.reason, str(burst.fault)) for burst in bursts]
    said.contexts = [kernel.contexts[cid].tokens for mine in cids for cid in mine]
    said.tokens = [kernel.table.get(pid).usage.tree_tokens for pid in pids]
    counters = kernel.device_statistics()[0]
    said.guessed, said.right, said.swapped = counters.guessed_tokens, counters.right_tokens, counters.swapped_out
    return said


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    agents=st.lists(st.lists(turns(), min_size=1, max_size=3), min_size=1, max_size=3),
    limit=st.none() | st.none() | st.integers(20, 120),
    chunk=st.sampled_from([7, 24, 64]),
    frames=st.sampled_from([12, 20, 60]),
    seed=st.integers(0, 3),
)
def test_no_token_differs(isa: Isa, agents: list[list[Turn]], limit: int | None, chunk: int, frames: int, seed: int) -> None:
    compiled(isa)
    shape = config(vocabulary=29, windows=(None, 20), window=180)
    # The host tier holds all that nine contexts can need: where nothing holds it, pages are computed again, hundreds of steps a token.
    one = device(shape, random_weights(shape, seed), isa, frames=frames, host_frames=140, threads=2)
    geometry = replace(one.geometry, guess_cost=0.002, max_tokens=chunk, max_rows=6)
    if len(agents) > 1 or any(turn.fork for turn in agents[0]):
        limit = None  # who of several comes to speak before it is reached depends on how fast each is
    try:
        without = play(one, geometry, agents, limit, speculate=False)
        guessing = play(one, geometry, agents, limit, speculate=True)
    finally:
        one.close()
    assert guessing.outputs == without.outputs
    assert guessing.contexts == without.contexts
    assert guessing.tokens == without.tokens
    assert without.guessed == 0
    event(f"right: {min(guessing.right, 20) // 10 * 10}")
    event(f"wrong: {min(guessing.guessed - guessing.right, 20) // 10 * 10}")
    event(f"swapped: {guessing.swapped > 0}")
