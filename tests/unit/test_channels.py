"""Sleep and wakeup: nobody oversleeps, every sleep can be broken, every call is answered once."""

from __future__ import annotations

import pytest

from llmos.kernel.errno import Cancelled, Interrupted, NoSuchProcess, QuotaExceeded, TryAgain
from llmos.kernel.param import Params
from llmos.syscalls import param
from llmos.syscalls.abi import Limits

from .hand import Hand


@pytest.fixture
def hand() -> Hand:
    return Hand()


def test_a_reader_sleeps_until_there_is_something(hand: Hand) -> None:
    pipe = hand.call(hand.host, "pipe").pipe
    reader = hand.send(hand.host, "read", pipe=pipe)
    assert not reader.done
    hand.check()
    hand.call(hand.host, "write", pipe=pipe, data=b"abc")
    assert reader.result.data == b"abc"
    hand.check()


def test_of_two_readers_one_gets_it_and_the_other_sleeps_on(hand: Hand) -> None:
    pipe = hand.call(hand.host, "pipe").pipe
    first, second = hand.send(hand.host, "read", pipe=pipe), hand.send(hand.host, "read", pipe=pipe)
    hand.call(hand.host, "write", pipe=pipe, data=b"a")
    assert first.result.data == b"a"
    assert not second.done
    hand.call(hand.host, "write", pipe=pipe, data=b"b")
    assert second.result.data == b"b"


def test_a_writer_sleeps_while_the_pipe_is_full_and_nothing_is_lost(hand: Hand) -> None:
    pipe = hand.call(hand.host, "pipe", capacity=4).pipe
    writer = hand.send(hand.host, "write", pipe=pipe, data=b"0123456789")
    assert not writer.done
    got = b""
    while len(got) < 10:
        got += hand.call(hand.host, "read", pipe=pipe).data
    assert got == b"0123456789"
    assert writer.result.count == 10
    hand.check()


def test_a_write_into_a_tiny_pipe_copies_nothing_but_what_fits(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the rest copied for every byte read, a writer of a megabyte would hold the kernel's thread for minutes."""
    pipe = hand.call(hand.host, "pipe", capacity=1).pipe
    taken: list[object] = []
    write = hand.kernel.write
    monkeypatch.setattr(hand.kernel, "write", lambda now, pid, pipe, data: taken.append(data) or write(now, pid, pipe, data))
    data = bytes(range(100))
    box = hand.send(hand.host, "write", pipe=pipe, data=data)
    assert b"".join(hand.call(hand.host, "read", pipe=pipe, most=9).data for _ in range(100)) == data
    assert box.result.count == 100
    assert all(isinstance(piece, memoryview) and piece.obj is taken[0].obj for piece in taken)  # type: ignore[attr-defined]


def test_the_record_keeps_no_more_than_its_bound_of_a_call(hand: Hand) -> None:
    def sizes(capabilities: list[str]) -> tuple[int, bool]:
        hand.send(hand.host, "spawn", name="x", capabilities=capabilities)
        record = hand.core.ledger.of(hand.host)[-1]
        return record.size, record.arguments is not None

    nothing, _ = sizes([])
    room = param.MAX_RECORDED - nothing
    full = ["llm:" + "c" * 95] * (room // 100 - 1) + ["llm:" + "c" * (95 + room % 100)]
    assert sizes(full) == (param.MAX_RECORDED, True)
    assert sizes([*full[:-1], full[-1] + "c"]) == (param.MAX_RECORDED + 1, False)
    assert sizes(["llm:" + "c" * 246] * 128) == (nothing + 251 * 128, False)
    assert hand.call(hand.host, "tokenize", text="x").tokens == [ord("x")]


def test_end_of_file_and_broken_pipe(hand: Hand) -> None:
    child = hand.spawn()
    hand.call(child.pid, "write", pipe=child.child_stdout, data=b"last words")
    writer = hand.send(hand.host, "write", pipe=child.stdin, data=b"x" * 100_000)
    hand.call(child.pid, "exit", status=0)
    assert hand.call(hand.host, "read", pipe=child.stdout).data == b"last words"
    assert hand.call(hand.host, "read", pipe=child.stdout).data == b""
    assert writer.fault is not None
    assert writer.fault.code == "EPIPE"
    hand.check()


def test_wait_sleeps_until_a_child_ends(hand: Hand) -> None:
    child = hand.spawn()
    waiter, other = hand.send(hand.host, "wait", pid=child.pid), hand.send(hand.host, "wait")
    assert not waiter.done
    hand.call(child.pid, "exit", status=3, reason="so")
    assert (waiter.result.status, waiter.result.reason) == (3, "so")
    assert other.fault is not None
    assert other.fault.code == "ECHILD"
    assert hand.dead == [child.pid]
    hand.check()


def test_cancel_wakes_a_sleeper(hand: Hand) -> None:
    pipe = hand.call(hand.host, "pipe").pipe
    reader = hand.send(hand.host, "read", pipe=pipe)
    hand.cancel(reader)
    with pytest.raises(Cancelled):
        _ = reader.result
    hand.cancel(reader)
    hand.call(hand.host, "write", pipe=pipe, data=b"still here")
    assert hand.call(hand.host, "read", pipe=pipe).data == b"still here"
    hand.check()


def test_term_interrupts_a_sleeping_call_once(hand: Hand) -> None:
    child = hand.spawn()
    reader = hand.send(child.pid, "read", pipe=child.child_stdin)
    hand.call(hand.host, "kill", pid=child.pid)
    with pytest.raises(Interrupted):
        _ = reader.result
    hand.call(child.pid, "write", pipe=child.child_stdout, data=b"bye")  # it may still say so
    hand.tick(10)
    assert hand.dead == [child.pid]
    assert hand.call(hand.host, "wait", pid=child.pid).status == 128 + 15
    hand.check()


def test_term_is_raised_at_the_next_call(hand: Hand) -> None:
    child = hand.spawn()
    hand.call(hand.host, "kill", pid=child.pid, signal="TERM")
    hand.call(child.pid, "ps")
    with pytest.raises(Interrupted):
        hand.call(child.pid, "pipe")
    hand.call(child.pid, "pipe")


def test_kill_ends_sleeping_calls(hand: Hand) -> None:
    child = hand.spawn()
    reader = hand.send(child.pid, "read", pipe=child.child_stdin)
    context = hand.open(child.pid, user="hello")
    generation = hand.send(child.pid, "generate", context=context, max_tokens=100)
    hand.step()
    hand.call(hand.host, "kill", pid=child.pid, signal="KILL")
    for box in (reader, generation):
        with pytest.raises(Interrupted):
            _ = box.result
    with pytest.raises(NoSuchProcess):
        hand.call(child.pid, "ps")
    assert not hand.step()
    assert hand.kernel.statistics().contexts == 0
    hand.check()


def test_calls_of_a_stopped_process_wait_for_cont(hand: Hand) -> None:
    child = hand.spawn()
    hand.call(hand.host, "kill", pid=child.pid, signal="STOP")
    parked = hand.send(child.pid, "pipe")
    assert not parked.done
    hand.call(hand.host, "kill", pid=child.pid, signal="CONT")
    assert parked.result.pipe
    hand.call(hand.host, "kill", pid=child.pid, signal="STOP")
    parked = hand.send(child.pid, "pipe")
    hand.call(hand.host, "kill", pid=child.pid, signal="KILL")
    with pytest.raises(Interrupted):
        _ = parked.result


def test_a_call_that_is_given_up_while_stopped_is_never_made(hand: Hand) -> None:
    child = hand.spawn()
    hand.call(hand.host, "kill", pid=child.pid, signal="STOP")
    parked = hand.send(child.pid, "spawn", name="never")
    hand.cancel(parked)
    with pytest.raises(Cancelled):
        _ = parked.result
    hand.call(hand.host, "kill", pid=child.pid, signal="CONT")
    assert len(hand.call(hand.host, "ps").processes) == 3


def test_wall_limit_ends_a_sleeping_call(hand: Hand) -> None:
    child = hand.spawn(limits={"wall_seconds": 5.0})
    reader = hand.send(child.pid, "read", pipe=child.child_stdin)
    hand.tick(6)
    with pytest.raises(QuotaExceeded):
        _ = reader.result
    hand.tick(10)
    assert hand.call(hand.host, "wait").status == 128 + 24


def test_the_number_of_sleepers_is_bounded(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(param, "MAX_CALLS", 3)
    pipe = hand.call(hand.host, "pipe").pipe
    sleepers = [hand.send(hand.host, "read", pipe=pipe) for _ in range(4)]
    assert [box.done for box in sleepers] == [False, False, False, True]
    with pytest.raises(TryAgain):
        _ = sleepers[3].result
    hand.check()


def test_work_elsewhere_comes_back(hand: Hand) -> None:
    text, hand.hold = "x" * (param.INLINE_TEXT + 1), True
    box = hand.send(hand.host, "tokenize", text=text)
    assert not box.done
    hand.check()
    hand.work()
    assert box.result.tokens == [ord("x")] * len(text)


def test_work_elsewhere_that_nobody_wants_any_more_is_dropped(hand: Hand) -> None:
    hand.hold = True
    box = hand.send(hand.host, "tokenize", text="x" * (param.INLINE_TEXT + 1))
    hand.cancel(box)
    assert box.fault is not None
    hand.work()
    assert box.answers == 1


def test_a_model_loads_while_the_opener_sleeps(hand: Hand) -> None:
    first, second = hand.send(hand.host, "open", model="late"), hand.send(hand.host, "open", model="late")
    assert not first.done
    assert hand.call(hand.host, "ps").processes[1].waiting_for == "model"
    from llmos.drivers.dummy import DummyDevice
    from llmos.drivers.dummy_text import DummyText

    hand.kernel.attach(DummyDevice("late", frames=8, host_frames=0).geometry)
    hand.shelf.texts["late"] = DummyText()
    hand.shelf.loads["late"].done = True
    hand.trap.wake(("model", "late"))
    hand.trap.settle()
    assert first.result.model == second.result.model == "late"


def test_a_load_that_fails_is_told_to_all_and_tried_again(hand: Hand) -> None:
    boxes = [hand.send(hand.host, "open", model="broken") for _ in range(2)]
    load = hand.shelf.loads["broken"]
    load.done, load.fault = True, TryAgain("no memory")
    hand.trap.wake(("model", "broken"))
    hand.trap.settle()
    for box in boxes:
        with pytest.raises(TryAgain, match="no memory"):
            _ = box.result
    again = hand.send(hand.host, "open", model="broken")
    assert not again.done


def test_time_asleep_is_accounted_and_adds_up() -> None:
    hand = Hand(Params())
    child = hand.spawn()
    reader = hand.send(child.pid, "read", pipe=child.child_stdin)
    hand.now += 3
    hand.call(hand.host, "write", pipe=child.stdin, data=b"x")
    assert reader.done
    hand.now += 1
    explanation = hand.call(hand.host, "explain", pid=child.pid)
    assert explanation.seconds["blocked"] == pytest.approx(3)
    assert sum(explanation.seconds.values()) == pytest.approx(explanation.wall)


def test_limits_cross_the_table(hand: Hand) -> None:
    child = hand.spawn(limits={"tokens": 5, "children": 1})
    assert hand.kernel.table.get(child.pid).limits == Limits(tokens=5, children=1)
