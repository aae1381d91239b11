"""Replies that are JSON of a schema (`extract`), inputs that must fit one, and a child for each line (`map`)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

import llmos
from llmos.sdk.agentfile import parse
from llmos.sdk.fanout import AT_ONCE, _in_a_line

from .conftest import Boot

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}, "name": {"type": "string", "maxLength": 20}},
    "required": ["x", "name"],
    "additionalProperties": False,
}
ECHO = 'input = "line"\n[sampling]\nmax_tokens = 4\n'


def agent(text: str, name: str = "agent") -> llmos.AgentFile:
    return parse(text, name, f"{name}.toml")


async def ended(child: llmos.Child) -> tuple[str, str, int]:
    """Output, errors, status."""
    assert child.stdout is not None
    assert child.stderr is not None
    out = await child.stdout.read()
    return out, await child.stderr.read(), (await child.wait()).status


def is_point(text: str) -> bool:
    found = json.loads(text)
    return set(found) == {"x", "name"} and 0 <= found["x"] <= 99 and len(found["name"]) <= 20


async def test_extract_writes_one_line_of_json(system: llmos.System) -> None:
    for seed in range(3):
        out, errors, status = await ended(await system.spawn("extract", f"text {seed}", schema=POINT))
        assert (errors, status) == ("", 0)
        assert out.endswith("\n")
        assert out.count("\n") == 1
        assert is_point(out)


async def test_extract_wants_a_schema_and_a_good_one(system: llmos.System) -> None:
    with pytest.raises(llmos.InvalidArgument, match="must be given"):
        await system.spawn("extract", "text")
    for schema in ("{", 5, {"type": "strng"}):
        try:
            out, errors, status = await ended(await system.spawn("extract", "text", schema=schema))
        except llmos.InvalidArgument:
            assert schema == 5
        else:
            assert (out, status) == ("", 1)
            assert "schema" in errors


async def test_what_is_not_whole_is_not_written(system: llmos.System) -> None:
    short = agent('[output_schema]\ntype = "string"\nminLength = 50\n[sampling]\nmax_tokens = 10\n')
    out, errors, status = await ended(await system.spawn(short, "x"))
    assert (out, status) == ("", 1)
    assert "took all of its 10 tokens before its JSON was whole" in errors


async def test_a_form_that_is_under_way_can_be_forked(system: llmos.System) -> None:
    """Half of a form cannot be gone on with: the twin begins its own."""
    long = agent('separator = ""\n[output_schema]\ntype = "string"\nminLength = 2000\n[sampling]\nmax_tokens = 4000\n')
    child = await system.spawn(long, "x")
    while not [each for each in await system.ps() if each.pid == child.pid and each.tokens > 100]:
        await anyio.sleep(0.001)
    twin = await system.fork(child.pid)
    texts = [await ended(each) for each in (child, twin)]
    assert [len(json.loads(out)) >= 2000 for out, _, _ in texts] == [True, True]
    assert texts[0] == texts[1]  # greedy, and the same question


async def test_an_input_schema_is_held(system: llmos.System) -> None:
    table = '[input_schema]\ntype = "object"\nrequired = ["x"]\nproperties.x.maximum = 5\n[sampling]\nmax_tokens = 4\n'
    for text, says in (
        ('{"x": 9}', "x: 9 is greater than the maximum of 5"),
        ("{}", "'x' is a required"),
        ("hello", "cannot be read as JSON"),
    ):
        _, errors, status = await ended(await system.spawn(agent(table), text))
        assert status == 1
        assert says in errors
    assert (await ended(await system.spawn(agent(table), '{"x": 5}')))[1:] == ("", 0)


@pytest.fixture
def echo(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "echo.toml").write_text(ECHO)
    (tmp_path / "agents" / "slow.toml").write_text('[sampling]\nmax_tokens = 4000\n[output_schema]\ntype = "string"\nminLength = 3000\n')


def mapping(text: str) -> llmos.AgentFile:
    return agent(f'input = "line"\neach = "{text}"\n', "map")


@pytest.mark.usefixtures("echo")
async def test_map_answers_every_line_in_order(boot: Boot) -> None:
    async with boot() as system:
        lines = [f"line {number}" for number in range(40)]
        alone = [(await ended(await system.spawn("echo", line, stdin="")))[0] for line in lines]
        assert len(set(alone)) > 30
        for cls in ("normal", "batch"):
            out, errors, status = await ended(await system.spawn(mapping("echo"), stdin="\n\n".join(lines), cls=cls))
            assert (errors, status) == ("", 0)
            assert out == "".join(f"{_in_a_line(text)}\n" for text in alone)
        given = await ended(await system.spawn(mapping("echo"), "line 0\nline 1", stdin=""))
        assert given[0] == "".join(f"{_in_a_line(text)}\n" for text in alone[:2])
        assert await ended(await system.spawn(mapping("echo"), stdin="\n \n")) == ("", "", 0)


@pytest.mark.parametrize(
    ("said", "line"), [("a\n", "a"), ("1. a\n\n  2. b\r\nc\rd\n\n", "1. a 2. b c d"), ("\n \n", ""), ("a  b\tc\n", "a  b\tc")]
)
def test_a_reply_of_many_lines_is_one(said: str, line: str) -> None:
    assert _in_a_line(said) == line


async def test_a_child_that_writes_many_lines_gives_one(boot: Boot, tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "lines.toml").write_text('separator = "\\nmore\\n\\nand more\\n"\n[sampling]\nmax_tokens = 4\n')
    async with boot() as system:
        out, errors, status = await ended(await system.spawn(mapping("lines"), stdin="a\nb\nc\n"))
        assert (errors, status) == ("", 0)
        assert [line.endswith("more and more") for line in out.removesuffix("\n").split("\n")] == [True] * 3


FOLDER = """
tools = ["llmos.read_file", "web.search"]
capabilities = ["llm:*", "file:r:/home/*"]
"""


async def test_agents_with_tools_and_capabilities_of_their_own_are_mapped(boot: Boot, tmp_path: Path) -> None:
    """What does the mapping holds what they are to hold, and not more: it used to lack it, and every line failed."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "reader.toml").write_text(ECHO.replace("[sampling]", FOLDER + "[sampling]"))
    (tmp_path / "agents" / "each.toml").write_text('each = "reader"')
    (tmp_path / "agents" / "twice.toml").write_text('each = "each"')
    (tmp_path / "agents" / "narrow.toml").write_text('each = "reader"\ncapabilities = ["llm:*", "proc:spawn", "pipe:*"]')
    async with boot() as system:

        async def search() -> str:
            return "nothing"

        async with system.offer(llmos.Tool.of(search, name="web.search")):
            by_name = replace(await system.agent("map"), each="reader")
            for program in (by_name, "each", "twice"):
                child = await system.spawn(program, stdin="one\ntwo")
                held = (await system.files.read_text(f"/proc/{child.pid}/capabilities")).split()
                assert set(held) == {"llm:*", "file:r:/home/*", "proc:spawn", "pipe:*", "tool:web.search"}
                out, errors, status = await ended(child)
                assert (out.count("\n"), errors, status) == (2, "", 0)
            out, errors, status = await ended(await system.spawn("narrow", stdin="one"))
            assert status == 1
            assert "cannot give 'file:r:/home/*' to a child" in errors
            with pytest.raises(llmos.NotFound, match="there is no agent 'nobody'"):
                await system.spawn(replace(by_name, each="nobody"))
            (tmp_path / "agents" / "a.toml").write_text('each = "b"')
            (tmp_path / "agents" / "b.toml").write_text('each = "a"')
            _, errors, status = await ended(await system.spawn("a", stdin="one", limits=llmos.Limits(children=4)))
            assert status == 1


@pytest.mark.usefixtures("echo")
async def test_one_that_fails_leaves_the_others(boot: Boot) -> None:
    async with boot() as system:
        out, errors, status = await ended(await system.spawn(mapping("echo"), stdin=f"a\n{'x' * 10_000}\nc\n"))
        assert [bool(line) for line in out.split("\n")] == [True, False, True, False]
        assert errors.startswith("line 2: ")
        assert "8192" in errors
        assert "1 of the lines failed" in errors
        assert status == 1
        with pytest.raises(llmos.NotFound, match="there is no agent 'nobody'"):
            await system.spawn(mapping("nobody"), stdin="a\nb\n")


@pytest.mark.usefixtures("echo")
async def test_no_more_run_at_once_than_the_class_may(boot: Boot) -> None:
    async with boot() as system:
        child = await system.spawn(mapping("slow"), stdin="x\n" * 100)
        most = 0
        for _ in range(50):
            most = max(most, sum(each.parent == child.pid for each in await system.ps()))
            await anyio.sleep(0.005)
        assert most == AT_ONCE["normal"]
        await child.kill("TERM")
        assert (await child.wait()).status == 128 + 15
        with anyio.fail_after(20):
            while [each for each in await system.ps() if each.name == "slow"]:
                await anyio.sleep(0.01)


@pytest.mark.usefixtures("echo")
async def test_fewer_may_be_asked_for_and_more_may_not(boot: Boot) -> None:
    async with boot() as system:
        narrow = replace(mapping("slow"), at_once=2)
        child = await system.spawn(narrow, stdin="x\n" * 20)
        most = 0
        for _ in range(50):
            most = max(most, sum(each.parent == child.pid for each in await system.ps()))
            await anyio.sleep(0.005)
        assert most == 2
        await child.kill("TERM")
        await child.wait()
        out, errors, status = await ended(await system.spawn(replace(narrow, at_once=9), stdin="x\n"))
        assert (out, status) == ("", 1)
        assert "a map of class normal runs at most 8 children at once, not 9" in errors
        wide = replace(mapping("echo"), at_once=9)
        assert (await ended(await system.spawn(wide, stdin="x\n", cls="batch")))[1:] == ("", 0)


@pytest.mark.usefixtures("echo")
async def test_a_map_cannot_be_forked(boot: Boot) -> None:
    async with boot() as system:
        child = await system.spawn(mapping("echo"))
        with pytest.raises(llmos.NotSupported, match="children of its own"):
            await system.fork(child.pid)
        assert child.stdin is not None
        await child.stdin.close()
        assert (await ended(child))[2] == 0
