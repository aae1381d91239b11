"""Server-sent events out of bytes that come in any cut: the data of each event, as the WHATWG's HTML standard says.

Invariant: what is held is at most MAX_EVENT bytes and a read. Comments and fields other than data are skipped. Work is in
proportion to the bytes, however they are cut. Knows nothing of what the data means.
"""

from __future__ import annotations

from typing import Final

from llmos.kernel.errno import DeviceFailed

MAX_EVENT: Final = 1 << 20
"""Bytes of one line, and of the data of one event."""


class Events:
    """The scanner of one stream."""

    __slots__ = ("_data", "_held", "_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        """A line that has begun."""
        self._held = 0
        self._data: list[bytes] = []
        """Data lines of an event that has begun."""
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that the chunk completes. Raises DeviceFailed over MAX_EVENT."""
        *lines, rest = chunk.split(b"\n")
        found: list[bytes] = []
        for line in lines:
            if self._parts:
                line = b"".join((*self._parts, line))
                self._parts.clear()
                self._held = 0
            self._line(line.removesuffix(b"\r"), found)
        if rest:
            self._held += len(rest)
            _demand(self._held)
            self._parts.append(rest)
        return found

    def _line(self, line: bytes, found: list[bytes]) -> None:
        _demand(len(line))
        if line.startswith(b"data:"):
            data = line[6:] if line[5:6] == b" " else line[5:]
            self._size += len(data) + 1
            _demand(self._size)
            self._data.append(data)
        elif not line and self._data:
            found.append(b"\n".join(self._data))
            self._data.clear()
            self._size = 0


def _demand(size: int) -> None:
    if size > MAX_EVENT:
        raise DeviceFailed(f"the endpoint sent a line or an event of more than {MAX_EVENT} bytes: is it an OpenAI-compatible endpoint?")
