"""Streams: the ends of kernel pipes, as text.

A Reader gives what was written, in order, until every writer has closed; then the end. A Writer waits while the pipe is full.
Bytes in the pipe are UTF-8; half a character waits for its rest. A wait that is cancelled loses nothing: the read that was
under way is taken up by the next one. One task at a time reads a Reader; a second gets TryAgain. An end that is dropped is closed.

    pipe --read--> _bytes --decoder--> _text --> read, readline, async for          what is taken and not asked for yet waits
                  |                       |
                  +-----------------------+---> read_bytes
"""

from __future__ import annotations

import asyncio
from codecs import getincrementaldecoder
from collections.abc import AsyncIterator
from typing import Any

from llmos.syscalls.abi import BadHandle, Fault, InvalidArgument, Request, TooLong, TryAgain, param

from .arguments import encoded
from .port import Port, ignore

PIECE = 65_536
"""Bytes of a pipe that are asked for at once."""


class End:
    """One end of a pipe that a process holds."""

    def __init__(self, port: Port, pid: int, pipe: int, *, reads: bool) -> None:
        self._port, self.pid, self.pipe, self._reads = port, pid, pipe, reads
        self._open = True

    @property
    def closed(self) -> bool:
        return not self._open

    def _demand_open(self) -> None:
        if not self._open:
            raise BadHandle(f"this end of pipe {self.pipe} is closed, or was handed to another process")

    async def close(self) -> None:
        """Give up this end. Closing twice does nothing."""
        if self._open:
            self._open = False
            try:
                await self._port.call(self.pid, "close_pipe", pipe=self.pipe, read=self._reads, write=not self._reads)
            except Fault:  # its process has ended, and the kernel has closed it
                pass

    async def _share(self) -> None:
        self._demand_open()
        await self._port.call(self.pid, "share_pipe", pipe=self.pipe, read=self._reads, write=not self._reads)

    def let_go(self) -> None:
        """Give up this end without waiting."""
        if self._open:
            self._open = False
            _, slot = self._port.request(self.pid, "close_pipe", {"pipe": self.pipe, "read": self._reads, "write": not self._reads})
            slot.future.add_done_callback(ignore)

    def forget(self) -> None:
        """The kernel has closed it already."""
        self._open = False

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            self._open = False
            self._port.later(self.pid, "close_pipe", {"pipe": self.pipe, "read": self._reads, "write": not self._reads})


class Reader(End):
    """The read end. ``async for piece in reader`` gives text as it comes; ``reader.lines()`` whole lines."""

    def __init__(self, port: Port, pid: int, pipe: int) -> None:
        super().__init__(port, pid, pipe, reads=True)
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")
        self._bytes, self._text = b"", ""
        self._ended = self._busy = False
        self._request: tuple[Request, asyncio.Future[Any]] | None = None

    async def read_bytes(self, most: int = PIECE) -> bytes:
        """What is there, at most `most` bytes, waiting while there is nothing; empty at the end."""
        if not isinstance(most, int) or not 1 <= most <= param.MAX_BYTES:
            raise InvalidArgument(f"read_bytes: most must be a number of bytes from 1 to {param.MAX_BYTES}")
        if not self._busy:  # what was read as text and is left over comes first
            half, _ = self._decoder.getstate()
            self._decoder.reset()
            self._bytes, self._text = self._text.encode() + half + self._bytes, ""
        return await self._take(most)

    async def _take(self, most: int) -> bytes:
        if self._busy:
            raise TryAgain("another task reads this end of the pipe: let one task read it, or share() it")
        if not self._bytes and not self._ended:
            self._busy = True
            try:
                self._bytes = await self._fetch(most)
            finally:
                self._busy = False
        data, self._bytes = self._bytes[:most], self._bytes[most:]
        return data

    async def _fetch(self, most: int) -> bytes:
        """Ask the pipe, or go on with what was asked by a wait that was cancelled: that may bring more than `most`."""
        if self._request is None:
            self._demand_open()
            request, slot = self._port.request(self.pid, "read", {"pipe": self.pipe, "most": most})
            slot.future.add_done_callback(ignore)  # nobody may come back for it
            self._request = (request, slot.future)
        future = self._request[1]
        try:
            data: bytes = (await asyncio.shield(future)).data
        except Fault:
            self._request = None
            raise
        self._request = None  # and not when the wait is cancelled, not even if the answer is there already: it would be lost
        if not data:
            self._ended = True
            await self.close()
        return data

    async def read_some(self) -> str:
        """The next piece of text, waiting while there is none; empty at the end."""
        if self._text:
            text, self._text = self._text, ""
            return text
        while self._bytes or not self._ended:
            if text := self._decoder.decode(await self._take(PIECE)):
                return text
        return self._decoder.decode(b"", final=True)

    async def read(self) -> str:
        """Everything up to the end."""
        parts = []
        try:
            while piece := await self.read_some():
                parts.append(piece)
        except BaseException:
            self._text = "".join(parts)  # nothing is lost to a wait that was cancelled
            raise
        return "".join(parts)

    async def readline(self, most: int | None = None) -> str:
        """The next line with its newline; without one at the end of the file; empty after that.

        Raises TooLong as soon as the line has more than `most` characters; what was read of it is lost.
        """
        parts: list[str] = []
        length = 0
        while True:
            try:
                piece = await self.read_some()
            except BaseException:
                self._text = "".join(parts)  # as in read
                raise
            before, newline, after = piece.partition("\n")
            parts.append(before + newline)
            length += len(before)
            if most is not None and length > most:
                raise TooLong(f"a line of the input has more than {most} characters; break it up")
            if newline or not piece:
                self._text = after
                return "".join(parts)

    async def lines(self) -> AsyncIterator[str]:
        """Lines without their newlines, until the end."""
        while line := await self.readline():
            yield line.removesuffix("\n")

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> str:
        piece = await self.read_some()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def share(self) -> Reader:
        """A second handle on this end: the end is closed when both are. What this one has taken from the pipe stays with it."""
        await self._share()
        return Reader(self._port, self.pid, self.pipe)

    async def close(self) -> None:
        pending, self._request = self._request, None
        if pending is not None:
            self._port.cancel(pending[0])
            pending[1].add_done_callback(ignore)
        await super().close()


class Writer(End):
    """The write end."""

    def __init__(self, port: Port, pid: int, pipe: int) -> None:
        super().__init__(port, pid, pipe, reads=False)

    async def write(self, text: str | bytes) -> None:
        """Write all of it, waiting while the pipe is full. Raises BrokenPipe when nobody is left to read."""
        self._demand_open()
        data = encoded(text, "what is written")
        for start in range(0, len(data), param.MAX_BYTES):
            await self._port.call(self.pid, "write", pipe=self.pipe, data=data[start : start + param.MAX_BYTES])

    async def share(self) -> Writer:
        """A second handle on this end: readers see the end of the file when both are closed."""
        await self._share()
        return Writer(self._port, self.pid, self.pipe)


def ends_of(stdin: object, stdout: object, stderr: object) -> dict[str, Reader | Writer]:
    """The ends of pipes among what was given for a child's streams."""
    ends: dict[str, Reader | Writer] = {}
    if isinstance(stdin, Reader):
        ends["stdin"] = stdin
    for key, end in (("stdout", stdout), ("stderr", stderr)):
        if isinstance(end, Writer):
            ends[key] = end
        elif end is not None:
            raise InvalidArgument(f"{key} must be the write end of a pipe, not a {type(end).__name__}; make one with pipe()")
    return ends
