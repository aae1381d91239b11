"""Reads command lines where no prompt can be edited: from a pipe, a file, or a terminal without cursor control.

A reader gives one line at a time without its end, None at the end of input, and raises LineCancelled if Ctrl-C threw
the line away. prompt.py has the reader for people. Knows nothing of what a line means.
"""

from __future__ import annotations

from typing import Protocol

import anyio

from .streams import FileSource
from .terminal import Terminal


class LineCancelled(Exception):
    """Ctrl-C: the line that was being read does not count."""


class Lines(Protocol):
    """Where command lines come from."""

    async def line(self, prompt: str) -> str | None: ...

    def cancel(self) -> None:
        """Ctrl-C came as a signal while a line was read."""
        ...


class PlainLines:
    """Lines of a file descriptor. `prompts`: someone sees them, so say when a line is wanted, on standard error."""

    def __init__(self, fd: int, terminal: Terminal, *, prompts: bool) -> None:
        self._fd = fd
        self._terminal = terminal
        self._prompts = prompts
        self._source = FileSource(fd, "standard input", owned=False)
        self._held = ""
        self._scope: anyio.CancelScope | None = None

    async def line(self, prompt: str) -> str | None:
        if self._prompts:
            await self._terminal.prompt(prompt)
        line: str | None = None
        with anyio.CancelScope() as self._scope:
            line = await self._next()
        if self._scope.cancelled_caught:
            self._held = ""
            raise LineCancelled
        return line

    async def _next(self) -> str | None:
        while "\n" not in self._held:
            text = await self._source.read()
            if not text:
                rest, self._held = self._held, ""
                if self._prompts:
                    self._source = FileSource(self._fd, "standard input", owned=False)  # a keyboard can go on after Ctrl-D
                return rest or None
            self._held += text
        line, _, self._held = self._held.partition("\n")
        return line.removesuffix("\r")

    def cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
