"""Residence: which bursts have their pages wired to the device, and who gives way when memory runs short.

    submit -> READY -> admit -> resident: every page of its context is on the device and cannot be evicted
                          |-> WAITING    somebody else is computing the next page it needs
                          |-> PAGING     some of its pages are being copied in
                          `-> READY      no room: it is passed over

A burst that finds no room has idle pages written back for it; where that is not enough and it outranks a resident burst by
enough, that one loses its wires (preemption by swap). What is being made free for one is reserved for it within a step, and
one that only just became resident is not preempted before a minimum of progress. Base of the scheduler, which picks batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from .burst import Burst, State
from .device import Geometry
from .errno import Fault, OutOfPages
from .fill import Fills
from .memory import Memory
from .param import Params
from .policy import Policy
from .queue import Queue


class Residence:
    def __init__(self, geometry: Geometry, policy: Policy, params: Params, wake: Callable[[tuple[str, int]], None]) -> None:
        self.geometry, self.policy, self.params, self._wake = geometry, policy, params, wake
        self.memory = Memory(geometry)
        self.fills = Fills()
        tickets = itertools.count(1).__next__
        self.decodes = Queue(policy.rank, tickets)
        """Resident, with one token to compute."""
        self.prefills = Queue(policy.rank, tickets)
        """Every other ready burst."""
        self.residents: set[Burst] = set()
        self.hits = self.preemptions = self.ended = 0
        self.parked = Queue(policy.rank, tickets)
        """Ready bursts that found no room: looked at again when there is more or all others have been; the best one in each step."""
        self._parked_room = 0
        self._paging: list[Burst] = []
        """Those whose pages the step being planned copies in."""
        self._reserved = 0
        """Frames that the step being planned has promised to those it passed over."""
        self._yielding: list[tuple[Burst, Burst]] = []
        """(victim, winner): who gives way to whom before the next step is chosen."""

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
        """Its process has changed its class."""
        burst.cls = min(burst.process.cls, self.fills.best_class(burst))
        if burst.state is State.READY:
            self._push(burst)
        elif burst.awaits is not None:
            self.reclass(self.fills.claimed[burst.awaits].owner)

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
        everybody = not self.prefills or self.memory.room() > self._parked_room
        while (burst := self.parked.pop()) is not None:
            self.prefills.push(burst)
            if not everybody:
                break  # one: by now it may be able to preempt

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

    def _unblock(self, waiters: list[Burst], now: float) -> None:
        for burst in waiters:
            burst.awaits = None
            if burst.state is State.WAITING:
                self._move(burst, State.READY, now, "queued: the page it waited for is there")
                self._push(burst)

    # admission and memory pressure -----------------------------------------------------------------------------------

    def _admit(self, burst: Burst, now: float) -> bool:
        """Make the burst resident if that is possible now. If not it stays READY, or waits for a fill or for its pages."""
        context, memory = burst.context, self.memory
        context.drop_absent()
        found = context.map_hits()
        burst.process.usage.cached_tokens += found
        self.hits += found
        length, slots = len(context.tokens), self.geometry.page_slots
        if burst.sampling is None and context.computed == length:
            self.end(burst, now, "stop")
            return False
        if context.computed % slots == 0 and (key := self.fills.awaited(burst)) is not None:
            self._await(burst, key, now)
            return False
        paging = context.missing()
        need = paging + max(-(-length // slots) - len(context.pages), 0) + (context.computed < length and context.computed % slots > 0)
        if self.residents:  # leave those who run some pages to grow into
            need += min(self.params.low_water, self.geometry.device_frames // 8)
        context.wire_present()
        if memory.room() - self._reserved < need:
            self._make_room(burst, need, now)  # while its own pages are wired: they are not room for itself
            context.unwire_present()
            return False
        context.wire_rest()
        burst.resident, burst.progress = True, 0
        self.residents.add(burst)
        self.fills.claim(burst)
        if paging:
            self._paging.append(burst)
            self._move(burst, State.PAGING, now, f"paging: {paging} pages come back from the host tier")
            return False
        return True

    def _await(self, burst: Burst, key: bytes, now: float) -> None:
        fill = self.fills.claimed[key]
        fill.waiters.append(burst)
        burst.awaits = key
        owner = fill.owner
        self._move(burst, State.WAITING, now, f"queued: pid {owner.process.pid} is computing the same pages")
        if burst.cls < owner.cls:  # the fill runs at the best class of those who need it
            owner.cls = burst.cls
            if owner.state is State.READY:
                self._push(owner)

    def _make_room(self, burst: Burst, need: int, now: float) -> None:
        """Work towards `need` device frames for a burst that found none: write back idle pages, then preempt."""
        memory = self.memory
        short = need + self._reserved - memory.room()
        if short <= 0:
            self._reserved += need
            return
        coming = len(memory.returning()) + memory.write_back(short)
        victims = sorted((v for v in self.residents if v is not burst and self._yields(v, burst)), key=self.policy.rank)
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

    def _yields(self, runner: Burst, waiter: Burst) -> bool:
        if runner.progress < self.params.min_progress:
            return False
        if waiter.resident:  # one that runs already: it needs one page more, or must give up its own
            return self.policy.rank(runner) > self.policy.rank(waiter)
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
