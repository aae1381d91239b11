"""The log at the shell: one clean line for each record where a person sees it, all of it where nobody does."""

import logging
import os
import pty
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from llmos.shell.log import LONGEST, one_line, shown_on
from llmos.shell.terminal import ERASE, Terminal

pytestmark = pytest.mark.anyio

COMPILER = "smollm2 runs on torch: the compiler failed:\na.cpp:3: error: \x1b[31mno AVX\n  3 | here\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def screen() -> Iterator[tuple[int, int]]:
    mine, theirs = pty.openpty()
    yield mine, theirs
    os.close(mine)
    os.close(theirs)


def said(text: str, *values: object, error: BaseException | None = None) -> None:
    """Logged as the kernel's thread does."""
    thread = threading.Thread(target=lambda: logging.getLogger("llmos.test").warning(text, *values, exc_info=error))
    thread.start()
    thread.join()


async def test_a_record_is_a_line_in_a_terminal(screen: tuple[int, int]) -> None:
    async with shown_on(Terminal(screen[1], screen[1])):
        said(COMPILER)
        said("%s is \x1b[2Jdone", "it")
    shown = ""
    with anyio.fail_after(30):  # what was written to a terminal comes out of its other end a little later, in parts
        while "done" not in shown:
            await anyio.wait_readable(screen[0])
            shown += os.read(screen[0], 4_096).decode()
    assert shown.splitlines() == [
        "llmos: smollm2 runs on torch: the compiler failed: (the rest: llmsh 2> FILE)",
        "llmos: it is ^[[2Jdone",
    ]


async def test_it_takes_the_place_of_a_progress_line(screen: tuple[int, int]) -> None:
    terminal = Terminal(screen[1], screen[1])
    shown = ""
    with anyio.fail_after(30):
        async with shown_on(terminal), terminal.progress(lambda: "loading"):
            while not terminal._progress_shown:
                await anyio.lowlevel.checkpoint()
            said("news")
            while "news" not in shown:
                await anyio.wait_readable(screen[0])
                shown += os.read(screen[0], 4_096).decode()
    assert f"loading{ERASE}llmos: news\r\n" in shown


async def test_all_of_it_goes_into_a_file(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    try:
        raise ValueError("why")
    except ValueError as error:
        async with shown_on(Terminal(fd, fd)):
            said(COMPILER)
            said("failed", error=error)
    said("nobody is told of this")
    os.close(fd)
    text = (tmp_path / "log").read_text()
    assert text.startswith(f"llmos: {COMPILER}llmos: failed\nTraceback (most recent call last):\n")
    assert text.endswith("ValueError: why\n")


async def test_nobody_reads_it() -> None:
    read, write = os.pipe()
    os.close(read)
    async with shown_on(Terminal(write, write)):
        said("to nobody")
        await anyio.lowlevel.checkpoint()
    os.close(write)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short", "short"),
        (" two \t blanks\r", "two blanks"),
        ("failed\nTraceback (most recent call last):\n  here\nValueError: why", "failed ValueError: why (the rest: llmsh 2> FILE)"),
        ("x" * (LONGEST + 1), "x" * LONGEST + "... (the rest: llmsh 2> FILE)"),
    ],
)
def test_one_line(text: str, expected: str) -> None:
    assert one_line(text) == expected
