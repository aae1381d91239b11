"""The scheduler of a device without pages: gives its slots to ready bursts, in the order of the policy.

    submit -> READY -> dispatch -> RUNNING in a slot -> Received ... Settled -> DONE, and the slot is free
                 `-> HELD: its process is stopped, it is passed over; in a slot, what comes is kept for it until it goes on

A slot once given is held until the device has settled the request, also if nobody wants the reply any more: so never are more
requests under way than there are slots, whatever is cancelled. There is no preemption: a request that is ended has been paid for.

What the device does is charged as it comes, in tokens as the driver numbers them; what the device itself counts takes the place
of that when the request settles. Knows no tensors, clocks or features: what a burst is for is not its business.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from .burst import Burst, State
from .context import Context
from .device import Geometry
from .errno import Fault, Panic
from .memory import Memory
from .param import Params
from .policy import Policy
from .queue import Queue
from .slot import Event, Order, Received, Settled


class Dispatcher:
    def __init__(self, geometry: Geometry, policy: Policy, params: Params, wake: Callable[[tuple[str, int]], None]) -> None:
        self.geometry, self.policy, self.params, self._wake = geometry, policy, params, wake
        self.memory = Memory(geometry)
        """Without a frame: a context maps no page here."""
        self.ready = Queue(policy.rank, itertools.count(1).__next__)
        self.flying: dict[int, Burst] = {}
        """Whose requests are under way, by number: they have the slots."""
        self.recalled: dict[int, None] = {}
        """Requests that the device is to end, and has not been told of yet."""
        self._late: dict[int, list[Event]] = {}
        """What came for bursts that are held."""
        self.orders = self.failures = self.prompted = self.received = 0

    def has_work(self) -> bool:
        return bool(self.recalled) or (len(self.flying) < self.geometry.slots and bool(self.ready))

    # entering and leaving --------------------------------------------------------------------------------------------

    def submit(self, burst: Burst, now: float) -> None:
        """A new burst, in state READY. An append is over at once: there is nothing to fill."""
        if burst.process.ready == 0:
            self.policy.wake(burst.process)
        burst.begin(now)
        if burst.sampling is None:
            self.end(burst, now, "stop")
            return
        burst.cause = "queued: all slots are taken"
        self.ready.push(burst)

    def hold(self, burst: Burst, now: float) -> None:
        """Its process is stopped."""
        self._move(burst, State.HELD, now, "stopped by a signal")

    def resume(self, burst: Burst, now: float) -> None:
        """Its process goes on, with what came meanwhile."""
        self.policy.wake(burst.process)
        self._move(burst, State.READY, now, "queued: continued after a stop")
        late = self._late.pop(burst.bid, [])
        if burst.bid not in self.flying and not late:
            self.ready.push(burst)
            return
        self._move(burst, State.RUNNING, now)
        for event in late:
            self._take(burst, event, now)

    def reclass(self, burst: Burst) -> None:
        """Its process has changed its class: it takes its place in line anew."""
        if burst.state is State.READY:
            self.ready.push(burst)

    def end(self, burst: Burst, now: float, reason: str, fault: Fault | None = None, *, cancelled: bool = False) -> None:
        """The burst is over, in whatever state it was. If it has a slot, its request is recalled."""
        if burst.bid in self.flying:
            self.recalled[burst.bid] = None
        self._late.pop(burst.bid, None)
        burst.reason, burst.fault = reason, fault
        burst.context.burst = None
        self._move(burst, State.CANCELLED if cancelled else State.DONE, now)
        self._wake(("burst", burst.bid))

    def _move(self, burst: Burst, state: State, now: float, cause: str = "") -> None:
        burst.move(state, now, cause, self.params.max_causes)

    # giving slots ----------------------------------------------------------------------------------------------------

    def recalls(self) -> tuple[int, ...]:
        """Requests that the device is to end, each told once."""
        recalled, self.recalled = tuple(self.recalled), {}
        return recalled

    def dispatch(self, now: float) -> tuple[Order, ...]:
        """The requests to begin now: as many as there are free slots."""
        orders = []
        while len(self.flying) < self.geometry.slots and (burst := self.ready.pop()) is not None:
            order = self._order(burst, now)
            if order is not None:
                orders.append(order)
        return tuple(orders)

    def _order(self, burst: Burst, now: float) -> Order | None:
        """Give a burst a slot. None if a limit forbids it, which ends it."""
        process, context, geometry = burst.process, burst.context, self.geometry
        if burst.sampling is None:
            raise Panic(f"burst {burst.bid} generates nothing and wants a slot")
        length = len(context.tokens)
        over = process.over_tokens(1) or process.over_cost(geometry.cost(length, 1))
        if over is not None:
            self.end(burst, now, "failed", over)
            return None
        self.policy.served([burst])
        burst.prefilling = True
        self._move(burst, State.RUNNING, now)
        self.flying[burst.bid] = burst
        self.orders += 1
        self._bill(burst, length, 0)
        most = process.tokens_left(burst.max_tokens)
        if geometry.price_out > 0 and (left := process.cost_left()) is not None:
            most = min(most, max(1, int(left / geometry.price_out)))
        return Order(burst.bid, tuple(context.tokens), burst.sampling, most, burst.form)

    # taking in what comes --------------------------------------------------------------------------------------------

    def hear(self, event: Event, now: float) -> None:
        """Part of a reply, or its end. What the device did is charged, even if nobody wants it any more."""
        burst = self.flying.get(event.burst)
        if burst is None:
            raise Panic(f"the device of {self.geometry.name} speaks of burst {event.burst}, which has no slot")
        if isinstance(event, Received):
            self._bill(burst, burst.billed[0], burst.billed[1] + len(event.tokens))
        else:
            del self.flying[burst.bid]
            self.recalled.pop(burst.bid, None)
            self.failures += event.reason == "failed"
            if event.counted is not None:
                self._bill(burst, event.counted.prompt, event.counted.output)
        if burst.state is State.HELD:
            self._late.setdefault(burst.bid, []).append(event)
        else:
            self._take(burst, event, now)

    def _bill(self, burst: Burst, prompt: int, output: int) -> None:
        """See to it that the process has been charged for so many tokens, in all, for this burst.

        A charge may be taken back. Other bursts of the process that are queued then wait at the worse rank until they are looked at.
        """
        process, usage = burst.process, burst.process.usage
        more, new = prompt - burst.billed[0], output - burst.billed[1]
        burst.billed = (prompt, output)
        usage.prefill_tokens += more
        usage.decode_tokens += new
        self.prompted += more
        self.received += new
        process.charge_cost(self.geometry.cost(more, new))
        self.policy.charge(process, more, new, 0)

    def _take(self, burst: Burst, event: Event, now: float) -> None:
        """Give what came to the burst, if it still wants it."""
        if burst.done:
            return
        if isinstance(event, Settled):
            self._settle(burst, event, now)
            return
        process, context = burst.process, burst.context
        tokens = event.tokens[: process.tokens_left(self._room(context))]
        if tokens:
            self._decodes(burst, now)
            process.charge_tokens(len(tokens))
            context.tokens += tokens
            burst.output += tokens
        over = process.over_tokens(1) or process.over_cost(0.0)
        if len(tokens) < len(event.tokens) or over is not None:
            self.end(burst, now, "length" if over is None else "failed", over)
        elif tokens:
            self._wake(("burst", burst.bid))

    def _room(self, context: Context) -> int:
        """How many tokens more a context may hold."""
        return max(0, self.geometry.window - len(context.tokens))

    def _decodes(self, burst: Burst, now: float) -> None:
        """The reply has begun to come."""
        if burst.first_token is None:
            burst.first_token = now
            self._move(burst, State.READY, now)  # what it does is charged anew when its state changes
            burst.prefilling = False
            self._move(burst, State.RUNNING, now)

    def _settle(self, burst: Burst, event: Settled, now: float) -> None:
        process, reason, fault = burst.process, event.reason, event.fault
        if event.counted is not None:
            burst.counted = event.counted
            process.charge_tokens(event.counted.output - len(burst.output))
        if reason == "length":  # of what a limit left, maybe
            fault = process.over_tokens(1) or process.over_cost(self.geometry.cost(0, 1))
        self.end(burst, now, reason if fault is None else "failed", fault)
