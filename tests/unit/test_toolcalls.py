"""Tool calls in text: every form that is read, what is no call, what is shown meanwhile, and a prompt that is always the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from llmos.sdk.toolcalls import HELD, MOST_CALLS, Screen, Wanted, calls_in, held_to, tools_prompt
from llmos.syscalls.abi import ToolInfo, param

NAMES = {"add", "notes.search"}
ADD = Wanted("add", '{"a": 1}')
CALL = '{"name": "add", "arguments": {"a": 1}}'


@pytest.mark.parametrize(
    ("reply", "calls"),
    [
        (f"<tool_call>\n{CALL}\n</tool_call>", [ADD]),
        (f"I shall add.\n<tool_call>{CALL}</tool_call>\n", [ADD]),
        (f"<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call>", [ADD, ADD]),
        (f"<tool_call>[{CALL}, {CALL}]</tool_call>", [ADD, ADD]),
        (f"<tool_call>{CALL}", [ADD]),  # cut off by a stop string, as some templates have it
        ('<tool_call>{"name": "unknown"}</tool_call>', [Wanted("unknown")]),
        (CALL, [ADD]),
        (f"  {CALL}\n", [ADD]),
        ('{"name": "add", "parameters": {"a": 1}}', [ADD]),
        (f"<|python_tag|>{CALL}", [ADD]),
        (f"{CALL}; {CALL}", [ADD, ADD]),
        (f"[{CALL}, {CALL}]", [ADD, ADD]),
        (f"```json\n{CALL}\n```", [ADD]),
        ('{"type": "function", "function": {"name": "add", "arguments": "{\\"a\\": 1}"}}', [ADD]),
        ('{"name": "notes.search", "arguments": null}', [Wanted("notes.search")]),
        ("The sum is 3.", []),
        ("", []),
        (f"For example {CALL}", []),
        (f"{CALL} is how one would call it", []),
        ('{"name": "unknown", "arguments": {}}', []),  # an answer in JSON
        ('{"name": 5}', []),
        ("[1, 2]", []),
        ("{" * 100_000, []),
        ("[" * 100_000, []),
        ("__import__('os').system('x')", []),
        ("{'name': 'add'}", []),
    ],
)
def test_what_is_a_call(reply: str, calls: list[Wanted]) -> None:
    assert calls_in(reply, NAMES) == calls


@pytest.mark.parametrize(
    "inner", ["{", "add(1, 2)", "__import__('os').system('x')", "{'name': 'add'}", "[" * 100_000, "5", '{"name": 5}', ""]
)
def test_what_was_meant_as_a_call_and_is_none_is_told(inner: str) -> None:
    (call,) = calls_in(f"<tool_call>{inner}</tool_call>", NAMES)
    assert call.wrong
    assert len(call.wrong) < 500


def test_calls_are_bounded() -> None:
    calls = calls_in(f"<tool_call>{CALL}</tool_call>" * 1000, NAMES)
    assert (len(calls), calls[-1].wrong[:15]) == (MOST_CALLS + 1, "a reply may ask")


@given(st.text(st.sampled_from('<>/tool_ca{}[]":,nm\\ `'), max_size=60))
def test_whatever_a_model_writes_is_read_or_is_text(reply: str) -> None:
    calls_in(reply, NAMES)


@given(st.lists(st.sampled_from(["<tool", "_call>", CALL, "</tool_call>", "text", " ", "{", "<", "```"]), max_size=8))
def test_what_is_shown_is_the_reply_without_its_calls(pieces: list[str]) -> None:
    reply, screen = "".join(pieces), Screen(NAMES)
    shown = "".join(screen.push(piece) for piece in pieces) + screen.rest()
    if calls_in(reply, NAMES):
        assert reply.startswith(shown)
        assert "<tool_call>" not in shown
    else:
        assert shown == reply


def test_a_plain_answer_is_shown_as_it_comes() -> None:
    screen = Screen(NAMES)
    assert [screen.push(piece) for piece in ("An", "swer <", "b> <tool", "s>")] == ["An", "swer ", "<b> ", "<tools>"]


def tool(name: str, schema: str = '{"type": "object"}') -> ToolInfo:
    return ToolInfo(name, f"does {name}", schema, 60.0, True, 2)


def test_the_prompt_is_the_same_for_the_same_tools() -> None:
    one, two = tool("a", '{"type": "object", "properties": {}}'), tool("b")
    same = tool("a", '{ "properties":{},"type":"object"}')
    assert tools_prompt([one, two]) == tools_prompt([two, same])
    assert json.loads(tools_prompt([one]).split("<tools>\n")[1].split("\n</tools>")[0])["function"]["name"] == "a"
    assert tools_prompt([]) == ""


def test_schemas_too_long_to_be_held_to_leave_objects() -> None:
    def of(length: int) -> str:
        return json.dumps({"type": "object", "description": "x" * (length - 37)})

    assert held_to([]) == {}
    assert held_to([tool(f"t{n}") for n in range(param.MAX_REPLY_TOOLS + 1)]) == {}
    assert len(of(HELD)) == HELD
    held = held_to([tool("a", of(HELD)), tool("b", of(HELD + 1)), tool("c")])
    assert (held["tools"], held["tool_choice"]) == ({"a": of(HELD), "b": '{"type": "object"}', "c": tool("c").schema}, "auto")
    many = held_to([tool(f"t{n}", of(HELD - n)) for n in range(40)])["tools"]
    assert sum(map(len, many.values())) <= param.MAX_SCHEMA
    assert len(many) == 40
    assert '"type": "object"}' in many["t0"]
    assert many["t39"] == of(HELD - 39), "the longest go first"
