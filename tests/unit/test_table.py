"""The table: numbers, documentation, capabilities, and the record of what was called."""

from __future__ import annotations

import pytest

from llmos.kernel.errno import NotFound, NotPermitted
from llmos.syscalls import param
from llmos.syscalls.table import NUMBERS, ROWS, TABLE

from .hand import Hand


@pytest.fixture
def hand() -> Hand:
    return Hand()


def test_names_and_numbers_are_unique_and_sorted() -> None:
    assert len(TABLE) == len(NUMBERS) == len(ROWS)
    assert [row.number for row in ROWS] == sorted(NUMBERS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_call_is_documented(row: object) -> None:
    doc = row.doc  # type: ignore[attr-defined]
    assert doc.splitlines()[0].endswith(".")


def test_capabilities_are_checked_when_the_call_executes(hand: Hand) -> None:
    child = hand.spawn(capabilities=[])
    for name, arguments, wanted in (
        ("open", {}, "llm:dummy"),
        ("spawn", {"name": "x"}, "proc:spawn"),
        ("pipe", {}, "pipe:new"),
        ("tokenize", {"text": "x"}, "llm:dummy"),
    ):
        with pytest.raises(NotPermitted, match=wanted):
            hand.call(child.pid, name, **arguments)
    hand.call(child.pid, "ps")
    hand.check()


def test_a_child_gets_a_subset(hand: Hand) -> None:
    child = hand.spawn(capabilities=["llm:dummy", "proc:spawn"])
    with pytest.raises(NotPermitted, match="tool"):
        hand.spawn(parent=child.pid, capabilities=["tool:all"])
    grandchild = hand.spawn(parent=child.pid, capabilities=["llm:dummy"])
    context = hand.open(grandchild.pid, user="hello")
    assert hand.call(grandchild.pid, "generate", context=context, max_tokens=2).tokens
    with pytest.raises(NotPermitted):
        hand.spawn(parent=grandchild.pid)


def test_a_model_that_is_not_held_cannot_be_opened(hand: Hand) -> None:
    child = hand.spawn(capabilities=["llm:other"])
    with pytest.raises(NotPermitted, match="llm:dummy"):
        hand.call(child.pid, "open")
    with pytest.raises(NotFound, match="did you mean 'dummy'"):
        hand.call(child.pid, "open", model="dumy")


def test_signals_beyond_ones_tree_need_a_capability(hand: Hand) -> None:
    first, second = hand.spawn(), hand.spawn()
    with pytest.raises(NotPermitted):
        hand.call(first.pid, "kill", pid=second.pid, signal="KILL")
    with pytest.raises(NotPermitted):
        hand.call(first.pid, "kill", pid=hand.host, signal="KILL")
    grandchild = hand.spawn(parent=first.pid)
    hand.call(first.pid, "kill", pid=grandchild.pid, signal="KILL")
    powerful = hand.spawn(capabilities=["proc:kill"])
    hand.call(powerful.pid, "kill", pid=second.pid, signal="KILL")
    hand.check()


def test_handles_of_others_are_no_handles(hand: Hand) -> None:
    child, other = hand.spawn(), hand.spawn()
    context = hand.open(child.pid, user="secret")
    for name, arguments in (
        ("generate", {"context": context}),
        ("context_tokens", {"context": context}),
        ("context_info", {"context": context}),
        ("fork_context", {"context": context}),
        ("truncate", {"context": context, "length": 0}),
        ("close", {"context": context}),
        ("read", {"pipe": child.child_stdin}),
        ("write", {"pipe": child.child_stdout, "data": b"x"}),
        ("close_pipe", {"pipe": child.child_stdout, "write": True}),
    ):
        box = hand.send(other.pid, name, **arguments)
        assert box.fault is not None
        assert box.fault.code == "EBADF", name
    hand.check()


def test_intent_is_recorded_before_and_result_after(hand: Hand) -> None:
    child = hand.spawn()
    box = hand.send(child.pid, "read", pipe=child.child_stdin, most=7)
    (record,) = hand.core.ledger.of(child.pid)
    assert (record.name, record.ended, record.replayable) == ("read", None, False)
    assert record.arguments is not None
    assert record.arguments.model_dump() == {"pipe": child.child_stdin, "most": 7}
    hand.now += 2
    hand.cancel(box)
    assert (record.ended, record.error, record.result) == (hand.now, "ECANCELED", None)
    assert hand.core.ledger.find(record.pid, record.path, record.sequence) is record
    assert hand.core.ledger.find(record.pid, record.path, record.sequence + 1) is None


def test_a_result_is_recorded_as_the_caller_was_given_it(hand: Hand) -> None:
    pipe = hand.call(hand.host, "pipe").pipe
    hand.call(hand.host, "write", pipe=pipe, data=b"x" * param.MAX_RECORDED)
    for most, kept in ((param.MAX_RECORDED - 1, True), (1, True)):
        got = hand.call(hand.host, "read", pipe=pipe, most=most)
        record = hand.core.ledger.of(hand.host)[-1]
        assert (record.result == got, record.result_size) == (kept, most)
    hand.call(hand.host, "write", pipe=pipe, data=b"x" * (param.MAX_RECORDED + 1))
    got = hand.call(hand.host, "read", pipe=pipe, most=param.MAX_RECORDED + 1)
    record = hand.core.ledger.of(hand.host)[-1]
    assert (record.result, record.result_size) == (None, param.MAX_RECORDED + 1)


def test_the_record_is_bounded(hand: Hand) -> None:
    hand.call(hand.host, "tokenize", text="x" * param.MAX_RECORDED)
    hand.send(hand.host, "tokenize", text="x" * (param.MAX_RECORDED + 1))
    kept, dropped = hand.core.ledger.of(hand.host)[-2:]
    assert kept.arguments is not None
    assert (dropped.arguments, dropped.size) == (None, param.MAX_RECORDED + 1)
    for _ in range(param.MAX_RECORDS):
        hand.call(hand.host, "models")
    assert len(hand.core.ledger.of(hand.host)) == param.MAX_RECORDS
