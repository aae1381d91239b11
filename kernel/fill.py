"""Fills: pages being computed that others need too.

A burst that starts to prefill claims the keys of the full pages it is going to compute. A burst that needs a claimed
page waits for it instead of computing it again, and donates its rank: the owner runs at its own or at the best of those who
wait, whichever is better (priority inheritance, Sha et al. 1990). When the page is sealed its waiters go on; when the owner is
held, preempted or dies, its claims are released and the first waiter to be planned takes over. Invariant: every claim has one
living owner that lists it; every waiter awaits a claimed key, and is in the queue of its owner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .burst import Burst, State
from .policy import Rank
from .queue import Queue


@dataclass(slots=True)
class Fill:
    owner: Burst
    waiters: dict[Burst, None] = field(default_factory=dict)
    """In the order of their coming."""


class Fills:
    """The claims on one device."""

    __slots__ = ("_donors", "_rank", "_ticket", "claimed")

    def __init__(self, rank: Callable[[Burst], Rank], ticket: Callable[[], int]) -> None:
        self.claimed: dict[bytes, Fill] = {}
        self._donors: dict[Burst, Queue] = {}
        """Owner -> all who wait for a page of it."""
        self._rank, self._ticket = rank, ticket

    def awaited(self, burst: Burst) -> bytes | None:
        """The last page of those, from its next one on, that one other burst fills for this one too; None if there is none.

        Waking at each of them would be for nothing. Where tokens are equal keys are, so they are copied, not hashed again.
        """
        mine, slots = burst.context, burst.context.slots
        key = mine.following()
        if key is None or (fill := self.claimed.get(key)) is None or fill.owner is burst:
            return None
        theirs, first = fill.owner.context, mine.computed // slots + 1
        end = first
        most = min(len(mine.tokens) // slots, len(theirs.keys))
        while end < most and (at := self.claimed.get(theirs.keys[end])) is not None and at.owner is fill.owner:
            end += 1
        end = _equal(mine.tokens, theirs.tokens, slots, first, end)
        mine.keys += theirs.keys[len(mine.keys) : end]
        return theirs.keys[end - 1]

    def claim(self, burst: Burst) -> None:
        """Claim the full pages that the burst is going to compute, up to the first that somebody else has claimed."""
        context = burst.context
        for i in range(context.computed // context.slots, len(context.tokens) // context.slots):
            key = context.key(i)
            if key in self.claimed:
                return
            self.claimed[key] = Fill(burst)
            burst.claims[key] = None

    def wait(self, burst: Burst, key: bytes) -> Burst:
        """The burst, in state WAITING, waits for a claimed page from now on. Returns the page's owner, whose rank it may better."""
        fill = self.claimed[key]
        fill.waiters[burst] = None
        burst.awaits = key
        if fill.owner not in self._donors:
            self._donors[fill.owner] = Queue(self._rank, self._ticket, State.WAITING)
        self._donors[fill.owner].push(burst)
        return fill.owner

    def donor(self, owner: Burst) -> Burst | None:
        """The best of those who wait for a page of this burst."""
        return self._donors[owner].head() if owner in self._donors else None

    def sealed(self, key: bytes) -> Sequence[Burst]:
        """The page with this key has been sealed. Returns those who waited for it."""
        fill = self.claimed.pop(key, None)
        if fill is None:
            return ()
        del fill.owner.claims[key]
        if not fill.owner.claims:
            self._donors.pop(fill.owner, None)
        return list(fill.waiters)

    def release(self, burst: Burst) -> Sequence[Burst]:
        """The burst will not fill what it claimed. Returns those who waited for it."""
        waiters = [waiter for key in burst.claims for waiter in self.claimed.pop(key).waiters]
        burst.claims.clear()
        self._donors.pop(burst, None)
        return waiters

    def leave(self, burst: Burst) -> None:
        """The burst waits no longer."""
        if burst.awaits is not None and (fill := self.claimed.get(burst.awaits)) is not None:
            fill.waiters.pop(burst, None)
        burst.awaits = None


def _equal(mine: Sequence[int], theirs: Sequence[int], slots: int, low: int, high: int) -> int:
    """Up to which page, `high` at most, the tokens of two contexts are equal, as they are up to page `low`. By bisection."""
    middle = high  # mostly all of them are
    while low < high:
        page = slice(low * slots, middle * slots)
        if mine[page] == theirs[page]:
            low = middle
        else:
            high = middle - 1
        middle = (low + high + 1) // 2
    return low
