"""What the user sees: standard output and standard error, kept readable while jobs, notes and the prompt share them.

Owns three facts: whether the cursor stands at the start of a line (a prompt or note never starts in the middle of
one), whether a prompt is being edited (then text goes above it), and that text from a model or a file cannot move the
cursor or change the terminal's state: control characters are shown as ^X. Without a terminal text passes as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import anyio

from llmos.sdk.unwrapped import unwrapped

from .streams import FileSink

Above = Callable[[Callable[[], None]], Awaitable[None]]
"""Hides the prompt, calls the function, which prints, and draws the prompt again."""

END_OF_REPLY = "\x1e"
"""Ends a reply of the chat agent (RECORD SEPARATOR): sdk/prompt.py keeps it out of the reply. Its forks write it too."""

_TURNING = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
"""What ends a line without being a line feed, and what turns the direction in which the rest is read."""

VISIBLE = (
    {code: f"^{chr(code ^ 0x40)}" for code in (*range(0x20), 0x7F) if chr(code) not in "\n\t"}
    | dict.fromkeys((*range(0x80, 0xA0), *_TURNING), "?")
    | {ord(END_OF_REPLY): "\n"}
)
"""Control characters, those of Latin-1 too (0x9b begins a terminal sequence), and what is shown instead."""

ALL_VISIBLE = VISIBLE | {10: "^J", 9: "^I", 30: "^^"}
"""The same for what is one line of a list, and must not look like two."""

ERASE = "\r\x1b[K"
"""Takes away what is written on the line of the cursor."""

PROGRESS_DELAY = 0.15
"""Seconds before a progress line appears: what is done sooner needs none."""
PROGRESS_EVERY = 0.1


class Attended(Protocol):
    """Whoever's output a TerminalSink carries: in the foreground it comes as it is made, else in whole lines."""

    @property
    def foreground(self) -> bool: ...

    async def gate(self) -> None:
        """Wait while it is stopped."""
        ...


class Terminal:
    """The two output streams of this program."""

    def __init__(self, out: int = 1, err: int = 2, *, dumb: bool = False) -> None:
        self.out_fd, self.err_fd = out, err
        self.is_tty = os.isatty(out)
        self.err_is_tty = os.isatty(err)
        self.dumb = dumb
        self.above: Above | None = None
        """Set while a prompt is being edited."""
        self.at_line_start = True
        self._progress_shown = False
        self._out = FileSink(out, "standard output", owned=False)
        self._err = FileSink(err, "standard error", owned=False)

    async def write(self, text: str) -> None:
        """Output of a command. Text of any origin."""
        await self._put(self._out, text, self.is_tty)

    async def write_styled(self, text: str) -> None:
        """Output that this program has drawn itself, colours and all."""
        await self._put(self._out, text, False)

    async def error(self, text: str) -> None:
        """A message, in whole lines."""
        await self.fresh_line()
        await self._put(self._err, text if text.endswith("\n") else text + "\n", self.err_is_tty)

    async def fresh_line(self) -> None:
        """The cursor goes to the start of a line, if the output can be seen on the same screen."""
        if not self.at_line_start and self.is_tty and self.above is None:
            await self._put(self._out, "\n", False)

    async def prompt(self, text: str) -> None:
        """Ask for a line where nothing can edit it: on standard error, so that the output stays what commands wrote."""
        await self.fresh_line()
        await self._err.write(text)

    async def end_line(self) -> None:
        """After ^Z was typed: the next thing starts on a line of its own."""
        self.at_line_start = True
        await self._err.write("\n")

    async def _put(self, sink: FileSink, text: str, clean: bool) -> None:
        if not text:
            return
        if clean:
            text = text.translate(VISIBLE)
        if self.above is not None:
            await self.above(lambda: _print(sink.fd, text))
            return
        if self._progress_shown:  # it is drawn again below
            self._progress_shown = False
            await self._err.write(ERASE)
        self.at_line_start = text.endswith("\n")
        await sink.write(text)

    @asynccontextmanager
    async def progress(self, label: Callable[[], str]) -> AsyncIterator[None]:
        """While the body runs, a line such as `loading smollm2: 1.2 s` on standard error; gone afterwards."""
        if not self.err_is_tty or self.above is not None:
            yield
            return
        with unwrapped():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._show_progress, label)
                try:
                    yield
                finally:
                    tasks.cancel_scope.cancel()

    async def _show_progress(self, label: Callable[[], str]) -> None:
        await anyio.sleep(PROGRESS_DELAY)
        await self.fresh_line()
        if self.dumb:
            await self.error(label())
            return
        try:
            while True:
                self._progress_shown = True
                await self._err.write(f"{ERASE}{label().translate(VISIBLE)}")
                await anyio.sleep(PROGRESS_EVERY)
        finally:
            with anyio.CancelScope(shield=True):
                if self._progress_shown:
                    self._progress_shown = False
                    await self._err.write(ERASE)


def complain(program: str, message: object) -> None:
    """A message of a program that has no Terminal, not yet or not at all. What a model's files say is in some of them."""
    print(f"{program}: {message}".translate(VISIBLE), file=sys.stderr)


def abandon_closed_output() -> None:
    """If the reader of standard output is gone, nothing is left to flush, and nothing to complain of at exit."""
    if sys.stdout is None:  # started with it closed
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _print(fd: int, text: str) -> None:
    """Called between two drawings of the prompt, which has this thread to itself."""
    stream = sys.stdout if fd == sys.stdout.fileno() else sys.stderr
    stream.write(text)
    stream.flush()


class TerminalSink:
    """Output of one job on the terminal. What comes from the background comes in whole lines, the last at its end."""

    def __init__(self, terminal: Terminal, job: Attended) -> None:
        self._terminal = terminal
        self._job = job
        self._held = ""

    async def write(self, text: str) -> None:
        await self._job.gate()
        text = self._held + text
        self._held = ""
        if not self._job.foreground:
            line_end = text.rfind("\n") + 1
            text, self._held = text[:line_end], text[line_end:]
        await self._terminal.write(text)

    async def write_styled(self, text: str) -> None:
        """Whole lines that this program has drawn itself."""
        await self.finish()
        await self._terminal.write_styled(text)

    async def finish(self) -> None:
        """The last line, if it has no end of its own."""
        held, self._held = self._held, ""
        if held:
            await self._terminal.write(held if self._job.foreground else held + "\n")

    def close(self) -> None:
        """The terminal stays open for the next command."""


class ErrorSink:
    """Messages of a job: whole lines on standard error."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    async def write(self, text: str) -> None:
        await self._terminal.error(text)

    def close(self) -> None:
        """The terminal stays open for the next command."""
