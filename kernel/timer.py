"""Timers: channels that are to be woken at a time.

Invariant: every timer that was set is on the heap until it has fired; one that was called off stays there as a stone, and stones are
never more than the live ones and a few. A timer says "look again", as every wakeup does. Knows no clock: callers pass times.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from .errno import Panic

_STONES = 64
"""More of them than of live timers are cleared away."""


class Timers:
    """All timers. A part of the kernel: see kernel.py."""

    def __init__(self, wake: Callable[[tuple[str, int]], None]) -> None:
        self._wake = wake
        self._timers: dict[int, tuple[str, int]] = {}
        """Live ones: number -> channel."""
        self._due: list[tuple[float, int]] = []
        self._timer_numbers = itertools.count(1).__next__

    def set_timer(self, at: float, channel: tuple[str, int]) -> int:
        """Wake a channel at a time; gives the number to call it off with."""
        number = self._timer_numbers()
        self._timers[number] = channel
        if len(self._due) > 2 * len(self._timers) + _STONES:
            self._due = [each for each in self._due if each[1] in self._timers]
            heapq.heapify(self._due)
        heapq.heappush(self._due, (at, number))
        return number

    def clear_timer(self, number: int) -> None:
        """Call a timer off. One that has fired is called off already."""
        self._timers.pop(number, None)

    def next_timer(self) -> float | None:
        """When the next live one fires."""
        while self._due and self._due[0][1] not in self._timers:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def fire(self, now: float) -> None:
        """Wake what is due."""
        while self._due and self._due[0][0] <= now:
            _, number = heapq.heappop(self._due)
            if (channel := self._timers.pop(number, None)) is not None:
                self._wake(channel)

    def check_timers(self) -> None:
        """Raises Panic."""
        numbers = [number for _, number in self._due]
        if len(set(numbers)) != len(numbers) or not self._timers.keys() <= set(numbers):
            raise Panic(f"{len(self._timers)} timers are set, and {len(numbers)} are on the heap")
