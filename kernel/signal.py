"""Signals: what one process can do to another without its consent, and when it takes effect.

INT   every burst of the process ends with what it has; what waits for a tool or an approval waits no more.
TERM  raised as Interrupted at the next call, or out of the one that sleeps; KILL follows after a grace period.
XCPU  the same as TERM, raised as QuotaExceeded: a limit was passed.
KILL  nothing of the process is planned again; its pages are free when the step in flight retires.
STOP  its bursts are held, its pages may be reclaimed. CONT undoes STOP.
"""

from __future__ import annotations

from enum import IntEnum


class Signal(IntEnum):
    INT = 2
    KILL = 9
    TERM = 15
    CONT = 18
    STOP = 19
    XCPU = 24
