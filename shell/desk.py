"""The keyboard as one job reads it: only while it is in front. In the background a read waits, as one of sh's would be stopped.

    attending --give--> [desk] --read--> the job's command        Ctrl-Z, or another job in front --take_away-->

Ctrl-D ends the input of a job in front; for one that is only talked to (`chat`) it ends the talk, and the job reads on another
day. What was typed and not read yet stays in the terminal, for whoever reads next. Knows nothing of jobs.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from .streams import Source


class Desk:
    """A place at the keyboard, which is free at times."""

    def __init__(self, typed: Callable[[], None]) -> None:
        self._typed = typed
        """Called whenever something was typed."""
        self._keyboard: Source | None = None
        self._given = anyio.Event()
        self._reading: anyio.CancelScope | None = None
        self._closes = True
        self._ended = False
        self.wanted = anyio.Event()
        """Set when somebody reads here."""
        self.left = anyio.Event()
        """Set when Ctrl-D ended a talk."""

    @property
    def ended(self) -> bool:
        """Ctrl-D has ended the input: nothing that is typed reaches it any more."""
        return self._ended

    def give(self, keyboard: Source, *, closes: bool = True) -> None:
        """The keyboard is its now. `closes`: Ctrl-D ends the input, not only the talk."""
        self.take_away()
        self._keyboard, self._closes, self.left = keyboard, closes, anyio.Event()
        self._given.set()

    def take_away(self) -> None:
        """The keyboard is somebody else's; a read goes on when it is given back."""
        self._keyboard = None
        if self._given.is_set():  # whoever waits for it waits for this one
            self._given = anyio.Event()
        if self._reading is not None:
            self._reading.cancel()

    async def read(self) -> str:
        self.wanted.set()
        while not self._ended:
            await self._given.wait()
            if self._keyboard is None:
                continue
            text: str | None = None
            with anyio.CancelScope() as self._reading:
                text = await self._keyboard.read()
            self._reading = None
            if text:
                self._typed()
                return text
            if text is not None and self._closes:
                self._ended = True
            elif text is not None:
                self.take_away()
                self.left.set()
        return ""

    def close(self) -> None:
        """Its reader has ended."""
        self._ended = True
        self.take_away()
