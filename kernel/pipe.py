"""Pipes: a bounded queue of bytes between processes.

Invariants: 0 <= len(buffer) <= capacity; written - taken = len(buffer). Reading an empty pipe with writers, and
writing a full pipe with readers, is TryAgain: the caller sleeps until the pipe is woken. Knows nothing of text.

A pipe is charged to its maker and up the tree until it is gone. Nobody, with all it has spawned, may have made more pipes than are
left, so that newcomers always find some (dynamic thresholds, Choudhury and Hahne 1998, with alpha = 1).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from .errno import BadHandle, BrokenPipe, InvalidArgument, NotPermitted, QuotaExceeded, TryAgain
from .param import Params
from .process import Process
from .table import ProcessTable


@dataclass(slots=True)
class Pipe:
    number: int
    capacity: int
    maker: Process = field(repr=False)
    """Who is charged for it, whoever holds its ends."""
    readers: int = 0
    writers: int = 0
    buffer: bytearray = field(default_factory=bytearray)
    written: int = 0
    """Bytes ever written: the offset of the write end."""
    taken: int = 0
    """Bytes ever read: the offset of the read end."""

    def read(self, most: int) -> bytes:
        """Up to `most` bytes; empty at end of file, which is when it is drained and no writer is left."""
        if not self.buffer:
            if self.writers:
                raise TryAgain(f"pipe {self.number} is empty; wait until it is written")
            return b""
        data = bytes(self.buffer[:most])
        del self.buffer[:most]
        self.taken += len(data)
        return data

    def write(self, data: bytes | memoryview) -> int:
        """Take as much of `data` as fits, at least one byte."""
        if not self.readers:
            raise BrokenPipe(f"nobody reads pipe {self.number} any more; stop writing to it")
        room = self.capacity - len(self.buffer)
        if data and not room:
            raise TryAgain(f"pipe {self.number} is full; wait until it is read")
        self.buffer += data[:room]
        count = min(room, len(data))
        self.written += count
        return count


class Plumbing:
    """All pipes, and who holds which of their ends. A part of the kernel: see kernel.py."""

    def __init__(self, table: ProcessTable, params: Params, wake: Callable[[tuple[str, int]], None]) -> None:
        self.table, self.params, self._wake = table, params, wake
        self.pipes: dict[int, Pipe] = {}
        self._pipe_numbers = itertools.count(1).__next__

    def pipe(self, now: float, pid: int, capacity: int = 65_536) -> int:
        """A new pipe; the process holds one read end and one write end."""
        process = self.table.get(pid)
        if not 1 <= capacity <= self.params.max_pipe_bytes:
            raise InvalidArgument(f"a pipe holds 1 to {self.params.max_pipe_bytes} bytes, not {capacity}")
        free = self.params.max_pipes - len(self.pipes)
        if not free:
            raise TryAgain(f"there are {len(self.pipes)} pipes, the most there may be; close some")
        for above in process.lineage():
            if above is not self.table.init and above.usage.tree_pipes >= free:
                raise QuotaExceeded(f"pid {above.pid} and those it has spawned have made as many pipes as are left: {free}; close some")
        pipe = Pipe(self._pipe_numbers(), capacity, process)
        self.pipes[pipe.number] = pipe
        self._charge_pipes(process, 1)
        self._hold(process, pipe, 1, 1)
        return pipe.number

    def _charge_pipes(self, maker: Process, pipes: int) -> None:
        for process in maker.lineage():
            process.usage.tree_pipes += pipes

    def _pipe(self, number: int) -> Pipe:
        if number not in self.pipes:
            raise BadHandle(f"there is no pipe {number}")
        return self.pipes[number]

    def _hold(self, process: Process, pipe: Pipe, readers: int, writers: int) -> None:
        pipe.readers += readers
        pipe.writers += writers
        for ends, more in ((process.readers, readers), (process.writers, writers)):
            count = ends.get(pipe.number, 0) + more
            if count:
                ends[pipe.number] = count
            else:
                ends.pop(pipe.number, None)

    def pipe_give(self, now: float, giver: int, pid: int, number: int, *, read: bool = False, write: bool = False) -> None:
        """Give another process ends of a pipe of which the giver holds the same ends."""
        source, process, pipe = self.table.get(giver), self.table.get(pid), self._pipe(number)
        if (read and number not in source.readers) or (write and number not in source.writers):
            raise NotPermitted(f"pid {giver} does not hold the ends of pipe {number} that it would give away")
        self._hold(process, pipe, int(read), int(write))

    def pipe_close(self, now: float, pid: int, number: int, *, read: bool = False, write: bool = False) -> None:
        """Close one end. With the last end the pipe and what is in it are gone."""
        process = self.table.get(pid)
        self._pipe(number)
        if (read and number not in process.readers) or (write and number not in process.writers):
            raise BadHandle(f"pid {pid} does not hold that end of pipe {number}")
        self._close_ends(process, number, int(read), int(write))

    def _close_ends(self, process: Process, number: int, readers: int, writers: int) -> None:
        pipe = self.pipes[number]
        self._hold(process, pipe, -readers, -writers)
        if not pipe.readers and not pipe.writers:
            del self.pipes[number]
            self._charge_pipes(pipe.maker, -1)
        self._wake(("pipe", number))

    def read(self, now: float, pid: int, number: int, most: int = 65_536) -> bytes:
        """See Pipe.read. Raises TryAgain: sleep on ("pipe", number)."""
        if number not in self.table.get(pid).readers:
            raise BadHandle(f"pid {pid} cannot read pipe {number}")
        if most < 1:
            raise InvalidArgument(f"cannot read {most} bytes; ask for at least 1")
        data = self.pipes[number].read(most)
        if data:
            self._wake(("pipe", number))
        return data

    def write(self, now: float, pid: int, number: int, data: bytes | memoryview) -> int:
        """See Pipe.write. Raises TryAgain: sleep on ("pipe", number)."""
        if number not in self.table.get(pid).writers:
            raise BadHandle(f"pid {pid} cannot write pipe {number}")
        count = self.pipes[number].write(data)
        if count:
            self._wake(("pipe", number))
        return count
