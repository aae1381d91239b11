"""The agents that come with llmos on the default model: benchmarks/agents.py measures more of this."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

import llmos
from llmos.services.library import Manifest

pytestmark = [pytest.mark.anyio, pytest.mark.model]

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 40}, "age": {"type": "integer", "minimum": 0, "maximum": 130}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture
async def system(default_manifest: Manifest, tmp_path: Path) -> AsyncIterator[llmos.System]:
    models = next(folder for folder in default_manifest.path.parents if folder.name == "models")
    (tmp_path / "models").symlink_to(models)  # with files of its own
    async with llmos.boot(home=tmp_path) as booted:
        yield booted


async def said(child: llmos.Child) -> str:
    assert child.stdout is not None
    text = await child.stdout.read()
    end = await child.wait()
    assert (end.status, end.error) == (0, None)
    return text


async def test_extract_finds_a_name_and_an_age(system: llmos.System) -> None:
    child = await system.spawn("extract", "Anna Berg is 34 years old and lives in Oslo.", schema=PERSON)
    assert json.loads(await said(child)) == {"name": "Anna Berg", "age": 34}


async def test_map_extracts_from_a_hundred_lines(system: llmos.System) -> None:
    people = [("Anna", 34), ("Tom", 61), ("Rosa", 45), ("Karl", 29)]
    lines = [f"{name} is {age + number // 4 % 5} years old." for number in range(100) for name, age in [people[number % 4]]]
    agent = replace(await system.agent("map"), each="extract")
    text = await said(await system.spawn(agent, stdin="\n".join(lines), schema=PERSON))
    found = [json.loads(line) for line in text.splitlines()]
    assert len(found) == 100
    right = sum(each["name"] in line and str(each["age"]) in line for each, line in zip(found, lines, strict=True))
    assert right >= 90
    (device,) = (await system.statistics()).kernel.devices
    assert device.hit_tokens >= 90 * 16  # the page of the system message, which each after the first few finds


async def test_the_calculator_calculates(system: llmos.System) -> None:
    assert await said(await system.spawn("calculator", "What is 17 * 23?")) == "391\n"


async def test_files_finds_a_word(system: llmos.System) -> None:
    await system.files.write("/home/whales.txt", "Whales are the largest animals of the sea.\n")
    assert "whales.txt" in await said(await system.spawn("files", "Which file in /home speaks of whales?"))
