"""A queue of bursts in one state, ready ones mostly, in the order of their ranks: a binary heap with lazy deletion.

Pushing a burst again, to this queue or another, makes its older entries stale: the entry whose ticket the burst carries
is the valid one, while the burst is in the state that the queue is for. A rank that has worsened since the push is found at
the pop, and the burst is put back where it belongs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from .burst import Burst, State
from .policy import Rank


class Queue:
    __slots__ = ("_heap", "_most", "_rank", "_state", "_ticket")

    def __init__(self, rank: Callable[[Burst], Rank], ticket: Callable[[], int], state: State = State.READY) -> None:
        self._heap: list[tuple[Rank, int, Burst]] = []
        self._rank, self._ticket, self._state = rank, ticket, state
        self._most = 64
        """Entries at which the stale ones are thrown out."""

    def push(self, burst: Burst) -> None:
        burst.ticket = self._ticket()
        heapq.heappush(self._heap, (self._rank(burst), burst.ticket, burst))
        if len(self._heap) > self._most:
            self._heap = [entry for entry in self._heap if entry[1] == entry[2].ticket and entry[2].state is self._state]
            heapq.heapify(self._heap)
            self._most = max(64, 2 * len(self._heap))

    def pop(self) -> Burst | None:
        """The burst of the lowest rank, or None."""
        while self._heap:
            rank, ticket, burst = heapq.heappop(self._heap)
            if ticket != burst.ticket or burst.state is not self._state:
                continue
            if self._rank(burst) > rank:
                self.push(burst)
                continue
            return burst
        return None

    def head(self) -> Burst | None:
        """The same, left where it is."""
        burst = self.pop()
        if burst is not None:
            self.push(burst)
        return burst

    def absorb(self, other: Queue) -> None:
        """Take over whatever is in another queue, which is empty then. Costs less than to push one by one."""
        self._heap += other._heap
        other._heap.clear()
        heapq.heapify(self._heap)

    def best(self) -> Rank | None:
        """The rank at the head, or None."""
        return self._heap[0][0] if self else None

    def __bool__(self) -> bool:
        """True if a burst is in it. Discards stale entries at the head."""
        heap = self._heap
        while heap and (heap[0][1] != heap[0][2].ticket or heap[0][2].state is not self._state):
            heapq.heappop(heap)
        return bool(heap)

    def __len__(self) -> int:
        """Entries, stale ones included."""
        return len(self._heap)
