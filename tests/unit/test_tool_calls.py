"""The tool family by hand: offers and who sees them, calls, deadlines, limits, capabilities, and ends at every point."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmos.kernel.errno import (
    AlreadyExists,
    BadFormat,
    BadHandle,
    Cancelled,
    InvalidArgument,
    NotFound,
    NotPermitted,
    QuotaExceeded,
    TooLong,
    TryAgain,
)
from llmos.syscalls import param
from llmos.syscalls.abi import ToolResult

from .hand import Box, Hand

ADD = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]})


@pytest.fixture
def hand() -> Hand:
    return Hand()


def spec(name: str = "add", **more: Any) -> dict[str, Any]:
    return {"name": name, "schema": ADD, **more}


def offer(hand: Hand, pid: int, *names: str, public: bool = False, **more: Any) -> int:
    number: int = hand.call(pid, "tool_offer", tools=[spec(name, **more) for name in names], public=public).offer
    return number


def ask(hand: Hand, pid: int, name: str = "add", **more: Any) -> Box:
    return hand.send(pid, "tool_call", name=name, arguments='{"a": 1, "b": 2}', **more)


def requests(hand: Hand, pid: int, number: int, **more: Any) -> Any:
    return hand.call(pid, "tool_next", offer=number, **more)


def answer(hand: Hand, pid: int, number: int, text: str = "3", **more: Any) -> None:
    (request,) = requests(hand, pid, number).requests
    hand.call(pid, "tool_result", offer=number, call=request.call, text=text, **more)


def holder(hand: Hand, *names: str, **more: Any) -> int:
    pid: int = hand.spawn(capabilities=[f"tool:{name}" for name in names], **more).pid
    return pid


def test_a_call_sleeps_until_it_is_answered(hand: Hand) -> None:
    number, caller = offer(hand, hand.host, "add"), holder(hand, "add")
    box = ask(hand, caller)
    (view,) = [view for view in hand.kernel.processes(hand.now) if view.pid == caller]
    assert (view.state, view.waiting_for) == ("blocked", "tool")
    hand.now += 2.5
    (request,) = requests(hand, hand.host, number).requests
    assert (request.name, request.arguments, request.pid, request.most) == ("add", '{"a": 1, "b": 2}', caller, param.TOOL_RESULT)
    assert request.seconds == param.TOOL_SECONDS - 2.5
    hand.call(hand.host, "tool_result", offer=number, call=request.call, text="3")
    assert box.result == ToolResult("3", is_error=False, missing=0, seconds=2.5)
    assert hand.call(hand.host, "explain", pid=caller).seconds["tool"] == 2.5
    hand.check()


def test_who_offers_sleeps_until_there_is_a_call(hand: Hand) -> None:
    number, caller = offer(hand, hand.host, "add"), holder(hand, "add")
    waiting = hand.send(hand.host, "tool_next", offer=number)
    assert not waiting.done
    ask(hand, caller)
    assert [request.name for request in waiting.result.requests] == ["add"]
    hand.check()


def test_pages_of_one_who_waits_for_a_tool_can_be_taken() -> None:
    hand = Hand(frames=8, host_frames=64)
    number, caller = offer(hand, hand.host, "add"), hand.spawn(capabilities=["*"]).pid
    context = hand.open(caller)
    hand.call(caller, "append", context=context, tokens=[5] * 60)
    box = ask(hand, caller)
    other = hand.open()
    hand.call(hand.host, "append", context=other, tokens=[6] * 100)
    (view,) = [view for view in hand.kernel.processes(hand.now) if view.pid == caller]
    assert view.host_pages > 0
    answer(hand, hand.host, number)
    assert box.result.text == "3"
    assert hand.call(caller, "generate", context=context, max_tokens=2).tokens
    hand.check()


# --- who may


def test_the_capability_is_asked_for_when_the_call_executes(hand: Hand) -> None:
    offer(hand, hand.host, "add", "sub")
    caller = holder(hand, "sub")
    with pytest.raises(NotPermitted, match="tool:add"):
        hand.call(caller, "tool_call", name="add")
    with pytest.raises(NotPermitted, match="tool:nothing"):  # what is not held is not told of
        hand.call(caller, "tool_call", name="nothing")
    assert [tool.name for tool in hand.call(caller, "tool_list").tools] == ["sub"]
    assert [tool.name for tool in hand.call(hand.host, "tool_list").tools] == ["add", "sub"]


def test_a_child_has_no_tools_unless_it_is_given_them(hand: Hand) -> None:
    offer(hand, hand.host, "add")
    child = hand.spawn().pid
    assert hand.call(child, "tool_list").tools == []
    assert [tool.name for tool in hand.call(holder(hand, "add"), "tool_list").tools] == ["add"]


def test_public_offers_need_a_capability(hand: Hand) -> None:
    with pytest.raises(NotPermitted, match="tools:public"):
        offer(hand, hand.spawn().pid, "add", public=True)
    assert not hand.core.tools.offers


def test_private_tools_are_for_those_below(hand: Hand) -> None:
    first, second = hand.spawn(capabilities=["*"]).pid, hand.spawn(capabilities=["*"]).pid
    number = offer(hand, first, "add")
    below = hand.spawn(parent=first, capabilities=["tool:*"]).pid
    assert [tool.name for tool in hand.call(below, "tool_list").tools] == ["add"]
    assert hand.call(second, "tool_list").tools == []
    with pytest.raises(NotFound, match="no tool 'add'"):
        hand.call(second, "tool_call", name="add")
    offer(hand, second, "add")  # the same name elsewhere is no conflict
    box = ask(hand, below)
    answer(hand, first, number, "of the first")
    assert box.result.text == "of the first"


def test_the_nearest_offer_is_meant(hand: Hand) -> None:
    public, middle = offer(hand, hand.host, "add", public=True), hand.spawn(capabilities=["*"]).pid
    stranger, below = holder(hand, "add"), hand.spawn(parent=middle, capabilities=["tool:add"]).pid
    near = offer(hand, middle, "add")
    boxes = ask(hand, below), ask(hand, stranger)
    answer(hand, middle, near, "near")
    answer(hand, hand.host, public, "public")
    assert [box.result.text for box in boxes] == ["near", "public"]


def test_names_that_are_taken(hand: Hand) -> None:
    offer(hand, hand.host, "add", public=True)
    with pytest.raises(AlreadyExists, match="offered already by pid 2"):
        offer(hand, hand.spawn(capabilities=["*"]).pid, "sub", "add", public=True)
    offer(hand, hand.host, "mul")
    with pytest.raises(AlreadyExists):
        offer(hand, hand.host, "mul")
    with pytest.raises(InvalidArgument, match="same name"):
        offer(hand, hand.host, "div", "div")
    assert [tool.name for tool in hand.call(hand.host, "tool_list").tools] == ["add", "mul"]
    with pytest.raises(NotFound, match="did you mean 'mul'"):
        hand.call(hand.host, "tool_call", name="mull")


def test_offers_of_others_are_no_offers(hand: Hand) -> None:
    number, other = offer(hand, hand.host, "add"), hand.spawn(capabilities=["*"]).pid
    box = ask(hand, other)
    (request,) = requests(hand, hand.host, number).requests
    for name, more in (
        ("tool_next", {}),
        ("tool_result", {"call": request.call, "text": "forged"}),
        ("tool_withdraw", {}),
        ("tool_offer", {"tools": []}),
    ):
        with pytest.raises(BadHandle):
            hand.call(other, name, offer=number, **more)
    assert not box.done


def test_an_answer_is_for_a_call_that_was_given_out(hand: Hand) -> None:
    number, second = offer(hand, hand.host, "add"), offer(hand, hand.host, "sub")
    box = ask(hand, hand.host)
    waiting = hand.core.tools.offers[number].queue[0].number
    for offered, call in ((number, waiting), (number, waiting + 1), (number, 0), (second, waiting)):
        with pytest.raises(BadHandle):
            hand.call(hand.host, "tool_result", offer=offered, call=call, text="x")
    assert not box.done
    answer(hand, hand.host, number)
    hand.call(hand.host, "tool_result", offer=number, call=waiting, text="twice")  # nobody waits for it any more
    assert box.result.text == "3"


# --- what is called


def test_arguments_are_checked_before_the_call_leaves(hand: Hand) -> None:
    number = offer(hand, hand.host, "add")
    for arguments, wrong in (
        ('{"a": 1}', "'b' is a required"),
        ('{"a": 1, "b": "x"}', "b: 'x' is not of type 'integer'"),
        ("[1, 2]", "must be a JSON object, not a list"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested more than 64"),
        ('{"a": NaN, "b": 1}', "NaN is no JSON"),
    ):
        with pytest.raises(InvalidArgument, match=wrong):
            hand.call(hand.host, "tool_call", name="add", arguments=arguments)
    assert not hand.core.tools.offers[number].queue


@pytest.mark.parametrize(
    ("schema", "arguments", "wrong"),
    [
        ("[]", {}, "no JSON object"),
        ("{", {}, "cannot be read"),
        ({"type": 5}, {}, "type: 5"),
        ({"properties": {"a": {"$ref": "http://127.0.0.1:1/x"}}}, {"a": 1}, "cannot be used"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, {"a": 1}, "cannot be used"),
        ({"$ref": "#"}, {}, "takes too long"),
        (
            {
                "$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)} | {"d40": {}},
                "properties": {"a": {"$ref": "#/$defs/d0"}},
            },
            {"a": 1},
            "takes too long",
        ),
    ],
)
def test_a_schema_that_lies_or_explodes_is_an_error(hand: Hand, schema: Any, arguments: Any, wrong: str) -> None:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    hand.call(hand.host, "tool_offer", tools=[{"name": "bad", "schema": text}])
    with pytest.raises(BadFormat, match=wrong):
        hand.call(hand.host, "tool_call", name="bad", arguments=json.dumps(arguments))


def test_regular_expressions_take_linear_time(hand: Hand) -> None:
    schema = {"properties": {"a": {"pattern": "^(a+)+$"}, "b": {"pattern": "(?=x)x"}}, "patternProperties": {"^(c+)+$": {"type": "null"}}}
    number = hand.call(hand.host, "tool_offer", tools=[{"name": "evil", "schema": json.dumps(schema)}]).offer
    for arguments in ({"a": "a" * 50_000 + "!"}, {"c" * 50: 1}):
        with pytest.raises(InvalidArgument):
            hand.call(hand.host, "tool_call", name="evil", arguments=json.dumps(arguments))
    box = hand.send(hand.host, "tool_call", name="evil", arguments=json.dumps({"b": "y", "c" * 50 + "!": 1}))
    answer(hand, hand.host, number)  # look-around is left to the tool
    assert box.result.text == "3"


def test_long_results_are_cut_in_the_middle(hand: Hand) -> None:
    number = offer(hand, hand.host, "add")
    box = ask(hand, hand.host, most=1000)
    answer(hand, hand.host, number, "a" * 5_000 + "z" * 5_000, missing=7)
    result = box.result
    assert len(result.text) <= 1000
    assert result.text.startswith("aaa")
    assert result.text.endswith("zzz")
    assert f"[... {result.missing - 7:,} bytes cut ...]" in result.text
    assert result.missing - 7 + result.text.count("a") + result.text.count("z") == 10_000


# --- ends


def test_the_deadline_is_an_error_result_and_cancels_the_call(hand: Hand) -> None:
    number = offer(hand, hand.host, "add", seconds=5.0)
    box = ask(hand, hand.host)
    (request,) = requests(hand, hand.host, number).requests
    hand.tick(4.9)
    assert not box.done
    hand.tick(0.2)
    assert box.result.is_error
    assert "did not answer within 5 s" in box.result.text
    assert requests(hand, hand.host, number).cancelled == [request.call]
    hand.call(hand.host, "tool_result", offer=number, call=request.call, text="late")
    assert hand.kernel.next_deadline() is None
    hand.check()


def test_a_caller_may_ask_for_less_time_and_not_for_more(hand: Hand) -> None:
    offer(hand, hand.host, "add", seconds=5.0)
    short, long = ask(hand, hand.host, seconds=1.0), ask(hand, hand.host, seconds=100.0)
    hand.tick(1.1)
    assert (short.done, long.done) == (True, False)
    hand.tick(4.0)
    assert long.done


@pytest.mark.parametrize("fetched", [True, False])
@pytest.mark.parametrize("how", ["cancel", "KILL", "TERM"])
def test_a_caller_that_goes_cancels_its_call(hand: Hand, how: str, fetched: bool) -> None:
    number, caller = offer(hand, hand.host, "add"), holder(hand, "add")
    box = ask(hand, caller)
    given = requests(hand, hand.host, number).requests if fetched else []
    if how == "cancel":
        hand.cancel(box)
        assert isinstance(box.fault, Cancelled)
    else:
        hand.call(hand.host, "kill", pid=caller, signal=how)
    assert box.fault is not None
    found = hand.core.tools.offers[number]
    assert (found.cancelled, list(found.queue), found.calls) == ([request.call for request in given], [], {})
    hand.check()


def test_an_interrupt_ends_the_call_and_not_the_process(hand: Hand) -> None:
    number, caller = offer(hand, hand.host, "add"), holder(hand, "add")
    box = ask(hand, caller)
    (request,) = requests(hand, hand.host, number).requests
    hand.call(hand.host, "kill", pid=caller, signal="INT")
    assert box.result.is_error
    assert "interrupted" in box.result.text
    assert requests(hand, hand.host, number).cancelled == [request.call]
    again = ask(hand, caller)
    answer(hand, hand.host, number)
    assert again.result.text == "3"
    hand.check()


@pytest.mark.parametrize("how", ["withdraw", "exit", "kill"])
def test_an_offer_that_goes_ends_its_calls_with_an_error(hand: Hand, how: str) -> None:
    offerer = hand.spawn(capabilities=["*"]).pid
    number = offer(hand, offerer, "add", public=True)
    boxes = [ask(hand, hand.host) for _ in range(3)]
    requests(hand, offerer, number, most=1)
    waiting = hand.send(offerer, "tool_next", offer=offer(hand, offerer, "other"))
    if how == "withdraw":
        hand.call(offerer, "tool_withdraw", offer=number)
    elif how == "exit":
        hand.call(offerer, "exit", status=0)
    else:
        hand.call(hand.host, "kill", pid=offerer, signal="KILL")
    for box in boxes:
        assert box.result.is_error
        assert "was lost" in box.result.text
    assert waiting.done == (how != "withdraw")
    with pytest.raises(NotFound):
        hand.call(hand.host, "tool_call", name="add")
    assert len(hand.core.tools.offers) == (how == "withdraw")
    hand.check()


def test_calls_go_on_when_an_offer_changes_its_tools(hand: Hand) -> None:
    number = offer(hand, hand.host, "add")
    box = ask(hand, hand.host)
    assert hand.call(hand.host, "tool_offer", tools=[spec("sub")], offer=number).offer == number
    assert [tool.name for tool in hand.call(hand.host, "tool_list").tools] == ["sub"]
    answer(hand, hand.host, number)
    assert box.result.text == "3"
    with pytest.raises(InvalidArgument, match="private and stays so"):
        hand.call(hand.host, "tool_offer", tools=[], offer=number, public=True)


def test_who_waits_for_calls_hears_that_the_offer_is_withdrawn(hand: Hand) -> None:
    number = offer(hand, hand.host, "add")
    waiting = hand.send(hand.host, "tool_next", offer=number)
    hand.call(hand.host, "tool_withdraw", offer=number)
    with pytest.raises(BadHandle, match="withdrawn"):
        _ = waiting.result


def test_an_offer_that_goes_while_the_arguments_are_checked(hand: Hand) -> None:
    number = offer(hand, hand.host, "add")
    hand.hold = True
    box = ask(hand, hand.host)
    hand.call(hand.host, "tool_withdraw", offer=number)
    hand.work()
    with pytest.raises(NotFound, match="offered no more"):
        _ = box.result
    hand.check()


# --- limits


def test_the_limit_of_calls_is_the_trees(hand: Hand) -> None:
    number = offer(hand, hand.host, "add")
    parent = hand.spawn(capabilities=["*"], limits={"tool_calls": 2}).pid
    with pytest.raises(InvalidArgument):  # what never left is not counted
        hand.call(parent, "tool_call", name="add")
    child = hand.spawn(parent=parent, capabilities=["tool:add"]).pid
    for pid in (parent, child):
        box = ask(hand, pid)
        answer(hand, hand.host, number)
        assert not box.result.is_error
    with pytest.raises(QuotaExceeded, match="may call tools 2 times"):
        hand.call(child, "tool_call", name="add", arguments='{"a": 1, "b": 2}')
    hand.call(hand.host, "setlimits", pid=parent, limits={"tool_calls": 3})
    assert not ask(hand, child).done
    hand.call(child, "setlimits", pid=child, limits={"tool_calls": 5})
    with pytest.raises(NotPermitted, match="proc:limits"):
        hand.call(child, "setlimits", pid=child, limits={"tool_calls": 6})


def test_the_limit_of_seconds_shortens_the_deadline_and_then_refuses(hand: Hand) -> None:
    offer(hand, hand.host, "add")
    child = hand.spawn(capabilities=["tool:add"], limits={"tool_seconds": 3.0}).pid
    box = ask(hand, child)
    hand.tick(3.0)
    assert box.result.is_error
    assert "all that its limit of tool_seconds left" in box.result.text
    with pytest.raises(QuotaExceeded, match="may wait 3 s for tools"):
        hand.call(child, "tool_call", name="add")


def test_bounds(hand: Hand) -> None:
    with pytest.raises(TooLong):
        hand.call(hand.host, "tool_offer", tools=[spec(f"t{i}") for i in range(param.MAX_TOOLS + 1)])
    number = offer(hand, hand.host, *(f"t{i}" for i in range(param.MAX_TOOLS)))
    page = hand.call(hand.host, "tool_list", limit=1000)
    assert (len(page.tools), page.more) == (1000, True)
    rest = hand.call(hand.host, "tool_list", after=page.tools[-1].name)
    assert (len(rest.tools), rest.more) == (param.MAX_TOOLS - 1000, False)
    full = "x" * param.MAX_TOOL_DESCRIPTION
    with pytest.raises(TooLong, match="offer fewer"):
        hand.call(hand.host, "tool_offer", tools=[spec(f"u{i}", description=full) for i in range(param.MAX_TOOLS)])
    for _ in range(param.MAX_OFFERS - 1):
        offer(hand, hand.host)
    with pytest.raises(TryAgain, match="offers of tools"):
        offer(hand, hand.host)
    boxes = [ask(hand, hand.host, "t0") for _ in range(param.MAX_TOOL_CALLS)]
    with pytest.raises(TryAgain, match="under way already"):
        hand.call(hand.host, "tool_call", name="t0", arguments='{"a": 1, "b": 2}')
    assert len(requests(hand, hand.host, number).requests) == param.TOOL_BATCH
    assert not any(box.done for box in boxes)
    hand.check()
