"""One record per call: what the trap writes down, of calls that were made and of those that were refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmos.kernel.errno import Fault, NoSpace, NotPermitted
from llmos.syscalls.audit import Entry

from .hand import Hand


class Book:
    """Keeps entries."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.fault: Fault | None = None

    def put(self, entry: Entry) -> None:
        self.entries.append(entry)

    def stuck(self) -> Fault | None:
        return self.fault


@pytest.fixture
def hand() -> Hand:
    hand = Hand()
    hand.core.audit = Book()
    hand.core.wall = lambda: 1e9
    return hand


def written(hand: Hand, *, full: bool = False) -> list[dict[str, Any]]:
    """The records since the last look."""
    book = hand.core.audit
    assert isinstance(book, Book)
    found, book.entries = [entry.plain(full=full) for entry in book.entries], []
    return [json.loads(json.dumps(each)) for each in found]


def test_a_call_that_was_done(hand: Hand) -> None:
    pid = hand.spawn("writer", capabilities=["pipe:*"]).pid
    written(hand)
    hand.call(pid, "pipe", capacity=9)
    assert written(hand) == [
        {"time": 1e9, "pid": pid, "name": "writer", "user": "root", "call": "pipe", "arguments": {"capacity": 9},
         "capabilities": ["pipe:new"], "outcome": "ok", "seconds": 0.0}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "arguments", "outcome", "kept", "capabilities"),
    [
        ("pipe", {}, "EPERM", {"capacity": 65_536}, ["pipe:new"]),
        ("open", {"model": "dumy"}, "ENOENT", {"model": "dumy"}, None),
        ("kill", {"pid": 1}, "EPERM", {"pid": 1, "signal": "TERM", "tree": False}, None),
        ("tokenize", {"text": 5}, "EINVAL", None, None),
        ("no such call" * 100, {}, "EINVAL", None, None),
        ("read", {"pipe": 99, "most": 9}, "EBADF", {"pipe": 99, "most": 9}, None),
    ],
)
def test_a_call_that_was_refused_has_its_record_too(
    hand: Hand, call: str, arguments: dict[str, Any], outcome: str, kept: Any, capabilities: Any
) -> None:
    pid = hand.spawn(capabilities=[]).pid
    written(hand)
    before = (hand.core.ledger.count, hand.core.ledger.errors)
    box = hand.send(pid, call, **arguments)
    assert box.fault is not None
    (record,) = written(hand)
    assert (record["call"], record["outcome"], record["arguments"]) == (call[:64], outcome, kept)
    assert record.get("capabilities") == capabilities
    assert (hand.core.ledger.count, hand.core.ledger.errors) == (before[0] + 1, before[1] + 1)
    assert hand.core.ledger.of(pid)[-1].error == outcome


def test_a_process_that_was_made_up(hand: Hand) -> None:
    hand.send(99, "ps")
    (record,) = written(hand)
    assert (record["pid"], record["name"], record["outcome"]) == (99, "", "ESRCH")


def test_who_approved_and_how_long_it_took(hand: Hand) -> None:
    pid = hand.spawn(capabilities=["ask:pipe:*"]).pid
    allowed, denied = hand.send(pid, "pipe"), hand.send(pid, "pipe")
    written(hand)
    hand.now += 4
    hand.call(hand.host, "answer", id=1, allow=True)
    hand.call(hand.host, "answer", id=2, allow=False)
    assert allowed.done
    assert denied.done
    records = {(each["call"], each["outcome"]): each for each in written(hand)}
    done, refused = records["pipe", "ok"], records["pipe", "EPERM"]
    assert (done["capabilities"], done["approved_by"], done["seconds"]) == (["pipe:new"], [hand.host], 4.0)
    assert (refused["capabilities"], refused["denied_by"], refused["seconds"]) == (["pipe:new"], [hand.host], 4.0)
    assert records["answer", "ok"]["capabilities"] == ["approve:pipe:new"]


def test_no_word_of_what_was_said_is_kept_unless_it_is_asked_for(hand: Hand) -> None:
    context = hand.open()
    written(hand)
    hand.call(hand.host, "append", context=context, messages=[{"role": "user", "content": "the launch code is 0000"}])
    hand.call(hand.host, "send", pid=hand.host, data=b"the launch code is 0000")
    book = hand.core.audit
    assert isinstance(book, Book)
    for full in (False, True):
        kept = list(book.entries)
        assert ("launch" in str(written(hand, full=full))) == full
        book.entries = kept


def test_one_record_for_every_call_and_no_more(hand: Hand) -> None:
    pid = hand.spawn(capabilities=["*"]).pid
    written(hand)
    sleeping = hand.send(pid, "receive")
    assert written(hand) == []
    hand.call(hand.host, "kill", pid=pid, signal="STOP")
    parked = hand.send(pid, "clock")
    hand.call(hand.host, "kill", pid=pid, signal="KILL")
    assert sleeping.done
    assert parked.done
    assert sorted((each["call"], each["outcome"]) for each in written(hand)) == [
        ("clock", "EINTR"), ("kill", "ok"), ("kill", "ok"), ("receive", "EINTR"),
    ]  # fmt: skip


def test_what_cannot_be_written_down_is_not_done(hand: Hand) -> None:
    """Calls that change the world; others go on, and so does what ends a process."""
    book = hand.core.audit
    assert isinstance(book, Book)
    pid = hand.spawn().pid
    book.fault = NoSpace("the disk is full")
    for call, arguments in (("spawn", {"name": "x"}), ("send", {"pid": pid, "data": b"x"})):
        with pytest.raises(NoSpace, match="disk is full"):
            hand.call(hand.host, call, **arguments)
    hand.call(hand.host, "ps")
    hand.call(hand.host, "kill", pid=pid, signal="KILL")
    with pytest.raises(NotPermitted):
        hand.call(hand.host, "kill", pid=1)
    book.fault = None
    hand.spawn()


def test_what_did_nothing_says_so(hand: Hand) -> None:
    book = hand.core.audit
    assert isinstance(book, Book)
    put, spare = book.put, {}

    def noted(entry: Any) -> None:
        spare[entry.call, entry.error] = entry.spare
        put(entry)

    book.put = noted  # type: ignore[method-assign]
    pid = hand.spawn(capabilities=[]).pid
    for call, arguments in (("pipe", {}), ("nonsense", {}), ("ps", {"limit": -1})):
        with pytest.raises(Fault):
            hand.call(pid, call, **arguments)
    hand.call(hand.host, "ps")
    assert spare == {("spawn", ""): False, ("pipe", "EPERM"): True, ("nonsense", "EINVAL"): True, ("ps", "EINVAL"): True, ("ps", ""): True}


def test_a_line_has_a_bound(hand: Hand) -> None:
    pid = hand.spawn(capabilities=[f"llm:{'x' * 240}{n}" for n in range(100)]).pid
    hand.call(pid, "exit", status=3, reason="r" * 60_000)
    for record in written(hand, full=True):
        assert len(json.dumps(record)) < 8_000
    hand.send(hand.host, "spawn", name="x", capabilities=[f"llm:{'x' * 240}{n}" for n in range(100)])
    (record,) = written(hand)
    assert record["arguments"]["capabilities"].keys() == {"length", "digest"}
