"""The gate: what is held by asking waits for a person, for exactly its arguments, once. And those who would get around it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from llmos.kernel.errno import Fault, Interrupted, InvalidArgument, NotFound, NotPermitted, TryAgain
from llmos.syscalls import param
from llmos.syscalls.arguments import Arguments, Nothing, Send, Tokenize, Write
from llmos.syscalls.call import Call
from llmos.syscalls.core import Core
from llmos.syscalls.digest import brief, digest, shown
from llmos.syscalls.permit import permit
from llmos.syscalls.results import Done
from llmos.syscalls.table import TABLE, Row

from .hand import Box, Hand


@pytest.fixture
def hand() -> Hand:
    return Hand()


def asker(hand: Hand, *more: str, parent: int | None = None) -> int:
    """A process that may make pipes, by asking."""
    pid: int = hand.spawn("asker", parent, capabilities=["ask:pipe:*", "proc:spawn", *more]).pid
    return pid


def waiting(hand: Hand, pid: int | None = None) -> list[Any]:
    listed: list[Any] = hand.call(pid or hand.host, "approvals").approvals
    return listed


def state(hand: Hand, pid: int) -> tuple[str, str]:
    (view,) = [each for each in hand.kernel.processes(hand.now) if each.pid == pid]
    return view.state, view.waiting_for


def test_a_call_waits_until_somebody_allows_it(hand: Hand) -> None:
    pid = asker(hand)
    box = hand.send(pid, "pipe", capacity=7)
    assert not box.done
    assert state(hand, pid) == ("blocked", "approval")
    hand.now += 5
    (one,) = waiting(hand)
    assert (one.pid, one.name, one.call, one.capability) == (pid, "asker", "pipe", "pipe:new")
    assert (one.arguments, one.waited, one.left) == ('{"capacity": 7}', 5, param.APPROVAL_SECONDS - 5)
    hand.call(hand.host, "answer", id=one.id, allow=True, digest=one.digest)
    assert hand.kernel.pipes[box.result.pipe].capacity == 7
    assert state(hand, pid) == ("sleeping", "")
    assert hand.kernel.explain(hand.now, pid).causes == {"blocked: waited for approval": 5.0}
    assert waiting(hand) == []
    hand.check()


def test_one_approval_is_for_one_call(hand: Hand) -> None:
    pid = asker(hand)
    for number in (1, 2):
        box = hand.send(pid, "pipe", capacity=7)
        assert not box.done, "the same again is asked again"
        hand.call(hand.host, "answer", id=number, allow=True)
        assert box.result.pipe


def test_denied_with_a_reason(hand: Hand) -> None:
    box = hand.send(asker(hand), "pipe")
    hand.call(hand.host, "answer", id=1, allow=False, reason="not on a Sunday")
    with pytest.raises(NotPermitted, match=f"pid {hand.host} has denied 'pipe:new'.*not on a Sunday"):
        _ = box.result
    assert not hand.kernel.pipes.keys() - {n for p in hand.kernel.table.all.values() for n in (*p.readers, *p.writers)}


def test_a_handler_that_sleeps_is_asked_about_before_it_begins(hand: Hand) -> None:
    pid = hand.spawn(capabilities=["ask:llm:dummy"]).pid
    box = hand.send(pid, "open")
    assert not box.done
    assert not hand.kernel.contexts
    hand.call(hand.host, "answer", id=1, allow=True)
    assert box.result.model == "dummy"


def test_what_is_held_outright_asks_nobody_and_what_is_not_held_at_all_is_refused(hand: Hand) -> None:
    pid = hand.spawn(capabilities=["pipe:*", "ask:llm:other"]).pid
    assert hand.call(pid, "pipe").pipe
    with pytest.raises(NotPermitted, match="lacks the capability 'llm:dummy'"):
        hand.call(pid, "open")
    assert waiting(hand) == []


def test_a_row_names_arguments_in_its_capability(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE, "tokenize", replace(TABLE["tokenize"], capability="tool:{text}"))
    pid = hand.spawn(capabilities=["tool:good", "ask:tool:odd*"]).pid
    assert hand.call(pid, "tokenize", text="good").tokens
    box = hand.send(pid, "tokenize", text="odd one")
    assert [each.capability for each in waiting(hand)] == ["tool:odd one"]
    hand.call(hand.host, "answer", id=1, allow=True)
    assert box.result.tokens
    for text in ("bad", "*", "", "{text}", "good*"):
        with pytest.raises(NotPermitted, match="tool:"):
            hand.call(pid, "tokenize", text=text)


def test_a_handler_asks_as_it_goes_and_once_for_each_capability(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    async def copy(core: Core, call: Call, args: Nothing) -> Done:
        """Copy."""
        for wanted in ("file:r:/in", "file:w:/home/out", "file:w:/home/out", "file:w:/home/more"):
            await permit(core, call, wanted)
            steps.append(wanted)
        return Done()

    monkeypatch.setitem(TABLE, "copy", Row(999, "copy", Nothing, Done, copy, sleeps=True))
    pid = hand.spawn(capabilities=["file:r:*", "ask:file:w:/home/*"]).pid
    box = hand.send(pid, "copy")
    assert steps == ["file:r:/in"]
    hand.call(hand.host, "answer", id=1, allow=True)
    assert steps == ["file:r:/in", "file:w:/home/out", "file:w:/home/out"]
    hand.call(hand.host, "answer", id=2, allow=False)
    assert isinstance(box.fault, NotPermitted)
    assert len(steps) == 3
    with pytest.raises(NotPermitted, match="lacks the capability 'file:r:/in'"):
        hand.call(hand.spawn(capabilities=["file:w:*"]).pid, "copy")


# --- attacks


def test_arguments_that_are_changed_while_a_person_looks_change_nothing(hand: Hand) -> None:
    """The caller keeps hold of the lists that it gave; the call has its own."""
    pid = hand.spawn(capabilities=["ask:proc:spawn", "tool:*"]).pid
    given: dict[str, Any] = {"name": "x", "capabilities": ["tool:harmless"]}
    box = Box()
    box.request = hand.send(pid, "ps").request
    assert box.request is not None
    box.request = type(box.request)(pid, "spawn", given, "0", 9_999, box)
    hand.trap.enter(box.request)
    hand.trap.settle()
    (one,) = waiting(hand)
    given["name"] = "evil"
    given["capabilities"][0] = "tool:rm"
    given["capabilities"].append("*")
    hand.call(hand.host, "answer", id=one.id, allow=True)
    child = hand.kernel.table.get(box.result.pid)
    assert (child.name, child.capabilities) == ("x", {"tool:harmless"})


def test_an_answer_to_what_was_not_shown_is_refused(hand: Hand) -> None:
    pid = asker(hand)
    first = hand.send(pid, "pipe", capacity=1)
    (shown_first,) = waiting(hand)
    hand.cancel(first)
    second = hand.send(pid, "pipe", capacity=2)
    (one,) = waiting(hand)
    assert one.id != shown_first.id
    assert one.digest != shown_first.digest
    with pytest.raises(NotFound, match="answered already, or its call is gone"):
        hand.call(hand.host, "answer", id=shown_first.id, allow=True)
    with pytest.raises(InvalidArgument, match="not of what you were shown"):
        hand.call(hand.host, "answer", id=one.id, allow=True, digest=shown_first.digest)
    assert not second.done
    hand.call(hand.host, "answer", id=one.id, allow=True, digest=one.digest)
    assert second.result


@pytest.mark.parametrize("number", [0, 2, 999, param.MAX_ID])
def test_an_id_that_was_never_given_out(hand: Hand, number: int) -> None:
    hand.send(asker(hand), "pipe")
    with pytest.raises(NotFound, match="never asked for"):
        hand.call(hand.host, "answer", id=number, allow=True)


def test_answered_twice(hand: Hand) -> None:
    hand.send(asker(hand), "pipe")
    hand.call(hand.host, "answer", id=1, allow=False)
    with pytest.raises(NotFound, match="answered already"):
        hand.call(hand.host, "answer", id=1, allow=True)


def test_nobody_approves_of_itself_or_raises_somebody_to_do_it(hand: Hand) -> None:
    pid = asker(hand, "approve:*")
    box = hand.send(pid, "pipe")
    child = hand.spawn(parent=pid, capabilities=["approve:*", "proc:spawn"]).pid
    grandchild = hand.spawn(parent=child, capabilities=["approve:*"]).pid
    hand.call(child, "exit", status=0)  # its sponsor stays above it
    for forger in (pid, grandchild):
        with pytest.raises(NotPermitted, match="never falls to"):
            hand.call(forger, "answer", id=1, allow=True)
        with pytest.raises(NotPermitted):
            hand.call(forger, "approvals", id=1)
        assert waiting(hand, forger) == []
    assert not box.done


@pytest.mark.parametrize(
    ("held", "may"),
    [
        ([], False),
        (["pipe:*", "tool:*"], False),
        (["ask:approve:*"], False),
        (["approve:*", "ask:approve:pipe:new"], False),
        (["approve:tool:*"], False),
        (["approve:pipe:*"], True),
        (["approve:*"], True),
        (["*"], True),
    ],
)
def test_who_may_answer(hand: Hand, held: list[str], may: bool) -> None:
    box = hand.send(asker(hand), "pipe")
    other = hand.spawn(capabilities=held).pid
    assert len(waiting(hand, other)) == may
    if may:
        hand.call(other, "answer", id=1, allow=True)
        assert box.result
    else:
        with pytest.raises(NotPermitted, match="approve:pipe:new"):
            hand.call(other, "answer", id=1, allow=True)
        assert not box.done


def test_a_child_asks_for_what_its_parent_asks_for(hand: Hand) -> None:
    pid = asker(hand, "tool:*")
    for wanted in (["pipe:new"], ["pipe:*", "tool:*"], None):
        child = hand.spawn(parent=pid, capabilities=wanted).pid
        assert not hand.send(child, "pipe").done
    with pytest.raises(NotPermitted, match="cannot give"):
        hand.spawn(parent=pid, capabilities=["*"])
    with pytest.raises(NotPermitted, match="cannot give"):
        hand.spawn(parent=pid, capabilities=["ask:llm:*"])
    assert [each.capability for each in waiting(hand)] == ["pipe:new"] * 3
    assert "ask:pipe:*" not in hand.kernel.table.get(hand.spawn(parent=pid, capabilities=["tool:x"]).pid).capabilities


def test_a_fork_asks_for_what_its_model_asks_for(hand: Hand) -> None:
    pid = asker(hand)
    twin = hand.call(hand.host, "fork", pid=pid).streams.pid
    assert not hand.send(twin, "pipe").done


def test_a_flood_of_asks_is_bounded_and_leaves_room_for_others(hand: Hand) -> None:
    pid = asker(hand)
    boxes = [hand.send(pid, "pipe") for _ in range(param.MAX_ASKS + 1)]
    assert [box.done for box in boxes] == [False] * param.MAX_ASKS + [True]
    with pytest.raises(TryAgain, match="waiting for approval already"):
        _ = boxes[-1].result
    for _ in range(2 * param.MAX_APPROVALS // param.MAX_ASKS):
        flooder = asker(hand)
        for _ in range(param.MAX_ASKS):
            hand.send(flooder, "pipe")
    pending = len(hand.core.approvals.waiting)
    assert pending == param.MAX_APPROVALS // 2, "one tree leaves as much as it has"
    other = hand.kernel.spawn(hand.now, 1, name="other client", capabilities=frozenset({"*"}))
    box = hand.send(asker(hand, parent=other), "pipe")
    assert not box.done
    hand.call(hand.host, "kill", pid=pid, signal="KILL")
    assert len(hand.core.approvals.waiting) == pending + 1 - param.MAX_ASKS
    hand.check()


@pytest.mark.parametrize("end", ["KILL", "TERM", "cancel", "deadline", "killed by its owner"])
def test_a_call_that_is_gone_cannot_be_answered(hand: Hand, end: str) -> None:
    pid = asker(hand)
    box = hand.send(pid, "pipe")
    if end == "cancel":
        hand.cancel(box)
    elif end == "deadline":
        hand.tick(param.APPROVAL_SECONDS)
    else:
        hand.call(hand.host, "kill", pid=pid, signal="TERM" if end == "TERM" else "KILL")
    code = {"cancel": "ECANCELED", "deadline": "ETIMEDOUT"}.get(end, "EINTR")
    assert box.fault is not None
    assert box.fault.code == code
    assert waiting(hand) == []
    with pytest.raises(NotFound):
        hand.call(hand.host, "answer", id=1, allow=True)
    assert not hand.core.approvals.waiting
    hand.check()


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
@pytest.mark.parametrize("first", ["answer", "kill"])
def test_an_answer_and_a_signal_in_one_breath(hand: Hand, signal: str, first: str) -> None:
    """Whichever comes first, a dead process makes no pipe, and a call is answered once."""
    pid = asker(hand)
    box = hand.send(pid, "pipe", capacity=77)
    answer, kill = Box(), Box()
    answer.request = type(box.request)(hand.host, "answer", {"id": 1, "allow": True}, "0", 1_000, answer)  # type: ignore[misc]
    kill.request = type(box.request)(hand.host, "kill", {"pid": pid, "signal": signal}, "0", 1_001, kill)  # type: ignore[misc]
    for each in (answer, kill) if first == "answer" else (kill, answer):
        assert each.request is not None
        hand.trap.enter(each.request)
    hand.trap.settle()
    assert box.answers == answer.answers == kill.answers == 1
    made = [pipe for pipe in hand.kernel.pipes.values() if pipe.capacity == 77]
    if first == "kill":
        assert isinstance(answer.fault, NotFound)
    assert len(made) == (first == "answer" and signal == "TERM")
    hand.check()


def test_what_was_stopped_while_it_waited_does_nothing_before_it_goes_on(hand: Hand) -> None:
    pid = asker(hand)
    box = hand.send(pid, "pipe")
    hand.call(hand.host, "kill", pid=pid, signal="STOP")
    hand.call(hand.host, "answer", id=1, allow=True)
    assert not box.done
    hand.call(hand.host, "kill", pid=pid, signal="INT")
    assert not box.done
    hand.call(hand.host, "kill", pid=pid, signal="CONT")
    assert box.result
    hand.check()


def test_an_interrupt_ends_the_wait_and_not_the_process(hand: Hand) -> None:
    pid = asker(hand)
    box = hand.send(pid, "pipe")
    hand.call(hand.host, "kill", pid=pid, signal="INT")
    with pytest.raises(Interrupted, match="interrupted while it waited for an approval"):
        _ = box.result
    with pytest.raises(NotFound, match="its call is gone"):
        hand.call(hand.host, "answer", id=1, allow=True)
    assert state(hand, pid) == ("sleeping", "")
    again = hand.send(pid, "pipe")
    hand.call(hand.host, "answer", id=2, allow=True)
    assert again.result.pipe
    hand.check()


def test_the_pages_of_who_waits_are_there_for_others(hand: Hand) -> None:
    hand = Hand(frames=12, host_frames=12, page_slots=4)
    pid = hand.spawn("asker", capabilities=["ask:pipe:*", "llm:*"]).pid
    mine = hand.open(pid, user="x" * 20)

    def device_pages(of: int) -> int:
        return next(each for each in hand.kernel.processes(hand.now) if each.pid == of).device_pages

    held = device_pages(pid)
    assert held >= 5
    box = hand.send(pid, "pipe")
    theirs = hand.open(user="y" * 30)
    assert device_pages(pid) < held, "another's prompt took them"
    hand.call(hand.host, "close", context=theirs)
    hand.call(hand.host, "answer", id=1, allow=True)
    assert box.result.pipe
    assert hand.call(pid, "generate", context=mine, max_tokens=2, ignore_stop=True).reason == "length"
    hand.check()


def test_whoever_wants_to_know_is_told_of_new_ones(hand: Hand) -> None:
    box = hand.send(hand.host, "next_approval")
    stranger = hand.send(hand.spawn(capabilities=["tool:*"]).pid, "next_approval")
    assert not box.done
    pid = asker(hand)
    hand.send(pid, "pipe")
    assert [each.id for each in box.result.approvals] == [1]
    again = hand.send(hand.host, "next_approval", after=1)
    assert not again.done
    hand.send(pid, "pipe")
    assert [each.id for each in again.result.approvals] == [2]
    assert not stranger.done
    hand.cancel(stranger)
    hand.check()


def test_long_arguments_are_cut_in_a_list_and_whole_when_asked_for() -> None:
    hand = Hand()
    pid = hand.spawn(capabilities=["ask:llm:*"]).pid
    text = "x" * (param.INLINE_TEXT + param.MAX_SHOWN)
    hand.send(pid, "tokenize", text=text[: param.INLINE_TEXT])
    hand.send(pid, "tokenize", text=text)
    short, long = waiting(hand)
    for each in (short, long):
        assert len(each.arguments) < param.LISTED + 50
        assert "(cut:" in each.arguments
    assert text[: param.INLINE_TEXT] in hand.call(hand.host, "approvals", id=short.id).approvals[0].arguments
    (whole,) = hand.call(hand.host, "approvals", id=long.id).approvals
    assert whole.arguments.endswith(f"x... (cut: {len(text) + len(SHELL_OF_TOKENIZE)} characters in all)")
    assert long.arguments.endswith(whole.arguments[-40:])


SHELL_OF_TOKENIZE = '{"text": "", "model": null}'


# --- digests, and what is shown


@given(st.text(max_size=30), st.text(max_size=30), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_other_arguments_have_another_digest(one: str, two: str, pid: int, other: int) -> None:

    a, b = Tokenize(text=one), Tokenize(text=two)
    assert (digest(pid, "tokenize", "llm:x", a) == digest(other, "tokenize", "llm:x", b)) == ((one, pid) == (two, other))
    assert digest(pid, "tokenize", "llm:x", a) != digest(pid, "detokenize", "llm:x", a)
    assert digest(pid, "tokenize", "llm:x", a) != digest(pid, "tokenize", "llm:y", a)


@given(st.text())
def test_what_is_shown_can_be_seen(text: str) -> None:

    assert shown(Tokenize(text=text))[0].isprintable()


def test_a_text_that_would_be_read_backwards_is_shown_by_its_numbers() -> None:

    assert "\\u202e" in shown(Tokenize(text="rm \u202efdp.elif"))[0]
    assert "\\u001b" in shown(Tokenize(text="\x1b[2J"))[0]
    assert shown(Write(pipe=1, data=b"a\xff"))[0] == '{"pipe": 1, "data": "a\\\\xff"}'


def test_a_log_keeps_no_content_unless_asked_and_no_secret_at_all() -> None:

    class Remote(Arguments):
        url: str
        api_key: str
        arguments: dict[str, Any]

    given = Remote(url="http://x", api_key="sk-1234", arguments={"q": "hello", "password": "hunter2", "key": 4711})
    short, full = brief(given, full=False), brief(given, full=True)
    assert short["url"] == "http://x"
    assert short["api_key"] == {"secret": True}
    assert short["arguments"].keys() == {"length", "digest"}
    assert full["arguments"] == {"q": "hello", "password": {"secret": True}, "key": {"secret": True}}
    assert "sk-1234" not in str(full)
    assert brief(Send(pid=3, data=b"x" * 9), full=False)["data"]["length"] == 9
    assert brief(Send(pid=3, data=b"hello"), full=True) == {"pid": 3, "data": "hello"}


def test_kernel_checks_take_what_is_held_outright(hand: Hand) -> None:
    """In the kernel nobody can be asked."""
    pid = hand.spawn(capabilities=["ask:proc:kill"]).pid
    other = hand.spawn().pid
    with pytest.raises(Fault, match="proc:kill"):
        hand.call(pid, "kill", pid=other)


def test_a_tool_that_is_another_by_the_time_it_is_approved_is_not_called(hand: Hand) -> None:
    """A process in between offers a tool of the same name while a person thinks about the one above."""
    tool = {"name": "send", "description": "", "schema": '{"type": "object"}'}
    hand.call(hand.host, "tool_offer", tools=[tool])
    between = hand.spawn("between", capabilities=["ask:tool:send", "proc:spawn"]).pid
    pid = hand.spawn("asker", between, capabilities=["ask:tool:send"]).pid
    box = hand.send(pid, "tool_call", name="send", arguments="{}")
    (one,) = waiting(hand)
    nearer = hand.call(between, "tool_offer", tools=[tool]).offer
    hand.call(hand.host, "answer", id=one.id, allow=True)
    with pytest.raises(NotPermitted, match="not the tool any more"):
        _ = box.result
    gone = hand.send(between, "tool_call", name="send", arguments="{}")
    (one,) = waiting(hand)
    hand.call(between, "tool_withdraw", offer=nearer)
    hand.call(hand.host, "answer", id=one.id, allow=True)
    with pytest.raises(NotPermitted, match="not the tool any more"):
        _ = gone.result
    hand.check()
