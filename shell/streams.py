"""Where a command reads its input and writes its output: text in pieces, "" at the end.

    < FILE  keyboard  another command            > FILE  terminal  another command
            FileSource  Channel                          FileSink   Channel
                    \\_____ command _____________________/

Files and keyboards speak UTF-8; a byte that is not is an error that says where it was, never a replaced character.
Waiting for a file descriptor never blocks the event loop and can be cancelled. Knows nothing of processes or jobs.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
from collections import deque
from typing import Protocol

import anyio
import anyio.lowlevel
import anyio.to_thread

PIECE = 65_536
"""Bytes read at once."""
WRITABLE = 4_096
"""Bytes that a pipe reported as writable takes without blocking (PIPE_BUF)."""
READER_EVERY = 0.05
"""Seconds between two looks whether a named pipe has a reader."""
CHANNEL = 65_536
"""Characters that a channel holds before its writer has to wait."""


class NotText(ValueError):
    """The bytes are not UTF-8. `reason` names the byte and where it was."""


class Closed(Exception):
    """Nobody is left to read what is written: the reader of the pipe has ended."""


class Source(Protocol):
    """What a command reads."""

    async def read(self) -> str:
        """The next piece of text, "" at the end and ever after."""
        ...

    def close(self) -> None: ...


class Sink(Protocol):
    """What a command writes to."""

    async def write(self, text: str) -> None:
        """Returns when all of `text` is taken. Raises Closed if nobody will read it."""
        ...

    def close(self) -> None: ...


class Empty:
    """Input that is at its end: what a command in the background of a script has."""

    async def read(self) -> str:
        return ""

    def close(self) -> None:
        """There is nothing to close."""


class FileSource:
    """Text from a file descriptor. Owns it if `owned`: then close() closes it."""

    def __init__(self, fd: int, name: str, *, owned: bool) -> None:
        self.fd = fd
        self.name = name
        self._owned = owned
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._offset = 0
        self._ended = False

    async def read(self) -> str:
        while not self._ended:
            await readable(self.fd)
            try:
                data = os.read(self.fd, PIECE)
            except BlockingIOError:  # another reader of it was quicker
                continue
            held = len(self._decoder.getstate()[0])  # the bytes of a character that was cut in two
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                self._ended = True
                at = self._offset - held + error.start
                raise NotText(f"{self.name}: not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset {at} [EILSEQ]") from None
            self._offset += len(data)
            self._ended = not data
            if text:
                return text
        return ""

    def close(self) -> None:
        if self._owned and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class FileSink:
    """Text to a file descriptor, one writer at a time. Owns it if `owned`."""

    def __init__(self, fd: int, name: str, *, owned: bool) -> None:
        self.fd = fd
        self.name = name
        self._owned = owned
        self._turn = anyio.Lock()

    async def write(self, text: str) -> None:
        left = memoryview(text.encode("utf-8", "replace"))
        async with self._turn:
            while left:
                await writable(self.fd)
                try:
                    left = left[os.write(self.fd, left[:WRITABLE]) :]
                except BlockingIOError:  # another writer to it was quicker
                    continue
                except BrokenPipeError:
                    raise Closed from None
                except OSError as error:
                    error.filename = self.name
                    raise

    def close(self) -> None:
        if self._owned and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Channel:
    """A pipe between two commands of the shell: both its ends. Holds CHANNEL characters, then the writer waits."""

    def __init__(self) -> None:
        self._pieces: deque[str] = deque()
        self._held = 0
        self._changed = anyio.Event()
        self.reading = True
        self.writing = True
        self.source = _ChannelSource(self)
        self.sink = _ChannelSink(self)

    async def put(self, text: str) -> None:
        while self.reading and self._held and self._held + len(text) > CHANNEL:
            await self._changed.wait()
        if not self.reading:
            raise Closed
        self._pieces.append(text)
        self._held += len(text)
        self.wake()

    async def take(self) -> str:
        while not self._pieces and self.writing:
            await self._changed.wait()
        text = "".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        self.wake()
        return text

    def wake(self) -> None:
        """Everyone who waits looks again. One event loop runs it all, so nothing changes between a look and the wait."""
        self._changed.set()
        self._changed = anyio.Event()


class _ChannelSource:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def read(self) -> str:
        return await self._channel.take()

    def close(self) -> None:
        self._channel.reading = False
        self._channel.wake()


class _ChannelSink:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def write(self, text: str) -> None:
        if text:
            await self._channel.put(text)

    def close(self) -> None:
        self._channel.writing = False
        self._channel.wake()


async def open_source(path: str) -> FileSource:
    """The text of a file of the host. Raises OSError, with the path in it.

    A named pipe is open at once, and its first read waits for a writer: a thread that waits in open() could not be cancelled.
    """
    fd = await anyio.to_thread.run_sync(os.open, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, abandon_on_cancel=True)
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return FileSource(fd, path, owned=True)


async def open_sink(path: str, *, append: bool) -> FileSink:
    """A file of the host to write to, emptied first unless `append`. Waits until a named pipe has a reader."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_APPEND if append else os.O_TRUNC)
    while True:
        try:
            fd = await anyio.to_thread.run_sync(os.open, path, flags, 0o666, abandon_on_cancel=True)
        except OSError as error:
            if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(path).st_mode):
                raise
            await anyio.sleep(READER_EVERY)  # nothing tells when somebody opens the other end
        else:
            return FileSink(fd, path, owned=True)


def describe(error: OSError) -> str:
    """An error of the host's files in the words of llmsh: what, why, errno."""
    code = errno.errorcode.get(error.errno or 0, "EIO")
    reason = error.strerror or str(error)
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return f"{where}{reason[:1].lower()}{reason[1:]} [{code}]"


async def readable(fd: int) -> None:
    """Until a read would not block. A regular file never blocks, and the event loop refuses to wait for one."""
    try:
        await anyio.wait_readable(fd)
    except PermissionError:
        await anyio.lowlevel.checkpoint()


async def writable(fd: int) -> None:
    """Until a write of WRITABLE bytes would not block."""
    try:
        await anyio.wait_writable(fd)
    except PermissionError:
        await anyio.lowlevel.checkpoint()
