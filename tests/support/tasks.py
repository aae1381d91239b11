"""The threads of this process as the system counts them, native ones included."""

from __future__ import annotations

import time
from pathlib import Path

Tasks = frozenset[str]


def tasks() -> Tasks:
    """Their ids: of those that run, and of those already joined that the system still lists."""
    return frozenset(entry.name for entry in Path("/proc/self/task").iterdir())


def begun_since(before: Tasks, *, left: int, patience: float = 10.0) -> Tasks:
    """Those not among `before`, once at most `left` of them are listed, or after `patience` seconds.

    A join returns when the thread has let go of its memory, which is before its entry goes (`do_exit` of Linux), and on a
    busy machine well before.
    """
    end = time.monotonic() + patience
    while len(found := tasks() - before) > left and time.monotonic() < end:
        time.sleep(0.001)
    return found
