"""What a program gives wrongly is refused to it alone, by name, with an errno, and the system goes on."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import llmos
from llmos.sdk.agentfile import parse
from llmos.syscalls import param

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]

HALF = "\ud800"
"""Half a surrogate pair: a str that is no Unicode text."""


async def one(me: llmos.Process) -> int:
    return 1


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("stdin", HALF), ("stdin", 5), ("stdin", math.nan), ("stdin", ["a"]), ("stdout", 5), ("stdout", "x"), ("stderr", b"x"),
        ("capabilities", 5), ("capabilities", math.inf), ("model", ""), ("model", 0), ("model", b"x"), ("limits", {}), ("name", HALF),
    ],
)  # fmt: skip
async def test_spawn(system: llmos.System, argument: str, value: Any) -> None:
    with pytest.raises(llmos.InvalidArgument, match=argument):
        await system.spawn(one, **{argument: value})
    statistics = (await system.statistics()).kernel
    assert (statistics.processes, statistics.pipes) == (2, 0)
    assert (await (await system.spawn(one)).wait()).value == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda system: system.setlimits(system.pid, {}),
        lambda system: system.detokenize(None),
        lambda system: system.detokenize(10**30),
        lambda system: system.tokenize(HALF),
        lambda system: system.open(model=""),
        lambda system: system.fork([]),
        lambda system: system.fork(HALF),
        lambda system: system.agent(None),
        lambda system: system.agent(b"chat"),
        lambda system: system.agent("a\0b"),
        lambda system: system.agent(HALF),
        lambda system: system.spawn("\x1b[2J"),
    ],
)
async def test_calls(system: llmos.System, call: Callable[[llmos.System], Awaitable[object]]) -> None:
    with pytest.raises(llmos.InvalidArgument):
        await call(system)


@pytest.mark.parametrize("name", ["x" * 5_000_000, "~nobody-of-this-name/x.toml", "", "./none.toml"])
async def test_agents_that_cannot_be(system: llmos.System, name: str) -> None:
    with pytest.raises(llmos.NotFound) as raised:
        await system.agent(name)
    assert len(str(raised.value)) < 500


async def test_contexts_and_streams(system: llmos.System) -> None:
    context = await system.open()
    for content in ({"messages": 5}, {"messages": [5]}, {"messages": "hi"}, {"messages": {"role": "user"}}, {"tokens": 5}, {"stop": None}):
        with pytest.raises(llmos.InvalidArgument, match=next(iter(content))):
            await context.generate(**content)  # type: ignore[arg-type]
    reader, writer = await system.pipe()
    for text in (5, 10**9, None, HALF, ["a"]):
        with pytest.raises(llmos.InvalidArgument, match="what is written"):
            await writer.write(text)  # type: ignore[arg-type]
    await writer.write(bytearray(b"fine\n"))
    assert await reader.readline() == "fine\n"


async def test_input_without_end_ends_the_agent_and_not_the_machine(system: llmos.System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(param, "MAX_TEXT", 200_000)
    for input_ in ("line", "all"):
        child = await system.spawn(parse(f'input = "{input_}"', "eater", "eater.toml"))
        assert child.stdin is not None
        assert child.stderr is not None
        with pytest.raises(llmos.BrokenPipe):
            await child.stdin.write("x" * 1_000_000)
        assert "200000 characters" in await child.stderr.read()
        assert (await child.wait()).status == 1


async def test_a_signal_to_oneself_is_no_news(system: llmos.System) -> None:
    async def leaves(me: llmos.Process) -> None:
        await me.kill(me.pid)
        await me.stdin.read()

    child = await system.spawn(leaves)
    assert child.stderr is not None
    assert await child.stderr.read() == ""
    ended = await child.wait()
    assert ended.status == 143
    assert "SIGTERM" in (ended.error or "")


async def test_who_passes_a_limit_says_which(system: llmos.System) -> None:
    """The signal that tells of it is pending when the program ends: it must not take the place of its last words."""

    async def talks(me: llmos.Process) -> None:
        await (await me.open()).generate(user="on and on", max_tokens=8_000, ignore_stop=True)

    for limits, words in ((llmos.Limits(wall_seconds=0.05), "wall time"), (llmos.Limits(tokens=40), "40 tokens")):
        child = await system.spawn(talks, limits=limits)
        assert child.stderr is not None
        assert words in await child.stderr.read()
        assert (await child.wait()).status == 152


async def test_ps_lists_every_page(system: llmos.System) -> None:
    async def sleeps(me: llmos.Process) -> None:
        await me.stdin.read()

    children = [await system.spawn(sleeps) for _ in range(param.PROCESSES + 3)]
    assert [each.pid for each in await system.ps()] == [1, system.pid, *(child.pid for child in children)]


async def test_a_folder_of_agents_that_cannot_be_read(boot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    async with boot() as system:
        monkeypatch.setattr(Path, "is_file", refuse)
        with anyio.fail_after(30), pytest.raises(llmos.NotFound):
            await system.agent("poet")
