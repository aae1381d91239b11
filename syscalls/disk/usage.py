"""Usage: how many bytes the files of one user take, and the lock under which they change.

    usage   locked while anything changes; holds the count
    alive   locked, shared, by every system that uses these files

What is to be written is reserved before a byte of it is, so that any number of writers at once stay within the quota. The count is
kept in a file because a daemon and a program that boots a system of its own may use one home together. It is counted anew when a
system begins that is the only one: whatever a crash left uncounted, or half written, is set right there.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmos.kernel.errno import QuotaExceeded

_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Usage:
    """Invariant, under the lock: the count is what the files take and what is reserved."""

    def __init__(self, root: int, quota: int) -> None:
        self.quota = quota
        self._mutex = threading.Lock()
        self._used = 0
        self._file = os.open("usage", _LOCK, 0o600, dir_fd=root)
        try:
            self._alive = os.open("alive", _LOCK, 0o600, dir_fd=root)
        except OSError:
            os.close(self._file)
            raise

    def begin(self, recount: Callable[[], int]) -> None:
        """Count anew, if no other system uses these files."""
        with self.changing():
            try:
                fcntl.flock(self._alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                self._used = recount()
            fcntl.flock(self._alive, fcntl.LOCK_SH)  # nobody else can hold it alone: that takes the other lock

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else changes these files meanwhile, in this process or another."""
        with self._mutex:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                before = self._used = int.from_bytes(os.pread(self._file, 8, 0), "big")
                try:
                    yield
                finally:
                    if self._used != before:
                        os.pwrite(self._file, self._used.to_bytes(8, "big"), 0)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def add(self, size: int) -> None:
        """Reserve so many bytes. Under the lock. Raises QuotaExceeded."""
        if self._used + size > self.quota:
            raise QuotaExceeded(
                f"{size} bytes more do not fit: {self._used} of {self.quota} are used, kept versions and removed files included; "
                "remove some with their versions, or raise LLMOS_FILES_QUOTA"
            )
        self._used += size

    def take(self, size: int) -> None:
        """So many bytes are free again. Under the lock."""
        self._used = max(0, self._used - size)

    @contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        """Reserve so many bytes for a body that takes the lock itself; they are free again if it fails."""
        with self.changing():
            self.add(size)
        try:
            yield
        except BaseException:
            with self.changing():
                self.take(size)
            raise

    def used(self) -> int:
        with self.changing():
            return self._used

    def close(self) -> None:
        os.close(self._file)
        os.close(self._alive)
