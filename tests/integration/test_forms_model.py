"""The default model in a form: a short run of benchmarks/structured.py."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

import llmos

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
