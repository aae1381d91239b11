"""The fair policy: while two processes of a class both want the device, their weighted service stays close."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from machine import Machine

from llmos.kernel.param import NICE_STEP
from llmos.kernel.process import Class


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(64, 200), min_size=3, max_size=6),
    nices=st.lists(st.integers(-3, 3), min_size=6, max_size=6),
)
def test_the_service_gap_of_backlogged_processes_is_bounded(lengths, nices):
    """Each agent keeps prefilling new contexts of its own size: nobody gets ahead by more than two chunks, the credit and a page rent."""
    machine = Machine(frames=4096, max_tokens=64, vocabulary=10**9)
    agents = [(machine.spawn(nice=nice, capabilities=frozenset({"*"})), length) for length, nice in zip(lengths, nices, strict=False)]
    fresh = iter(range(10**9))

    def submit(pid: int, length: int) -> None:
        machine.append(pid, machine.open(pid), [next(fresh) for _ in range(length)])

    for pid, length in agents * 3:  # always more than a step can take, so that everybody is backlogged within it too
        submit(pid, length)
    bound = (2 * (64 + 200 / 16) + 64) * max(NICE_STEP**nice for nice in nices)
    for _ in range(150):
        step = machine.plan()
        assert step is not None
        machine.retire(step)
        for pid, length in agents:
            process = machine.kernel.table.get(pid)
            for bid in list(process.bursts):
                burst = machine.kernel.bursts[bid]
                if burst.done:
                    machine.kernel.release(machine.now, pid, bid)
                    machine.kernel.close(machine.now, pid, burst.context.cid)
                    submit(pid, length)
        service = [machine.kernel.table.get(pid).service for pid, _ in agents]
        assert max(service) - min(service) <= bound


def test_a_newcomer_is_served_at_once_beside_long_work():
    machine = Machine(frames=4096, max_tokens=64, vocabulary=10**9)
    for i in range(8):
        pid = machine.spawn()
        machine.append(pid, machine.open(pid), [(i * 97 + j) % 1000 for j in range(3000)])
    machine.run(20)
    pid = machine.spawn()
    short = machine.generate(pid, machine.open(pid), 1, [1, 2, 3])
    machine.run(2)
    assert short.done


def test_fcfs_makes_the_newcomer_wait():
    machine = Machine(policy="fcfs", frames=4096, max_tokens=64, vocabulary=1000)
    for i in range(8):
        pid = machine.spawn()
        machine.append(pid, machine.open(pid), [(i * 97 + j) % 1000 for j in range(3000)])
    pid = machine.spawn()
    short = machine.generate(pid, machine.open(pid), 1, [1, 2, 3])
    machine.run(300)
    assert not short.done


def test_classes_come_before_service():
    machine = Machine(frames=4096, max_tokens=64, vocabulary=10**9)
    idle = machine.spawn(cls=Class.IDLE)
    machine.append(idle, machine.open(idle), [j % 1000 for j in range(3000)])
    fast = machine.spawn(cls=Class.INTERACTIVE)
    burst = machine.append(fast, machine.open(fast), [j * 3 % 1000 for j in range(640)])
    machine.run(10)
    assert burst.done


def test_decodes_go_on_beside_a_long_prefill():
    machine = Machine(frames=4096, max_tokens=64, vocabulary=10**9)
    pid = machine.spawn()
    stream = machine.generate(pid, machine.open(pid), 40, [1, 2, 3])
    machine.run(1)
    other = machine.spawn()
    machine.append(other, machine.open(other), [j % 1000 for j in range(3000)])
    machine.run(30)
    assert len(stream.output) == 31, "a token a step, whatever else is in it"
