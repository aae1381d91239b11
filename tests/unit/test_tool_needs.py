"""What a tool needs besides its own capability, such as the network: who sees that, who may call, and what is asked about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmos.kernel.errno import InvalidArgument, NotPermitted, TooLong
from llmos.services.tools.command import tool
from llmos.services.tools.config import Command, Server, parse
from llmos.services.tools.server import Connection
from llmos.syscalls import param

from .hand import Hand
from .test_tool_calls import answer, ask, offer

HOST = "net:example.org"


@pytest.fixture
def hand() -> Iterator[Hand]:
    hand = Hand()
    yield hand
    hand.check()


@pytest.mark.parametrize("more", [[HOST], ["net:*"], ["*"]])
def test_who_holds_what_it_needs_may_call_it(hand: Hand, more: list[str]) -> None:
    number = offer(hand, hand.host, "add", needs=[HOST])
    caller = hand.spawn(capabilities=["tool:add", *more]).pid
    (info,) = hand.call(caller, "tool_list").tools
    assert (info.needs, info.lacks) == ((HOST,), ())
    box = ask(hand, caller)
    answer(hand, hand.host, number)
    assert box.result.text == "3"


@pytest.mark.parametrize("more", [[], ["net:example.com"], ["net:org"]])
def test_who_lacks_it_sees_the_tool_and_may_not_call_it(hand: Hand, more: list[str]) -> None:
    offer(hand, hand.host, "add", needs=[HOST])
    caller = hand.spawn(capabilities=["proc:spawn", "tool:add", *more]).pid
    assert hand.call(caller, "tool_list").tools[0].lacks == (HOST,)
    with pytest.raises(NotPermitted, match=f"lacks the capability '{HOST}'"):
        _ = ask(hand, caller).result
    with pytest.raises(NotPermitted, match="cannot give"):
        hand.spawn(parent=caller, capabilities=["tool:add", HOST])


def test_all_hosts_are_more_than_one(hand: Hand) -> None:
    offer(hand, hand.host, "add", needs=["net:*"])
    with pytest.raises(NotPermitted, match=r"lacks the capability 'net:\*'"):
        _ = ask(hand, hand.spawn(capabilities=["tool:add", HOST]).pid).result


def test_each_need_that_is_held_by_asking_is_asked_about(hand: Hand) -> None:
    number = offer(hand, hand.host, "add", needs=[HOST])
    box = ask(hand, hand.spawn(capabilities=["tool:add", f"ask:{HOST}"]).pid)
    (asked,) = hand.call(hand.host, "approvals").approvals
    assert asked.capability == HOST
    hand.call(hand.host, "answer", id=asked.id, allow=True)
    answer(hand, hand.host, number)
    assert box.result.text == "3"


def test_a_tool_that_needs_something_else_by_now_is_not_the_one_that_was_approved(hand: Hand) -> None:
    number = offer(hand, hand.host, "add")
    box = ask(hand, hand.spawn(capabilities=["ask:tool:add"]).pid)
    spec = {"name": "add", "schema": '{"type": "object"}', "needs": [HOST]}
    hand.call(hand.host, "tool_offer", tools=[spec], offer=number)
    (asked,) = hand.call(hand.host, "approvals").approvals
    hand.call(hand.host, "answer", id=asked.id, allow=True)
    with pytest.raises(NotPermitted, match="not the tool any more"):
        _ = box.result


@pytest.mark.parametrize(
    ("needs", "kind", "words"),
    [
        ([f"ask:{HOST}"], InvalidArgument, "said of who calls"),
        (["nett:x"], InvalidArgument, "net"),
        (["net:*.org"], InvalidArgument, r"a \* stands at the end"),
        ([""], InvalidArgument, "needs"),
        ([HOST] * (param.MAX_TOOL_NEEDS + 1), TooLong, "at most 8"),
    ],
)
def test_what_no_tool_needs(hand: Hand, needs: list[str], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        offer(hand, hand.host, "add", needs=needs)
    assert offer(hand, hand.host, "add", needs=[HOST] * param.MAX_TOOL_NEEDS)


def test_what_tools_toml_says_of_the_network() -> None:
    assert tool("a", Command(argv=["curl"], network=True)).needs == ("net:*",)
    assert tool("a", Command(argv=["ls"])).needs == ()
    for url, host in (
        ("https://Example.org:8443/mcp", "example.org"),
        ("http://127.0.0.1:1/mcp", "127.0.0.1"),
        ("http://[::1]:1/mcp", "::1"),
    ):
        connection = Connection("web", Server(url=url), client=None)  # type: ignore[arg-type]  # nothing is called
        listed = connection._tool(_Listed())  # type: ignore[arg-type]
        assert listed is not None
        assert listed.needs == (f"net:{host}",)
    with pytest.raises(Exception, match="without a host"):
        parse('[mcp.a]\nurl = "http://:80/mcp"\n', "tools.toml")
    with pytest.raises(Exception, match="line 1"):
        parse('[mcp.a]\nurl = "http://[/mcp"\n', "tools.toml")


class _Listed:
    name, description, input_schema = "find", "", {"type": "object"}
