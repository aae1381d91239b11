"""Guesses in the kernel: which stand, what they may take, and what is left of those that do not."""

from __future__ import annotations

import pytest
from machine import Machine

from llmos.drivers.dummy import DummyDevice
from llmos.kernel.burst import Burst
from llmos.kernel.context import Context
from llmos.kernel.device import Row, Sampling, Step, StepFailed, Tier
from llmos.kernel.errno import QuotaExceeded
from llmos.kernel.param import Params
from llmos.kernel.process import Limits
from llmos.kernel.signal import Signal

CHAIN = {token: (token + 1) % 10 for token in range(100)}
PROMPT = [*range(10), 0, 1]
"""What comes after 0, 1 has been said."""


class Chain(DummyDevice):
    """Each token says which comes next: by default they count to nine, over and over."""

    def __init__(self, **shape) -> None:
        super().__init__(**{"memory": 1, "guess_cost": 0.01, "page_slots": 4, "vocabulary": 100, **shape})
        self.chain = dict(CHAIN)

    def next(self, context, sampling) -> int:
        return self.chain[context[-1]]


def machine(params: Params | None = None, **shape) -> Machine:
    m = Machine(params=params)
    m.device = Chain(**shape)
    m.kernel.detach(0.0, "dummy")
    m.kernel.attach(m.device.geometry)
    return m


def begin(m: Machine, most: int, pid: int | None = None, prompt=PROMPT, **how) -> tuple[Context, Burst]:
    """A context that has said its first token; the next step may guess."""
    pid = pid or m.spawn()
    cid = m.open(pid)
    burst = m.generate(pid, cid, most, prompt, **how)
    m.run(1)
    assert len(burst.output) == 1
    return m.kernel.context(pid, cid), burst


def guessed(step: Step | None) -> list[int]:
    assert step is not None
    return [row.guesses for row in step.rows]


def row(step: Step | None) -> Row:
    assert step is not None
    (found,) = step.rows
    return found


def test_guesses_that_come_true_save_steps() -> None:
    m = machine()
    _, burst = begin(m, 60)
    steps = m.run()
    assert burst.output == [(2 + i) % 10 for i in range(60)]
    assert steps < 15
    usage = burst.process.usage
    assert usage.decode_tokens == 60
    assert usage.right_tokens == 59 - steps
    assert m.kernel.explain(m.now, burst.process.pid).right_tokens == usage.right_tokens
    assert m.kernel.device_statistics()[0].guessed_tokens == usage.guessed_tokens >= usage.right_tokens


@pytest.mark.parametrize("wrong", [0, 1, 2, 3])
def test_tokens_stand_up_to_the_first_wrong_guess(wrong: int) -> None:
    """And the token sampled in its place; the pages taken for the others are given back."""
    m = machine()
    context, burst = begin(m, 60)
    start, free = len(context.tokens), len(m.memory.device.free)
    m.device.chain[2 + wrong] = 50
    step = m.plan()
    assert row(step).tokens[:6] == (2, 3, 4, 5, 6, 7)
    guesses = row(step).guesses
    assert guesses >= 5
    pages = len(context.pages)
    m.retire(step)
    assert burst.output == [*range(2, 3 + wrong), 50]
    assert context.tokens[start:] == [*range(3, 3 + wrong), 50]
    assert context.computed == len(context.tokens) - 1
    assert len(context.pages) == -(-context.computed // 4) < pages
    assert len(m.memory.device.free) >= free - 1
    assert (burst.process.usage.guessed_tokens, burst.process.usage.right_tokens) == (guesses, wrong)
    assert burst.process.usage.tree_tokens == len(context.tokens)


def test_no_guess_is_in_the_prefix_index() -> None:
    """A page is sealed when tokens that stand fill it: one that wrong guesses filled is not, and is filled again."""
    m = machine()
    context, _ = begin(m, 20)
    m.device.chain[4] = 50  # the guess is 5
    m.device.chain[50] = 51
    m.device.chain[51] = 50
    before = dict(m.memory.index)
    step = m.plan()
    assert row(step).position + len(row(step).tokens) >= 16, "the guesses fill the page that begins at 12"
    m.retire(step)
    assert len(context.tokens) == 16
    assert context.computed == 15
    assert m.memory.index == before
    m.run()
    sealed = context.pages[3]
    assert m.device.frame(Tier.DEVICE, sealed.device) == context.tokens[12:16] == [2, 3, 4, 50]
    assert m.memory.index[context.key(3)] is sealed


@pytest.mark.parametrize("most", [2, 3, 4, 9])
def test_max_tokens_is_kept(most: int) -> None:
    m = machine()
    _, burst = begin(m, most)
    step = m.plan()
    assert row(step).guesses == min(most - 2, row(step).guesses)
    m.retire(step)
    m.run()
    assert burst.output == [(2 + i) % 10 for i in range(most)]
    assert burst.reason == "length"


def test_what_comes_after_a_stop_is_dropped_and_free() -> None:
    m = machine()
    context, burst = begin(m, 60, stop_ids=frozenset({4}))
    step = m.plan()
    assert row(step).guesses >= 4
    m.retire(step)
    assert burst.done
    assert (burst.output, burst.reason) == ([2, 3, 4], "stop")
    assert context.tokens == [*PROMPT, 2, 3, 4]
    assert context.computed == len(context.tokens) - 1
    assert burst.process.usage.tree_tokens == len(context.tokens)
    assert burst.process.usage.decode_tokens == 3
    assert len(context.pages) == 4


@pytest.mark.parametrize("more", [0, 1, 2, 3])
def test_a_token_limit_counts_what_stands(more: int) -> None:
    m = machine()
    pid = m.spawn(limits=Limits(tokens=len(PROMPT) + 1 + more))
    _, burst = begin(m, 60, pid)
    m.run()
    assert burst.output == list(range(2, 3 + more))
    assert isinstance(burst.fault, QuotaExceeded)
    assert burst.process.usage.tree_tokens == len(PROMPT) + 1 + more


def test_guesses_pass_no_page_limit() -> None:
    m = machine()
    pid = m.spawn(limits=Limits(pages=4))
    context, burst = begin(m, 60, pid)
    while not burst.done:
        m.run(1)
        assert len(context.pages) <= 4
    assert isinstance(burst.fault, QuotaExceeded)
    assert len(context.tokens) == 17, "four pages hold sixteen tokens; another is known by then"


def test_guesses_take_free_frames_only() -> None:
    """Not the last ones that those who run may need, and none of pages kept for a later hit."""
    m = machine(Params(low_water=2), frames=24)
    pid = m.spawn()
    cid = m.open(pid)
    m.append(pid, cid, range(20, 20 + 72))
    m.run()
    m.kernel.close(m.now, pid, cid)
    assert len(m.memory.cached) == 18
    context, _ = begin(m, 60)
    assert len(m.memory.device.free) == 3
    step = m.plan()
    assert row(step).guesses == 3, "those that fit the page which the known token needs"
    m.retire(step)
    assert len(m.memory.cached) == 18
    assert len(context.tokens) == 17


def test_a_step_of_other_rows_leaves_no_room_for_guesses() -> None:
    """Others come first, and the more there are the less a guess saves."""
    m = machine(max_tokens=12, max_rows=8)
    bursts = [begin(m, 60)[1] for _ in range(3)]
    step = m.plan()
    assert step is not None
    assert sum(len(row.tokens) for row in step.rows) == 12
    assert len(step.rows) == 3
    m.retire(step)
    pid = m.spawn()
    m.append(pid, m.open(pid), range(20, 60))
    step = m.plan()
    assert step is not None
    assert sorted(len(row.tokens) for row in step.rows) == [1, 1, 1, 9], "the prompt has what was left"
    assert guessed(step) == [0] * 4
    m.retire(step)
    m.run()
    assert all(burst.output == [(2 + i) % 10 for i in range(60)] for burst in bursts)


def test_a_dear_guess_is_not_made() -> None:
    """A device on which a token more costs as much as a step, or one that does not say what it costs."""
    for cost in (1.0, 0.0):
        m = machine(guess_cost=cost)
        begin(m, 20)
        assert guessed(m.plan()) == [0]
    m = machine(Params(speculate=False))
    begin(m, 20)
    assert guessed(m.plan()) == [0]


def test_text_that_does_not_repeat_itself_has_hardly_any_guesses() -> None:
    """A hash of all tokens decides the next: pairs come again by chance and nothing follows from them."""
    m = Machine(vocabulary=12, guess_cost=0.1)
    pid = m.spawn()
    burst = m.generate(pid, m.open(pid), 2_000, [1, 2, 3])
    m.run()
    usage = burst.process.usage
    assert usage.decode_tokens == 2_000
    assert 0 < usage.guessed_tokens < 200
    assert usage.right_tokens < 40


@pytest.mark.parametrize("what", [Signal.KILL, Signal.INT, Signal.STOP, "close", "finish"])
def test_whatever_ends_it_in_flight_leaves_nothing(what) -> None:
    m = machine()
    context, burst = begin(m, 60)
    pid, free = burst.process.pid, len(m.memory.device.free)
    step = m.plan()
    assert row(step).guesses
    if what == "close":
        m.kernel.close(m.now, pid, context.cid)
    elif what == "finish":
        m.kernel.finish(m.now, pid, burst.bid)
    else:
        m.kernel.kill(m.now, 1, pid, what)
    m.retire(step)
    if what is Signal.STOP:  # the device has said them
        assert burst.output == [(2 + i) % 10 for i in range(1 + row(step).guesses + 1)]
        m.kernel.kill(m.now, 1, pid, Signal.CONT)
        m.run()
        assert burst.output == [(2 + i) % 10 for i in range(60)]
        return
    assert burst.output == [2]
    assert len(context.pages) == (0 if context.closed else 3)
    assert len(m.memory.device.free) >= free
    assert m.kernel.table.init.usage.tree_tokens == len(PROMPT) + 1


def test_a_repetition_penalty_knows_the_guesses_before() -> None:
    """The device refuses a history that is not the context's: one for each guess."""
    m = machine()
    _, burst = begin(m, 30, sampling=Sampling(repetition_penalty=2.0))
    m.run()
    assert len(burst.output) == 30
    assert burst.process.usage.right_tokens


def test_a_fork_in_flight_has_no_guess() -> None:
    m = machine()
    context, burst = begin(m, 30)
    step = m.plan()
    twin = m.kernel.context(context.process.pid, m.kernel.fork_context(m.now, context.process.pid, context.cid))
    assert twin.tokens == [*PROMPT, 2]
    assert len(twin.pages) * 4 <= twin.computed + 3
    m.retire(step)
    other = m.generate(twin.process.pid, twin.cid, 29)
    m.run()
    assert other.output == burst.output[1:]


def test_a_step_that_fails_is_tried_again_without_guesses() -> None:
    m = machine()
    context, burst = begin(m, 30)
    step = m.plan()
    assert step is not None
    assert row(step).guesses
    m.kernel.retire(m.now, "dummy", StepFailed(step.number, "a guess made it stumble"))
    m.kernel.check_integrity()
    assert burst.process.usage.tree_tokens == len(context.tokens)
    step = m.plan()
    assert guessed(step) == [0]
    m.retire(step)
    m.run()
    assert m.steps[1].rows[0].guesses == 0 < m.steps[2].rows[0].guesses
    assert burst.output == [(2 + i) % 10 for i in range(30)]


def test_what_is_put_out_too_late_is_taken_back() -> None:
    """A stop string is found by somebody else, who says how much was wanted."""
    m = machine()
    _, burst = begin(m, 10)
    m.run()
    assert (len(burst.output), burst.reason) == (10, "length")
    m.kernel.finish(m.now, burst.process.pid, burst.bid, "stop", keep=4)
    assert (burst.output, burst.reason) == ([2, 3, 4, 5], "stop")
    assert burst.process.usage.tree_tokens == len(PROMPT) + 4
