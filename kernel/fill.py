"""Fills: pages being computed that others need too.

A burst that starts to prefill claims the keys of the full pages it is going to compute. A burst that needs a claimed
page waits for it instead of computing it again; the fill then runs at the best class of its waiters. When the page is
sealed its waiters go on; when the owner is held, preempted or dies, its claims are released and the first waiter to be
planned takes over. Invariant: every claim has one living owner that lists it; every waiter awaits a claimed key.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .burst import Burst
from .process import Class


@dataclass(slots=True)
class Fill:
    owner: Burst
    waiters: list[Burst] = field(default_factory=list)


class Fills:
    """The claims on one device."""

    __slots__ = ("claimed",)

    def __init__(self) -> None:
        self.claimed: dict[bytes, Fill] = {}

    def awaited(self, burst: Burst) -> bytes | None:
        """The last page of those, from its next one on, that one other burst fills for this one too; None if there is none.

        Waking at each of them would be for nothing. Where tokens are equal keys are, so they are copied, not hashed again.
        """
        mine, slots = burst.context, burst.context.slots
        last = mine.computed // slots
        if (last + 1) * slots > len(mine.tokens) or (fill := self.claimed.get(mine.key(last))) is None or fill.owner is burst:
            return None
        theirs = fill.owner.context
        for i in range(last + 1, min(len(mine.tokens) // slots, len(theirs.keys))):
            page, at = slice(i * slots, (i + 1) * slots), self.claimed.get(theirs.keys[i])
            if at is None or at.owner is not fill.owner or mine.tokens[page] != theirs.tokens[page]:
                break
            last = i
        mine.keys += theirs.keys[len(mine.keys) : last + 1]
        return theirs.keys[last]

    def claim(self, burst: Burst) -> None:
        """Claim the full pages that the burst is going to compute, up to the first that somebody else has claimed."""
        context = burst.context
        for i in range(context.computed // context.slots, len(context.tokens) // context.slots):
            key = context.key(i)
            if key in self.claimed:
                return
            self.claimed[key] = Fill(burst)
            burst.claims.append(key)

    def sealed(self, key: bytes) -> list[Burst]:
        """The page with this key has been sealed. Returns those who waited for it."""
        fill = self.claimed.pop(key, None)
        if fill is None:
            return []
        fill.owner.claims.remove(key)
        return fill.waiters

    def release(self, burst: Burst) -> list[Burst]:
        """The burst will not fill what it claimed. Returns those who waited for it."""
        waiters: list[Burst] = []
        for key in burst.claims:
            waiters += self.claimed.pop(key).waiters
        burst.claims.clear()
        return waiters

    def best_class(self, burst: Burst) -> Class:
        """The class an owner runs at: its process's, or the best of those who wait for what it fills."""
        return min((w.cls for key in burst.claims for w in self.claimed[key].waiters), default=burst.process.cls)

    def leave(self, burst: Burst) -> None:
        """The burst waits no longer."""
        if burst.awaits is not None and (fill := self.claimed.get(burst.awaits)) is not None and burst in fill.waiters:
            fill.waiters.remove(burst)
            fill.owner.cls = min(fill.owner.process.cls, self.best_class(fill.owner))
        burst.awaits = None
