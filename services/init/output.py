"""Output: what programs in runners write, on its way to a pipe, or from a pipe nobody else reads into a file.

    print() of a program -> its supervisor -> Output -> the process's pipe       one piece at a time: no more is asked for until it is in
    the pipe of a detached process -> Spool -> a file in /output                 the last SPOOL_BYTES of it, and as much before

Both are system calls of init, made on the kernel's thread like anybody's. Files are written elsewhere.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from llmos.kernel.errno import Fault
from llmos.syscalls.abi import Data, Piece, Request, Written
from llmos.syscalls.trap import Trap

from .thread import KernelThread

log = logging.getLogger("llmos.init")

INIT = 1
SPOOL_BYTES = 4 << 20
"""Bytes of a file, from which on it is put aside for a new one; the one put aside before is lost."""
SPOOL_FILES = 256
"""Files that are kept, the newest."""


class _Calls:
    """Calls of init, one after another. A sink."""

    def __init__(self, trap: Trap, thread: KernelThread) -> None:
        self._trap, self._thread = trap, thread
        self._sequence = 0

    def _make(self, name: str, arguments: dict[str, Any]) -> None:
        """In a breath of its own: this may be the end of the call before."""
        self._sequence += 1
        request = Request(INIT, name, arguments, f"output.{id(self)}", self._sequence, self)
        self._thread.post(lambda: self._trap.enter(request))

    def push(self, piece: Piece) -> None:
        pass

    def finish(self, result: Any) -> None:
        pass

    def fail(self, fault: Fault) -> None:
        pass


class Output(_Calls):
    """One stream of a program's OS process into a pipe of which init holds a write end."""

    def __init__(self, trap: Trap, thread: KernelThread, pipe: int, more: Callable[[], None]) -> None:
        super().__init__(trap, thread)
        self._pipe, self._more = pipe, more
        self._waiting: deque[bytes | None] = deque()
        """None: close it."""
        self._busy = self._deaf = False

    def write(self, data: bytes) -> None:
        """Write all of it, some time. More is asked for when it is in the pipe."""
        self._waiting.append(data)
        self._go_on()

    def close(self) -> None:
        """There is no more; the pipe is closed when what was written is in."""
        self._waiting.append(None)
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and not self._busy:
            data = self._waiting.popleft()
            if data is None:
                self._busy = True  # for ever: it is closed
                self._make("close_pipe", {"pipe": self._pipe, "write": True})
            elif self._deaf:  # nobody reads: it is lost, as in any pipe
                self._more()
            else:
                self._busy = True
                self._make("write", {"pipe": self._pipe, "data": data})

    def finish(self, result: Any) -> None:
        if isinstance(result, Written):
            self._busy = False
            self._more()
            self._go_on()

    def fail(self, fault: Fault) -> None:
        if not self._deaf:
            self._deaf = True
            self.finish(Written(0))


class Spool:
    """The output of a detached process, in a file that does not grow without end."""

    def __init__(self, trap: Trap, thread: KernelThread, folder: Path, name: str, pipes: list[int]) -> None:
        safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        self.path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{safe}.log"
        self._writing = threading.Lock()
        self._broken = False
        thread.elsewhere(self._create, lambda value, fault: self._tap(trap, thread, pipes))

    def _tap(self, trap: Trap, thread: KernelThread, pipes: list[int]) -> None:
        for pipe in pipes:
            _Tap(trap, thread, self, pipe).read()

    # --- elsewhere

    def _create(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            files = sorted(self.path.parent.glob("*.log*"))
            for old in files[: max(0, len(files) - SPOOL_FILES)]:
                old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be made: %s", self.path.parent, error)
        self.append(b"")

    def append(self, data: bytes) -> None:
        """Add to the file. What a disk does not take is lost: the process goes on."""
        with self._writing:
            try:
                descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                try:
                    os.write(descriptor, data)
                    full = os.fstat(descriptor).st_size >= SPOOL_BYTES
                finally:
                    os.close(descriptor)
                if full:
                    self.path.replace(self.path.with_suffix(".log.old"))
            except OSError as error:
                if not self._broken:
                    self._broken = True
                    log.warning("output is lost: %s: %s", self.path, error)


class _Tap(_Calls):
    """One pipe that is read into the file, until its end."""

    def __init__(self, trap: Trap, thread: KernelThread, spool: Spool, pipe: int) -> None:
        super().__init__(trap, thread)
        self._spool, self._pipe = spool, pipe

    def read(self) -> None:
        self._make("read", {"pipe": self._pipe})

    def finish(self, result: Any) -> None:
        if isinstance(result, Data) and result.data:
            self._thread.elsewhere(partial(self._spool.append, result.data), lambda value, fault: self.read())
        elif isinstance(result, Data):
            self._make("close_pipe", {"pipe": self._pipe, "read": True})
