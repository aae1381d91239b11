"""Replies in a form from a model behind an endpoint: what it is told, what is looked at, and the agents that come with llmos on it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest
from endpoint import Endpoint, Script, calls, says, status

import llmos
from llmos.services.library import Remote, Remotes

DEADLINE = 30.0
"""Seconds that nothing here takes unless it hangs."""
Boot = Callable[..., AbstractAsyncContextManager[llmos.System]]
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOLS = {"math.add": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, "now": {"type": "object"}}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
async def system(boot: Boot, endpoint: Endpoint, tmp_path: Path) -> AsyncIterator[llmos.System]:
    Remotes(tmp_path).add(Remote("far", endpoint.url, "far-1", slots=2, window=4000))
    async with boot() as system:
        with anyio.fail_after(DEADLINE):
            yield system


async def test_text_that_may_call_is_asked_for_as_text(system: llmos.System, endpoint: Endpoint) -> None:
    """Many endpoints refuse tools without a choice; the prompt tells the model of them, and what it calls is looked at."""
    said = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    endpoint.scripts.append(says(said))
    context = await system.open(model="far")
    assert (await context.generate(user="when?", tools=TOOLS, tool_choice="auto", stop="x")).text == said
    assert not {"tools", "tool_choice", "response_format"} & endpoint.seen[0].body.keys()


async def test_json_of_a_schema(system: llmos.System, endpoint: Endpoint) -> None:
    endpoint.scripts.append(says('{"name": ', '"Ada", "age"', ": 36}"))
    context = await system.open(model="far")
    pieces: list[str] = []
    generation = context.generate(user="who?", schema=PERSON)
    async for piece in generation:
        pieces.append(piece)
    assert (await generation).json() == {"name": "Ada", "age": 36}
    assert "".join(pieces) == (await generation).text
    asked = endpoint.seen[0].body["response_format"]
    assert asked == {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": PERSON}}
    await context.generate(user="and?", max_tokens=1)
    assert endpoint.prompts()[-1][1] == {"role": "assistant", "content": '{"name": "Ada", "age": 36}'}
    assert "response_format" not in endpoint.seen[-1].body


async def test_a_schema_that_no_strict_mode_takes_is_sent_without(system: llmos.System, endpoint: Endpoint) -> None:
    endpoint.scripts.append(says('{"n": "ab"}'))
    schema = {"type": "object", "properties": {"n": {"type": "string", "maxLength": 2}}}
    assert (await (await system.open(model="far")).generate(user="n?", schema=schema)).json() == {"n": "ab"}
    assert endpoint.seen[0].body["response_format"]["json_schema"] == {"name": "reply", "schema": schema}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Sure! Her name is Ada.", "cannot be read as JSON"),
        ('{"name": "Ada"}', "'age' is a required property"),
        ('{"name": "Ada", "age": "36"}', "age: '36' is not of type 'integer'"),
        ("[" * 500, "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
    ],
)
async def test_a_reply_that_does_not_fit_is_an_error_and_is_kept(system: llmos.System, endpoint: Endpoint, said: str, words: str) -> None:
    endpoint.scripts.append(says(said))
    context = await system.open(model="far")
    with pytest.raises(llmos.BadFormat, match=words):
        await context.generate(user="who?", schema=PERSON)
    await context.generate(user="Again", max_tokens=1)
    assert [message["content"] for message in endpoint.prompts()[-1]] == ["who?", said, "Again"]


async def test_a_reply_that_is_cut_says_so(system: llmos.System, endpoint: Endpoint) -> None:
    endpoint.scripts.append(says('{"name": "A', reason="length"))
    reply = await (await system.open(model="far")).generate(user="who?", schema=PERSON)
    assert (reply.text, reply.reason) == ('{"name": "A', "length")


async def test_a_call_of_a_tool(system: llmos.System, endpoint: Endpoint) -> None:
    endpoint.scripts += [calls("math_add", '{"a"', ": 7}"), calls("now")]
    context = await system.open(model="far")
    reply = await context.generate(user="add", tools=TOOLS)
    assert (reply.text, reply.reason) == ('{"name": "math.add", "arguments": {"a": 7}}', "stop")
    body = endpoint.seen[0].body
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    assert [each["function"] for each in body["tools"]] == [
        {"name": "math_add", "parameters": TOOLS["math.add"]}, {"name": "now", "parameters": TOOLS["now"]},
    ]  # fmt: skip
    assert (await context.generate(user="time", tools=TOOLS)).json() == {"name": "now", "arguments": {}}
    assert endpoint.prompts()[-1][1] == {"role": "assistant", "content": reply.text}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (calls("math_add", '{"a": "x"}'), "a: 'x' is not of type 'integer'"),
        (calls("math_add", '{"a": '), "cannot be read as JSON"),
        (calls("rm", "{}"), "no call of one of the tools"),
        (says("I would add them."), "cannot be read as JSON"),
        (says("[1]"), "no call of one of the tools"),
        (calls("now", "{}", index=1), "cannot be read as JSON"),
    ],
)
async def test_a_call_that_does_not_fit(system: llmos.System, endpoint: Endpoint, script: Script, words: str) -> None:
    endpoint.scripts.append(script)
    with pytest.raises(llmos.BadFormat, match=words):
        await (await system.open(model="far")).generate(user="add", tools=TOOLS)


@pytest.mark.parametrize(
    ("form", "kind", "words"),
    [
        ({"regex": "a+"}, llmos.NotSupported, "no regex and no choice can be asked for"),
        ({"choice": ["a"]}, llmos.NotSupported, "no regex and no choice can be asked for"),
        ({"schema": {"type": "objekt"}}, llmos.InvalidArgument, "schema: type: 'objekt'"),
        ({"schema": '{"items":' * 65 + "{}" + "}" * 65}, llmos.InvalidArgument, "nested more than 64 deep"),
        ({"tools": {"t": {"required": 3}}}, llmos.InvalidArgument, "tool t: required: 3"),
    ],
)
async def test_what_no_endpoint_is_asked(
    system: llmos.System, endpoint: Endpoint, form: dict[str, Any], kind: type[llmos.Fault], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await (await system.open(model="far")).generate(user="a", **form)
    assert not endpoint.seen


async def test_an_endpoint_that_knows_no_schemas_says_so(system: llmos.System, endpoint: Endpoint) -> None:
    endpoint.scripts.append(status(400, body={"error": {"message": "response_format: unknown field"}}))
    with pytest.raises(llmos.InvalidArgument, match="response_format: unknown field"):
        await (await system.open(model="far")).generate(user="a", schema=PERSON)


async def test_the_agents_that_come_with_llmos(system: llmos.System, endpoint: Endpoint) -> None:
    """Those whose replies must have a form; for the others see test_sdk_remote."""
    endpoint.scripts += [
        says('{"name": "Ada", "age": 36}'),
        calls("llmos_calculate", '{"expression": "6 * 7"}'),
        calls("llmos_search_files", '{"path": "/home", "words": "bees"}'),
        says("notes.txt speaks of bees."),
    ]
    await system.files.write("/home/notes.txt", b"bees in May\n")

    async def told(name: str, text: str, **more: Any) -> str:
        child = await system.spawn(name, text, model="far", **more)
        await child.stdin.close()
        assert (await child.wait()).status == 0
        return await child.stdout.read()

    assert json.loads(await told("extract", "Ada is 36.", schema=PERSON)) == {"name": "Ada", "age": 36}
    assert (await told("calculator", "six times seven")).strip() == "42"
    assert (await told("files", "Which file speaks of bees?")).strip() == "notes.txt speaks of bees."
    assert "notes.txt:1: bees in May" in endpoint.prompts()[-1][-1]["content"]
