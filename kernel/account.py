"""Accounting: where the wall time of a process went. The parts add up to the whole, by construction.

Several things go on in a process at once (two bursts, a tool, its own code). Each moment is charged to exactly one
activity, the first in the order of `Activity` that is going on; `own` is what is left. Knows no clock: callers pass `now`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class Activity(IntEnum):
    """In order of precedence."""

    PREFILL = 0
    DECODE = 1
    PAGING = 2
    QUEUED = 3
    TOOL = 4
    BLOCKED = 5
    OWN = 6


@dataclass(slots=True)
class Account:
    """Seconds per activity, and seconds per cause of delay."""

    since: float
    seconds: list[float] = field(default_factory=lambda: [0.0] * len(Activity))
    going_on: list[int] = field(default_factory=lambda: [0] * len(Activity))
    current: int = Activity.OWN
    causes: dict[str, float] = field(default_factory=dict)

    def settle(self, now: float) -> None:
        """Charge the time since the last change to what was going on. Time never runs backwards here."""
        if now > self.since:
            self.seconds[self.current] += now - self.since
            self.since = now

    def enter(self, activity: int, now: float) -> None:
        self.going_on[activity] += 1
        if activity < self.current:
            self.settle(now)
            self.current = activity

    def leave(self, activity: int, now: float) -> None:
        self.going_on[activity] -= 1
        if activity == self.current and not self.going_on[activity]:
            self.settle(now)
            self.current = next((a for a in range(activity + 1, Activity.OWN) if self.going_on[a]), Activity.OWN)

    def blame(self, cause: str, seconds: float, most: int) -> None:
        """Charge a delay to a cause; beyond `most` causes, to "other"."""
        if seconds <= 0:
            return
        if cause not in self.causes and len(self.causes) >= most:
            cause = "other"
        self.causes[cause] = self.causes.get(cause, 0.0) + seconds
