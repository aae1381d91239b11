"""Tools of strangers that would take the time of others: in a check of arguments, and in finding a name."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from llmos.kernel.errno import BadFormat, NotFound, TryAgain
from llmos.syscalls.schema import Schema

from .hand import Hand


@pytest.fixture
def hand() -> Iterator[Hand]:
    hand = Hand()
    yield hand
    hand.check()


def many_times(keyword: dict[str, Any]) -> dict[str, Any]:
    """A keyword that is applied 60,000 times."""
    return {
        "$defs": {"a": {"allOf": [keyword] * 1000}, "b": {"allOf": [{"$ref": "#/$defs/a"}] * 60}},
        "properties": {"a": {"$ref": "#/$defs/b"}},
    }


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ({"uniqueItems": True}, [list(range(40_000))]),
        ({"not": {"enum": ["x" * 20, [1]]}}, "x" * 200_000),
        ({"not": {"required": list("abcdefghij")}}, {}),
    ],
    ids=["uniqueItems", "enum", "required"],
)
def test_a_check_that_would_take_minutes_ends_after_a_second(keyword: dict[str, Any], value: Any) -> None:
    schema = Schema("bad", json.dumps(many_times(keyword)))
    began = time.thread_time()
    with pytest.raises(BadFormat, match="takes too long to check"):
        schema.check(json.dumps({"a": value}))
    assert time.thread_time() - began < 3, "on a machine however busy"


def offer_many(hand: Hand) -> None:
    """As many as a process may, with long names."""
    for offered in range(4):
        tools = [{"name": f"{'ab' * 55}{offered}_{number:04}", "schema": "{}"} for number in range(1024)]
        hand.call(hand.host, "tool_offer", tools=tools)


def test_a_process_offers_so_many_tools_and_no_more(hand: Hand) -> None:
    offer_many(hand)
    with pytest.raises(TryAgain, match="pid 2 would offer 4097 tools; 4096 is the most of one process: withdraw some"):
        hand.call(hand.host, "tool_offer", tools=[{"name": "one", "schema": "{}"}])
    hand.call(hand.host, "tool_offer", offer=1, tools=[{"name": "another", "schema": "{}"}])
    hand.call(hand.host, "tool_offer", tools=[{"name": f"more{number}", "schema": "{}"} for number in range(1023)])


def test_a_name_that_is_not_there_is_looked_for_among_few(hand: Hand) -> None:
    """Each comparison of long names takes a millisecond: with all of them the kernel's thread stood still for seconds."""
    offer_many(hand)
    for name in ("ba" * 60, "ba" * 20):
        began = time.thread_time()
        with pytest.raises(NotFound, match="llmos tools lists"):
            hand.call(hand.host, "tool_call", name=name)
        assert time.thread_time() - began < 0.2


def test_pages_of_many_tools_are_made_elsewhere(hand: Hand) -> None:
    """The same tools in the same order as from few, and those below see their own in place of others of that name."""
    offer_many(hand)
    child = hand.spawn(capabilities=["tool:ab*", "tool:own"]).pid
    replaced = f"{'ab' * 55}1_0500"
    hand.call(child, "tool_offer", tools=[{"name": replaced, "description": "mine", "schema": "{}"}, {"name": "own", "schema": "{}"}])
    hand.call(hand.host, "tool_offer", offer=4, tools=[{"name": "no", "schema": "{}"}])
    found: list[Any] = []
    more = True
    while more:
        hand.hold = True
        page = hand.send(child, "tool_list", after=found[-1].name if found else "", limit=1000)
        assert not page.done, "another thread is at it"
        hand.work()
        found += page.result.tools
        more = page.value.more
    names = [f"{'ab' * 55}{offered}_{number:04}" for offered in range(3) for number in range(1024)]
    assert [tool.name for tool in found] == [*names, "own"]
    assert [tool.offerer for tool in found if tool.description == "mine"] == [child]
    assert all((tool.offerer == child) is (tool.name in (replaced, "own")) for tool in found)


def test_a_misspelt_name_gets_a_hint(hand: Hand) -> None:
    hand.call(hand.host, "tool_offer", tools=[{"name": "weather.today", "schema": "{}"}])
    with pytest.raises(NotFound, match=r"did you mean 'weather\.today'"):
        hand.call(hand.host, "tool_call", name="wether.today")
