"""The scheduler of one device: picks the batch of each step and takes in its result.

A step is planned in the time its batch takes, not its queue. Two queues hold the ready bursts:

    decodes    resident, one token to compute each: they go first, so that a long prompt never freezes the streams
    prefills   everything else, admitted in the order of rank into what is left of the token budget, in chunks

    plan    pop -> admit (map prefix hits, wait for fills, page in, wire) -> row -> RUNNING
    retire  advance the context -> seal full pages -> wake waiters -> READY or DONE

A burst that finds no memory is passed over, never waited for; if it outranks a resident burst by enough, that one loses its
wires (preemption by swap) and the pages it leaves are written back. At most one step is in flight. Knows no tensors,
clocks or features: what a burst is for is not its business.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from .burst import Burst, State
from .context import Context
from .device import Geometry, Logprobs, Outcome, Retired, Row, Step
from .errno import DeviceFailed, Fault, OutOfPages, Panic
from .fill import Fills
from .memory import Memory
from .param import Params
from .policy import Policy
from .queue import Queue


@dataclass(frozen=True, slots=True)
class Flight:
    """The step in flight."""

    step: Step
    bursts: tuple[Burst, ...]
    paging: tuple[Burst, ...]
    """Bursts whose pages are being copied in by this step."""


class Scheduler:
    def __init__(self, geometry: Geometry, policy: Policy, params: Params, wake: Callable[[tuple[str, int]], None]) -> None:
        self.geometry, self.policy, self.params, self._wake = geometry, policy, params, wake
        self.memory = Memory(geometry)
        self.fills = Fills()
        tickets = itertools.count(1).__next__
        self.decodes = Queue(policy.rank, tickets)
        self.prefills = Queue(policy.rank, tickets)
        self.residents: set[Burst] = set()
        self.suspects: list[Burst] = []
        """Bursts of a step that failed: each is tried again alone, so that one bad row harms nobody else."""
        self.flight: Flight | None = None
        self.steps = self.prefilled = self.decoded = self.hits = self.preemptions = self.failures = self.ended = 0
        self._paging: list[Burst] = []
        self._yielding: list[tuple[Burst, Burst]] = []
        """(victim, winner): who gives way to whom before the next step is chosen."""
        self._reserved = 0

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
        self._move(burst, State.READY, now, "queued: continued after a stop")
        self._push(burst)

    def end(self, burst: Burst, now: float, reason: str, fault: Fault | None = None, *, cancelled: bool = False) -> None:
        """The burst is over, in whatever state it was. A row of it in flight will be ignored."""
        self._release(burst, now)
        self.ended += 1
        burst.reason, burst.fault = reason, fault
        burst.context.burst = None
        self._move(burst, State.CANCELLED if cancelled else State.DONE, now)
        self._wake(("burst", burst.bid))

    def has_work(self) -> bool:
        return self.flight is None and bool(self.suspects or self.decodes or self.prefills or self.memory.copies)

    def _move(self, burst: Burst, state: State, now: float, cause: str = "") -> None:
        burst.move(state, now, cause, self.params.max_causes)

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

    # planning --------------------------------------------------------------------------------------------------------

    def plan(self, now: float) -> Step | None:
        """The next step, or None if nothing can run now. Its rows' bursts are RUNNING until `retire`."""
        if self.flight is not None:
            return None
        rows: list[Row] = []
        flown: list[Burst] = []
        while True:
            changes = self._changes()
            self._choose(now, rows, flown)
            if rows or self.memory.copies or changes == self._changes():
                break  # otherwise somebody gave way to nobody yet: choose again
        if not rows and not self.memory.copies:
            return None
        self.steps += 1
        self.policy.served(flown)
        step = Step(self.steps, tuple(rows), self.memory.fly())
        self.flight = Flight(step, tuple(flown), tuple(self._paging))
        self._paging.clear()
        return step

    def _changes(self) -> tuple[int, int, int]:
        """Differs after a preemption, an eviction or the end of a burst."""
        return self.preemptions, self.memory.evicted, self.ended

    def _choose(self, now: float, rows: list[Row], flown: list[Burst]) -> None:
        """Fill a step: a suspect alone, or a batch; and begin to write back if memory runs low."""
        passed: list[Burst] = []
        self._reserved = 0
        for victim, winner in self._yielding:
            if victim.resident and victim.state is State.READY and not winner.done:
                self._preempt(victim, winner, now)
        self._yielding.clear()
        if (suspect := self._suspect(now)) is not None:
            self._fly(suspect, self.geometry.max_tokens, now, rows, flown, passed)
        else:
            self._plan_batch(now, rows, flown, passed)
        for burst in passed:
            if burst.state is State.READY:
                self._push(burst)
        memory = self.memory
        if memory.room() < self.params.low_water and (memory.dirty or memory.cached):
            memory.write_back(self.params.write_back)

    def _plan_batch(self, now: float, rows: list[Row], flown: list[Burst], passed: list[Burst]) -> None:
        geometry = self.geometry
        most_rows, budget = geometry.max_rows, geometry.max_tokens
        decodes = min(most_rows - bool(self.prefills), budget - bool(self.prefills)) or 1
        while len(rows) < decodes and (burst := self.decodes.pop()) is not None:
            budget -= self._fly(burst, 1, now, rows, flown, passed)
        overlooked = 0
        while budget > 0 and len(rows) < most_rows and overlooked < self.params.lookahead:
            burst = self.prefills.pop()
            if burst is None:
                break
            if burst.resident or self._admit(burst, now):
                taken = self._fly(burst, budget, now, rows, flown, passed)
                budget -= taken
                overlooked += not taken
            elif burst.state is State.READY:
                passed.append(burst)
                overlooked += 1

    def _suspect(self, now: float) -> Burst | None:
        while self.suspects:
            burst = self.suspects.pop()
            if burst.state is not State.READY:
                continue
            if burst.resident or self._admit(burst, now):
                return burst
            if burst.state is State.READY:
                self._push(burst)
        return None

    def _fly(self, burst: Burst, most: int, now: float, rows: list[Row], flown: list[Burst], passed: list[Burst]) -> int:
        """Put a row of at most `most` tokens into the step. Returns how many it has; 0 if it cannot run now."""
        context = burst.context
        length, start = len(context.tokens), context.computed
        if start >= length:  # all is there but the logits: compute the last token again, writing nothing
            start, count, store = length - 1, 1, False
        else:
            store = True
            count = self._prepare(burst, start, min(length - start, most), now)
            if count <= 0:
                if burst.state is State.READY:
                    passed.append(burst)
                return 0
        last = start + count == length
        sampling = burst.sampling if last else None
        rows.append(
            Row(
                burst=burst.bid,
                tokens=tuple(context.tokens[start : start + count]),
                position=start,
                frames=context.frames,
                store=store,
                sampling=sampling,
                history=tuple(context.tokens) if sampling is not None and sampling.repetition_penalty != 1.0 else (),
            )
        )
        flown.append(burst)
        burst.prefilling = not (burst.output and count == 1)
        self._move(burst, State.RUNNING, now)
        return count

    def _prepare(self, burst: Burst, start: int, count: int, now: float) -> int:
        """Make the pages of positions start .. start + count - 1 writable. Returns how many of them are."""
        context, memory, slots = burst.context, self.memory, self.geometry.page_slots
        for i in range(start // slots, min((start + count - 1) // slots + 1, len(context.pages))):
            page = context.pages[i]
            if page.tables > 1:
                twin = memory.duplicate(page)
                if twin is None:
                    return self._short(burst, i * slots - start, now)
                context.replace(i, twin)
            elif page.key is not None or page.host >= 0:
                memory.write(page)
        more = (start + count - 1) // slots + 1 - len(context.pages)
        if more > 0:
            if (over := burst.process.over_pages(more)) is not None:
                self.end(burst, now, "failed", over)
                return 0
            for _ in range(more):
                page_or_none = memory.allocate()
                if page_or_none is None:
                    return self._short(burst, len(context.pages) * slots - start, now)
                context.add(page_or_none)
        return count

    def _short(self, burst: Burst, writable: int, now: float) -> int:
        """Frames ran out: run with what is writable, or make room for the next step (which may cost this burst its own)."""
        if writable > 0:
            return writable
        self._make_room(burst, 1, now)
        return 0

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
        following = context.computed // slots
        if context.computed % slots == 0 and (following + 1) * slots <= length:
            key = context.key(following)
            fill = self.fills.of_another(key, burst)
            if fill is not None:
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
        if waiter.resident:  # one that runs already: it needs one page more, or must give up its own
            return self.policy.rank(runner) > self.policy.rank(waiter)
        return runner.progress >= self.params.min_progress and self.policy.preempts(waiter, runner, self.params.preempt_gap)

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

    # taking in results -----------------------------------------------------------------------------------------------

    def retire(self, now: float, result: Retired) -> None:
        """The step in flight is over."""
        flight, self.flight = self.flight, None
        if flight is None or flight.step.number != result.number:
            raise Panic(f"step {result.number} retires but it is not the one in flight")
        if not isinstance(result, Outcome):
            self._failed(flight, result.reason, now)
            return
        self.memory.land()
        for burst in flight.paging:
            if burst.state is State.PAGING:
                self._move(burst, State.READY, now, "queued: its pages are back")
                self._push(burst)
        logprobs: tuple[Logprobs | None, ...] = result.logprobs or (None,) * len(flight.bursts)
        sealed: list[bytes] = []
        for burst, row, token, logprob in zip(flight.bursts, flight.step.rows, result.tokens, logprobs, strict=True):
            if not burst.done:
                self._advance(burst, row, token, logprob, sealed, now)
        for key in sealed:
            self._unblock(self.fills.sealed(key), now)

    def _advance(self, burst: Burst, row: Row, token: int | None, logprob: Logprobs | None, sealed: list[bytes], now: float) -> None:
        context, process, slots = burst.context, burst.process, self.geometry.page_slots
        count = len(row.tokens)
        if row.store:
            before, context.computed = context.computed, row.position + count
            for i in range(before // slots, context.computed // slots):
                page = context.pages[i]
                if page.key is None:
                    self.memory.seal(page, context.key(i))
                sealed.append(context.key(i))
        burst.progress += count
        if burst.prefilling:
            process.usage.prefill_tokens += count
            self.prefilled += count
        self.policy.charge(process, count if burst.prefilling else 0, token is not None, len(context.pages))
        if token is not None:
            process.usage.decode_tokens += 1
            self.decoded += 1
            self._emit(burst, token, logprob, now)
        elif burst.sampling is None and context.computed == len(context.tokens):
            self.end(burst, now, "stop")
        if burst.done:
            return
        if not burst.claims:
            burst.cls = process.cls  # what it inherited from those who waited for its fills ends with them
        if burst.state is State.RUNNING:
            self._move(burst, State.READY, now, "queued: batch or token budget was full")
        if burst.state is State.READY:
            self._push(burst)

    def _emit(self, burst: Burst, token: int, logprob: Logprobs | None, now: float) -> None:
        """A token was sampled: it joins the context, and is charged up the tree."""
        burst.context.tokens.append(token)
        burst.output.append(token)
        if logprob is not None:
            burst.logprobs.append(logprob)
        if burst.first_token is None:
            burst.first_token = now
        burst.process.charge_tokens(1)
        if token in burst.stop_ids:
            self.end(burst, now, "stop")
        elif len(burst.output) >= burst.max_tokens:
            self.end(burst, now, "length")
        elif (over := burst.process.over_tokens(1)) is not None:
            self.end(burst, now, "failed", over)
        else:
            self._wake(("burst", burst.bid))

    def _failed(self, flight: Flight, reason: str, now: float) -> None:
        """Nothing of the step may be used: what it wrote is dropped, each of its rows is tried again alone."""
        self.failures += 1
        alone = len(flight.bursts) + len(flight.paging) == 1
        for burst in (*flight.bursts, *flight.paging):
            self._release(burst, now)
        for burst, row in zip(flight.bursts, flight.step.rows, strict=True):
            if row.store and not burst.context.closed:
                self._discard(burst.context, row.position)
        self.memory.land(ok=False)
        for burst in (*flight.bursts, *flight.paging):
            if burst.done:
                continue
            if alone:
                self.end(burst, now, "failed", DeviceFailed(f"the device could not compute it: {reason}"))
            elif burst.state in (State.RUNNING, State.PAGING):
                self._move(burst, State.READY, now, "queued: the step failed and is tried again row by row")
                self.suspects.append(burst)

    def _discard(self, context: Context, position: int) -> None:
        """Forget the page that holds `position` and those behind it."""
        first = position // context.slots
        context.computed = min(context.computed, first * context.slots)
        if len(context.pages) > first:
            context.unmap(first)
