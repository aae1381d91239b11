"""Descendants: every OS process below this one, found and killed.

A process that makes itself the reaper of its descendants (PR_SET_CHILD_SUBREAPER) inherits what its children leave behind: a double
fork into another session only comes nearer. So whoever kills all that is below it, again and again until it has no child left,
has killed everything but what runs as another user (setuid) or hangs in the machine's kernel. Knows nothing of runners.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Collection

_SET_PDEATHSIG, _SET_NAME, _SET_CHILD_SUBREAPER = 1, 15, 36

_LIBC = ctypes.CDLL(None, use_errno=True)


def inherit_orphans() -> None:
    """From now on descendants whose parents end become children of this process."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Be killed when the parent is. Ends this process if it is too late for that."""
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def call_oneself(name: str) -> None:
    """The name that ps and top show, as far as 15 bytes of it."""
    buffer = ctypes.create_string_buffer(name.encode()[:15] + b"\0")
    _LIBC.prctl(_SET_NAME, buffer, 0, 0, 0)


def _prctl(option: int, argument: int) -> None:
    if _LIBC.prctl(option, argument, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def children_of(pid: int) -> list[int]:
    """Children of every thread of a process; none if it is gone."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        for thread in threads:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def kill_below(spared: Collection[int] = ()) -> None:
    """SIGKILL to every descendant once. Those spared, and what is below them, live on."""
    waiting = [pid for pid in children_of(os.getpid()) if pid not in spared]
    while waiting:
        pid = waiting.pop()
        below = children_of(pid)  # before it dies: afterwards they are somebody else's
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # gone already; or runs as another user, which nothing here can help
            pass
        waiting += below


def end_all(seconds: float, ended: Callable[[int, int, float, int], None]) -> bool:
    """Kill and reap until no child is left; False if some outlive that. SIGCHLD must be blocked.

    `ended` is told of each child: its pid, its wait status, its seconds of CPU and its peak memory in bytes.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        kill_below()
        if not reap(ended):
            return True
        signal.sigtimedwait({signal.SIGCHLD}, 0.01)
    return False


def reap(ended: Callable[[int, int, float, int], None]) -> bool:
    """Reap every child that has ended. False if no child is left."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if not pid:
            return True
        ended(pid, status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10)
