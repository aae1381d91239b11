"""Replies in a form: by schema, regex, choice and tools; beside free ones; and what is wrong with a form."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

import llmos
from llmos.syscalls.abi import param
from llmos.syscalls.grammar import tool_calls

pytestmark = pytest.mark.anyio

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOLS = {
    "add": {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["a"], "additionalProperties": False,
            "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}},
    "tree": {"type": "object", "properties": {"kind": {"enum": ["oak", "ash"]}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
             "required": ["kind", "next"], "additionalProperties": False},
}  # fmt: skip


async def test_json_of_a_schema(system: llmos.System) -> None:
    context = await system.open()
    for seed in range(4):
        reply = await context.generate(user="who?", schema=PERSON, max_tokens=200, temperature=1.0, seed=seed)
        value = reply.json()
        assert reply.reason == "stop"
        assert set(value) == {"name", "age"}
        assert 0 <= value["age"] <= 120
        assert len(value["name"]) <= 8
    assert (await context.generate(user="and?", schema=json.dumps(PERSON), max_tokens=200)).json().keys() == {"name", "age"}


async def test_a_schema_may_come_from_a_pydantic_model(system: llmos.System) -> None:
    from pydantic import BaseModel, Field

    class Point(BaseModel):
        x: int = Field(ge=0, le=9)
        y: int = Field(ge=0, le=9)

    reply = await (await system.open()).generate(text="p", schema=Point, max_tokens=100)
    assert Point.model_validate(reply.json())


async def test_regex_choice_and_tools(system: llmos.System) -> None:
    context = await system.open()
    assert (await context.generate(text="a", regex="[a-c]{3}-[0-9]{2}", max_tokens=50)).text[3] == "-"
    words = ["yes", "no / never", "per\nhaps", "naïve [a-z]+"]
    found = {(await context.generate(text="b", choice=words, temperature=1.0, seed=seed, max_tokens=50)).text for seed in range(12)}
    assert found <= set(words)
    assert len(found) > 1
    called = set()
    for seed in range(8):
        call = (await context.generate(text="c", tools=TOOLS, temperature=1.0, seed=seed, max_tokens=900)).json()
        called.add(call["name"])
        assert call["arguments"].keys() == TOOLS[call["name"]]["properties"].keys()
    assert called == set(TOOLS)


async def test_text_that_may_call_is_held_from_the_call_on(system: llmos.System) -> None:
    """The model here writes anything: so the call is begun for it, and gone on with a token at a time."""
    context = await system.open()
    begun = 'I will.\n<tool_call>\n{"name": "tr'
    messages = [{"role": "user", "content": "plant"}, {"role": "assistant", "content": begun}]
    await context.append(messages=messages)
    text = begun
    for seed in range(900):
        text += (await context.generate(tools=TOOLS, tool_choice="auto", temperature=1.0, seed=seed, max_tokens=1)).text
        if "</tool_call>" in text:
            break
    call = json.loads(text.removeprefix("I will.\n<tool_call>").removesuffix("</tool_call>"))
    assert call["name"] == "tree"
    assert call["arguments"].keys() == {"kind", "next"}
    assert len((await context.generate(user="and?", tools=TOOLS, tool_choice="auto", stop="\0", max_tokens=20)).text) > 5, "free again"


async def test_how_tools_may_be_called(system: llmos.System) -> None:
    context = await system.open()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"tool_choice": "auto"}, "give tools"),
        ({"tool_choice": "auto", "schema": PERSON}, "give tools"),
        ({"tool_choice": "auto", "tools": TOOLS, "ignore_stop": True}, "leave out ignore_stop"),
        ({"tool_choice": "auto", "tools": TOOLS, "choice": ["a"]}, "not several"),
        ({"tool_choice": "none", "tools": TOOLS}, "'required' or 'auto'"),
        ({"tool_choice": "required", "tools": TOOLS, "stop": "x"}, "leave out stop"),
    ]
    for form, problem in wrong:
        with pytest.raises(llmos.InvalidArgument, match=problem):
            await context.generate(user="x", **form)
    with pytest.raises(llmos.InvalidArgument, match="characters in all"):
        await context.generate(user="x", tools=dict.fromkeys("abc", json.dumps({"title": "x" * 30_000})), tool_choice="auto")


async def test_where_no_grammar_can_be_made_text_that_may_call_is_free(
    system: llmos.System, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impossible(*given: Any) -> None:
        raise llmos.NotSupported("this model has no token that ends a text")

    context = await system.open()
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "<tool_call>add(1)"}]
    assert (await context.generate(messages=messages, tools=TOOLS, tool_choice="auto", max_tokens=5)).usage.tokens == 5
    monkeypatch.setattr("llmos.drivers.grammar.Grammars.compile", impossible)
    assert (await context.generate(user="x", tools=TOOLS, tool_choice="auto", max_tokens=5)).usage.tokens == 5
    for why in ("the grammar cannot go on", "this model has no token that ends a text"):
        assert f"a reply is not held to the schemas of its tools: {why}" in caplog.text
    with pytest.raises(llmos.NotSupported):
        await context.generate(user="x", tools=TOOLS)


async def test_a_reply_that_is_cut_says_so(system: llmos.System) -> None:
    reply = await (await system.open()).generate(text="a", schema=PERSON, max_tokens=12)
    assert reply.reason == "length"
    with pytest.raises(llmos.BadFormat, match="max_tokens ended it before it was whole"):
        reply.json()


async def test_free_replies_beside_it_are_what_they_are_alone(system: llmos.System) -> None:
    async def free() -> str:
        async with await system.open() as context:
            return (await context.generate(text="abc", max_tokens=40)).text

    alone = await free()
    context = await system.open()
    replies = await asyncio.gather(free(), context.generate(text="x", schema=PERSON, max_tokens=200), free())
    assert [replies[0], replies[2]] == [alone, alone]
    replies[1].json()


async def test_leaving_it_frees_the_context(system: llmos.System) -> None:
    context = await system.open()
    generation = context.generate(text="x", regex="(?s:.*)", max_tokens=4000)
    async for _ in generation:
        break
    await generation.cancel()
    reply = await context.generate(text="y", choice=["yes"], max_tokens=10)
    assert reply.text == "yes"
    twin = await context.fork()
    assert (await twin.generate(text="y", regex="ab", max_tokens=10)).text == "ab"


WRONG: list[tuple[dict[str, Any], type[llmos.Fault], str]] = [
    ({"regex": "ab(c"}, llmos.InvalidArgument, "regex: unclosed group, at character 3"),
    ({"schema": "{"}, llmos.InvalidArgument, "schema: not JSON"),
    ({"schema": "[]"}, llmos.InvalidArgument, "a JSON schema is an object"),
    ({"schema": '{"maximum": NaN}'}, llmos.InvalidArgument, "no number in JSON"),
    ({"schema": {"type": "array", "uniqueItems": True}}, llmos.InvalidArgument, "uniqueItems"),
    ({"schema": {"type": "array", "minItems": 10**9}}, llmos.InvalidArgument, "minItems is 1000000000"),
    ({"schema": '{"items":' * 65 + "{}" + "}" * 65}, llmos.InvalidArgument, "nested more than 64 deep"),
    ({"schema": '{"items":' * 5000 + "{}" + "}" * 5000}, llmos.InvalidArgument, "deep"),
    ({"schema": " " * (param.MAX_SCHEMA + 1)}, llmos.TooLong, "at most 65536"),
    ({"regex": "a" * (param.MAX_REGEX + 1)}, llmos.TooLong, "at most 4096"),
    ({"regex": ""}, llmos.InvalidArgument, "at least 1"),
    ({"choice": []}, llmos.InvalidArgument, "at least 1"),
    ({"choice": ["a"] * (param.MAX_CHOICES + 1)}, llmos.TooLong, "at most 1024"),
    ({"choice": ["a" * (param.MAX_CHOICE + 1)]}, llmos.TooLong, "at most 1024"),
    ({"tools": {}}, llmos.InvalidArgument, "at least 1"),
    ({"tools": {f"t{n}": {} for n in range(param.MAX_REPLY_TOOLS + 1)}}, llmos.TooLong, "at most 128"),
    ({"tools": {f"t{n}": " " * 60_000 + "{}" for n in range(2)}}, llmos.InvalidArgument, "offer fewer"),
    ({"tools": ["add"]}, llmos.InvalidArgument, "dict of names and schemas"),
    ({"schema": {"type": object}}, llmos.InvalidArgument, "cannot be written as JSON"),
    ({"schema": 3}, llmos.InvalidArgument, "not a int"),
    ({"regex": "a", "choice": ["a"]}, llmos.InvalidArgument, "one of schema, regex, choice and tools"),
    ({"regex": "a", "stop": ["b"]}, llmos.InvalidArgument, "leave out stop"),
    ({"regex": "a", "ignore_stop": True}, llmos.InvalidArgument, "leave out stop"),
]


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[f"{next(iter(form))}-{number}" for number, (form, _, _) in enumerate(WRONG)])
async def test_what_is_wrong_with_a_form(system: llmos.System, number: int) -> None:
    form, kind, words = WRONG[number]
    context = await system.open()
    with pytest.raises(kind, match=words):
        await context.generate(text="a", max_tokens=10, **form)
    assert (await context.info()).length == 0
    assert (await context.generate(text="a", max_tokens=4)).usage.tokens == 4


async def test_the_longest_that_are_allowed(system: llmos.System) -> None:
    context = await system.open()
    await context.generate(text="a", max_tokens=3, choice=[f"{n:04d}" for n in range(param.MAX_CHOICES)])
    await context.generate(text="a", max_tokens=3, regex="a" * param.MAX_REGEX)
    await context.generate(text="a", max_tokens=3, schema='{"items":' * 62 + "{}" + "}" * 62)


async def test_forms_that_explode_leave_others_running(system: llmos.System) -> None:
    """Ten at once, each slow to compile or slow to follow, beside a free reply, tokenizing and a small schema."""
    properties = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(2000)}}
    evil: list[dict[str, Any]] = [{"regex": "((a{1000}){1000}){1000}"}, {"regex": "x((a{1000}){1000}){1000}"}, {"schema": properties}]

    async def attack(turn: int) -> str:
        try:
            async with await system.open() as context:
                return (await context.generate(text="a", max_tokens=20, temperature=1.0, **evil[turn % 3])).reason
        except llmos.Fault as fault:
            return type(fault).__name__

    attacks = [asyncio.ensure_future(attack(turn)) for turn in range(10)]
    slowest = 0.0
    for _ in range(10):
        began = time.monotonic()
        async with await system.open() as context:
            await context.generate(text="hello", max_tokens=10)
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 2.0, "ten steps, each held up by a few milliseconds, on a busy machine"
    assert {await task for task in attacks} <= {"InvalidArgument", "TimedOut", "length", "stop"}
    assert (await (await system.open()).generate(text="a", schema=PERSON, max_tokens=200)).json()


def test_tools_keep_their_own_references() -> None:
    schema = tool_calls(TOOLS | {"odd": {"properties": {"$ref": {"type": "string"}}, "const": {"$ref": "#/x"}, "$id": "odd"}})
    assert schema["$defs"]["0"]["properties"]["a"] == {"$ref": "#/$defs/0/$defs/n"}
    assert schema["$defs"]["1"]["properties"]["next"]["anyOf"][1] == {"$ref": "#/$defs/1"}
    assert schema["$defs"]["2"] == {"properties": {"$ref": {"type": "string"}}, "const": {"$ref": "#/x"}}
