"""Memory pressure, ranks that are lent, and the parameters that bound both: each of them must matter."""

from __future__ import annotations

import pytest
from machine import Machine

from llmos.drivers.dummy import DummyDevice
from llmos.kernel.burst import State
from llmos.kernel.context import Context
from llmos.kernel.device import Tier
from llmos.kernel.memory import NONE, Memory
from llmos.kernel.param import Params
from llmos.kernel.process import Class, Limits
from llmos.kernel.signal import Signal


def agent(machine: Machine, tokens, **kwargs) -> tuple[int, int]:
    """A process with one context, all of it computed."""
    pid = machine.spawn(**kwargs)
    cid = machine.open(pid)
    machine.append(pid, cid, tokens)
    machine.run()
    return pid, cid


# host copies


def test_a_page_that_is_written_after_it_was_swapped_out_is_swapped_out_anew():
    """A stale host copy would bring back the page as it was: the dummy device finds the wrong tokens then."""
    m = Machine(frames=12, host_frames=64, page_slots=4, window=48)
    writer = agent(m, range(30))  # two slots of the last page are free
    burst = None
    for turn in range(3):
        for start in (100 + 48 * turn, 124 + 48 * turn):  # these take the device: the writer's pages go to the host
            agent(m, [token % 250 for token in range(start, start + 24)])
        page = m.kernel.contexts[writer[1]].pages[-1]
        assert page.device == NONE
        assert page.host != NONE
        burst = m.generate(*writer, 1, [90 + turn])
        m.run()
        assert burst.fault is None
    assert burst is not None
    assert len(burst.context.tokens) == 36


def test_writing_gives_the_host_copy_back():
    m = Machine(frames=12, host_frames=64, page_slots=4, window=48)
    writer = agent(m, range(30))
    agent(m, range(100, 140))
    m.append(*writer, [90])
    m.run()
    page = m.kernel.contexts[writer[1]].pages[-1]
    assert page.host == NONE
    assert page.key is None


def test_a_full_page_that_is_written_again_is_no_hit_any_more():
    m = Machine(frames=32, page_slots=4)
    pid, cid = agent(m, range(16))
    m.kernel.truncate(m.now, pid, cid, 6)
    m.append(pid, cid, [90, 91])
    m.run()
    burst = m.generate(pid, m.open(pid), 1, range(16))
    m.run()
    assert burst.process.usage.cached_tokens == 4, "the second page is another now"


def test_host_copies_of_running_pages_do_not_cost_others_theirs():
    """Three contexts of ten pages on 24 + 20 frames: they fit, if what runs does not keep its copy in the host tier too."""
    m = Machine(frames=24, host_frames=20, page_slots=4, window=60, vocabulary=10**6, params=Params(low_water=2))
    agents = [agent(m, range(i * 100, i * 100 + 40)) for i in range(3)]
    for who in agents * 3:
        m.generate(*who, 1)
        m.run()
    assert sum(len(row.tokens) for step in m.steps for row in step.rows) <= 3 * 40 + 9 + 9
    assert not any(page.absent for page in m.memory.live)


def test_host_copies_of_wired_pages_go_before_cached_pages():
    memory = Memory(DummyDevice(frames=2, host_frames=2).geometry)

    def copy_out():
        assert memory.write_back(1) == 1
        memory.fly()
        memory.land()

    cached, running = memory.allocate(), memory.allocate()
    assert cached is not None
    assert running is not None
    memory.seal(cached, b"key")
    for page in (cached, running):
        memory.unwire(page)
        copy_out()
    memory.drop(cached)
    memory.wire(running)
    idle = memory.allocate()  # in the frame of the cached page, which lies in the host tier only from now on
    assert idle is not None
    memory.unwire(idle)
    copy_out()
    assert (cached.host, running.host, idle.host) == (0, NONE, 1)
    assert memory.index[b"key"] is cached


# parameters


@pytest.mark.parametrize("most", [1, 40])
def test_nobody_is_preempted_before_a_minimum_of_progress(most):
    m = Machine(frames=14, host_frames=64, page_slots=4, window=48, params=Params(low_water=1, min_progress=most))
    slow = m.spawn(cls=Class.BATCH)
    batch = m.generate(slow, m.open(slow), 20, range(26))
    m.run(2)
    fast = m.spawn(cls=Class.INTERACTIVE)
    urgent = m.generate(fast, m.open(fast), 4, range(100, 132))
    progress = 0
    while not slow_preempted(m, slow):
        progress = batch.progress
        assert m.run(1), "nobody is ever preempted"
    assert progress >= most
    assert (len(batch.output) >= 14) == (most == 40), "26 tokens of prefill and 14 generated make 40"
    m.run()
    assert urgent.done
    assert batch.done


def slow_preempted(machine: Machine, pid: int) -> bool:
    return machine.kernel.table.get(pid).usage.preemptions > 0


@pytest.mark.parametrize(("low_water", "copied"), [(0, 0), (8, 6)])
def test_idle_pages_are_written_back_before_anybody_is_short(low_water, copied):
    m = Machine(frames=16, host_frames=16, page_slots=4, window=40, params=Params(low_water=low_water))
    agent(m, range(24))  # six pages, idle and dirty; ten frames are free
    pid = m.spawn()
    m.generate(pid, m.open(pid), 1, range(100, 112))  # takes three of them
    m.run()
    assert m.memory.swapped_out == copied
    assert all(copy.target_tier is Tier.HOST for step in m.steps for copy in step.copies)


@pytest.mark.parametrize(("low_water", "admitted"), [(0, True), (4, False)])
def test_those_who_run_are_left_some_pages_to_grow_into(low_water, admitted):
    m = Machine(frames=32, host_frames=0, page_slots=4, window=120, params=Params(low_water=low_water))
    first, second = m.spawn(), m.spawn()
    m.generate(first, m.open(first), 20, range(80))
    m.run(1)
    burst = m.generate(second, m.open(second), 1, range(100, 136))  # nine pages of the eleven that are free
    m.plan()
    assert (burst.state is State.RUNNING) is admitted


@pytest.mark.parametrize("lookahead", [2, 5, 6])
def test_a_step_passes_over_so_many_and_no_more(lookahead):
    """Five heads that find no room, and a small one behind them: it is reached at once if the lookahead goes beyond them."""
    m = Machine(frames=32, host_frames=0, page_slots=4, window=120, vocabulary=10**6, params=Params(low_water=0, lookahead=lookahead))
    runner = m.spawn()
    m.generate(runner, m.open(runner), 30, range(80))
    m.run(1)
    for i in range(5):
        pid = m.spawn()
        m.generate(pid, m.open(pid), 1, range(1000 * i + 1000, 1000 * i + 1100))
    pid = m.spawn(cls=Class.BATCH)
    small = m.generate(pid, m.open(pid), 1, [7])
    taken = 0
    while not small.done:
        assert m.run(1)
        taken += 1
    assert (taken == 1) is (lookahead > 5)
    assert taken <= 6, "and soon in any case"


# crowds


def test_a_crowd_without_room_is_not_looked_at_page_by_page(monkeypatch):
    m = Machine(frames=64, host_frames=0, page_slots=4, window=240, vocabulary=10**6)
    runner = m.spawn()
    m.generate(runner, m.open(runner), 60, range(160))
    m.run(1)
    for i in range(100):
        pid = m.spawn()
        m.generate(pid, m.open(pid), 1, range(1000 * i + 1000, 1000 * i + 1200))
    m.run(8)  # everybody has been turned away once
    looked: list[int] = []
    original = Context.missing
    monkeypatch.setattr(Context, "missing", lambda self: looked.append(self.cid) or original(self))
    m.run(20)
    assert len(looked) <= 20, "at most the first of each step"


def test_a_crowd_that_wants_one_prefix_is_not_looked_at_in_one_step():
    """The first that waits lends its rank to the owner, who is next then: the others keep their place in the queue."""
    m = Machine(frames=1024, max_tokens=64, vocabulary=10**6)
    first = m.spawn()
    m.append(first, m.open(first), range(1000))
    m.run(1)
    crowd = [m.generate(pid, m.open(pid), 1, range(1000)) for pid in (m.spawn() for _ in range(100))]
    for steps in (1, 2, 3):
        m.run(1)
        assert sum(burst.state is State.WAITING for burst in crowd) <= 2 * steps
    m.run()
    assert all(burst.done for burst in crowd)
    assert sum(len(row.tokens) for step in m.steps for row in step.rows) == 1000 + 100 * 8, "full pages are computed once"


def test_one_of_a_crowd_is_admitted_when_its_pages_come_back():
    """Two contexts share a prefix in the host tier: when one pages it in, the other needs that much less."""
    m = Machine(frames=24, host_frames=64, page_slots=4, window=80, vocabulary=10**6, params=Params(low_water=0))
    pid, cid = agent(m, range(60))
    twin = m.kernel.fork_context(m.now, pid, cid)
    agent(m, range(100, 172))  # takes the device
    one, two = m.generate(pid, cid, 6), m.generate(pid, twin, 6)
    for _ in range(30):
        m.run(1)
    assert one.done
    assert two.done


# ranks that are lent


def crowd(m: Machine, owner_tokens: int = 640):
    """The owner of a long fill, to whom a step's service counts for seventy, and another that wants the device all the time."""
    greedy, other = m.spawn(nice=19), m.spawn()
    owner = m.append(greedy, m.open(greedy), range(owner_tokens))
    m.run(1)
    m.append(other, m.open(other), range(70_000, 76_000))
    return owner


def test_a_fill_runs_at_the_service_of_its_waiters():
    m = Machine(frames=4096, max_tokens=64, vocabulary=10**6)
    owner = crowd(m)
    newcomer = m.spawn()
    waiter = m.generate(newcomer, m.open(newcomer), 1, [*range(320), 7])
    m.run(8)
    assert waiter.done, "the fill comes before the third, who is before its owner"
    assert not owner.done
    before = owner.context.computed
    m.run(5)
    assert owner.context.computed == before, "what is lent ends with the waiter"


@pytest.mark.parametrize("how", [Signal.INT, Signal.STOP, Signal.KILL])
def test_what_is_lent_ends_when_the_waiter_leaves(how):
    m = Machine(frames=4096, max_tokens=64, vocabulary=10**6)
    owner = crowd(m)
    newcomer = m.spawn()
    waiter = m.generate(newcomer, m.open(newcomer), 1, range(640))
    m.run(2)
    assert waiter.state is State.WAITING
    m.kernel.kill(m.now, 1, newcomer, how)
    before = owner.context.computed
    m.run(5)
    assert owner.context.computed == before


def test_a_waiter_that_changes_its_class_takes_the_fill_along():
    m = Machine(frames=4096, max_tokens=64, vocabulary=10**6)
    lazy, other, waiting = m.spawn(cls=Class.IDLE), m.spawn(), m.spawn(cls=Class.BATCH)
    owner = m.append(lazy, m.open(lazy), range(1280))
    m.run(1)
    waiter = m.generate(waiting, m.open(waiting), 1, range(1280))
    m.run(1)
    assert waiter.state is State.WAITING
    m.append(other, m.open(other), range(50_000, 56_000))
    for cls, moves in ((Class.BATCH, False), (Class.INTERACTIVE, True), (Class.IDLE, False), (Class.INTERACTIVE, True)):
        m.kernel.reclass(m.now, 1, waiting, cls)
        m.run(1)  # what was queued already
        before = owner.context.computed
        m.run(3)
        assert (owner.context.computed > before) is moves, cls


def test_a_fill_for_an_interactive_process_does_not_yield_to_a_normal_one():
    params = Params(low_water=0, min_progress=1)
    m = Machine(frames=24, host_frames=64, page_slots=4, window=92, max_tokens=4, vocabulary=10**6, params=params)
    lazy, urgent, normal = m.spawn(cls=Class.IDLE), m.spawn(cls=Class.INTERACTIVE), m.spawn()
    owner = m.append(lazy, m.open(lazy), range(80))
    m.run(2)
    waiter = m.generate(urgent, m.open(urgent), 1, range(80))
    m.run(1)
    assert waiter.state is State.WAITING
    late = m.generate(normal, m.open(normal), 1, range(500, 540))
    m.run(6)
    assert owner.process.usage.preemptions == 0
    assert not late.context.computed
    m.run()
    assert waiter.done
    assert late.done


def test_killing_a_crowd_of_waiters_leaves_the_owner_alone():
    m = Machine(frames=1024, max_tokens=64)
    first, top = m.spawn(), m.spawn()
    prefix = [i % 251 for i in range(512)]
    owner = m.append(first, m.open(first), prefix)
    m.run(1)
    waiters = [m.generate(pid, m.open(pid), 1, prefix) for pid in (m.spawn(top) for _ in range(50))]
    m.run(2)
    assert any(waiter.state is State.WAITING for waiter in waiters)
    m.kernel.killpg(m.now, 1, top, Signal.KILL)
    assert not any(fill.waiters for fill in m.kernel.schedulers["dummy"].fills.claimed.values())
    m.kernel.check_integrity()
    m.run()
    assert owner.done


def test_a_process_with_a_finished_burst_of_a_detached_device_changes_its_class():
    m = Machine()
    pid, cid = agent(m, [1, 2, 3])
    m.kernel.close(m.now, pid, cid)
    m.kernel.detach(m.now, "dummy")
    m.kernel.reclass(m.now, 1, pid, Class.BATCH)


# charges


@pytest.mark.parametrize("how", ["finish", "release", "close", "int", "kill"])
def test_a_token_that_goes_nowhere_is_not_charged(how):
    m = Machine()
    parent = m.spawn(limits=Limits(tokens=100))
    pid = m.spawn(parent)
    cid = m.open(pid)
    burst = m.generate(pid, cid, 50, [1, 2, 3])
    m.run(4)
    step = m.plan()
    {
        "finish": lambda: m.kernel.finish(m.now, pid, burst.bid),
        "release": lambda: m.kernel.release(m.now, pid, burst.bid),
        "close": lambda: m.kernel.close(m.now, pid, cid),
        "int": lambda: m.kernel.kill(m.now, 1, pid, Signal.INT),
        "kill": lambda: m.kernel.kill(m.now, 1, pid, Signal.KILL),
    }[how]()
    m.retire(step)
    assert len(burst.context.tokens) == 7
    assert m.kernel.table.get(parent).usage.tree_tokens == 7
    assert burst.process.usage.decode_tokens == 5, "the device did compute it"


def test_a_row_that_nobody_has_room_to_take_is_not_wasted():
    m = Machine(frames=16, host_frames=0, page_slots=4, window=60, max_rows=2, vocabulary=10**6, params=Params(low_water=0))
    for i in range(2):
        pid = m.spawn()
        m.generate(pid, m.open(pid), 8, range(100 * i, 100 * i + 16))
    m.run(2)
    late = m.spawn(cls=Class.BATCH)
    m.generate(late, m.open(late), 1, range(500, 536))
    for _ in range(3):
        m.run(1)
        assert len(m.steps[-1].rows) == 2
