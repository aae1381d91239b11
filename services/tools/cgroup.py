"""Control groups: a bound on the number of processes of a command that holds for root too.

The limit of processes that each process carries (RLIMIT_NPROC) is not applied to root of the machine, in whatever namespace. Who is root
may make control groups, though. Where there are none, nothing is bounded here, and the look of watch.py is all there is.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

ROOTS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))
"""Of version 1, and of version 2."""
_NUMBERS = count()
_SCRIPT = 'echo $$ > "$1" || exit 125; shift; exec "$@"'


class Group:
    """A control group of one command."""

    def __init__(self, place: Path) -> None:
        self._place = place

    @staticmethod
    def make(processes: int) -> Group | None:
        """A group that holds so many processes; None if this user is not root, or there are no such groups."""
        if os.geteuid() != 0:
            return None
        for root in ROOTS:
            place = root / f"llmos-{os.getpid()}-{next(_NUMBERS)}"
            try:
                place.mkdir()
            except OSError:
                continue
            try:
                (place / "pids.max").write_text(str(processes))
            except OSError:  # processes are not counted at this place
                place.rmdir()
                continue
            return Group(place)
        return None

    def around(self, argv: list[str]) -> list[str]:
        """The same command, which enters the group before it does anything else."""
        return ["sh", "-c", _SCRIPT, "sh", str(self._place / "cgroup.procs"), *argv]

    def remove(self) -> bool:
        """Give it back. False while there is still a process in it."""
        try:
            self._place.rmdir()
        except OSError:
            return False
        return True
