"""Grammars of text that may call tools: free until a call begins, and then held to the schemas."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st
from jsonschema import Draft202012Validator

from llmos.drivers.dummy_text import END, DummyText
from llmos.drivers.grammar import Grammars, spot_after
from llmos.kernel.errno import InvalidArgument
from llmos.sdk.toolcalls import HELD
from llmos.syscalls import param
from llmos.syscalls.grammar import tool_calls

from .test_grammar import PRODUCT, VOCABULARY, allowed, chars, deep, masks, next_ids


@pytest.fixture(scope="module")
def grammars() -> Iterator[Grammars]:
    made = Grammars(DummyText(), VOCABULARY)
    yield made
    made.close()


ADD = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
SAY = {"type": "object", "properties": {"text": {"type": "string", "maxLength": 4}}, "required": ["text"], "additionalProperties": False}
CALLS = json.dumps([tool_calls({"add": ADD, "say": SAY}), tool_calls({"add": {"type": "object"}, "say": {"type": "object"}})])


def test_text_is_free_until_a_call_begins(grammars: Grammars) -> None:
    constraint = grammars.compile("calls", CALLS)
    for said in (
        "",
        "I will",
        "1 < 2, a <tool, 7" + "7" * 60,
        "<tool_call",
        '{"name": "nosuch"',
    ):
        assert {*chars('<>"{a\n7'), END} <= next_ids(constraint, said), said
    assert next_ids(constraint, "so <tool_call>") == chars("{ \n")
    assert next_ids(constraint, '<tool_call>\n{"name": "') == chars("as")
    assert next_ids(constraint, '<tool_call> {"name": "add", "arguments": {"n": ') == chars("-0123456789")
    assert next_ids(constraint, '<tool_call>{"name": "add", "arguments": {"n": 5}}') == chars(" \n<")
    assert next_ids(constraint, '<tool_call>{"name": "add", "arguments": {"n": 5}}<') == chars("/")


def test_behind_calls_are_more_of_them_or_the_end(grammars: Grammars) -> None:
    constraint = grammars.compile("calls", CALLS)
    said = 'First: <tool_call>{"name": "say", "arguments": {"text": "<"}}</tool_call>'
    assert next_ids(constraint, said) == {*chars("< \n"), END}
    assert next_ids(constraint, said + "\n<") == chars("t")
    assert next_ids(constraint, said + '\n<tool_call>{"name": "') == chars("as")


def test_numbers_end_in_a_call_and_in_text_they_need_not(grammars: Grammars) -> None:
    constraint = grammars.compile("calls", CALLS)
    call = 'it is "5 <<tool_call>{"name": "add", "arguments": {"n": '
    assert chars("7") < next_ids(constraint, call + "7" * 31)
    assert next_ids(constraint, call + "7" * 32) == chars("}")
    assert chars("7") < next_ids(constraint, "7" * 50)
    more = call + '5}}</tool_call><tool_call>{"name": "add", "arguments": {"n": '
    assert chars("7") < next_ids(constraint, more + "7" * 31)
    assert next_ids(constraint, more + "7" * 32) == chars("}")


def test_a_reply_that_is_gone_on_with_is_held_from_its_beginning(grammars: Grammars) -> None:
    begun = b'I add. <tool_call>{"name": "ad'
    constraint = grammars.compile("calls", CALLS, begun)
    assert next_ids(constraint, "") == chars("d")
    assert next_ids(constraint, 'd", "arguments": {"n": 4') >= chars("}")
    assert next_ids(constraint, "d") == chars('"'), "and back"
    number = grammars.compile("calls", CALLS, b'<tool_call>{"name": "add", "arguments": {"n": ' + b"7" * 31)
    assert next_ids(number, "7") == chars("}")
    with pytest.raises(InvalidArgument, match="cannot go on"):
        grammars.compile("calls", CALLS, b"<tool_call>add(1)")


@pytest.mark.parametrize("seed", range(20))
def test_every_call_in_a_text_fits_its_schema(grammars: Grammars, seed: int) -> None:
    """At random, but with many calls begun."""
    draw, constraint, said = random.Random(seed), grammars.compile("calls", CALLS), bytearray()
    while len(said) < 400:
        ids = allowed(masks(constraint, said)[0])
        if said.endswith(b"</tool_call>"):
            said += draw.choice([b"<tool_call>", b" <tool_call>\n"])
        elif END in ids:  # not in a call
            said += draw.choice([b"<tool_call>", b"so ", bytes([draw.choice(sorted(ids - {END}))])])
        else:
            said.append(draw.choice(sorted(ids)))
    closed = re.findall(rb"<tool_call>(.*?)</tool_call>", said, re.DOTALL)
    assert closed
    for each in closed:
        call = json.loads(each)
        Draft202012Validator({"add": ADD, "say": SAY}[call["name"]]).validate(call["arguments"])


def test_schemas_that_cannot_be_followed_leave_objects(grammars: Grammars, caplog: pytest.LogCaptureFixture) -> None:
    for bad in (PRODUCT, deep(200), {"type": "nonsense"}):
        constraint = grammars.compile("calls", json.dumps([tool_calls({"a": bad}), tool_calls({"a": {"type": "object"}})]))
        assert next_ids(constraint, '<tool_call>{"name": "') == chars("a")
        assert next_ids(constraint, '<tool_call>{"name": "a", "arguments": ') == chars("{")
        assert "calls of tools are held to less than their schemas: calls: " in caplog.text
        assert "TEXT" not in caplog.text, "a grammar that is none of theirs"
        caplog.clear()
    began = time.perf_counter()
    grammars.compile("calls", json.dumps([tool_calls({"a": PRODUCT}), tool_calls({"a": {"type": "object"}})]))
    assert time.perf_counter() - began < 0.5, "not tried again"
    lenient = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True, "items": {"enum": ["x"]}}}}
    constraint = grammars.compile("calls", json.dumps([tool_calls({"a": lenient}), tool_calls({"a": {"type": "object"}})]))
    assert next_ids(constraint, '<tool_call>{"name": "a", "arguments": {"a": [') == chars('"]'), "what cannot be followed is passed over"


def test_many_tools_with_many_properties(grammars: Grammars) -> None:
    many = {f"property{i}": {"type": "string"} for i in range(15)}
    tools: dict[str, Any] = {f"t{n}": {"type": "object", "properties": many, "additionalProperties": False} for n in range(100)}
    tools["wide"] = {"type": "object", "properties": {f"p{i}": {} for i in range(340)}, "additionalProperties": False}
    assert len(json.dumps(tools["wide"])) + 100 > HELD, "as wide as a tool may be that the SDK holds calls to"
    assert 50_000 < len(json.dumps(tools)) < param.MAX_SCHEMA
    constraint = grammars.compile("calls", json.dumps([tool_calls(tools), {}]))
    assert next_ids(constraint, '<tool_call>{"name": "wide", "arguments": {"p339') == chars('"')
    assert next_ids(constraint, '<tool_call>{"name": "t99", "arguments": {"property1') == chars('"01234')


def test_what_a_grammar_cannot_go_through_leaves_the_rest_of_the_reply_free(grammars: Grammars, caplog: pytest.LogCaptureFixture) -> None:
    wide = {"type": "object", "properties": {f"p{i}": {} for i in range(1000)}}
    constraint = grammars.compile("calls", json.dumps([tool_calls({"a": wide}), {}]))
    assert next_ids(constraint, '<tool_call>{"name": "') == chars("a")
    found = masks(constraint, b'<tool_call>{"name": "a", "arguments": {', b"xy")
    assert [allowed(mask) for mask in found] == [set(range(VOCABULARY))] * 3
    assert "a reply is held to the schemas of its tools no longer: the grammar cannot go on" in caplog.text
    assert next_ids(constraint, "elsewhere") == set(range(VOCABULARY))
    with pytest.raises(InvalidArgument, match="cannot go on"):
        next_ids(grammars.compile("schema", json.dumps(wide)), "{")


@given(text=st.binary(max_size=60) | st.text('<tol_ca>/{}"\\017').map(str.encode), cut=st.integers(0, 60))
def test_where_one_is_does_not_depend_on_tokens(text: bytes, cut: int) -> None:
    start = (0, False, False, 0)
    assert spot_after(spot_after(start, text[:cut]), text[cut:]) == spot_after(start, text)
