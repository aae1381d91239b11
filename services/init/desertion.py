"""Desertion: whether anybody still uses a daemon that nobody asked for by name. On the kernel's thread."""

from __future__ import annotations

import time
from collections.abc import Callable

from llmos.syscalls.endpoint import Endpoint

from .thread import KernelThread

LOOKS = 10
"""Looks in the time after which it is told."""


class Desertion:
    """Tells once, when there was neither a client nor a process for so many seconds."""

    def __init__(self, thread: KernelThread, endpoint: Endpoint, seconds: float, tell: Callable[[], None]) -> None:
        self._thread, self._endpoint, self._seconds, self._tell = thread, endpoint, seconds, tell
        self._last = time.monotonic()

    def look(self) -> None:
        """Look now, and again."""
        now = time.monotonic()
        if not self._endpoint.deserted:
            self._last = now
        elif now - self._last >= self._seconds:
            self._tell()
            return
        self._thread.after(self._seconds / LOOKS, self.look)
