"""Alarms: channels to wake at a time. What sleeps with a deadline sets one, and takes it back if it wakes before.

One alarm for each channel, the last that was set. Invariant: the heap holds every alarm that is set, and fewer than twice as many
entries as there are alarms, and some. Knows no clock: callers pass `now`.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TypeAlias

Channel: TypeAlias = tuple[str, int]

_SPARE = 64
"""Entries of alarms that were taken back, which are not worth a clean-up."""


@dataclass(slots=True)
class Alarms:
    """See the module."""

    _set: dict[Channel, float] = field(default_factory=dict)
    _heap: list[tuple[float, Channel]] = field(default_factory=list)

    def set(self, at: float, channel: Channel) -> None:
        self._set[channel] = at
        heapq.heappush(self._heap, (at, channel))
        self._tidy()

    def unset(self, channel: Channel) -> None:
        """Take an alarm back; does nothing if there is none."""
        if self._set.pop(channel, None) is not None:
            self._tidy()

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._set) + _SPARE:
            self._heap = [(at, channel) for channel, at in self._set.items()]
            heapq.heapify(self._heap)

    def next(self) -> float | None:
        """When the first is due; of one that was taken back perhaps, which is no harm."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[Channel]:
        """Take those off whose time has come."""
        found: list[Channel] = []
        while self._heap and self._heap[0][0] <= now:
            at, channel = heapq.heappop(self._heap)
            if self._set.get(channel) == at:
                del self._set[channel]
                found.append(channel)
        return found
