"""Mail, sleep and clock as calls: who may, what waits, and for how long."""

from __future__ import annotations

import math

import pytest

from llmos.kernel.errno import Interrupted, InvalidArgument, NoSuchProcess, NotPermitted, TimedOut, TooLong, TryAgain
from llmos.kernel.kernel import Kernel
from llmos.kernel.param import Params
from llmos.syscalls import param

from .hand import INIT, Hand


@pytest.fixture
def hand() -> Hand:
    return Hand()


def state(hand: Hand, pid: int) -> tuple[str, str]:
    (view,) = [each for each in hand.kernel.processes(hand.now) if each.pid == pid]
    return view.state, view.waiting_for


def test_a_message_wakes_who_waits_for_it(hand: Hand) -> None:
    pid = hand.spawn().pid
    box = hand.send(pid, "receive")
    assert state(hand, pid) == ("blocked", "mail")
    hand.now += 3
    hand.call(hand.host, "send", pid=pid, data=b"hello")
    assert (box.result.sender, box.result.data, box.result.text, box.result.sent) == (hand.host, b"hello", "hello", 3.0)
    assert state(hand, pid) == ("sleeping", "")
    hand.check()


def test_a_full_box_makes_its_senders_wait_and_leaves_room_for_others() -> None:
    hand = Hand(Params(max_mail=4))
    pid, other = hand.spawn().pid, hand.spawn().pid
    for _ in range(2):
        hand.call(hand.host, "send", pid=pid, data=b"x")
    box = hand.send(hand.host, "send", pid=pid, data=b"third")
    assert not box.done
    assert state(hand, hand.host) == ("blocked", "room")
    with pytest.raises(TryAgain, match="no room"):
        hand.call(hand.host, "send", pid=pid, data=b"x", timeout=0.0)
    hand.call(other, "send", pid=pid, data=b"newcomer")
    assert [hand.call(pid, "receive").data for _ in range(2)] == [b"x", b"x"]
    assert box.done
    assert [hand.call(pid, "receive").data for _ in range(2)] == [b"newcomer", b"third"]
    hand.check()


def test_who_waits_for_room_is_told_of_the_end(hand: Hand) -> None:
    hand = Hand(Params(max_mail=2))
    pid = hand.spawn().pid
    hand.call(hand.host, "send", pid=pid, data=b"x")
    box = hand.send(hand.host, "send", pid=pid, data=b"x")
    assert not box.done
    hand.call(pid, "exit", status=0)
    with pytest.raises(NoSuchProcess):
        _ = box.result
    hand.check()


@pytest.mark.parametrize(("size", "good"), [(0, True), (param.MAX_MAIL, True), (param.MAX_MAIL + 1, False)])
def test_a_message_has_a_bound(hand: Hand, size: int, good: bool) -> None:
    if good:
        hand.call(hand.host, "send", pid=hand.host, data=b"x" * size)
        assert len(hand.call(hand.host, "receive").data) == size
    else:
        with pytest.raises(TooLong):
            hand.call(hand.host, "send", pid=hand.host, data=b"x" * size)


def test_mail_stays_in_the_family(hand: Hand) -> None:
    child, sibling = hand.spawn().pid, hand.spawn().pid
    guest = hand.spawn(user="guest").pid
    stranger = hand.kernel.spawn(hand.now, INIT, name="another client", capabilities=frozenset({"*"}))
    theirs = hand.spawn(parent=stranger).pid
    orphan = hand.spawn(parent=child).pid
    for pid, to in ((child, hand.host), (child, sibling), (orphan, sibling), (hand.host, orphan)):
        hand.call(pid, "send", pid=to, data=b"x")
    for to in (stranger, theirs, guest, INIT):
        with pytest.raises(NotPermitted):
            hand.call(child, "send", pid=to, data=b"x")
    hand.call(stranger, "send", pid=child, data=b"it holds everything")
    postman = hand.spawn(capabilities=["ipc:send"]).pid
    hand.call(postman, "send", pid=theirs, data=b"x")
    with pytest.raises(NotPermitted, match="init"):
        hand.call(postman, "send", pid=INIT, data=b"x")
    with pytest.raises(NoSuchProcess):
        hand.call(postman, "send", pid=99, data=b"x")


def test_no_time_to_wait(hand: Hand) -> None:
    with pytest.raises(TryAgain, match="no mail"):
        hand.call(hand.host, "receive", timeout=0.0)
    box = hand.send(hand.host, "receive", timeout=2.5)
    hand.tick(2.4)
    assert not box.done
    hand.tick(0.2)
    with pytest.raises(TimedOut, match="no mail came in time"):
        _ = box.result
    again = hand.send(hand.host, "receive", timeout=2.5)
    hand.call(hand.host, "send", pid=hand.host, data=b"x")
    assert again.result.data == b"x"
    assert hand.kernel.next_deadline() is None, "no timer is left"
    hand.check()


def test_sleep(hand: Hand) -> None:
    pid = hand.spawn().pid
    boxes = [hand.send(pid, "sleep", seconds=seconds) for seconds in (3.0, 1.0, 2.0)]
    assert state(hand, pid) == ("blocked", "timer")
    done = []
    for _ in range(3):
        assert hand.kernel.next_deadline() == hand.now + 1
        hand.tick(1.0)
        done.append([box.done for box in boxes])
    assert done == [[False, True, False], [False, True, True], [True] * 3]
    assert hand.call(pid, "sleep", seconds=0.0)
    assert hand.kernel.explain(hand.now, pid).causes == {"blocked: waited for timer": 6.0}
    hand.check()


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf, param.MAX_SECONDS * 2])
def test_how_long_one_may_sleep(hand: Hand, seconds: float) -> None:
    with pytest.raises(InvalidArgument, match="seconds"):
        hand.call(hand.host, "sleep", seconds=seconds)


@pytest.mark.parametrize("call", ["sleep", "receive"])
def test_a_signal_ends_it(hand: Hand, call: str) -> None:
    pid = hand.spawn().pid
    box = hand.send(pid, call, **({"seconds": 9.0} if call == "sleep" else {"timeout": 9.0}))
    hand.call(hand.host, "kill", pid=pid, signal="TERM")
    with pytest.raises(Interrupted):
        _ = box.result
    hand.call(hand.host, "kill", pid=pid, signal="KILL")
    assert hand.kernel.next_timer() is None
    hand.check()


def test_the_clock(hand: Hand) -> None:
    hand.core.wall = lambda: 1e9
    hand.now += 7
    assert (lambda clock: (clock.uptime, clock.wall))(hand.call(hand.host, "clock")) == (7.0, 1e9)


def test_timers_that_are_called_off_are_cleared_away() -> None:
    kernel = Kernel()
    live = kernel.set_timer(5.0, ("timer", 0))
    for at in range(10_000):
        kernel.clear_timer(kernel.set_timer(1.0 + at, ("timer", at)))
        kernel.check_timers()
    assert len(kernel._due) < 100
    assert kernel.next_deadline() == 5.0
    kernel.clear_timer(live)
    kernel.clear_timer(live)
    assert kernel.next_deadline() is None
    kernel.tick(1e6)
    assert kernel.drain() == []
