"""Reads command lines where no prompt can be edited: from a pipe, a file, or a terminal without cursor control.

A reader gives one line at a time without its end, None at the end of input, and raises LineCancelled if Ctrl-C threw
the line away. No more is kept of a line than a command may have. prompt.py has the reader for people. Knows nothing of what
a line means.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import anyio

from .lexer import MOST_CHARACTERS, TOO_LONG
from .streams import FileSource
from .terminal import Terminal


class LineCancelled(Exception):
    """Ctrl-C: the line that was being read does not count."""


class LineTooLong(Exception):
    """The line has more characters than a command may have. Its rest is passed over."""


class Lines(Protocol):
    """Where command lines come from."""

    async def line(self, prompt: str) -> str | None: ...

    async def answer(self, question: str) -> str | None:
        """The same, of a line that is no command."""
        ...

    def offer(self, text: str) -> None:
        """The next line begins with this, where it can be edited."""
        ...

    def remember(self, line: str) -> None:
        """A line that was not typed but agreed to."""
        ...

    def cancel(self) -> None:
        """Ctrl-C came as a signal while a line was read."""
        ...


class FileLines:
    """Lines of a text, such as that of llmshrc."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self.number = 0
        """Lines read so far."""

    async def line(self, prompt: str) -> str | None:
        if self.number >= len(self._lines):
            return None
        self.number += 1
        return self._lines[self.number - 1].removesuffix("\r")

    async def answer(self, question: str) -> str | None:
        return None

    def offer(self, text: str) -> None:
        """Nothing can be edited here."""

    def remember(self, line: str) -> None:
        """There is no history here."""

    def cancel(self) -> None:
        """Nothing waits."""


class PlainLines:
    """Lines of a file descriptor. `prompts`: someone sees them, so say when a line is wanted, on standard error."""

    def __init__(self, fd: int, terminal: Terminal, *, prompts: bool) -> None:
        self._fd = fd
        self._terminal = terminal
        self._prompts = prompts
        self._source = FileSource(fd, "standard input", owned=False)
        self._lines: deque[str] = deque()
        """Whole lines that were read and not asked for yet."""
        self._begun: list[str] = []
        """What was read of the line after them."""
        self._length = 0
        """Characters of that line so far."""
        self._passing = False
        self._scope: anyio.CancelScope | None = None

    async def line(self, prompt: str) -> str | None:
        if self._prompts:
            await self._terminal.prompt(prompt)
        line: str | None = None
        with anyio.CancelScope() as self._scope:
            line = await self._next()
        if self._scope.cancelled_caught:
            self._lines.clear()
            self._begin()
            raise LineCancelled
        return line

    async def answer(self, question: str) -> str | None:
        return await self.line(question)

    def offer(self, text: str) -> None:
        """Nothing can be edited here."""

    def remember(self, line: str) -> None:
        """There is no history here."""

    async def _next(self) -> str | None:
        while not self._lines:
            text = await self._source.read()
            if not text:
                rest = "".join(self._begun)
                self._begin()
                if self._prompts:
                    self._source = FileSource(self._fd, "standard input", owned=False)  # a keyboard can go on after Ctrl-D
                return rest or None
            if self._passing:
                _, newline, text = text.partition("\n")
                self._passing = not newline
            *whole, rest = text.split("\n")
            if whole:
                self._lines.extend(("".join([*self._begun, whole[0]]), *whole[1:]))
                self._begin()
            self._begun.append(rest)
            self._length += len(rest)
            if self._length > MOST_CHARACTERS:
                self._begin(passing=True)
                raise LineTooLong(TOO_LONG)
        return self._lines.popleft().removesuffix("\r")

    def _begin(self, *, passing: bool = False) -> None:
        """A new line; `passing`: what comes up to its end belongs to one that was too long."""
        self._begun.clear()
        self._length, self._passing = 0, passing

    def cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
