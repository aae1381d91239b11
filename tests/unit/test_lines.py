"""Lines from where none can be edited: whole, in order, and none longer than a command may be."""

import os
from collections.abc import Iterator

import anyio
import pytest

from llmos.shell.lexer import MOST_CHARACTERS
from llmos.shell.lines import LineCancelled, LineTooLong, PlainLines
from llmos.shell.terminal import Terminal

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.close(fd)


async def lines_of(reader: PlainLines) -> list[str]:
    """Each line, "too long" for one that was."""
    found = []
    while True:
        try:
            line = await reader.line("")
        except LineTooLong:
            line = "too long"
        if line is None:
            return found
        found.append(line)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"one\r\n\ntwo", ["one", "", "two"]),
        (b"a\n" * 40_000 + b"b", ["a"] * 40_000 + ["b"]),
        (b"a" * MOST_CHARACTERS, ["a" * MOST_CHARACTERS]),
        (b"a" * 2 * MOST_CHARACTERS + b"\nls\n", ["too long", "ls"]),
        (b"x\n" + b"a" * 2 * MOST_CHARACTERS, ["x", "too long"]),
        (b"a" * 2 * MOST_CHARACTERS + b"\n\nls\n" + b"b" * 2 * MOST_CHARACTERS + b"\nps", ["too long", "", "ls", "too long", "ps"]),
    ],
)
async def test_lines(ends: tuple[int, int], data: bytes, expected: list[str]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, write_all, ends[1], data)
        with anyio.fail_after(30):
            assert await lines_of(PlainLines(ends[0], Terminal(), prompts=False)) == expected


async def test_a_line_without_an_end_is_told_of_before_it_ends(ends: tuple[int, int]) -> None:
    reader = PlainLines(ends[0], Terminal(), prompts=False)
    async with anyio.create_task_group() as tasks:

        async def endless() -> None:
            for _ in range(MOST_CHARACTERS // 1_000 + 100):
                await anyio.wait_writable(ends[1])
                os.write(ends[1], b"a" * 1_000)

        tasks.start_soon(endless)
        with anyio.fail_after(30), pytest.raises(LineTooLong, match="put the text in a file"):
            await reader.line("")
        tasks.cancel_scope.cancel()
    os.close(ends[1])


async def test_ctrl_c_throws_away_what_was_begun(ends: tuple[int, int]) -> None:
    reader = PlainLines(ends[0], Terminal(), prompts=False)
    os.write(ends[1], b"begun")
    async with anyio.create_task_group() as tasks:

        async def cancelled() -> None:
            with pytest.raises(LineCancelled):
                await reader.line("")

        tasks.start_soon(cancelled)
        while not reader._begun:
            await anyio.lowlevel.checkpoint()
        reader.cancel()
    write_all(ends[1], b"new\n")
    assert await lines_of(reader) == ["new"]
