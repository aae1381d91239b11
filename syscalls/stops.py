"""Stop strings: find the first in a text that comes in pieces, holding back what could become one.

    pieces    "abc E"   "N"   "D of"        stop = "END"
    given      "abc "    ""    ""           the match begins at "END": nothing from there on is ever given

Invariant: what was given plus what is held is the text so far, and the held part is the longest end of it that begins a
stop string. Work per piece is bounded by the number and length of the stop strings.
"""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """The scanner of one reply."""

    __slots__ = ("_held", "_longest", "_stops", "matched")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.matched: str | None = None

    def push(self, piece: str) -> str:
        """The text that is certain to come before any stop string. After a match, nothing."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return piece
        text = self._held + piece
        found = min(((at, stop) for stop in self._stops if (at := text.find(stop)) >= 0), default=None)
        if found is not None:
            at, self.matched = found
            self._held = ""
            return text[:at]
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            tail = text[at:]
            if any(stop.startswith(tail) for stop in self._stops):
                self._held = tail
                return text[:at]
        self._held = ""
        return text

    def flush(self) -> str:
        """What is held, once the reply has ended without a match."""
        held, self._held = self._held, ""
        return held
