"""The default model in a form: a short run of benchmarks/structured.py."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

import llmos
from llmos.sdk.toolcalls import CLOSE, OPEN, calls_in, held_to, tools_prompt
from llmos.syscalls.abi import ToolInfo

pytestmark = [pytest.mark.model, pytest.mark.anyio, pytest.mark.timeout(300)]

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from schemas import SCHEMAS, TOOLS, problem  # noqa: E402  # the benchmark is no package


async def test_twenty_schemas_and_tool_calls_are_valid() -> None:
    async with llmos.boot(seed=3) as system:

        async def one(user: str, **form: object) -> llmos.Reply:
            async with await system.open() as context:
                return await context.generate(user=user, temperature=0.8, top_p=0.95, max_tokens=384, **form)  # type: ignore[arg-type]

        replies = await asyncio.gather(*(one(f"{what} Answer in JSON.", schema=schema) for what, schema in SCHEMAS.values()))
        calls = await asyncio.gather(*(one("Call a tool about a storm at sea.", tools=TOOLS) for _ in range(4)))
    for reply, (name, (_, schema)) in zip(replies, SCHEMAS.items(), strict=True):
        assert reply.reason == "stop", f"{name}: {reply.text}"
        assert problem(reply.json(), schema) is None, f"{name}: {reply.text}"
    for call in calls:
        value = call.json()
        assert problem(value["arguments"], TOOLS[value["name"]]) is None


async def test_calls_within_text_fit_and_text_without_them_is_the_same() -> None:
    """The tag is written for the model, which is too small to think of it, and 22 of 24 times writes no call after it on its own."""
    offered = [ToolInfo(name, "A tool.", json.dumps(schema), 1.0, True, 1) for name, schema in TOOLS.items()]
    async with llmos.boot(seed=3) as system:

        async def one(topic: str) -> str:
            async with await system.open(system=tools_prompt(offered)) as context:
                begun = [{"role": "user", "content": f"Search for {topic}."}, {"role": "assistant", "content": OPEN}]
                return OPEN + (await context.generate(messages=begun, max_tokens=192, temperature=0.7, **held_to(offered))).text

        texts = await asyncio.gather(*map(one, ("a lighthouse", "a lost umbrella", "a storm at sea", "a chess club")))
        async with await system.open() as context, await system.open() as other:
            free = await context.generate(user="Tell me about the sea.", max_tokens=60)
            assert (await other.generate(user="Tell me about the sea.", max_tokens=60, **held_to(offered))).text == free.text
    for text in texts:
        assert CLOSE in text
        call = calls_in(text, set())[0]
        assert problem(json.loads(call.arguments), TOOLS[call.name]) is None


def test_the_validator_of_the_benchmark_finds_what_is_wrong() -> None:
    person = {"name": "Ada", "age": 36, "email": "ada@math.org"}
    schema = SCHEMAS["person"][1]
    assert problem(person, schema) is None
    for change in ({"age": 121}, {"age": True}, {"age": 3.5}, {"name": ""}, {"name": "x" * 41}, {"email": "ada"}, {"more": 1}):
        assert problem({**person, **change}, schema) is not None, change
    assert problem({"name": "Ada"}, schema) is not None
    tree = SCHEMAS["tree"][1]
    assert problem({"label": "a", "children": [{"label": "b"}]}, tree) is None
    assert problem({"label": "a", "children": [{"label": 3}]}, tree) is not None
    assert problem([[1, 2, 3]] * 2, SCHEMAS["matrix"][1]) is not None
    assert problem({"title": "t", "day": "2024-02-30", "place": "p", "public": True}, SCHEMAS["event"][1]) is not None
    with pytest.raises(ValueError, match="keywords"):
        problem(3, {"type": "integer", "multipleOf": 2})
