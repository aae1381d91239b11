"""Residence: which bursts have their pages wired to the device, and who gives way when memory runs short.

    submit -> READY -> admit -> resident: every page of its context is on the device and cannot be evicted
                          |-> WAITING    somebody else is computing the next page it needs
                          |-> PAGING     some of its pages are being copied in
                          `-> READY      no room: it is passed over

A burst that finds no room has idle pages written back for it; where that is not enough and it outranks a resident burst by
enough, that one loses its wires (preemption by swap). What is being made free for one is reserved for it within a step, and
one that only just became resident is not preempted before a minimum of progress. For others of its class that is of tokens that
were never computed before, lest agents that the tiers cannot hold together drop each other's pages for ever; a better class
need not wait until all that was dropped is there again. Base of the scheduler, which picks batches.

Bursts are looked at in the order of rank, so once nothing more can be made free for one, nothing can for those behind it. A crowd
of them costs a comparison each, not a look at their pages: a burst wants as many frames as when it was turned away, unless its
next page is a hit by now or others have wired pages that it shares.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

from .burst import Burst, State
from .context import Context
from .device import Geometry
from .errno import Fault, OutOfPages
from .fill import Fills
from .memory import Memory
from .param import Params
from .policy import Policy, Rank
from .queue import Queue


class Residence:
    def __init__(self, geometry: Geometry, policy: Policy, params: Params, wake: Callable[[tuple[str, int]], None]) -> None:
        self.geometry, self.policy, self.params, self._wake = geometry, policy, params, wake
        self.memory = Memory(geometry)
        tickets = itertools.count(1).__next__
        self.fills = Fills(policy.rank, tickets)
        self.decodes = Queue(self.rank, tickets)
        """Resident, with one token to compute."""
        self.prefills = Queue(self.rank, tickets)
        """Every other ready burst."""
        self.residents: set[Burst] = set()
        self.hits = self.preemptions = self.ended = 0
        self.parked = Queue(self.rank, tickets)
        """Ready bursts that found no room: looked at again when there is more or all others have been; the best one in each step."""
        self._parked_room = 0
        self._paging: list[Burst] = []
        """Those whose pages the step being planned copies in."""
        self._reserved = 0
        """Frames that the step being planned has promised to those it passed over."""
        self._tries = 0
        """How many bursts the step being planned may still fail to make room for: what is dirty after two belongs to both."""
        self._yielding: list[tuple[Burst, Burst]] = []
        """(victim, winner): who gives way to whom before the next step is chosen."""

    def rank(self, burst: Burst) -> Rank:
        """The rank it runs at: its own, or just before the best of those who wait for what it fills."""
        rank = self.policy.rank(burst)
        if burst.claims and (donor := self.fills.donor(burst)) is not None:
            cls, order = self.policy.rank(donor)
            return min(rank, (cls, math.nextafter(order, -math.inf)))
        return rank

    # entering and leaving --------------------------------------------------------------------------------------------

    def submit(self, burst: Burst, now: float) -> None:
        """A new burst, in state READY."""
        if burst.process.ready == 0:
            self.policy.wake(burst.process)
        burst.begin(now)
        burst.cause = "queued: first turn on the device"
        self._push(burst)

    def hold(self, burst: Burst, now: float) -> None:
        """Its process is stopped."""
        self._release(burst, now)
        self._move(burst, State.HELD, now, "stopped by a signal")

    def resume(self, burst: Burst, now: float) -> None:
        """Its process goes on."""
        self.policy.wake(burst.process)
        self._move(burst, State.READY, now, "queued: continued after a stop")
        self._push(burst)

    def reclass(self, burst: Burst) -> None:
        """Its process has changed its class: it takes its place in line anew, or lends another rank to whom it waits for."""
        if burst.state is State.READY:
            self._push(burst)
        elif burst.awaits is not None:
            self._wait(burst, burst.awaits)

    def end(self, burst: Burst, now: float, reason: str, fault: Fault | None = None, *, cancelled: bool = False) -> None:
        """The burst is over, in whatever state it was. A row of it in flight will be ignored."""
        self._release(burst, now)
        self.ended += 1
        burst.reason, burst.fault = reason, fault
        burst.context.burst = None
        self._move(burst, State.CANCELLED if cancelled else State.DONE, now)
        self._wake(("burst", burst.bid))

    def _move(self, burst: Burst, state: State, now: float, cause: str = "") -> None:
        burst.move(state, now, cause, self.params.max_causes)

    def _park(self, burst: Burst) -> None:
        self.parked.push(burst)
        self._parked_room = self.memory.room()

    def _unpark(self) -> None:
        if not self.prefills or self.memory.room() > self._parked_room:
            self.prefills.absorb(self.parked)
        elif (burst := self.parked.pop()) is not None:
            self.prefills.push(burst)  # one: by now it may be able to preempt

    def _push(self, burst: Burst) -> None:
        context = burst.context
        left = len(context.tokens) - context.computed
        (self.decodes if burst.resident and left <= 1 else self.prefills).push(burst)

    def _release(self, burst: Burst, now: float) -> None:
        """Give up its wires, claims and place in line."""
        self.fills.leave(burst)
        self._unblock(self.fills.release(burst), now)
        if burst.resident:
            burst.resident = False
            self.residents.discard(burst)
            burst.context.unwire()

    def _unblock(self, waiters: Iterable[Burst], now: float) -> None:
        for burst in waiters:
            burst.awaits = None
            if burst.state is State.WAITING:
                self._move(burst, State.READY, now, "queued: the page it waited for is there")
                self._push(burst)

    # admission and memory pressure -----------------------------------------------------------------------------------

    def _admit(self, burst: Burst, now: float) -> bool:
        """Make the burst resident if that is possible now. If not it stays READY, or waits for a fill or for its pages."""
        context, memory = burst.context, self.memory
        spare = self._spare() if self.residents else 0  # for those who run to grow into
        least = self._least(burst) if self.residents else None  # with nobody to wait for, look closely
        if least is not None and least + spare > memory.room() - self._reserved and (not self._tries or self._hopeless(burst)):
            return False
        burst.needed = None  # what is mapped now it wants no more
        context.drop_absent()
        found = context.map_hits()
        burst.process.usage.cached_tokens += found
        self.hits += found
        length, slots = len(context.tokens), self.geometry.page_slots
        if burst.sampling is None and context.computed == length:
            self.end(burst, now, "stop")
            return False
        if (key := self.fills.awaited(burst)) is not None:
            self._await(burst, key, now)
            return False
        paging = context.missing()
        lacks = paging + max(-(-length // slots) - len(context.pages), 0)
        need = lacks + (context.computed < length and context.computed % slots > 0) + spare
        own = sum(page in memory.clean for page in context.pages)  # part of the room, but not for itself
        if memory.room() - own - self._reserved < need:
            if self._tries:
                context.wire_present()
                enough = self._make_room(burst, need, now)
                context.unwire_present()
                if not self.residents:  # room is made for the best only: another would undo it, for ever
                    self._tries = 0
                elif not enough:  # what is dirty now are its own pages: another may do without them
                    self._tries = self._tries - 1 if memory.dirty else 0
                own = sum(page in memory.clean for page in context.pages)  # some may have given up their host copies
            burst.needed, burst.shared = lacks + own, memory.shared
            return False
        context.wire_present()
        context.wire_rest()
        burst.resident, burst.progress, burst.gained = True, 0, 0
        self.residents.add(burst)
        self.fills.claim(burst)
        if paging:
            self._paging.append(burst)
            self._move(burst, State.PAGING, now, f"paging: {paging} pages come back from the host tier")
            return False
        return True

    def _spare(self) -> int:
        """Frames that are left to those who run."""
        return min(self.params.low_water, self.geometry.device_frames // 8)

    def _least(self, burst: Burst) -> int | None:
        """The fewest frames of the room that the burst may want by now, without a look at its pages; None if that is not known."""
        key = burst.context.following()
        if burst.needed is None or key in self.memory.index or key in self.fills.claimed:
            return None
        return burst.needed - (self.memory.shared - burst.shared)

    def _hopeless(self, burst: Burst) -> bool:
        """True if nothing can be made free for the burst: no idle page but its own is dirty, and nobody gives way."""
        dirty = self.memory.dirty
        own = sum(page in dirty for page in burst.context.pages) if dirty else 0
        if own < len(dirty) or self.memory.returning() or self._victims(burst):
            return False
        self._tries = self._tries - 1 if own else 0
        return True

    def _await(self, burst: Burst, key: bytes, now: float) -> None:
        owner = self.fills.claimed[key].owner
        self._move(burst, State.WAITING, now, f"queued: pid {owner.process.pid} is computing the same pages")
        self._wait(burst, key)

    def _wait(self, burst: Burst, key: bytes) -> None:
        owner = self.fills.wait(burst, key)
        if owner.state is State.READY:  # at the rank it is lent
            self._push(owner)

    def _make_room(self, burst: Burst, need: int, now: float) -> bool:
        """Work towards `need` device frames for a burst that found none: write back idle pages, then preempt.

        Returns whether there will be as many.
        """
        memory = self.memory
        short = need + self._reserved - memory.room()
        if short <= 0:
            self._reserved += need
            return True
        coming = len(memory.returning()) + memory.write_back(short)
        victims = self._victims(burst) if coming < short else []
        while coming < short and victims:
            victim = victims.pop()
            if victim.state is State.READY:
                coming += self._preempt(victim, burst, now)
            elif victim.state is State.RUNNING:  # it is in this step already: it gives way before the next
                self._yielding.append((victim, burst))
                coming += len(victim.context.pages)
        if coming:
            self._reserved += need
            memory.write_back(short)
        elif burst.resident:
            if len(self.residents) > 1:
                self._preempt(burst, burst, now)
                memory.write_back(short)
            elif not self._paging and not memory.returning():
                self.end(burst, now, "failed", OutOfPages(f"the device has {self.geometry.device_frames} pages and all are in use"))
        return coming >= short

    def _victims(self, waiter: Burst) -> list[Burst]:
        """The resident bursts that give way to the waiter, the worst of rank last."""
        return sorted((v for v in self.residents if v is not waiter and self._yields(v, waiter)), key=self.rank)

    def _yields(self, runner: Burst, waiter: Burst) -> bool:
        mine, theirs = self.rank(runner), self.rank(waiter)
        if mine <= theirs or (runner.progress if theirs[0] < mine[0] else runner.gained) < self.params.min_progress:
            return False
        if waiter.resident:  # one that runs already: it needs one page more, or must give up its own
            return True
        return self.policy.preempts(waiter, runner, self.params.preempt_gap)

    def _preempt(self, victim: Burst, winner: Burst, now: float) -> int:
        """Take the wires of a resident burst. Returns how many pages nobody else has wired now."""
        gained = sum(page.wires == 1 for page in victim.context.pages)
        self._release(victim, now)
        victim.process.usage.preemptions += 1
        self.preemptions += 1
        why = "to let the others go on" if victim is winner else f"for pid {winner.process.pid}"
        victim.process.account.blame(victim.cause, now - victim.since, self.params.max_causes)
        victim.cause, victim.since = f"queued: preempted, its pages were given up {why}", now
        self.prefills.push(victim)
        return gained

    def _discard(self, context: Context, position: int) -> None:
        """Forget the page that holds `position` and those behind it."""
        first = position // context.slots
        context.computed = min(context.computed, first * context.slots)
        if len(context.pages) > first:
            context.unmap(first)
