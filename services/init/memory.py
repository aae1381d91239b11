"""How much memory there is for pages."""

from __future__ import annotations

import os
from pathlib import Path

MOST = 4 << 30
LEAST = 64 << 20


def available_bytes() -> int:
    """Memory that can be used now without swapping, as far as the machine and this process's control group allow."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such control group, or "max": no bound
            continue
    return max(free, 0)


def tier_bytes(asked: int | None) -> int:
    """Bytes of one tier: as asked, else a quarter of what is available, within bounds."""
    return asked if asked is not None else max(LEAST, min(MOST, available_bytes() // 4))
