"""Cuts: text that is too long keeps its beginning and its end, and says between them how much is missing.

    head ... [... 9,999,000 bytes cut ...] ... tail

Sizes are bytes of UTF-8. What is kept and the mark are together at most the bound, if that has room for a mark at all. `Tail` does
the same for bytes that come in pieces, in memory of the bound. Part of the ABI: who makes a text cuts it, the kernel sees to it.
"""

from __future__ import annotations

from collections import deque

_MARK = 48
"""Bytes that a mark takes at most."""


def mark(missing: int) -> str:
    return f"\n[... {missing:,} bytes cut ...]\n"


def cut(text: str, most: int) -> tuple[str, int]:
    """The text, or its beginning and end with a mark between them; and how many bytes are missing."""
    if len(text) * 4 <= most:
        return text, 0
    data = text.encode(errors="replace")
    if len(data) <= most:
        return text, 0
    head, tail = _shares(most)
    return _joined(data[:head], data[len(data) - tail :], len(data) - head - tail)


def _shares(most: int) -> tuple[int, int]:
    """How much of the beginning is kept, and how much of the end: errors stand at the end, what it is about at the beginning."""
    room = max(0, most - _MARK)
    return room - room // 2, room // 2


def _joined(head: bytes, tail: bytes, missing: int) -> tuple[str, int]:
    first, last = head.decode(errors="ignore"), tail.decode(errors="ignore")  # half a character at a cut is no character
    missing += len(head) + len(tail) - len(first.encode()) - len(last.encode())
    return first + mark(missing) + last, missing


class Collected:
    """Bytes that come in pieces, of which the beginning and the end are kept."""

    def __init__(self, most: int) -> None:
        self._most, (self._head_room, self._tail_room) = most, _shares(most)
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._kept = 0
        self.total = 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self._most - len(self._head) if not self._tail else 0  # all of what fits, until it is known that not all does
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail.append(data)
            self._kept += len(data)
        while self._tail and self._kept - len(self._tail[0]) >= self._tail_room:
            self._kept -= len(self._tail.popleft())

    def text(self) -> tuple[str, int]:
        """What is kept, and how many bytes are missing. Bytes that are no text are shown as U+FFFD."""
        if self.total <= self._most:
            return (bytes(self._head) + b"".join(self._tail)).decode(errors="replace"), 0
        head = bytes(self._head[: self._head_room])
        last = bytes(self._head[self._head_room :]) + b"".join(self._tail)  # the first of these only counts if the second is short
        tail = last[len(last) - self._tail_room :]
        missing = self.total - len(head) - len(tail)
        return head.decode(errors="replace") + mark(missing) + tail.decode(errors="replace"), missing
