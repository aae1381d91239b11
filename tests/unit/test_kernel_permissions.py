"""Who may do what to whom: for every check of the kernel, one who is refused and one who is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from machine import Machine

from llmos.kernel.capability import ALL, DEFAULT
from llmos.kernel.errno import BadHandle, InvalidArgument, NoSuchChild, NoSuchProcess, NotPermitted
from llmos.kernel.process import Class, Limits
from llmos.kernel.signal import Signal

INIT = 1

Act = Callable[[Machine, int, int], object]
"""(machine, caller, target)."""

ACTS: dict[str, tuple[str, Act]] = {
    "kill": ("proc:kill", lambda m, by, pid: m.kernel.kill(0, by, pid, Signal.TERM)),
    "killpg": ("proc:kill", lambda m, by, pid: m.kernel.killpg(0, by, pid, Signal.TERM)),
    "fork": ("proc:fork", lambda m, by, pid: m.kernel.fork(0, by, pid)),
    "renice": ("proc:nice", lambda m, by, pid: m.kernel.renice(0, by, pid, 5)),
    "reclass": ("proc:nice", lambda m, by, pid: m.kernel.reclass(0, by, pid, Class.IDLE)),
    "setlimits": ("proc:limits", lambda m, by, pid: m.kernel.setlimits(0, by, pid, Limits(tokens=9))),
}


@pytest.fixture(params=list(ACTS))
def act(request):
    return ACTS[request.param]


def test_a_stranger_needs_the_capability(act):
    capability, do = act
    m = Machine()
    target = m.spawn()
    others = ALL_BUT[capability]
    with pytest.raises(NotPermitted, match=capability):
        do(m, m.spawn(capabilities=others), target)
    do(m, m.spawn(capabilities=frozenset({capability})), target)


ALL_BUT = {
    wanted: frozenset({"llm:*", "user:*", *({"proc:kill", "proc:fork", "proc:nice", "proc:limits", "proc:spawn"} - {wanted})})
    for wanted, _ in ACTS.values()
}


def test_whoever_spawned_it_needs_none(act):
    _, do = act
    m = Machine()
    top = m.spawn(capabilities=frozenset({"proc:spawn"}))
    child = m.spawn(top, capabilities=frozenset())
    do(m, top, m.spawn(child, capabilities=frozenset()))
    do(m, child, child)


def test_a_child_has_no_power_over_its_parent(act):
    _, do = act
    m = Machine()
    top = m.spawn()
    with pytest.raises(NotPermitted):
        do(m, m.spawn(top), top)


def test_nobody_touches_init(act):
    _, do = act
    m = Machine()
    for caller in (INIT, m.spawn(capabilities=ALL)):
        with pytest.raises(NotPermitted, match="init"):
            do(m, caller, INIT)


def test_the_dead_neither_act_nor_are_acted_upon(act):
    _, do = act
    m = Machine()
    parent = m.spawn()
    dead = m.spawn(parent, capabilities=frozenset())
    m.kernel.exit(0, dead, 0)
    for caller, target in ((dead, m.spawn()), (parent, dead)):
        with pytest.raises(NoSuchProcess):
            do(m, caller, target)


def test_init_does_not_exit():
    m = Machine()
    with pytest.raises(NotPermitted):
        m.kernel.exit(0, INIT, 0)
    m.kernel.exit(0, m.spawn(), 0)


def test_demand():
    m = Machine()
    pid = m.spawn(capabilities=frozenset({"llm:small", "tool:git*"}))
    for held in ("llm:small", "tool:git", "tool:git-log"):
        m.kernel.demand(pid, held)
    for lacking in ("llm:large", "llm:*", "tool:gi", "tool:*", "*"):
        with pytest.raises(NotPermitted, match="lacks"):
            m.kernel.demand(pid, lacking)


@pytest.mark.parametrize("capabilities", [frozenset[str](), frozenset({"proc:nice"})], ids=["bare", "armed"])
def test_favouring_oneself(capabilities):
    m = Machine()
    k, pid = m.kernel, m.spawn(cls=Class.BATCH, nice=3, capabilities=capabilities)
    k.renice(0, pid, pid, 3)
    k.reclass(0, pid, pid, Class.BATCH)
    acts = [
        lambda: k.renice(0, pid, pid, 2),
        lambda: k.reclass(0, pid, pid, Class.NORMAL),
        lambda: m.spawn(pid, cls=Class.INTERACTIVE),
        lambda: m.spawn(pid, nice=1),
    ]
    for do in acts:
        if capabilities:
            do()
        else:
            with pytest.raises(NotPermitted, match="proc:nice"):
                do()
    m.spawn(pid, cls=Class.IDLE, nice=19)
    process = k.table.get(pid)
    assert (process.cls, process.nice) == ((Class.NORMAL, 2) if capabilities else (Class.BATCH, 3))


@pytest.mark.parametrize("name", ["tokens", "pages", "wall_seconds", "children"])
@pytest.mark.parametrize("more", [101, None], ids=["raised", "lifted"])
def test_limits_are_lowered_freely_and_raised_by_capability(name, more):
    m = Machine()
    for capabilities, permitted in ((frozenset[str](), False), (frozenset({"proc:limits"}), True)):
        pid = m.spawn(limits=Limits(**{name: 100}), capabilities=capabilities)
        m.kernel.setlimits(0, pid, pid, Limits(**{name: 100}))
        if permitted:
            m.kernel.setlimits(0, pid, pid, Limits(**{name: more}))
        else:
            with pytest.raises(NotPermitted, match="proc:limits"):
                m.kernel.setlimits(0, pid, pid, Limits(**{name: more}))
            assert getattr(m.kernel.table.get(pid).limits, name) == 100
            m.kernel.setlimits(0, pid, pid, Limits(**{name: 99}))


def test_limits_that_are_out_of_bounds_change_nothing():
    m = Machine()
    pid = m.spawn(limits=Limits(tokens=5))
    with pytest.raises(InvalidArgument):
        m.kernel.setlimits(0, INIT, pid, Limits(tokens=-1))
    assert m.kernel.table.get(pid).limits == Limits(tokens=5)


def test_spawning_as_another_user():
    m = Machine()
    with pytest.raises(NotPermitted, match="user:guest"):
        m.spawn(m.spawn(capabilities=frozenset({"user:other"})), user="guest")
    child = m.spawn(m.spawn(capabilities=frozenset({"user:gu*"})), user="guest", capabilities=frozenset())
    assert m.kernel.table.get(child).user == "guest"
    m.spawn(child, user="guest")


def test_forking_the_process_of_another_user():
    m = Machine()
    guest = m.spawn(user="guest", capabilities=frozenset({"llm:dummy", "tool:rm"}))
    with pytest.raises(NotPermitted, match="user:guest"):
        m.kernel.fork(0, m.spawn(capabilities=frozenset({"proc:fork"})), guest)
    twin, _ = m.kernel.fork(0, m.spawn(capabilities=frozenset({"proc:fork", "user:guest", "llm:*"})), guest)
    assert m.kernel.table.get(twin).user == "guest"
    assert m.kernel.table.get(twin).capabilities == {"llm:dummy"}, "no more than its parent holds"


def test_capabilities_attenuate():
    m = Machine()
    parent = m.spawn(capabilities=frozenset({"llm:*", "tool:git*"}))
    for wanted in ("*", "tool:*", "tool:gi*", "proc:kill", "ll"):
        with pytest.raises(NotPermitted, match="cannot give"):
            m.spawn(parent, capabilities=frozenset({wanted}))
    child = m.spawn(parent, capabilities=frozenset({"llm:small", "tool:git-log"}))
    assert m.kernel.table.get(child).capabilities == {"llm:small", "tool:git-log"}
    assert m.kernel.table.get(m.spawn(parent)).capabilities == {"llm:*"}, "the default ones, as far as it holds them"
    assert m.kernel.table.get(m.spawn()).capabilities == DEFAULT


@pytest.mark.parametrize("end", ["read", "write"])
def test_ends_of_pipes_are_given_by_who_holds_them(end):
    m = Machine()
    k, holder, friend, thief = m.kernel, m.spawn(), m.spawn(), m.spawn(capabilities=ALL)
    pipe = k.pipe(0, holder)
    k.pipe_give(0, holder, friend, pipe, **{end: True})
    other = {"read": "write", "write": "read"}[end]
    for giver, ends in ((thief, {end: True}), (friend, {other: True}), (friend, {"read": True, "write": True})):
        with pytest.raises(NotPermitted):
            k.pipe_give(0, giver, thief, pipe, **ends)
        with pytest.raises(BadHandle):
            k.pipe_close(0, giver, pipe, **ends)
    k.check_integrity()
    k.pipe_give(0, friend, thief, pipe, **{end: True})
    k.pipe_close(0, friend, pipe, **{end: True})


def test_pipes_are_read_and_written_by_who_holds_the_end():
    m = Machine()
    k, holder, reader, writer, thief = m.kernel, m.spawn(), m.spawn(), m.spawn(), m.spawn(capabilities=ALL)
    pipe = k.pipe(0, holder)
    k.pipe_give(0, holder, reader, pipe, read=True)
    k.pipe_give(0, holder, writer, pipe, write=True)
    for pid in (reader, thief):
        with pytest.raises(BadHandle):
            k.write(0, pid, pipe, b"x")
    assert k.write(0, writer, pipe, b"x") == 1
    for pid in (writer, thief):
        with pytest.raises(BadHandle):
            k.read(0, pid, pipe)
    assert k.read(0, reader, pipe) == b"x"
    for call in (lambda: k.pipe_give(0, holder, thief, 99, read=True), lambda: k.pipe_close(0, holder, 99, read=True)):
        with pytest.raises(BadHandle, match="no pipe 99"):
            call()


OF_CONTEXTS: dict[str, Act] = {
    "append": lambda m, pid, cid: m.kernel.append(0, pid, cid, [1]),
    "generate": lambda m, pid, cid: m.kernel.generate(0, pid, cid, tokens=[1], max_tokens=1),
    "fork_context": lambda m, pid, cid: m.kernel.fork_context(0, pid, cid),
    "truncate": lambda m, pid, cid: m.kernel.truncate(0, pid, cid, 0),
    "close": lambda m, pid, cid: m.kernel.close(0, pid, cid),
    "context": lambda m, pid, cid: m.kernel.context(pid, cid),
}


@pytest.mark.parametrize("name", OF_CONTEXTS)
def test_contexts_belong_to_their_process(name):
    m = Machine()
    owner = m.spawn()
    cid = m.open(owner)
    for stranger in (INIT, m.spawn(capabilities=ALL), m.spawn(owner)):
        with pytest.raises(BadHandle):
            OF_CONTEXTS[name](m, stranger, cid)
    OF_CONTEXTS[name](m, owner, cid)


OF_BURSTS: dict[str, Act] = {
    "finish": lambda m, pid, bid: m.kernel.finish(0, pid, bid),
    "release": lambda m, pid, bid: m.kernel.release(0, pid, bid),
    "burst": lambda m, pid, bid: m.kernel.burst(pid, bid),
}


@pytest.mark.parametrize("name", OF_BURSTS)
def test_bursts_belong_to_their_process(name):
    m = Machine()
    owner = m.spawn()
    burst = m.generate(owner, m.open(owner), 5, [1])
    for stranger in (INIT, m.spawn(capabilities=ALL), m.spawn(owner)):
        with pytest.raises(BadHandle):
            OF_BURSTS[name](m, stranger, burst.bid)
    assert not burst.done
    OF_BURSTS[name](m, owner, burst.bid)


def test_only_a_parent_waits():
    m = Machine()
    parent = m.spawn()
    child = m.spawn(parent)
    grandchild = m.spawn(child)
    m.kernel.exit(0, grandchild, 4)
    for stranger in (INIT, parent, m.spawn(capabilities=ALL)):
        with pytest.raises(NoSuchChild):
            m.kernel.reap(0, stranger, grandchild)
    record = m.kernel.reap(0, child, grandchild)
    assert record is not None
    assert record.status == 4
    with pytest.raises(NoSuchChild):
        m.kernel.reap(0, child)
