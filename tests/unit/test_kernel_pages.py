"""Prefix hits, fills in flight, fork, copy-on-write, swap and preemption, seen through the kernel's calls."""

from __future__ import annotations

import pytest
from machine import Machine

from llmos.kernel.burst import State
from llmos.kernel.device import Sampling, Tier
from llmos.kernel.errno import OutOfPages, TooLong
from llmos.kernel.param import Params
from llmos.kernel.process import Class
from llmos.kernel.signal import Signal


def computed(machine: Machine) -> int:
    return sum(len(row.tokens) for step in machine.steps for row in step.rows)


def test_fork_copies_nothing_until_the_first_write_and_then_one_page():
    machine = Machine(frames=256)
    pid = machine.spawn()
    cid = machine.open(pid)
    machine.append(pid, cid, [i % 200 for i in range(1000)])  # 62 full pages and one of 8 slots
    machine.run()
    free = len(machine.memory.device.free)
    twin = machine.kernel.fork_context(machine.now, pid, cid)
    assert len(machine.memory.device.free) == free
    one, two = machine.generate(pid, cid, 4), machine.generate(pid, twin, 4)
    machine.run(1)
    assert machine.memory.copied == 0, "the first step only reads: the last token is computed again, not written"
    machine.run()
    assert machine.memory.copied == 1, "one of the two writes to a copy, the other then owns the page alone"
    assert one.output == two.output
    assert computed(machine) == 1000 + 2 * 4


@pytest.mark.parametrize("length", [1, 15, 16, 17, 31, 32, 33])
def test_a_fork_generates_what_a_fresh_context_does(length):
    tokens = [i * 7 % 250 for i in range(length)]
    outputs = []
    for share in (False, True):
        machine = Machine(frames=64)
        pid = machine.spawn()
        cid = machine.open(pid)
        machine.append(pid, cid, tokens)
        machine.run()
        other = machine.kernel.fork_context(machine.now, pid, cid) if share else cid
        burst = machine.generate(pid, other, 40)
        machine.run()
        outputs.append(burst.output)
    assert outputs[0] == outputs[1]


def test_a_common_prefix_is_computed_once_when_requests_arrive_together():
    machine = Machine(frames=1024, max_tokens=128)
    prefix = [i % 251 for i in range(256)]
    bursts = []
    for i in range(8):
        pid = machine.spawn()
        bursts.append(machine.generate(pid, machine.open(pid), 4, [*prefix, *[i] * 16]))
    machine.run()
    assert computed(machine) == 256 + 8 * 16 + 8 * 3
    assert all(len(b.output) == 4 for b in bursts)
    assert bursts[1].process.usage.cached_tokens == 256


def test_a_fill_is_handed_on_when_its_owner_dies():
    machine = Machine(frames=1024, max_tokens=32)
    prefix = [i % 251 for i in range(256)]
    first, second = machine.spawn(), machine.spawn()
    machine.generate(first, machine.open(first), 4, prefix)
    waiter = machine.generate(second, machine.open(second), 4, prefix)
    machine.run(3)
    machine.kernel.kill(machine.now, 1, first, Signal.KILL)
    machine.run()
    assert len(waiter.output) == 4
    assert waiter.process.usage.cached_tokens == 96, "what was finished is used"


def test_a_fill_runs_at_the_best_class_of_its_waiters():
    machine = Machine(frames=1024, max_tokens=32)
    prefix = [i % 251 for i in range(256)]
    lazy, other, urgent = machine.spawn(cls=Class.IDLE), machine.spawn(cls=Class.BATCH), machine.spawn(cls=Class.INTERACTIVE)
    owner = machine.generate(lazy, machine.open(lazy), 1, prefix)
    machine.run(1)
    machine.generate(other, machine.open(other), 1, [7] * 256)
    waiter = machine.generate(urgent, machine.open(urgent), 1, prefix)
    machine.run(10)
    assert owner.done, "inherits the interactive class from its waiter, so the batch prefill does not delay it"
    assert waiter.done


def test_users_do_not_share_pages():
    machine = Machine(frames=64)
    prefix = [1] * 64
    for user in ("root", "guest"):
        pid = machine.spawn(user=user)
        machine.append(pid, machine.open(pid), prefix)
        machine.run()
    assert computed(machine) == 128


def test_swap_out_and_in_keeps_every_token():
    machine = Machine(frames=12, host_frames=64, page_slots=4, window=48)
    agents = []
    for i in range(5):
        pid = machine.spawn()
        cid = machine.open(pid)
        machine.append(pid, cid, [i * 10 + j % 9 for j in range(30)])
        agents.append((pid, cid))
        machine.run()
    assert machine.memory.swapped_out > 0
    bursts = [machine.generate(pid, cid, 5) for pid, cid in agents]
    machine.run()
    assert machine.memory.swapped_in > 0
    assert [len(b.output) for b in bursts] == [5] * 5
    assert computed(machine) <= 5 * (30 + 5), "swapped pages are not computed again"


def test_pages_dropped_for_want_of_a_host_tier_are_computed_again():
    machine = Machine(frames=12, host_frames=0, page_slots=4, window=48)
    agents = []
    for i in range(4):
        pid = machine.spawn()
        cid = machine.open(pid)
        machine.append(pid, cid, [i * 10 + j % 9 for j in range(30)])
        agents.append((pid, cid))
        machine.run()
    burst = machine.generate(*agents[0], 5)
    machine.run()
    assert len(burst.output) == 5


def test_an_interactive_burst_preempts_a_batch_one_by_swap():
    machine = Machine(frames=12, host_frames=64, page_slots=4, window=48, params=Params(low_water=1, min_progress=1))
    slow = machine.spawn(cls=Class.BATCH)
    batch = machine.generate(slow, machine.open(slow), 10, range(26))
    machine.run(3)
    assert batch.state is State.READY
    fast = machine.spawn(cls=Class.INTERACTIVE)
    urgent = machine.generate(fast, machine.open(fast), 4, range(100, 124))
    machine.run(12)
    assert urgent.done
    assert not batch.done
    assert batch.process.usage.preemptions == 1
    machine.run()
    assert len(batch.output) == 10
    causes = machine.kernel.explain(machine.now, slow).causes
    assert any("preempted" in cause and f"pid {fast}" in cause for cause in causes)


def test_a_blocked_head_does_not_block_the_rest():
    machine = Machine(frames=12, host_frames=64, page_slots=4, window=48)
    first = machine.spawn()
    running = machine.generate(first, machine.open(first), 12, range(20))
    machine.run(2)
    large, small = machine.spawn(), machine.spawn()
    big = machine.generate(large, machine.open(large), 1, range(40, 76))
    little = machine.generate(small, machine.open(small), 1, [9])
    machine.run(3)
    assert little.done
    assert not big.done
    assert not running.done
    machine.run()
    assert big.done


def test_killed_pages_are_free_when_the_step_in_flight_retires():
    machine = Machine(frames=64)
    pid = machine.spawn()
    machine.generate(pid, machine.open(pid), 50, range(100))
    machine.run(3)
    step = machine.plan()
    assert step is not None
    machine.kernel.kill(machine.now, 1, pid, Signal.KILL)
    machine.kernel.check_integrity()
    assert machine.memory.device.limbo, "frames that the step may still write are nobody's yet"
    machine.retire(step)
    assert len(machine.memory.device.free) + len(machine.memory.cached) == 64
    assert machine.plan() is None


def test_copies_are_whole_pages_and_before_the_rows_that_need_them():
    machine = Machine(frames=8, host_frames=16, page_slots=4, window=24)
    one, two = machine.spawn(), machine.spawn()
    a, b = machine.open(one), machine.open(two)
    machine.append(one, a, range(20))
    machine.run()
    machine.append(two, b, range(50, 70))
    machine.run()
    machine.generate(one, a, 2)
    machine.run()
    tiers = {(c.source_tier, c.target_tier) for step in machine.steps for c in step.copies}
    assert (Tier.DEVICE, Tier.HOST) in tiers
    assert (Tier.HOST, Tier.DEVICE) in tiers


def test_a_context_beyond_the_window_is_refused_with_both_numbers():
    machine = Machine(window=100)
    pid = machine.spawn()
    cid = machine.open(pid)
    machine.append(pid, cid, [1] * 100)
    machine.run()
    with pytest.raises(TooLong, match=r"101 .* 100 "):
        machine.append(pid, cid, [1])
    with pytest.raises(TooLong, match=r"100 tokens and 1 more .* 100 "):
        machine.generate(pid, cid, 1)


def test_a_context_beyond_the_device_is_refused():
    machine = Machine(frames=4, page_slots=4, window=100)
    pid = machine.spawn()
    cid = machine.open(pid)
    machine.append(pid, cid, [1] * 12)
    with pytest.raises(OutOfPages, match="5 pages"):
        machine.append(pid, machine.open(pid), [1] * 13)


def test_one_bad_row_fails_alone():
    machine = Machine(frames=64)
    machine.device.fail_when = {99}
    good, bad = machine.spawn(), machine.spawn()
    fine = machine.generate(good, machine.open(good), 8, range(20))
    poisoned = machine.generate(bad, machine.open(bad), 8, [*range(20), 99])
    machine.run()
    assert poisoned.fault is not None
    assert poisoned.fault.code == "EIO"
    assert len(fine.output) == 8


def test_sampling_is_reproducible_and_seeds_differ():
    outputs = []
    for seed in (1, 1, 2):
        machine = Machine(frames=64)
        pid = machine.spawn()
        burst = machine.generate(pid, machine.open(pid), 8, range(20), sampling=Sampling(temperature=1.0, seed=seed))
        machine.run()
        outputs.append(burst.output)
    assert outputs[0] == outputs[1] != outputs[2]
