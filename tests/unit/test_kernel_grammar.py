"""Grammars in the kernel: what a row carries, and what becomes of those that are late or give up."""

from __future__ import annotations

from typing import Any

import pytest
from forms import Rule
from machine import Machine

from llmos.kernel.burst import Burst
from llmos.kernel.device import Step, StepFailed
from llmos.kernel.errno import InvalidArgument
from llmos.kernel.process import Limits
from llmos.kernel.slot import Form

from .test_kernel_guesses import PROMPT, machine

EVEN = range(0, 256, 2)


def begin(m: Machine, rule: Rule, most: int = 8, **more: Any) -> tuple[int, Burst]:
    pid = m.spawn()
    return pid, m.generate(pid, m.open(pid), most, [1, 2, 3], grammar=rule, **more)


def test_a_reply_stays_within_its_grammar_and_others_are_free() -> None:
    m, alone = Machine(), Machine()
    pid = m.spawn()
    free = m.generate(pid, m.open(pid), 8, [5, 6, 7])
    _, burst = begin(m, Rule(lambda said: EVEN, 256))
    m.run()
    assert len(burst.output) == 8
    assert not any(token % 2 for token in burst.output)
    pid = alone.spawn()
    expected = alone.generate(pid, alone.open(pid), 8, [5, 6, 7])
    alone.run()
    assert free.output == expected.output
    assert any(token % 2 for token in free.output)


def test_the_grammar_is_told_what_was_sampled_and_only_when_a_token_is_wanted() -> None:
    m = Machine(max_tokens=2)
    rule = Rule(lambda said: [len(said)], 256)
    _, burst = begin(m, rule, 3)
    m.run()
    assert burst.output == [0, 1, 2]
    assert rule.asked == [((), ()), ((0,), ()), ((0, 1), ())]


def test_a_stop_id_ends_it_where_the_grammar_allows_one() -> None:
    m = Machine()
    _, burst = begin(m, Rule(lambda said: [9] if len(said) == 3 else [4], 256), stop_ids=frozenset({9}))
    m.run()
    assert (burst.output, burst.reason) == ([4, 4, 4, 9], "stop")


def test_a_late_grammar_sits_out_a_step_and_nobody_pays_for_it() -> None:
    m = Machine()
    rule = Rule(lambda said: EVEN, 256)
    pid = m.spawn()
    free = m.generate(pid, m.open(pid), 8, [5, 6, 7])
    owner, burst = begin(m, rule, 4)
    rule.late = 3
    m.run(3)
    assert (len(burst.output), len(free.output)) == (0, 3)
    assert m.kernel.table.get(owner).usage.tree_tokens == 3, "the prompt"
    m.run()
    assert len(burst.output) == 4
    assert m.kernel.table.get(owner).usage.tree_tokens == 7
    on_time = Machine()
    _, expected = begin(on_time, Rule(lambda said: EVEN, 256), 4)
    on_time.run()
    assert burst.output == expected.output


def test_one_that_gives_up_ends_its_burst_and_no_other() -> None:
    m = Machine()
    rule = Rule(lambda said: EVEN, 256)
    pid = m.spawn()
    free = m.generate(pid, m.open(pid), 8, [5, 6, 7])
    owner, burst = begin(m, rule)
    m.run(2)
    rule.broken = "schema: too large"
    m.run()
    assert burst.reason == "failed"
    assert isinstance(burst.fault, InvalidArgument)
    assert burst.fault.args[0] == "schema: too large"
    assert len(burst.output) == 2
    assert m.kernel.table.get(owner).usage.tree_tokens == 5
    assert len(free.output) == 8
    assert m.kernel.schedulers["dummy"].failures == 0


@pytest.mark.parametrize("when", ["finished", "killed", "out of tokens"])
def test_a_burst_that_ends_while_its_grammar_is_late_or_broken(when: str) -> None:
    m = Machine()
    rule = Rule(lambda said: EVEN, 256)
    pid, burst = begin(m, rule)
    if when == "out of tokens":
        m.kernel.table.get(pid).limits = Limits(tokens=4)
    rule.late = 1
    step = m.plan()
    assert step is not None
    if when == "finished":
        m.kernel.finish(m.now, pid, burst.bid, "cancelled")
    elif when == "killed":
        m.kernel.exit(m.now, pid, 1)
    m.retire(step)
    m.run()
    assert burst.done


def test_guesses_are_masked_each_by_what_is_before_it() -> None:
    """They come true as they do without a grammar that allows them, and prove wrong where it does not."""

    def said(grammar: Rule | None) -> tuple[list[int], list[Step], int]:
        m = machine()
        pid = m.spawn()
        burst = m.generate(pid, m.open(pid), 24, PROMPT, **({} if grammar is None else {"grammar": grammar}))
        m.run()
        return burst.output, m.steps, m.kernel.schedulers["dummy"].right

    free, steps, right = said(None)
    anything = Rule(lambda said: range(100), 100)
    assert said(anything)[0] == free
    assert right > 5
    assert len(said(anything)[1]) == len(steps)
    short = Rule(lambda said: range(100) if len(said) % 5 else [50], 100)
    tokens, _, _ = said(short)
    assert [i for i, token in enumerate(tokens) if token == 50] == [0, 5, 10, 15, 20]
    assert any(guesses for _, guesses in short.asked)
    slow = machine(guess_cost=0.0)
    pid = slow.spawn()
    burst = slow.generate(pid, slow.open(pid), 24, PROMPT, grammar=Rule(short.allowed, 100))
    slow.run()
    assert burst.output == tokens


def test_a_step_that_fails_is_asked_for_again_with_the_same() -> None:
    m = Machine()
    rule = Rule(lambda said: [len(said)], 256)
    pid, burst = begin(m, rule, 4)
    m.generate(pid, m.open(pid), 8, [5, 6, 7])
    m.run(2)
    step = m.plan()
    assert step is not None
    m.device.execute(step)
    m.kernel.retire(m.now, "dummy", StepFailed(step.number, "lost on its way back"))
    m.run()
    assert burst.output == [0, 1, 2, 3]
    assert max(len(said) for said, _ in rule.asked) == 3


def test_preempted_and_brought_back_it_goes_on_where_it_was() -> None:
    m = Machine(frames=6, host_frames=4, page_slots=4)
    bursts = []
    for _ in range(3):
        pid = m.spawn()
        bursts.append(m.generate(pid, m.open(pid), 10, [1, 2, 3], grammar=Rule(lambda said: [len(said) % 7], 256)))
    m.run()
    assert [burst.output for burst in bursts] == [[n % 7 for n in range(10)]] * 3
    assert m.kernel.schedulers["dummy"].preemptions


def test_a_device_with_pages_takes_no_form():
    m = Machine()
    pid = m.spawn()
    with pytest.raises(InvalidArgument, match="takes a grammar"):
        m.generate(pid, m.open(pid), 10, [1, 2, 3], form=Form("schema", "{}"))
