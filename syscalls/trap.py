"""The trap: receives calls on the kernel's thread, checks them, and drives each to its end.

    enter -> row of the table -> arguments -> pending signal -> capability -> record the intent -> handler -> record the result
                                                                    |               |  ^
                               held only by asking: permit.py first +               |  ^
                                                                 sleep(channel) ----+  +---- Wake(channel), from the kernel

A handler that does not sleep runs to its end inside `enter`, in one breath with its checks. One that sleeps is resumed by
`settle`, which carries out the kernel's effects until there are none. Every sleep is a cancellation point: a process with a
signal pending does not fall asleep, and its sleeping calls are woken with a fault. Nothing but a Fault leaves a call, and
no call goes unanswered. Knows no thread and no event loop: boot lends it a way to run slow work elsewhere.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from llmos.kernel.capability import Verdict
from llmos.kernel.errno import Cancelled, Fault, Interrupted, InvalidArgument, QuotaExceeded, TryAgain
from llmos.kernel.kernel import Deliver, Died, Wake
from llmos.kernel.process import Phase
from llmos.kernel.signal import Signal

from . import param
from .abi import Arguments, Request
from .audit import Entry
from .call import REFUSED, Call
from .channel import Channel, Offload
from .core import Core
from .permit import permit
from .refusal import invalid_argument
from .table import TABLE, Row

log = logging.getLogger("llmos.syscalls")

_BLOCKING = frozenset({"pipe", "child", "model", "tool", "approval", "timer", "mail", "room"})
"""First words of channels that the account of the process knows as what it is blocked on. Bursts the kernel accounts itself."""
_INTERRUPTED = {"tool": "a tool", "approval": "an approval"}
"""Those of them from which INT wakes."""

_FIELD = re.compile(r"\{(\w+)\}")

Elsewhere = Callable[[Callable[[], Any], Callable[[Any, Fault | None], None]], None]
"""Runs work on another thread, then calls back on the kernel's with its result or its fault."""


class Trap:
    """Invariant: a call under way sleeps on exactly one channel, or waits for work elsewhere, or is runnable."""

    def __init__(self, core: Core, elsewhere: Elsewhere, died: Callable[[int], None], aside: Elsewhere | None = None) -> None:
        """aside: the same for work that may take seconds; None: there is no better place for it."""
        self.core = core
        self._elsewhere, self._aside = elsewhere, aside or elsewhere
        self._died = died
        self._asleep: dict[int, dict[Call, None]] = {}
        """pid -> its calls that sleep."""
        self._by_request: dict[Request, Call] = {}
        self._runnable: deque[tuple[Call, Any, Fault | None]] = deque()
        self._parked: dict[int, list[Request]] = {}
        """pid -> calls it made while stopped; they enter when it goes on."""

    # --- a call comes in

    def enter(self, request: Request) -> None:
        """Take a call. `settle` must follow, once for any number of calls."""
        if self._runnable:  # what was cancelled or woken before this call ends before it
            self.settle()
        core = self.core
        arguments: Arguments | None = None
        permits: dict[str, int] = {}
        asks = ""
        try:
            row = TABLE.get(request.name)
            if row is None:
                raise InvalidArgument(f"no system call {request.name[:64]!r}{_nearest(request.name)}")
            arguments = _check(row, request)
            process = core.kernel.table.get(request.pid)
            if not row.always:
                if process.pending is not None:
                    raise self._signalled(request.pid, process.pending)
                if process.phase is Phase.STOPPED:
                    self._park(request)
                    return
            if row.capability is not None:
                wanted = self._wanted(row.capability, request.pid, arguments)
                permits[wanted] = REFUSED
                if core.kernel.judge(request.pid, wanted) is Verdict.HELD:
                    permits[wanted] = 0
                else:
                    asks = wanted
                    permits.clear()
            if core.audit is not None and not row.replayable and not row.always and (stuck := core.audit.stuck()) is not None:
                raise stuck
        except Fault as fault:
            self.refuse(request, arguments, permits, fault)
            return
        record = core.ledger.intend(request, row, arguments, core.clock())
        call = Call(request, row, arguments, record, permits=permits)
        if row.sleeps or asks:
            call.body = _after_asking(core, call, asks) if asks else row.handler(core, call, arguments)
            self._drive(call, None, None)
            return
        try:
            result = row.handler(core, call, arguments)
        except Fault as fault:
            self._fail(call, fault)
        except Exception as bug:  # noqa: BLE001 - a handler's bug must not take other processes down; the caller is told
            self._fail(call, _bug(call, bug))
        else:
            self._finish(call, result)

    def _wanted(self, capability: str, pid: int, arguments: Arguments) -> str:
        """The capability a row asks for, with what the arguments say filled in."""
        if "{" not in capability:
            return capability
        if "{model}" not in capability:
            return _FIELD.sub(lambda found: str(getattr(arguments, found[1])), capability)
        handle = getattr(arguments, "context", None)
        if handle is None:
            return capability.replace("{model}", self.core.models.resolve(getattr(arguments, "model", None)))
        return capability.replace("{model}", self.core.kernel.context(pid, handle).device)

    def _park(self, request: Request) -> None:
        parked = self._parked.setdefault(request.pid, [])
        if len(parked) >= param.MAX_CALLS:
            raise TryAgain(f"pid {request.pid} is stopped with {len(parked)} calls waiting; continue it first")
        parked.append(request)

    # --- a call goes on

    def _drive(self, call: Call, value: Any, fault: Fault | None) -> None:
        """Run a call's handler to its end or its next sleep."""
        body = call.body
        if body is None or call.over:
            return
        process = self.core.kernel.table.all.get(call.pid)
        if fault is None and (process is None or not process.live):  # what woke it was its own end
            fault = Interrupted(f"pid {call.pid} has ended")
        while True:
            try:
                want = body.send(value) if fault is None else body.throw(fault)
            except StopIteration as stop:
                self._finish(call, stop.value)
                return
            except Fault as raised:
                self._fail(call, raised)
                return
            except Exception as bug:  # noqa: BLE001 - as in enter
                self._fail(call, _bug(call, bug))
                return
            fault = self._sleep(call, want)
            if fault is None:
                return

    def _sleep(self, call: Call, want: Channel | Offload) -> Fault | None:
        """Put a call to sleep, or say why it may not."""
        pid, kernel = call.pid, self.core.kernel
        signal = kernel.pending(pid)
        if signal is not None:
            return self._signalled(pid, signal)
        calls = self._asleep.setdefault(pid, {})
        if call not in calls and len(calls) >= param.MAX_CALLS:
            return TryAgain(f"pid {pid} has {len(calls)} calls asleep already; wait for some of them")
        calls[call] = None
        self._by_request[call.request] = call
        self.core.sleeping += 1
        if isinstance(want, Offload):
            call.ticket += 1
            ticket = call.ticket
            (self._aside if want.slow else self._elsewhere)(want.work, lambda value, fault: self._back(call, ticket, value, fault))
        else:
            self.core.channels.add(want, call)
            if want[0] in _BLOCKING:
                call.blocked = want[0]
                kernel.block(self.core.clock(), pid, call.blocked)
        return None

    def _back(self, call: Call, ticket: int, value: Any, fault: Fault | None) -> None:
        """Work elsewhere is done."""
        if call.ticket == ticket and not call.over:
            self._rouse(call, value, fault)

    def _rouse(self, call: Call, value: Any = None, fault: Fault | None = None) -> None:
        """Take a call out of its sleep and make it runnable."""
        self.core.channels.remove(call)
        call.ticket += 1
        self._awake(call)
        self._runnable.append((call, value, fault))

    def _awake(self, call: Call) -> None:
        calls = self._asleep.get(call.pid)
        if calls is not None and call in calls:
            del calls[call]
            self.core.sleeping -= 1
            if not calls:
                del self._asleep[call.pid]
        if call.blocked:
            self.core.kernel.unblock(self.core.clock(), call.pid, call.blocked)
            call.blocked = ""

    def cancel(self, request: Request) -> None:
        """The caller no longer wants it: its handler ends with Cancelled and undoes what it must. `settle` must follow."""
        gone = Cancelled("the caller gave up the call")
        call = self._by_request.get(request)
        if call is not None and not call.over:
            self._rouse(call, fault=gone)
        elif request in self._parked.get(request.pid, ()):
            self._parked[request.pid].remove(request)
            self.refuse(request, None, {}, gone)

    # --- the kernel's effects

    def settle(self) -> None:
        """Carry out the kernel's effects and run who was woken, until nothing is left to do."""
        kernel = self.core.kernel
        while True:
            for effect in kernel.drain():
                if isinstance(effect, Wake):
                    self.wake(effect.channel)
                elif isinstance(effect, Died):
                    self._bury(effect.pid)
                else:
                    self._deliver(effect)
            if not self._runnable and not kernel.stirred():  # the end of a process may withdraw tools, whose callers wake
                return
            while self._runnable:
                self._drive(*self._runnable.popleft())

    def wake(self, channel: Channel) -> None:
        """Make those who sleep there runnable. `settle` must follow."""
        for call in self.core.channels.wake(channel):
            self._rouse(call)

    def _deliver(self, effect: Deliver) -> None:
        """A signal: sleeping calls end with a fault if it is one to end by; parked ones enter if the process goes on."""
        pid = effect.pid
        process = self.core.kernel.table.all.get(pid)
        if process is None or not process.live:
            return
        if process.pending is not None and self._asleep.get(pid):
            fault = self._signalled(pid, process.pending)
            for call in list(self._asleep[pid]):
                self._rouse(call, fault=fault)
        elif effect.signal is Signal.INT:  # as it ends a burst: what waits for a tool or a person waits no more
            for call in [each for each in self._asleep.get(pid, ()) if each.blocked in _INTERRUPTED]:
                self._rouse(call, fault=Interrupted(f"pid {pid} was interrupted while it waited for {_INTERRUPTED[call.blocked]}"))
        if process.phase is not Phase.STOPPED:
            self.wake(("signal", pid))
        if process.phase is not Phase.STOPPED or process.pending is not None:
            for request in self._parked.pop(pid, ()):
                self.enter(request)

    def _signalled(self, pid: int, signal: Signal) -> Fault:
        """What the process gets to see of a signal, once."""
        self.core.kernel.acknowledge(pid)
        if signal is Signal.XCPU:
            return QuotaExceeded(f"pid {pid} has passed a limit; it is to end now and will be killed after its grace period")
        return Interrupted(f"pid {pid} was asked to end by SIG{signal.name}; it will be killed after its grace period")

    def _bury(self, pid: int) -> None:
        """A process ended: its calls end, and what runs it is told."""
        for call in list(self._asleep.get(pid, ())):
            call.blocked = ""  # its account is closed
            self._rouse(call, fault=Interrupted(f"pid {pid} has ended"))
        for request in self._parked.pop(pid, ()):
            self.refuse(request, None, {}, Interrupted(f"pid {pid} has ended"))
        self.core.forget(pid)
        self._died(pid)

    # --- the end of a call

    def _finish(self, call: Call, result: Any) -> None:
        self._end(call, result)
        call.request.sink.finish(result)

    def _fail(self, call: Call, fault: Fault) -> None:
        self._end(call, None, fault.code)
        call.request.sink.fail(fault)

    def _end(self, call: Call, result: Any, error: str = "") -> None:
        call.over = True
        self._by_request.pop(call.request, None)
        now = self.core.clock()
        self.core.ledger.complete(call.record, now, result, error)
        if self.core.audit is not None:
            self._write_down(call.pid, call.row.name, call.arguments, call.permits, error, now - call.record.begun, call.row.replayable)

    def refuse(self, request: Request, arguments: Arguments | None, permits: dict[str, int], fault: Fault) -> None:
        """The end of a call that never began: it is recorded and written down as any other."""
        self.core.ledger.refuse(request, arguments, self.core.clock(), fault.code)
        if self.core.audit is not None:
            self._write_down(request.pid, request.name[:64], arguments, permits, fault.code, 0.0, True)
        request.sink.fail(fault)

    def _write_down(
        self, pid: int, name: str, arguments: Arguments | None, permits: dict[str, int], error: str, seconds: float, spare: bool
    ) -> None:
        core = self.core
        if core.audit is not None:
            process = core.kernel.table.all.get(pid)
            who, user = ("", "") if process is None else (process.name, process.user)
            core.audit.put(Entry(core.wall(), pid, who, user, name, arguments, permits, error, seconds, spare))


async def _after_asking(core: Core, call: Call, wanted: str) -> Any:
    """The handler of a call whose capability is held by asking. In one breath with the answer, if it does not sleep."""
    await permit(core, call, wanted)
    result = call.row.handler(core, call, call.arguments)
    return await result if call.row.sleeps else result


def _check(row: Row, request: Request) -> Arguments:
    try:
        return row.arguments.model_validate(request.arguments)
    except ValidationError as error:
        raise invalid_argument(row.name, error, row.arguments) from None


def _bug(call: Call, bug: Exception) -> Fault:
    log.error("system call %s of pid %d failed: this is a bug in llmos", call.row.name, call.pid, exc_info=bug)
    return Fault(f"{call.row.name} failed inside llmos with {type(bug).__name__}: this is a bug; its traceback is in the log")


def _nearest(name: str) -> str:
    near = get_close_matches(name[:64], TABLE, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
