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
    __slots__ = ("_heap", "_rank", "_ticket")

    def __init__(self, rank: Callable[[Burst], Rank], ticket: Callable[[], int]) -> None:
        self._heap: list[tuple[Rank, int, Burst]] = []
        self._rank = rank
        self._ticket = ticket

    def push(self, burst: Burst) -> None:
        burst.ticket = self._ticket()
        heapq.heappush(self._heap, (self._rank(burst), burst.ticket, burst))

    def pop(self) -> Burst | None:
        """The ready burst of the lowest rank, or None."""
        heap = self._heap
        while heap:
            rank, ticket, burst = heapq.heappop(heap)
            if ticket != burst.ticket or burst.state is not State.READY:
                continue
            if self._rank(burst) > rank:
                self.push(burst)
                continue
            return burst
        return None

    def __bool__(self) -> bool:
        """True if a ready burst is in it. Discards stale entries at the head."""
        heap = self._heap
        while heap and (heap[0][1] != heap[0][2].ticket or heap[0][2].state is not State.READY):
            heapq.heappop(heap)
        return bool(heap)

    def __len__(self) -> int:
        """Entries, stale ones included."""
        return len(self._heap)
