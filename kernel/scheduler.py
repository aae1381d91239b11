"""The scheduler of one device: picks the batch of each step and takes in its result.

A step is planned in the time its batch takes, not its queue. Two queues hold the ready bursts:

    decodes    resident, one token to compute each: they go first, so that a long prompt never freezes the streams
    prefills   the others, admitted by rank into what is left of the budget, in chunks; one cut short has its turn out first

    plan    pop -> admit (map prefix hits, wait for fills, page in, wire) -> row -> RUNNING; then guesses, if there is room
    retire  keep the tokens that stand -> advance the context -> seal full pages -> wake waiters -> READY or DONE

Guesses (lookup.py) ride in what a step has left when all else is planned: they evict, preempt and delay nobody. They are no
tokens of the context, and nobody is charged for them, until the device has said the same; the pages taken for the others go back.

A burst that finds no memory is passed over, never waited for: see residence.py. At most one step is in flight. Knows no
tensors, clocks or features: what a burst is for is not its business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .burst import Burst, State
from .device import Geometry, Logprobs, Outcome, Retired, Row, Step
from .errno import DeviceFailed, InvalidArgument, Panic
from .lookup import HOPE, Lookup
from .param import Params
from .policy import Policy
from .residence import Residence


@dataclass(frozen=True, slots=True)
class Flight:
    """The step in flight."""

    step: Step
    bursts: tuple[Burst, ...]
    paging: tuple[Burst, ...]
    """Bursts whose pages are being copied in by this step."""
    alone: bool
    """It was planned for a suspect."""


class Scheduler(Residence):
    def __init__(self, geometry: Geometry, policy: Policy, params: Params, wake: Callable[[tuple[str, int]], None]) -> None:
        super().__init__(geometry, policy, params, wake)
        self.suspects: list[Burst] = []
        """Bursts of a step that failed: each is tried again alone, so that one bad row harms nobody else."""
        self._alone = False
        self._cut: tuple[Burst, int] | None = None
        """The prefill that the step's budget cut short, and how many tokens are left of its turn."""
        self._continued: Burst | None = None
        """The one that goes on in the step being planned although others are before it."""
        self.flight: Flight | None = None
        self.steps = self.prefilled = self.decoded = self.guessed = self.right = self.failures = 0

    def has_work(self) -> bool:
        return self.flight is None and bool(self.suspects or self.decodes or self.prefills or self.parked)

    # planning --------------------------------------------------------------------------------------------------------

    def plan(self, now: float) -> Step | None:
        """The next step, or None if nothing can run now. Its rows' bursts are RUNNING until `retire`."""
        if self.flight is not None:
            return None
        rows: list[Row] = []
        flown: list[Burst] = []
        self._unpark()
        while True:
            changes = self._changes()
            self._choose(now, rows, flown)
            if rows or self.memory.copies or (changes == self._changes() and not self.prefills):
                break  # otherwise somebody gave way to nobody yet, or not everybody was looked at: choose again
            if changes != self._changes():
                self._unpark()
        if not rows and not self.memory.copies:
            return None
        if self.geometry.guess_cost > 0 and self.params.speculate and not self._alone:
            self._guess(rows, flown)
        self.steps += 1
        self.policy.served([burst for burst in flown if burst is not self._continued])
        step = Step(self.steps, tuple(rows), self.memory.fly())
        self.flight = Flight(step, tuple(flown), tuple(self._paging), self._alone)
        self._paging.clear()
        return step

    def _changes(self) -> tuple[int, int, int]:
        """Differs after a preemption, an eviction or the end of a burst."""
        return self.preemptions, self.memory.evicted, self.ended

    def _choose(self, now: float, rows: list[Row], flown: list[Burst]) -> None:
        """Fill a step: a suspect alone, or a batch; and begin to write back if memory runs low."""
        passed: list[Burst] = []
        self._reserved, self._tries, self._continued = 0, 2, None
        for victim, winner in self._yielding:
            if victim.resident and victim.state is State.READY and winner.state is State.READY:
                self._preempt(victim, winner, now)
        self._yielding.clear()
        suspect = self._suspect(now)
        self._alone = suspect is not None
        if suspect is None:
            self._plan_batch(now, rows, flown, passed)
        elif suspect.state is State.READY:
            self._fly(suspect, self.geometry.max_tokens, now, rows, flown, passed)
        for burst in passed:
            if burst.state is State.READY:
                self._push(burst)
        memory = self.memory
        if memory.room() < self.params.low_water and (memory.dirty or memory.cached):
            memory.write_back(self.params.write_back, ahead=True)

    def _plan_batch(self, now: float, rows: list[Row], flown: list[Burst], passed: list[Burst]) -> None:
        geometry = self.geometry
        most_rows, budget = geometry.max_rows, geometry.max_tokens
        decodes = min(most_rows, budget) - bool(self.prefills)  # a row is left to whoever comes next, or else taken at the end
        if decodes == 0:  # there is only one: the better rank has it
            first, other = self.decodes.best(), self.prefills.best()
            decodes = int(other is None or (first is not None and first <= other))
        while len(rows) < decodes and (burst := self.decodes.pop()) is not None:
            budget -= self._fly(burst, 1, now, rows, flown, passed)
        cut, turn, overlooked = self._interrupted(), budget, 0
        while budget > 0 and len(rows) < most_rows and overlooked < self.params.lookahead:
            burst, left = cut or (self.prefills.pop(), 0)
            if burst is None:
                break
            if cut is not None:
                cut, burst.ticket, self._continued = None, 0, burst  # its place in line is void
            if burst.resident or self._admit(burst, now):
                taken = self._fly(burst, min(left or budget, budget), now, rows, flown, passed)
                budget -= taken
                overlooked += not taken
                left = (left or turn) - taken
                if budget == 0 and left > 0 and len(burst.context.tokens) - burst.context.computed - taken > 1:
                    self._cut = burst, left
            else:
                overlooked += 1
                if burst.state is State.READY:
                    self._park(burst)
        while budget > 0 and len(rows) < most_rows and (burst := self.decodes.pop()) is not None:
            budget -= self._fly(burst, 1, now, rows, flown, passed)

    def _interrupted(self) -> tuple[Burst, int] | None:
        """The prefill that the last step cut short: it goes on before its rank, which fell with what it was charged, sends it back.

        Its turn is one budget in all, and no better class may wait. Else of prompts that come together half would be done last.
        """
        cut, self._cut = self._cut, None
        if cut is None or cut[0].state is not State.READY or not cut[0].resident:
            return None
        best, rank = self.prefills.best(), self.rank(cut[0])
        return None if best is None or rank <= best or best[0] < rank[0] else cut

    def _suspect(self, now: float) -> Burst | None:
        """The next suspect that can run, or whose pages can be copied in: the step is its own, lest another's failure undo them."""
        found: Burst | None = None
        roomless: list[Burst] = []
        while self.suspects and found is None:
            burst = self.suspects.pop()
            if burst.state is not State.READY:
                continue
            if burst.resident or self._admit(burst, now) or burst in self._paging:
                found = burst
            elif burst.state is State.READY:
                roomless.append(burst)
        self.suspects += roomless  # still suspects: in a batch it would fail everybody once more
        return found

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
        if sampling is not None:
            if (over := burst.process.over_tokens(1)) is not None:
                self.end(burst, now, "failed", over)
                return 0
            burst.process.charge_tokens(1)  # refunded if nothing comes of it: see retire and _failed
        rows.append(
            Row(
                burst=burst.bid,
                tokens=tuple(context.tokens[start : start + count]),
                position=start,
                frames=context.frames,
                store=store,
                sampling=sampling,
                history=tuple(context.tokens) if sampling is not None and sampling.repetition_penalty != 1.0 else (),
                grammar=burst.grammar if last else None,
                said=tuple(burst.output) if last and burst.grammar is not None else (),
            )
        )
        flown.append(burst)
        context.flying = True
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

    def _guess(self, rows: list[Row], flown: list[Burst]) -> None:
        """Append guesses to the rows that decode, the best rank first: each as long as it is likelier to stand than its price.

        A step of n tokens takes 1 + (n - 1) * cost; what one more adds, as a share of the step's time per token, is its price.
        """
        cost, budget, new = self.geometry.guess_cost, self.geometry.max_tokens, self.params.lookup
        planned = sum([len(row.tokens) for row in rows])
        for index, burst in enumerate(flown):
            price = planned * cost / (1 + (planned - 1) * cost)
            if burst.prefilling or planned >= budget or (burst.lookup is None and price >= HOPE):
                continue
            if burst.lookup is None:
                burst.lookup = Lookup()
            tokens, row = burst.context.tokens, rows[index]
            new -= burst.lookup.learn(tokens, new)
            most = min(self.params.guesses, budget - planned, burst.max_tokens - len(burst.output) - 1)
            guesses = burst.lookup.guess(tokens, most, price) if row.store else ()
            count = self._cover(burst, row.position + 1 + len(guesses)) - row.position - 1 if guesses else 0
            if count > 0:
                rows[index] = replace(row, tokens=row.tokens + tuple(guesses[:count]), guesses=count, frames=burst.context.frames)
                planned += count

    def _cover(self, burst: Burst, end: int) -> int:
        """Add pages for positions up to `end` of a context that decodes: free frames that nobody will miss. Returns how far they go."""
        context, slots, spare = burst.context, self.geometry.page_slots, self._reserved + self._spare()
        while len(context.pages) * slots < end and len(self.memory.device.free) > spare and burst.process.over_pages(1) is None:
            page = self.memory.allocate()
            if page is None:
                break
            context.add(page)
        return min(len(context.pages) * slots, end)

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
                (self.suspects.append if flight.alone else self._push)(burst)
        logprobs: tuple[tuple[Logprobs, ...], ...] = result.logprobs or ((),) * len(flight.bursts)
        sealed: list[bytes] = []
        for burst, row, sampled, logs in zip(flight.bursts, flight.step.rows, result.tokens, logprobs, strict=True):
            burst.context.flying = False
            tokens = self._standing(burst, row, sampled)
            self._bill(burst, row, len(tokens))
            if not burst.done:
                self._advance(burst, row, tokens, logs, sealed, now)
            elif row.sampling is not None:  # it was ended in flight: its token goes nowhere
                burst.process.charge_tokens(-1)
            if row.guesses and not burst.context.closed:
                burst.context.trim()
        for index, hidden in result.hidden:
            flight.bursts[index].hidden = hidden
        for index, why in result.refused:
            if not (burst := flight.bursts[index]).done:
                self.end(burst, now, "failed", InvalidArgument(why))
        for key in sealed:
            self._unblock(self.fills.sealed(key), now)

    def _standing(self, burst: Burst, row: Row, sampled: tuple[int, ...]) -> tuple[int, ...]:
        """The tokens that decoding one at a time would have come to: up to the first that was guessed wrong, a limit, or a stop."""
        if not row.guesses or burst.done or not sampled:
            return sampled[:1]
        guesses = row.tokens[-row.guesses :]
        right = next((i for i, guess in enumerate(guesses) if guess != sampled[i]), len(guesses))
        if burst.lookup is not None:
            burst.lookup.verified(len(guesses), right)
        tokens = sampled[: 1 + burst.process.tokens_left(right)]
        return tokens[: next((i for i, token in enumerate(tokens, 1) if token in burst.stop_ids), len(tokens))]

    def _bill(self, burst: Burst, row: Row, sampled: int) -> None:
        """What the device did is charged, even if nobody wants it any more. Guesses that came to nothing are free."""
        process, usage = burst.process, burst.process.usage
        prefill = len(row.tokens) if burst.prefilling else 0
        usage.prefill_tokens += prefill
        usage.decode_tokens += sampled
        self.prefilled += prefill
        self.decoded += sampled
        if row.guesses:
            right = max(sampled - 1, 0)
            usage.guessed_tokens += row.guesses
            usage.right_tokens += right
            self.guessed += row.guesses
            self.right += right
        self.policy.charge(process, prefill, sampled, len(row.frames))

    def _advance(
        self, burst: Burst, row: Row, tokens: tuple[int, ...], logprobs: tuple[Logprobs, ...], sealed: list[bytes], now: float
    ) -> None:
        context, slots = burst.context, self.geometry.page_slots
        count = len(row.tokens) - row.guesses + max(len(tokens) - 1, 0)
        context.tokens += tokens
        if row.store:
            before, context.computed = context.computed, row.position + count
            for i in range(before // slots, context.computed // slots):
                page = context.pages[i]
                if page.key is None:
                    self.memory.seal(page, context.key(i))
                sealed.append(context.key(i))
        burst.progress += count
        burst.gained += max(context.computed - max(row.position, burst.reached), 0) if row.store else 1
        burst.reached = max(burst.reached, context.computed)
        if tokens:
            self._emit(burst, tokens, logprobs, now)
        elif row.sampling is not None:  # its grammar is late, or has given up
            burst.process.charge_tokens(-1)
        elif burst.sampling is None and context.computed == len(context.tokens):
            self.end(burst, now, "stop")
        if burst.done:
            return
        if burst.state is State.RUNNING:
            self._move(burst, State.READY, now, "queued: batch or token budget was full")
        if burst.state is State.READY:
            self._push(burst)

    def _emit(self, burst: Burst, tokens: tuple[int, ...], logprobs: tuple[Logprobs, ...], now: float) -> None:
        """Tokens were sampled and have joined the context. The first was charged up the tree when the step took off."""
        if len(tokens) > 1:
            burst.process.charge_tokens(len(tokens) - 1)
        burst.output += tokens
        burst.logprobs += logprobs[: len(tokens)]
        if burst.first_token is None:
            burst.first_token = now
        if tokens[-1] in burst.stop_ids:
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
        alone = len(flight.bursts) + len(flight.paging) == 1 and not any(row.guesses for row in flight.step.rows)
        for burst in (*flight.bursts, *flight.paging):
            self._release(burst, now)
        for burst, row in zip(flight.bursts, flight.step.rows, strict=True):
            burst.context.flying = False
            if row.sampling is not None:
                burst.process.charge_tokens(-1)
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
