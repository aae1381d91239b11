"""Attacks on the kernel that once worked: limits evaded, heaps that grow, priorities that stick, work that hides other work."""

from __future__ import annotations

import pytest
from machine import Machine

from llmos.kernel.errno import NotPermitted, QuotaExceeded
from llmos.kernel.param import Params
from llmos.kernel.process import Class, Limits
from llmos.kernel.signal import Signal


def test_wall_limit_binds_orphans():
    m = Machine()
    k = m.kernel
    parent = m.spawn(limits=Limits(wall_seconds=10))
    child = m.spawn(parent)
    k.exit(1.0, parent, 0)
    for t in range(2, 1000):
        k.tick(float(t))
    assert child not in k.table.all, "orphan outlives the wall limit by 990 s"


def test_wall_limit_binds_the_tree():
    m = Machine()
    k = m.kernel
    parent = m.spawn(limits=Limits(wall_seconds=10))
    child = m.spawn(parent)
    for t in range(1, 1000):
        k.tick(float(t))
    assert parent not in k.table.all
    assert child not in k.table.all, "the child of a process whose wall time is over lives on"


def test_token_limit_is_not_multiplied_by_orphaning():
    m = Machine()
    k = m.kernel
    parent = m.spawn(limits=Limits(tokens=100))
    kids = [m.spawn(parent) for _ in range(5)]
    k.exit(0, parent, 0)
    used = 0
    for kid in kids:
        try:
            m.append(kid, m.open(kid), range(100))
            used += 100
        except QuotaExceeded:
            pass
    assert used <= 100, used


def test_page_limit_counts_prefix_hits():
    m = Machine(frames=64)
    a = m.spawn()
    m.append(a, m.open(a), range(160))
    m.run()
    b = m.spawn(limits=Limits(pages=2))
    burst = m.append(b, m.open(b), range(160))
    m.run()
    assert m.kernel.table.get(b).usage.tree_pages <= 2, (m.kernel.table.get(b).usage.tree_pages, burst.fault)


def test_token_limit_with_many_bursts():
    m = Machine(frames=256)
    p = m.spawn(limits=Limits(tokens=20))
    [m.generate(p, m.open(p), 10, [i]) for i in range(16)]
    m.run()
    assert m.kernel.table.get(p).usage.tree_tokens <= 20, m.kernel.table.get(p).usage.tree_tokens


def test_zombies_count_against_children():
    m = Machine(params=Params(max_processes=100))
    k = m.kernel
    p = m.spawn(limits=Limits(children=2))
    for _ in range(90):
        try:
            k.exit(0, m.spawn(p), 0)
        except QuotaExceeded:
            break
    assert len(k.table.all) < 20, f"{len(k.table.all)} entries of the table held by one process limited to 2 children"


def test_one_process_cannot_take_all_pipes():
    m = Machine(params=Params(max_pipes=64))
    k = m.kernel
    p, other = m.spawn(), m.spawn()
    for _ in range(32):
        k.pipe(0, p)
    with pytest.raises(QuotaExceeded, match="as are left"):
        k.pipe(0, p)
    k.pipe(0, other)


def test_a_family_and_its_friends_cannot_take_all_pipes():
    m = Machine(params=Params(max_pipes=64))
    k = m.kernel

    def take_all(pid):
        while k.table.get(pid).usage.tree_pipes < 64:
            try:
                k.pipe(0, pid)
            except QuotaExceeded:
                return
        raise AssertionError("it has taken all pipes")

    top = m.spawn()
    for pid in (m.spawn(top), m.spawn(top), top, m.spawn()):
        take_all(pid)
    assert len(k.pipes) == 32 + 16, "the family has half, its friend half of what that left"
    k.pipe(0, m.spawn())
    k.check_integrity()


def test_a_pipe_counts_against_its_maker_until_it_is_gone():
    m = Machine(params=Params(max_pipes=64))
    k = m.kernel
    maker, heir = m.spawn(), m.spawn()
    number = k.pipe(0, maker)
    k.pipe_give(0, maker, heir, number, read=True, write=True)
    k.pipe_close(0, maker, number, read=True, write=True)
    assert (k.table.get(maker).usage.tree_pipes, k.table.get(heir).usage.tree_pipes) == (1, 0)
    k.exit(0, maker, 0)
    assert k.table.init.usage.tree_pipes == 1
    k.exit(0, heir, 0)
    assert k.table.init.usage.tree_pipes == 0


def test_reclass_moves_a_queued_burst():
    m = Machine(frames=4096, max_tokens=64, vocabulary=10**6)
    lazy = m.spawn(cls=Class.IDLE)
    burst = m.generate(lazy, m.open(lazy), 1, [5] * 30)
    noise = [m.spawn() for _ in range(4)]
    for i, p in enumerate(noise):
        m.append(p, m.open(p), [i * 10000 + j for j in range(5000)])
    m.run(2)
    assert not burst.done
    m.kernel.reclass(m.now, 1, lazy, Class.INTERACTIVE)
    m.run(50)
    assert burst.done, "interactive for 50 steps and never looked at"


def test_stop_saves_no_idleness():
    m = Machine(frames=4096, max_tokens=64, vocabulary=10**6, window=100_000)
    a, b = m.spawn(), m.spawn()
    m.append(a, m.open(a), range(4_000))
    y = m.append(b, m.open(b), range(30_000, 36_000))
    m.run(2)
    m.kernel.kill(m.now, 1, a, Signal.STOP)
    m.run(30)
    m.kernel.kill(m.now, 1, a, Signal.CONT)
    before = y.context.computed
    m.run(12)
    assert y.context.computed > before, f"b got {y.context.computed - before} tokens in 12 steps beside an equal that had slept"


def test_inherited_class_ends_with_the_waiter():
    m = Machine(frames=4096, max_tokens=32, vocabulary=10**6)
    lazy, normal, urgent = m.spawn(cls=Class.IDLE), m.spawn(), m.spawn(cls=Class.INTERACTIVE)
    owner = m.append(lazy, m.open(lazy), range(3200))
    m.run(1)
    w = m.generate(urgent, m.open(urgent), 1, [*list(range(48)), 9])  # needs one more page of it only
    n = m.append(normal, m.open(normal), range(10_000, 13_200))
    m.run(10)
    assert w.done
    before = owner.context.computed
    m.run(20)
    assert owner.context.computed == before, (
        f"IDLE burst computed {owner.context.computed - before} tokens ahead of NORMAL; cls={owner.cls!r}"
    )
    assert n.context.computed > 0


@pytest.mark.parametrize("how", [Signal.STOP, Signal.INT])
def test_fork_of_a_context_in_flight_whose_step_fails(how):
    m = Machine(frames=64, vocabulary=1000)
    m.device.fail_when = {999}
    p = m.spawn()
    c = m.open(p)
    m.append(p, c, range(20))
    m.run()
    m.kernel.fork_context(m.now, p, c)  # the 2nd page is shared: the next write copies it
    m.append(p, c, [30, 31])
    q = m.spawn()
    m.append(q, m.open(q), [999])
    step = m.plan()
    assert step.copies
    m.kernel.kill(m.now, 1, p, how)  # no longer RUNNING
    e = m.kernel.fork_context(m.now, p, c)
    m.retire(step)  # fails: the copy was never made
    m.kernel.kill(m.now, 1, p, Signal.CONT)
    m.generate(p, e, 2, [7])
    m.run()  # Panic: reads slot 16, which was never written


def test_finishing_in_flight_is_charged():
    m = Machine(frames=256)
    p = m.spawn()
    m.open(p)
    n = 0
    for i in range(20):
        b = m.append(p, m.open(p), [i] * 100)
        s = m.plan()
        m.kernel.finish(m.now, p, b.bid)
        m.retire(s)
        n += sum(len(r.tokens) for r in s.rows)
    u = m.kernel.table.get(p)
    assert u.usage.prefill_tokens == n
    assert u.service >= n


def test_setlimits_does_not_grow_the_heap():
    m = Machine()
    p = m.spawn(limits=Limits(wall_seconds=2**40))
    for _ in range(10_000):
        m.kernel.setlimits(0, p, p, Limits(wall_seconds=2**40))
    assert len(m.kernel._deadlines) < 100, len(m.kernel._deadlines)


def test_dead_processes_leave_no_deadlines():
    m = Machine()
    k = m.kernel
    for _ in range(5000):
        k.exit(0, m.spawn(limits=Limits(wall_seconds=2**40)), 0)
    assert len(k._deadlines) < 200, len(k._deadlines)


def test_stop_and_cont_do_not_grow_the_queue():
    m = Machine(frames=4096, max_tokens=64, vocabulary=10**6)
    p = m.spawn(cls=Class.IDLE)
    m.append(p, m.open(p), range(100))
    n = m.spawn()
    m.append(n, m.open(n), range(1000, 6000))
    for i in range(5000):
        m.kernel.kill(m.now, 1, p, Signal.STOP)
        m.kernel.kill(m.now, 1, p, Signal.CONT)
        if i % 100 == 0:
            m.run(1)
    q = len(m.kernel.schedulers["dummy"].prefills)
    assert q < 200, q


def test_cancelled_bursts_leave_the_queue():
    m = Machine(frames=4096, max_tokens=64, vocabulary=10**6)
    n = m.spawn()
    m.append(n, m.open(n), range(1000, 9000))
    for i in range(2000):
        p = m.spawn(cls=Class.IDLE)
        m.append(p, m.open(p), range(1000))
        m.kernel.kill(m.now, 1, p, Signal.KILL)
        if i % 20 == 0:
            m.run(1)
    q = len(m.kernel.schedulers["dummy"].prefills)
    assert q < 200, f"{q} dead bursts and their contexts of 1000 tokens kept"


def test_users_with_long_names_share_nothing():
    m = Machine(frames=64)
    for user in ("и" * 32 + "a", "и" * 32 + "b"):
        p = m.spawn(user=user)
        m.append(p, m.open(p), [1] * 64)
        m.run()
    assert sum(len(r.tokens) for s in m.steps for r in s.rows) == 128


def test_killpg_of_init_changes_nothing_if_refused():
    m = Machine()
    p = m.spawn()
    with pytest.raises(NotPermitted):
        m.kernel.killpg(0, 1, 1, Signal.KILL)
    assert p in m.kernel.table.all


def test_min_progress_holds_for_a_resident_that_runs_short():
    """DESIGN: no re-preemption before a minimum of progress."""
    m = Machine(frames=20, host_frames=64, page_slots=4, window=60, max_tokens=64, params=Params(low_water=0, min_progress=16))
    ps = [m.spawn() for _ in range(4)]
    [m.generate(p, m.open(p), 40, range(i * 20, i * 20 + 16)) for i, p in enumerate(ps)]
    bad = []
    s = m.kernel.schedulers["dummy"]
    orig = s._preempt

    def spy(v, w, now):
        if v is not w and v.progress < 16:
            bad.append((v.bid, v.progress))
        return orig(v, w, now)

    s._preempt = spy
    m.run()
    assert not bad, bad


def test_interactive_prefill_beside_a_long_decode_of_one_row():
    m = Machine(max_rows=1, frames=512)
    a = m.spawn(cls=Class.IDLE)
    m.generate(a, m.open(a), 2000, [1])
    m.run(2)
    f = m.spawn(cls=Class.INTERACTIVE)
    u = m.generate(f, m.open(f), 1, [2])
    m.run(200)
    assert u.done, "an idle decode keeps an interactive process waiting for 200 steps"


def test_thirty_two_blocked_heads_do_not_block_the_rest():
    m = Machine(frames=100, host_frames=0, page_slots=4, window=400, max_tokens=64, vocabulary=10**6)
    r = m.spawn()
    m.generate(r, m.open(r), 200, range(160))
    m.run(6)
    big = []
    for i in range(40):
        p = m.spawn()
        big.append(m.generate(p, m.open(p), 1, range(1000 * (i + 1), 1000 * (i + 1) + 300)))
    p = m.spawn()
    small = m.generate(p, m.open(p), 1, [9])
    m.run(40)
    assert small.done


def test_one_poisoned_row_never_stops_the_device():
    """Bursts that page in beside one whose step fails: everybody else still ends."""
    m = Machine(frames=12, host_frames=40, page_slots=4, window=40, max_rows=3, max_tokens=12, vocabulary=200)
    m.device.fail_when = {199}
    agents = [(pid, m.open(pid)) for pid in (m.spawn() for _ in range(6))]
    bursts = []
    for turn in range(6):
        for i, (pid, cid) in enumerate(agents):
            context = m.kernel.context(pid, cid)
            if context.burst is None and len(context.tokens) < 24:
                tokens = [i * 20 + turn * 3 + j for j in range(4)]
                bursts.append(m.generate(pid, cid, 2, [*tokens, 199] if (i + turn) % 5 == 0 else tokens))
        m.run(3)
    assert m.run(2_000) < 2_000, "it goes on for ever"
    assert all(burst.done for burst in bursts)
    assert any(burst.fault is None for burst in bursts)
