"""The log of the system, as a person at the shell sees it: a line for each record, above the prompt.

    kernel's thread, workers --emit--> ring --the shell's loop--> Terminal.error

At a terminal a record is one line, the first of its message, since it comes in the middle of something else; all of it is in
the log that `llmsh 2> FILE` writes. Without a terminal nothing is cut. Records come in the order in which they were made.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from .streams import Closed
from .terminal import Terminal

LONGEST = 240
"""Characters of a line in a terminal."""
MOST_WAITING = 1_000
"""Records that wait to be written; then the oldest are dropped."""
PATIENCE = 1.0
"""Seconds that the end of the shell waits for a terminal that takes nothing."""


class _Lines(logging.Handler):
    """Takes records on any thread and hands their text to the loop it was made on."""

    def __init__(self, *, short: bool) -> None:
        super().__init__()
        self._short = short
        self._loop = asyncio.get_running_loop()
        self.waiting: deque[str] = deque(maxlen=MOST_WAITING)
        self.news = asyncio.Event()
        self.over = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - whoever logs must not fail for it; this is how handlers say so
            self.handleError(record)
            return
        self.waiting.append(f"llmos: {one_line(text) if self._short else text}")
        try:
            self._loop.call_soon_threadsafe(self.news.set)
        except RuntimeError:  # the loop is closed: nobody shows it any more
            pass


def one_line(text: str) -> str:
    """The first line of a record with what it raised, short enough for a terminal."""
    first, *others = text.strip().split("\n")
    raised = others[-1].strip() if others and not others[-1].startswith(" ") and "Traceback" in text else ""
    line = " ".join(f"{first} {raised}".split())
    if len(line) > LONGEST:
        line = f"{line[:LONGEST]}..."
    return f"{line} (the rest: llmsh 2> FILE)" if others or line.endswith("...") else line


@asynccontextmanager
async def shown_on(terminal: Terminal) -> AsyncIterator[None]:
    """While the body runs, what llmos logs appears on the terminal."""
    handler = _Lines(short=terminal.err_is_tty)
    log = logging.getLogger("llmos")
    log.addHandler(handler)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_show, handler, terminal)
        try:
            yield
        finally:
            log.removeHandler(handler)
            handler.over = True
            handler.news.set()
            tasks.cancel_scope.shield = True  # what was logged last, often on the way down, is shown too
            tasks.cancel_scope.deadline = anyio.current_time() + PATIENCE


async def _show(handler: _Lines, terminal: Terminal) -> None:
    while True:
        while handler.waiting:
            try:
                await terminal.error(handler.waiting.popleft())
            except (Closed, OSError):  # nobody reads standard error
                pass
        if handler.over:
            return
        await handler.news.wait()
        handler.news.clear()
