"""A queue of ready bursts in the order of their ranks: a binary heap with lazy deletion.

Pushing a burst again, to this queue or another, makes its older entries stale: the entry whose ticket the burst carries
is the valid one. A rank that has worsened since the push is found at the pop, and the burst is put back where it belongs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from .burst import Burst, State
from .policy import Rank


class Queue:
    __slots__ = ("_heap", "_most", "_rank", "_ticket")

    def __init__(self, rank: Callable[[Burst], Rank], ticket: Callable[[], int]) -> None:
        self._heap: list[tuple[Rank, int, Burst]] = []
        self._rank = rank
        self._ticket = ticket
        self._most = 64
        """Entries at which the stale ones are thrown out."""

    def push(self, burst: Burst) -> None:
        burst.ticket = self._ticket()
        heapq.heappush(self._heap, (self._rank(burst), burst.ticket, burst))
        if len(self._heap) > self._most:
            self._heap = [entry for entry in self._heap if entry[1] == entry[2].ticket and entry[2].state is State.READY]
            heapq.heapify(self._heap)
            self._most = max(64, 2 * len(self._heap))

    def pop(self) -> Burst | None:
        """The ready burst of the lowest rank, or None."""
        while self._heap:
            rank, ticket, burst = heapq.heappop(self._heap)
            if ticket != burst.ticket or burst.state is not State.READY:
                continue
            if self._rank(burst) > rank:
                self.push(burst)
                continue
            return burst
        return None

    def best(self) -> Rank | None:
        """The rank at the head, or None."""
        return self._heap[0][0] if self else None

    def __bool__(self) -> bool:
        """True if a ready burst is in it. Discards stale entries at the head."""
        heap = self._heap
        while heap and (heap[0][1] != heap[0][2].ticket or heap[0][2].state is not State.READY):
            heapq.heappop(heap)
        return bool(heap)

    def __len__(self) -> int:
        """Entries, stale ones included."""
        return len(self._heap)
