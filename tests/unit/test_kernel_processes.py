"""Processes, signals, limits, pipes and accounts, seen through the kernel's calls."""

from __future__ import annotations

import math

import pytest
from machine import Machine

from llmos.kernel.burst import Burst, State
from llmos.kernel.errno import (
    BadHandle,
    BrokenPipe,
    Fault,
    InvalidArgument,
    NoSuchChild,
    NoSuchProcess,
    NotPermitted,
    Panic,
    QuotaExceeded,
    TryAgain,
)
from llmos.kernel.kernel import Died, Wake
from llmos.kernel.param import Params
from llmos.kernel.process import Class, Limits
from llmos.kernel.signal import Signal


def test_wait_sees_a_zombie_once():
    machine = Machine()
    kernel, parent = machine.kernel, machine.spawn()
    child = machine.spawn(parent)
    assert kernel.reap(0, parent) is None
    kernel.exit(1.0, child, 3, "done")
    assert [e for e in kernel.drain() if isinstance(e, Died)] == [Died(child)]
    record = kernel.reap(1.0, parent, child)
    assert record is not None
    assert (record.pid, record.status, record.reason, record.wall) == (child, 3, "done", 1.0)
    with pytest.raises(NoSuchChild):
        kernel.reap(1.0, parent, child)


def test_orphans_go_to_init_and_are_reaped_there():
    machine = Machine()
    kernel, parent = machine.kernel, machine.spawn()
    child = machine.spawn(parent)
    grandchild = machine.spawn(child)
    kernel.exit(0, parent, 0)
    kernel.check_integrity()
    assert {v.pid: v.parent for v in kernel.processes(0)} == {1: 0, child: 1, grandchild: child}
    kernel.exit(0, child, 0)
    kernel.exit(0, grandchild, 0)
    assert [v.pid for v in kernel.processes(0)] == [1]


def test_orphans_do_not_escape_the_limits_of_the_dead():
    machine = Machine()
    kernel = machine.kernel
    parent = machine.spawn(limits=Limits(tokens=100, wall_seconds=50))
    child = machine.spawn(parent)
    machine.append(parent, machine.open(parent), range(30))
    kernel.exit(0, parent, 0)
    machine.append(child, machine.open(child), range(70))
    with pytest.raises(QuotaExceeded, match="100 tokens"):
        machine.append(child, machine.open(child), [1])
    assert kernel.next_deadline() is not None


def test_the_process_table_is_bounded():
    machine = Machine(params=Params(max_processes=3))
    machine.spawn()
    machine.spawn()
    with pytest.raises(TryAgain, match="full"):
        machine.spawn()


def test_depth_is_bounded():
    machine = Machine(params=Params(max_depth=2))
    child = machine.spawn(machine.spawn())
    with pytest.raises(TryAgain, match="generations"):
        machine.spawn(child)


def test_kill_stops_planning_at_once():
    machine = Machine()
    pid = machine.spawn()
    machine.generate(pid, machine.open(pid), 100, [1, 2, 3])
    machine.run(2)
    machine.kernel.kill(machine.now, 1, pid, Signal.KILL)
    assert machine.plan() is None
    with pytest.raises(NoSuchProcess):
        machine.kernel.kill(machine.now, 1, pid, Signal.KILL)


def test_stop_holds_and_cont_goes_on_where_it_was():
    outputs = []
    for stop in (False, True):
        machine = Machine()
        pid = machine.spawn()
        burst = machine.generate(pid, machine.open(pid), 10, [1, 2, 3])
        machine.run(3)
        if stop:
            step = machine.plan()
            machine.kernel.kill(machine.now, 1, pid, Signal.STOP)
            assert burst.state is State.HELD
            assert step is not None
            machine.retire(step)
            assert machine.plan() is None
            machine.now += 5
            machine.kernel.kill(machine.now, 1, pid, Signal.CONT)
        machine.run()
        outputs.append(burst.output)
        seconds = machine.kernel.explain(machine.now, pid).seconds
        assert seconds["blocked"] == pytest.approx(5 if stop else 0, abs=0.02)
    assert outputs[0] == outputs[1]


def test_int_ends_the_burst_with_what_it_has():
    machine = Machine()
    pid = machine.spawn()
    cid = machine.open(pid)
    burst = machine.generate(pid, cid, 100, [1, 2, 3])
    machine.run(4)
    machine.kernel.kill(machine.now, 1, pid, Signal.INT)
    assert (burst.state, burst.reason, len(burst.output)) == (State.DONE, "interrupted", 4)
    assert len(machine.generate(pid, cid, 2).output) == 0
    machine.run()


def test_term_is_pending_until_acknowledged_and_kills_after_the_grace():
    machine = Machine()
    kernel, pid = machine.kernel, machine.spawn()
    kernel.kill(0, 1, pid, Signal.TERM)
    assert kernel.pending(pid) is Signal.TERM
    kernel.acknowledge(pid)
    assert kernel.pending(pid) is None
    assert kernel.next_deadline() == 5.0
    kernel.tick(4.999)
    assert kernel.pending(pid) is None
    kernel.tick(5.0)
    with pytest.raises(NoSuchProcess):
        kernel.pending(pid)


def test_init_cannot_be_killed():
    machine = Machine()
    pid = machine.spawn(capabilities=frozenset({"proc:kill"}))
    for signal in Signal:
        with pytest.raises(NotPermitted):
            machine.kernel.kill(0, pid, 1, signal)


def test_siblings_need_a_capability_to_kill():
    machine = Machine()
    one, two = machine.spawn(), machine.spawn()
    with pytest.raises(NotPermitted, match="proc:kill"):
        machine.kernel.kill(0, one, two, Signal.TERM)
    armed = machine.spawn(capabilities=frozenset({"proc:*"}))
    machine.kernel.kill(0, armed, two, Signal.KILL)


def test_killpg_takes_the_whole_tree():
    machine = Machine()
    top = machine.spawn()
    machine.spawn(machine.spawn(top))
    machine.kernel.killpg(0, 1, top, Signal.KILL)
    assert [v.pid for v in machine.kernel.processes(0)] == [1]


@pytest.mark.parametrize("wanted", ["*", "llm:*", "tool:rm", "proc:kill"])
def test_a_child_never_holds_more_than_its_parent(wanted):
    machine = Machine()
    parent = machine.spawn(capabilities=frozenset({"llm:small", "proc:spawn"}))
    with pytest.raises(NotPermitted, match="cannot give"):
        machine.spawn(parent, capabilities=frozenset({wanted}))
    child = machine.spawn(parent, capabilities=frozenset({"llm:small"}))
    with pytest.raises(NotPermitted):
        machine.kernel.demand(child, "proc:spawn")


def test_favouring_oneself_takes_a_capability():
    machine = Machine()
    kernel, pid = machine.kernel, machine.spawn(cls=Class.BATCH)
    kernel.renice(0, pid, pid, 5)
    with pytest.raises(NotPermitted):
        kernel.renice(0, pid, pid, 4)
    with pytest.raises(NotPermitted):
        kernel.reclass(0, pid, pid, Class.INTERACTIVE)
    with pytest.raises(NotPermitted):
        machine.spawn(pid, cls=Class.INTERACTIVE)
    kernel.setlimits(0, pid, pid, Limits(tokens=5))
    with pytest.raises(NotPermitted):
        kernel.setlimits(0, pid, pid, Limits(tokens=6))


@pytest.mark.parametrize("nice", [-21, 20, 10**30, -(10**30)])
def test_nice_is_bounded(nice):
    machine = Machine()
    with pytest.raises(InvalidArgument):
        machine.spawn(nice=nice)
    pid = machine.spawn(nice=19)
    with pytest.raises(InvalidArgument):
        machine.kernel.renice(0, 1, pid, nice)


@pytest.mark.parametrize("limits", [Limits(tokens=-1), Limits(wall_seconds=math.nan), Limits(pages=2**53), Limits(wall_seconds=math.inf)])
def test_limits_are_bounded(limits):
    with pytest.raises(InvalidArgument):
        Machine().spawn(limits=limits)


def test_token_limit_at_its_bound_and_one_beyond():
    machine = Machine()
    pid = machine.spawn(limits=Limits(tokens=10))
    cid = machine.open(pid)
    with pytest.raises(QuotaExceeded):
        machine.append(pid, cid, range(11))
    burst = machine.generate(pid, cid, 3, range(7))
    machine.run()
    assert (burst.reason, len(burst.output)) == ("length", 3)
    with pytest.raises(QuotaExceeded):
        machine.generate(pid, cid, 1)


def test_passing_the_token_limit_while_generating_is_an_error_that_keeps_the_output():
    machine = Machine()
    parent = machine.spawn(limits=Limits(tokens=10))
    child = machine.spawn(parent)
    burst = machine.generate(child, machine.open(child), 20, range(7))
    machine.run()
    assert len(burst.output) == 3
    assert isinstance(burst.fault, QuotaExceeded)


def test_page_and_children_limits():
    machine = Machine()
    pid = machine.spawn(limits=Limits(pages=2, children=1), capabilities=frozenset({"*"}))
    burst = machine.append(pid, machine.open(pid), range(33))
    machine.run()
    assert isinstance(burst.fault, QuotaExceeded)
    child = machine.spawn(pid, capabilities=frozenset({"*"}))
    with pytest.raises(QuotaExceeded):
        machine.spawn(pid)
    with pytest.raises(QuotaExceeded):
        machine.spawn(child)


def test_wall_limit_ends_bursts_and_then_the_process():
    machine = Machine()
    pid = machine.spawn(limits=Limits(wall_seconds=1.0))
    burst = machine.generate(pid, machine.open(pid), 1000, range(7))
    machine.run(2)
    machine.kernel.tick(1.0)
    assert isinstance(burst.fault, QuotaExceeded)
    assert machine.kernel.pending(pid) is Signal.XCPU
    machine.kernel.tick(6.0)
    with pytest.raises(NoSuchProcess):
        machine.kernel.pending(pid)


def test_fork_of_a_process_forks_its_contexts():
    machine = Machine()
    pid = machine.spawn(nice=3, limits=Limits(tokens=500))
    cid = machine.open(pid)
    machine.append(pid, cid, range(40))
    machine.run()
    twin, mapping = machine.kernel.fork(machine.now, 1, pid)
    assert machine.kernel.context(twin, mapping[cid]).tokens == list(range(40))
    assert next(v for v in machine.kernel.processes(0) if v.pid == twin).nice == 3
    with pytest.raises(BadHandle):
        machine.kernel.context(pid, mapping[cid])


def test_pipes_carry_bytes_with_back_pressure_and_end():
    machine = Machine()
    kernel, one, two = machine.kernel, machine.spawn(), machine.spawn()
    pipe = kernel.pipe(0, one, 4)
    kernel.pipe_give(0, one, two, pipe, read=True)
    kernel.pipe_close(0, one, pipe, read=True)
    with pytest.raises(TryAgain):
        kernel.read(0, two, pipe)
    assert kernel.write(0, one, pipe, b"abcdef") == 4
    assert Wake(("pipe", pipe)) in kernel.drain()
    with pytest.raises(TryAgain):
        kernel.write(0, one, pipe, b"ef")
    assert kernel.read(0, two, pipe, 3) == b"abc"
    kernel.exit(0, one, 0)
    assert kernel.read(0, two, pipe) == b"d"
    assert kernel.read(0, two, pipe) == b""
    kernel.check_integrity()
    kernel.exit(0, two, 0)
    assert not kernel.pipes


def test_writing_where_nobody_reads():
    machine = Machine()
    pid = machine.spawn()
    pipe = machine.kernel.pipe(0, pid)
    machine.kernel.pipe_close(0, pid, pipe, read=True)
    with pytest.raises(BrokenPipe):
        machine.kernel.write(0, pid, pipe, b"x")
    with pytest.raises(BadHandle):
        machine.kernel.read(0, pid, pipe)


@pytest.mark.parametrize("capacity", [0, -1, (16 << 20) + 1])
def test_pipe_capacity_is_bounded(capacity):
    machine = Machine()
    with pytest.raises(InvalidArgument):
        machine.kernel.pipe(0, machine.spawn(), capacity)


def test_time_in_tools_and_pipes_is_accounted():
    machine = Machine()
    kernel, pid = machine.kernel, machine.spawn()
    kernel.block(1.0, pid, "tool")
    kernel.block(2.0, pid, "pipe")
    kernel.unblock(4.0, pid, "tool")
    kernel.unblock(5.0, pid, "pipe")
    told = kernel.explain(7.0, pid)
    assert (told.seconds["tool"], told.seconds["blocked"], told.seconds["own"]) == (3.0, 1.0, 3.0)
    assert told.causes == {"blocked: waited for tool": 3.0, "blocked: waited for pipe": 3.0}
    assert told.wall == 7.0


@pytest.mark.parametrize("tokens", [[256], [-1], [2**40], []])
def test_token_ids_are_checked(tokens):
    machine = Machine(vocabulary=256)
    pid = machine.spawn()
    with pytest.raises(InvalidArgument):
        machine.append(pid, machine.open(pid), tokens)


def test_a_busy_context_says_so():
    machine = Machine()
    pid = machine.spawn()
    cid = machine.open(pid)
    machine.append(pid, cid, [1])
    for call in (lambda: machine.append(pid, cid, [1]), lambda: machine.kernel.truncate(0, pid, cid, 0)):
        with pytest.raises(TryAgain, match="busy"):
            call()


def test_strangers_contexts_are_bad_handles():
    machine = Machine()
    one, two = machine.spawn(), machine.spawn()
    cid = machine.open(one)
    for call in (machine.kernel.context, machine.kernel.burst):
        with pytest.raises(BadHandle):
            call(two, cid)


def test_an_illegal_transition_is_a_panic():
    machine = Machine()
    pid = machine.spawn()
    burst: Burst = machine.append(pid, machine.open(pid), [1])
    machine.run()
    with pytest.raises(Panic, match="not a legal transition"):
        burst.move(State.RUNNING, 0.0)


def test_every_fault_has_an_errno_of_its_own():
    numbers = [fault.errno for fault in Fault.__subclasses__()]
    assert len(set(numbers)) == len(numbers)
    assert str(NoSuchProcess("no process 9")) == "no process 9 [ESRCH]"
