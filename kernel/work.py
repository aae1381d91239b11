"""Work: the contexts and bursts of all processes, and the schedulers of the devices they run on.

A context belongs to one process and one device, and has at most one burst under way. A part of the kernel: see kernel.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from .burst import Burst
from .context import Context
from .device import GREEDY, Geometry, Grammar, Retired, Sampling, Step
from .dispatch import Dispatcher
from .errno import AlreadyExists, BadHandle, InvalidArgument, NotFound, OutOfPages, QuotaExceeded, TooLong, TryAgain
from .param import Params
from .policy import Policy
from .process import Phase, Process
from .scheduler import Scheduler
from .slot import Event, Form, Order
from .statistics import paged_statistics, slot_statistics
from .table import ProcessTable
from .view import DeviceStatistics


class Work:
    def __init__(self, table: ProcessTable, params: Params, policy: Policy, wake: Callable[[tuple[str, int]], None]) -> None:
        self.table, self.params, self.policy, self._wake = table, params, policy, wake
        self.schedulers: dict[str, Scheduler] = {}
        self.dispatchers: dict[str, Dispatcher] = {}
        """Of the devices without pages."""
        self.contexts: dict[int, Context] = {}
        self.bursts: dict[int, Burst] = {}
        self._numbers = itertools.count(1).__next__

    # devices ---------------------------------------------------------------------------------------------------------

    def attach(self, geometry: Geometry) -> None:
        """A device with a page pool of its own, or one without pages that has slots."""
        g = geometry
        if g.name in self.schedulers or g.name in self.dispatchers:
            raise AlreadyExists(f"a device named {g.name!r} is attached already")
        if g.slots:
            if min(g.slots, g.window, g.vocabulary, g.page_slots) < 1 or g.device_frames or g.host_frames:
                raise InvalidArgument(f"device {g.name!r} has slots: give it a window and no frames: {g}")
            if not (0 <= g.price_in < math.inf and 0 <= g.price_out < math.inf):
                raise InvalidArgument(f"device {g.name!r} has prices {g.price_in} and {g.price_out}: a price is 0 or more")
            self.dispatchers[g.name] = Dispatcher(g, self.policy, self.params, self._wake)
            return
        if min(g.device_frames, g.page_slots, g.window, g.vocabulary, g.max_rows, g.max_tokens) < 1 or g.host_frames < 0:
            raise InvalidArgument(f"device {g.name!r} has an empty dimension: {g}")
        self.schedulers[g.name] = Scheduler(g, self.policy, self.params, self._wake)

    def detach(self, now: float, device: str) -> None:
        """Take a device away. Raises TryAgain while contexts are open on it."""
        scheduler = self._scheduler(device)
        flying = scheduler.flying if isinstance(scheduler, Dispatcher) else scheduler.flight
        if flying or any(c.device == device for c in self.contexts.values()):
            raise TryAgain(f"device {device!r} is in use; close its contexts first")
        if isinstance(scheduler, Dispatcher):
            del self.dispatchers[device]
        else:
            del self.schedulers[device]

    def _scheduler(self, device: str) -> Scheduler | Dispatcher:
        scheduler = self.schedulers.get(device) or self.dispatchers.get(device)
        if scheduler is None:
            raise NotFound(f"no device {device!r}; there are: {', '.join(sorted([*self.schedulers, *self.dispatchers])) or 'none'}")
        return scheduler

    def geometries(self) -> dict[str, Geometry]:
        """Of every device, by its name."""
        return {name: each.geometry for every in (self.schedulers, self.dispatchers) for name, each in every.items()}

    def plan(self, now: float, device: str) -> Step | None:
        """The next step of a device, or None. It must come back through `retire`."""
        return self.schedulers[device].plan(now)

    def retire(self, now: float, device: str, outcome: Retired) -> None:
        self.schedulers[device].retire(now, outcome)

    def has_work(self, device: str) -> bool:
        """True if `plan` may find something to run, or `dispatch` and `recalls` something to tell."""
        return self._scheduler(device).has_work()

    def recalls(self, device: str) -> tuple[int, ...]:
        """Requests that a device without pages is to end, each told once."""
        return self.dispatchers[device].recalls()

    def dispatch(self, now: float, device: str) -> tuple[Order, ...]:
        """The requests that a device without pages is to begin. Each must come to its end through `hear`."""
        return self.dispatchers[device].dispatch(now)

    def hear(self, now: float, device: str, event: Event) -> None:
        """What a device without pages has to say of a request."""
        self.dispatchers[device].hear(event, now)

    # contexts --------------------------------------------------------------------------------------------------------

    def open(self, now: float, pid: int, device: str) -> int:
        """A new empty context on a device. Returns its number."""
        process = self.table.get(pid)
        scheduler = self._scheduler(device)
        self._check_context_count(process, 1)
        return self._add(Context(self._numbers(), process, device, scheduler.memory))

    def _check_context_count(self, process: Process, more: int) -> None:
        if len(process.contexts) + more > self.params.max_contexts:
            raise QuotaExceeded(f"pid {process.pid} has {len(process.contexts)} contexts of {self.params.max_contexts}; close one first")

    def _add(self, context: Context) -> int:
        self.contexts[context.cid] = context
        context.process.contexts.add(context.cid)
        return context.cid

    def context(self, pid: int, cid: int) -> Context:
        """An open context of the process. Raises BadHandle."""
        context = self.contexts.get(cid)
        if context is None or context.process.pid != pid:
            raise BadHandle(f"pid {pid} has no open context {cid}")
        return context

    def fork_context(self, now: float, pid: int, cid: int) -> int:
        """A twin of a context that shares all its pages, copy-on-write."""
        context = self.context(pid, cid)
        self._check_context_count(context.process, 1)
        if (over := context.process.over_pages(len(context.pages))) is not None:
            raise over
        return self._add(context.fork(self._numbers(), context.process))

    def fork_contexts(self, parent: Process, twin: Process) -> dict[int, int]:
        """Fork every context of one process into another. Returns old -> new number."""
        return {cid: self._add(self.contexts[cid].fork(self._numbers(), twin)) for cid in sorted(parent.contexts)}

    def truncate(self, now: float, pid: int, cid: int, length: int) -> None:
        """Keep the first `length` tokens."""
        context = self._idle(pid, cid)
        if not 0 <= length <= len(context.tokens):
            raise InvalidArgument(f"cannot truncate to {length} tokens: context {cid} has {len(context.tokens)}")
        context.truncate(length)

    def close(self, now: float, pid: int, cid: int) -> None:
        """Give up a context; a burst on it is cancelled."""
        context = self.context(pid, cid)
        if context.burst is not None:
            self._scheduler(context.device).end(context.burst, now, "cancelled", cancelled=True)
        self._close(context)

    def _close(self, context: Context) -> None:
        context.close()
        del self.contexts[context.cid]
        context.process.contexts.discard(context.cid)

    def _idle(self, pid: int, cid: int) -> Context:
        context = self.context(pid, cid)
        if context.burst is not None:
            raise TryAgain(f"context {cid} is busy with burst {context.burst.bid}; wait until that is done")
        return context

    # bursts ----------------------------------------------------------------------------------------------------------

    def append(self, now: float, pid: int, cid: int, tokens: Sequence[int]) -> int:
        """Extend a context and compute its pages. Returns the burst's number."""
        context = self._idle(pid, cid)
        if not tokens and context.computed == len(context.tokens):
            raise InvalidArgument("nothing to append: give at least one token")
        return self._submit(now, context, tokens, None, 0, frozenset())

    def generate(
        self,
        now: float,
        pid: int,
        cid: int,
        *,
        sampling: Sampling = GREEDY,
        max_tokens: int,
        tokens: Sequence[int] = (),
        stop_ids: frozenset[int] = frozenset(),
        grammar: Grammar | None = None,
        form: Form | None = None,
    ) -> int:
        """Append `tokens`, then sample up to `max_tokens` more, within a grammar. Returns the burst's number; its `output` grows.

        On a device without pages a form takes the place of the grammar.
        """
        context = self._idle(pid, cid)
        if max_tokens < 1:
            raise InvalidArgument(f"max_tokens is {max_tokens}; ask for at least 1")
        if not tokens and not context.tokens:
            raise InvalidArgument(f"context {cid} is empty: append something before generating")
        return self._submit(now, context, tokens, sampling, max_tokens, stop_ids, grammar, form)

    def _submit(
        self,
        now: float,
        context: Context,
        tokens: Sequence[int],
        sampling: Sampling | None,
        max_tokens: int,
        stop_ids: frozenset[int],
        grammar: Grammar | None = None,
        form: Form | None = None,
    ) -> int:
        process, scheduler = context.process, self._scheduler(context.device)
        if not process.live:
            raise BadHandle(f"pid {process.pid} is gone")
        geometry = scheduler.geometry
        length = len(context.tokens) + len(tokens)
        if length + max_tokens > geometry.window:
            asked = f"{length} tokens" + (f" and {max_tokens} more to generate" if max_tokens else "")
            raise TooLong(f"{asked} do not fit the window of {geometry.window} tokens of {geometry.name}; shorten the prompt or max_tokens")
        if tokens and not (min(tokens) >= 0 and max(tokens) < geometry.vocabulary):
            raise InvalidArgument(f"token ids of {geometry.name} are 0 to {geometry.vocabulary - 1}; got {min(tokens)} to {max(tokens)}")
        if (grammar if geometry.slots else form) is not None:
            raise InvalidArgument(f"{geometry.name} takes a {'form' if geometry.slots else 'grammar'} and nothing else to hold a reply to")
        pages = -(-(length + max_tokens) // geometry.page_slots) + 1  # one to spare for a copy-on-write
        if pages > geometry.device_frames and not geometry.slots:
            raise OutOfPages(
                f"{length + max_tokens} tokens need {pages} pages and {geometry.name} has {geometry.device_frames}; ask for less"
            )
        if (over := process.over_tokens(len(tokens) + (sampling is not None))) is not None:
            raise over
        if sampling is not None and geometry.slots and (over := process.over_cost(geometry.cost(length, 1))) is not None:
            raise over
        process.charge_tokens(len(tokens))
        context.tokens.extend(tokens)
        burst = Burst(self._numbers(), process, context, sampling, max_tokens, stop_ids, grammar=grammar, form=form)
        context.burst = burst
        self.bursts[burst.bid] = burst
        process.bursts.add(burst.bid)
        process.usage.bursts += 1
        scheduler.submit(burst, now)
        if process.phase is Phase.STOPPED and not burst.done:
            scheduler.hold(burst, now)
        return burst.bid

    def burst(self, pid: int, bid: int) -> Burst:
        """A burst of the process, under way or finished but not released. Raises BadHandle."""
        burst = self.bursts.get(bid)
        if burst is None or burst.process.pid != pid:
            raise BadHandle(f"pid {pid} has no burst {bid}")
        return burst

    def finish(self, now: float, pid: int, bid: int, reason: str = "stop", keep: int | None = None) -> None:
        """End a burst early with what it has, or with the first `keep` tokens of that.

        The others were put out before anybody could say so. They are taken back: nobody is charged for them, and it ended before
        them, whatever they ended it with. They stay in the context until it is truncated.
        """
        burst = self.burst(pid, bid)
        if not burst.done:
            self._scheduler_of(burst).end(burst, now, reason)
        if keep is not None and (late := len(burst.output) - keep) > 0:
            burst.process.charge_tokens(-late)
            del burst.output[keep:], burst.logprobs[keep:]
            burst.reason, burst.fault = reason, None

    def release(self, now: float, pid: int, bid: int) -> None:
        """Forget a burst; one that is under way is cancelled."""
        burst = self.burst(pid, bid)
        if not burst.done:
            self._scheduler_of(burst).end(burst, now, "cancelled", cancelled=True)
        del self.bursts[bid]
        burst.process.bursts.discard(bid)

    def _scheduler_of(self, burst: Burst) -> Scheduler | Dispatcher:
        return self._scheduler(burst.context.device)

    def device_statistics(self) -> tuple[DeviceStatistics, ...]:
        return (
            *(paged_statistics(name, scheduler) for name, scheduler in self.schedulers.items()),
            *(slot_statistics(name, dispatcher) for name, dispatcher in self.dispatchers.items()),
        )
