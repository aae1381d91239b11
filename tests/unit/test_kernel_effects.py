"""What each call of the kernel tells others: its effects, exactly those and in this order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from machine import Machine

from llmos.kernel.errno import BrokenPipe, TryAgain
from llmos.kernel.kernel import Deliver, Died, Effect, Wake
from llmos.kernel.process import Class, Limits
from llmos.kernel.signal import Signal

INIT = 1


def told(machine: Machine, call: Callable[[], object]) -> list[Effect]:
    """The effects of one call."""
    machine.kernel.drain()
    assert not machine.kernel.stirred()
    call()
    stirred = machine.kernel.stirred()
    effects = machine.kernel.drain()
    assert stirred == bool(effects)
    return effects


def death(pid: int, parent: int = INIT) -> list[Effect]:
    return [Died(pid), Wake(("exit", pid)), Wake(("child", parent)), Wake(("signal", pid))]


def woken(*channels: tuple[str, int]) -> list[Effect]:
    return [Wake(channel) for channel in channels]


def busy(machine: Machine, parent: int = INIT, **kwargs):
    """A process with a burst under way."""
    pid = machine.spawn(parent, **kwargs)
    burst = machine.generate(pid, machine.open(pid), 50, [1, 2, 3])
    machine.run(2)
    return pid, burst


def test_calls_that_concern_nobody_else():
    m = Machine()
    k, pid = m.kernel, m.spawn()
    cid = m.open(pid)
    quiet = [
        lambda: m.spawn(pid),
        lambda: m.open(pid),
        lambda: k.fork(0, INIT, pid),
        lambda: m.append(pid, cid, [1, 2, 3]),
        lambda: k.fork_context(0, pid, cid),
        lambda: m.generate(pid, m.open(pid), 3, [4]),
        lambda: k.block(0, pid, "tool"),
        lambda: k.unblock(1, pid, "tool"),
        lambda: k.renice(0, pid, pid, 3),
        lambda: k.reclass(0, INIT, pid, Class.BATCH),
        lambda: k.setlimits(0, pid, pid, Limits(tokens=1000, wall_seconds=100)),
        lambda: k.reap(0, pid),
        lambda: k.demand(pid, "llm:dummy"),
        lambda: k.pending(pid),
        lambda: k.acknowledge(pid),
        lambda: k.tick(3.0),
        lambda: k.processes(3.0),
        lambda: k.explain(3.0, pid),
        lambda: m.plan(),
    ]
    assert [told(m, call) for call in quiet] == [[] for _ in quiet]


def test_exit_tells_whoever_waited_for_anything_of_it():
    m = Machine()
    parent = m.spawn()
    pid, burst = busy(m, parent)
    pipe = m.kernel.pipe(0, pid)
    done = m.append(pid, m.open(pid), [9])
    m.run(1)
    assert done.done
    assert told(m, lambda: m.kernel.exit(m.now, pid, 0)) == [
        *woken(("burst", burst.bid), ("pipe", pipe)),
        *death(pid, parent),
    ]
    assert told(m, lambda: m.kernel.reap(m.now, parent, pid)) == []


def test_an_orphan_tells_init():
    m = Machine()
    parent = m.spawn()
    child = m.spawn(parent)
    assert told(m, lambda: m.kernel.exit(0, parent, 0)) == death(parent)
    assert told(m, lambda: m.kernel.exit(0, child, 0)) == death(child)


@pytest.mark.parametrize(
    ("signal", "first", "second"),
    [
        (Signal.INT, ["burst", Signal.INT], [Signal.INT]),
        (Signal.TERM, ["signal", Signal.TERM], [Signal.TERM]),
        (Signal.XCPU, ["signal", Signal.XCPU], [Signal.XCPU]),
        (Signal.STOP, [Signal.STOP], [Signal.STOP]),
        (Signal.CONT, [Signal.CONT], [Signal.CONT]),
    ],
    ids=lambda value: value.name if isinstance(value, Signal) else "",
)
def test_a_signal_wakes_what_it_ends_and_is_delivered(signal, first, second):
    m = Machine()
    pid, burst = busy(m)
    channels = {"burst": burst.bid, "signal": pid}
    for expected in (first, second):
        effects = [Deliver(pid, what) if isinstance(what, Signal) else Wake((what, channels[what])) for what in expected]
        assert told(m, lambda: m.kernel.kill(m.now, INIT, pid, signal)) == effects


def test_term_after_term_does_not_wake_again_but_cont_follows_stop():
    m = Machine()
    pid, burst = busy(m)
    m.kernel.kill(0, INIT, pid, Signal.TERM)
    assert told(m, lambda: m.kernel.kill(0, INIT, pid, Signal.XCPU)) == [Deliver(pid, Signal.XCPU)]
    assert m.kernel.pending(pid) is Signal.TERM, "the first counts"
    m.kernel.kill(m.now, INIT, pid, Signal.STOP)
    assert told(m, lambda: m.kernel.kill(m.now, INIT, pid, Signal.CONT)) == [Deliver(pid, Signal.CONT)]
    assert not burst.done


def test_kill_is_a_death():
    m = Machine()
    pid, burst = busy(m)
    assert told(m, lambda: m.kernel.kill(m.now, INIT, pid, Signal.KILL)) == [*woken(("burst", burst.bid)), *death(pid)]


def test_killpg_reaches_the_lowest_first():
    m = Machine()
    top = m.spawn()
    child = m.spawn(top)
    grandchild = m.spawn(child)
    assert told(m, lambda: m.kernel.killpg(0, INIT, top, Signal.STOP)) == [Deliver(pid, Signal.STOP) for pid in (grandchild, child, top)]
    every = [*death(grandchild, child), *death(child, top), *death(top)]
    assert told(m, lambda: m.kernel.killpg(0, INIT, top, Signal.KILL)) == every


def test_wait_tells_nobody_and_a_dead_child_is_told_once():
    m = Machine()
    parent = m.spawn()
    child = m.spawn(parent)
    assert told(m, lambda: m.kernel.exit(0, child, 3)) == death(child, parent)
    assert told(m, lambda: m.kernel.reap(0, parent)) == []


def test_pipes_wake_both_sides_when_something_changes_and_only_then():
    m = Machine()
    k, one, two = m.kernel, m.spawn(), m.spawn()
    made: list[int] = []
    assert told(m, lambda: made.append(k.pipe(0, one, 4))) == []
    (pipe,) = made
    change = woken(("pipe", pipe))
    assert told(m, lambda: k.pipe_give(0, one, two, pipe, read=True)) == []

    def blocked(call):
        def refused():
            with pytest.raises(TryAgain):
                call()

        return refused

    assert told(m, blocked(lambda: k.read(0, two, pipe))) == []
    assert told(m, lambda: k.write(0, one, pipe, b"")) == []
    assert told(m, lambda: k.write(0, one, pipe, b"abcdef")) == change
    assert told(m, blocked(lambda: k.write(0, one, pipe, b"ef"))) == []
    assert told(m, lambda: k.read(0, two, pipe, 1)) == change
    assert told(m, lambda: k.pipe_close(0, one, pipe, write=True)) == change
    assert told(m, lambda: k.read(0, two, pipe)) == change
    assert told(m, lambda: k.read(0, two, pipe)) == [], "the end of the file again"
    assert told(m, lambda: k.pipe_close(0, one, pipe, read=True)) == change
    assert told(m, lambda: k.pipe_close(0, two, pipe, read=True)) == change, "the last end"
    assert not k.pipes


def test_writing_where_nobody_reads_wakes_nobody():
    m = Machine()
    pid = m.spawn()
    pipe = m.kernel.pipe(0, pid)
    m.kernel.pipe_close(0, pid, pipe, read=True)

    def write():
        with pytest.raises(BrokenPipe):
            m.kernel.write(0, pid, pipe, b"x")

    assert told(m, write) == []


def test_a_burst_wakes_at_each_token_and_at_its_end():
    m = Machine()
    pid = m.spawn()
    burst = m.generate(pid, m.open(pid), 3, [1, 2, 3])
    steps = []
    while (step := m.plan()) is not None:
        assert m.kernel.drain() == [], "planning tells nothing"
        steps.append(told(m, lambda step=step: m.retire(step)))
    assert burst.reason == "length"
    assert steps == [woken(("burst", burst.bid))] * 3, "the end wakes once, not for the last token too"


def test_a_prefill_in_chunks_wakes_at_its_end_only():
    m = Machine(max_tokens=16)
    pid = m.spawn()
    burst = m.append(pid, m.open(pid), range(40))
    assert [told(m, lambda: m.run(1)) for _ in range(3)] == [[], [], woken(("burst", burst.bid))]


def test_an_append_that_is_cached_ends_while_it_is_planned():
    m = Machine()
    pid = m.spawn()
    m.append(pid, m.open(pid), range(32))
    m.run()
    again = m.append(pid, m.open(pid), range(32))
    assert told(m, m.plan) == woken(("burst", again.bid))


@pytest.mark.parametrize("how", ["finish", "release", "close"])
def test_cancelling_wakes_once_and_its_row_in_flight_wakes_nobody(how):
    m = Machine()
    pid, burst = busy(m)
    step = m.plan()
    cancel = {
        "finish": lambda: m.kernel.finish(m.now, pid, burst.bid),
        "release": lambda: m.kernel.release(m.now, pid, burst.bid),
        "close": lambda: m.kernel.close(m.now, pid, burst.context.cid),
    }
    assert told(m, cancel[how]) == woken(("burst", burst.bid))
    assert told(m, lambda: m.retire(step)) == []
    if how == "finish":
        assert told(m, lambda: m.kernel.finish(m.now, pid, burst.bid)) == []
        assert told(m, lambda: m.kernel.release(m.now, pid, burst.bid)) == []


def test_passing_the_token_limit_ends_the_burst():
    m = Machine()
    pid = m.spawn(limits=Limits(tokens=5))
    burst = m.generate(pid, m.open(pid), 9, [1, 2, 3])
    assert [told(m, lambda: m.run(1)) for _ in range(3)] == [woken(("burst", burst.bid))] * 2 + [[]]
    assert burst.fault is not None


def test_passing_the_page_limit_ends_the_burst():
    m = Machine()
    pid = m.spawn(limits=Limits(pages=1))
    burst = m.append(pid, m.open(pid), range(17))
    assert told(m, m.plan) == woken(("burst", burst.bid))
    assert burst.fault is not None


def test_passing_the_wall_limit_ends_bursts_then_asks_then_kills():
    m = Machine()
    pid, burst = busy(m, limits=Limits(wall_seconds=10))
    assert told(m, lambda: m.kernel.tick(9.999)) == []
    assert told(m, lambda: m.kernel.tick(10.0)) == [*woken(("burst", burst.bid), ("signal", pid)), Deliver(pid, Signal.XCPU)]
    assert told(m, lambda: m.kernel.tick(14.999)) == []
    assert told(m, lambda: m.kernel.tick(15.0)) == death(pid)


def test_the_grace_of_term_ends_in_death():
    m = Machine()
    pid = m.spawn()
    m.kernel.kill(0, INIT, pid, Signal.TERM)
    assert told(m, lambda: m.kernel.tick(4.999)) == []
    assert told(m, lambda: m.kernel.tick(5.0)) == death(pid)


def test_a_failed_step_wakes_only_whom_it_ends():
    m = Machine()
    m.device.fail_when = {99}
    good, bad = m.spawn(), m.spawn()
    m.generate(good, m.open(good), 8, [1])
    poisoned = m.append(bad, m.open(bad), [99])
    assert told(m, lambda: m.run(1)) == [], "tried again, each alone"
    effects = [told(m, lambda: m.run(1)) for _ in range(2)]
    assert woken(("burst", poisoned.bid)) in effects
