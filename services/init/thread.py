"""The kernel's thread: an event loop that does nothing but think.

Other threads post functions; they run here one after another, in breaths: run all that was posted, carry out the kernel's
effects, put steps on the devices, hand answers over. Between breaths it sleeps without polling; a timer wakes it for the
kernel's next deadline. A Panic, or any exception that is not a Fault, ends it: everybody is told, nothing goes on.
Slow work of handlers goes to other threads (`elsewhere`), where all else that is raised becomes the fault of the call that asked.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import anyio

from llmos.kernel.errno import Fault, Panic, ShutDown
from llmos.syscalls.abi import Request
from llmos.syscalls.core import Core
from llmos.syscalls.trap import Trap

log = logging.getLogger("llmos.init")

T = TypeVar("T")

_HANDS = 2
"""Threads for slow work of handlers."""


class Advancing(Protocol):
    """The loop of a device: a machine or a line."""

    def advance(self) -> None:
        """Tell the device what there is to do now."""
        ...


class KernelThread:
    """Owns the thread, the loop in it, the inbox, and the machines. Invariant: a ring follows every post."""

    def __init__(self, name: str = "llmos-kernel") -> None:
        self.machines: dict[str, Advancing] = {}
        self.trap: Trap | None = None
        self.failure: BaseException | None = None
        self._flushes: list[Callable[[], None]] = []
        self._crashed: list[Callable[[BaseException], None]] = []
        self._inbox: deque[Callable[[], None]] = deque()
        self._rung = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._ready = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None
        self._hands = ThreadPoolExecutor(_HANDS, thread_name_prefix="llmos-hand")
        self._slow = ThreadPoolExecutor(1, thread_name_prefix="llmos-slow")
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    # --- from any thread

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def post(self, function: Callable[[], None]) -> None:
        """Run a function on this thread, soon. Forgotten if the thread has ended."""
        self._inbox.append(function)
        self._ring()

    async def ask(self, function: Callable[[], T]) -> T:
        """Run a function on this thread and wait for what it gives, or raises."""
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(function())
            except Exception as raised:  # noqa: BLE001 - it is the asker's
                answer.set_exception(raised)

        self.post(run)
        return await asyncio.wrap_future(answer)

    def take(self, items: Iterable[tuple[Request, bool]]) -> None:
        """The gate of a port: requests to enter, or with True to cancel."""
        trap = self.trap
        if trap is None:
            raise ShutDown("the system has not booted yet")
        for request, cancel in items:
            self._inbox.append(_bind(trap.cancel if cancel else trap.enter, request))
        self._ring()

    def _ring(self) -> None:
        if self._rung or self._loop is None:
            return
        self._rung = True
        try:
            self._loop.call_soon_threadsafe(self._breathe)
        except RuntimeError:  # the loop is closed: it has been stopped, or has crashed and said so
            self._inbox.clear()

    def stop(self, seconds: float) -> bool:
        """End the thread. False if it is not over in time."""
        self.post(self._end)
        self._thread.join(seconds)
        self._hands.shutdown(wait=True, cancel_futures=True)
        self._slow.shutdown(wait=True, cancel_futures=True)
        return not self._thread.is_alive()

    def elsewhere(self, work: Callable[[], Any], back: Callable[[Any, Fault | None], None]) -> None:
        """Run work on another thread, then `back` on this one with its result or its fault, whatever became of it; a Panic ends all."""
        self._give(self._hands, work, back)

    def aside(self, work: Callable[[], Any], back: Callable[[Any, Fault | None], None]) -> None:
        """The same for work that may take seconds, on a thread of its own: nothing but its like waits for it."""
        self._give(self._slow, work, back)

    def _give(self, hands: ThreadPoolExecutor, work: Callable[[], Any], back: Callable[[Any, Fault | None], None]) -> None:
        def run() -> None:
            try:
                value, fault = work(), None
            except Fault as raised:
                value, fault = None, raised
            except Panic as panic:
                self.post(_raiser(panic))
                return
            except BaseException as bug:
                log.error("work of a system call failed: this is a bug in llmos", exc_info=bug)
                value, fault = None, Fault(f"failed inside llmos with {type(bug).__name__}: this is a bug; its traceback is in the log")
            self.post(lambda: back(value, fault))

        hands.submit(run)

    # --- on this thread

    def listen(self, descriptor: int, act: Callable[[], None]) -> None:
        """Call `act`, in a breath, whenever the descriptor is readable."""
        if self._loop is not None:
            self._loop.add_reader(descriptor, self._heard, act)

    def deafen(self, descriptor: int) -> None:
        """No more of that. The thread may have ended by now, and its loop with it."""
        if self._loop is not None:
            self._loop.remove_reader(descriptor)

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Call `act` in a breath after so many seconds."""
        if self._loop is not None:
            self._loop.call_later(seconds, self._heard, act)

    def _heard(self, act: Callable[[], None]) -> None:
        if self.failure is None:
            self._inbox.append(act)
            self._breathe()

    def on_breath(self, flush: Callable[[], None], crashed: Callable[[BaseException], None]) -> None:
        """Call `flush` after every breath, and `crashed` if this thread fails."""
        self._flushes.append(flush)
        self._crashed.append(crashed)

    def _run(self) -> None:
        try:
            anyio.run(self._live, backend="asyncio")
        finally:
            self._loop = None
            self._ready.set()

    async def _live(self) -> None:
        self._over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        await self._over.wait()
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        if self._over is not None:
            self._over.set()

    def _breathe(self) -> None:
        self._rung = False  # before the inbox is emptied: what is posted from now on rings again
        try:
            inbox = self._inbox
            while inbox:
                inbox.popleft()()
            self._settle()
        except BaseException as failure:  # noqa: BLE001 - the last breath: nothing may go on over a broken invariant
            self._crash(failure)

    def _settle(self) -> None:
        trap = self.trap
        if trap is None:
            return
        for machine in self.machines.values():
            machine.advance()
        trap.settle()
        for machine in self.machines.values():
            machine.advance()
        while trap.core.kernel.stirred():  # planning may end a burst, whose owner must hear of it
            trap.settle()
            for machine in self.machines.values():
                machine.advance()
        for flush in self._flushes:
            flush()
        deadline = trap.core.kernel.next_deadline()
        if deadline != self._deadline:
            self._arm(deadline)

    def _arm(self, deadline: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._deadline = deadline
        if deadline is not None and self._loop is not None:
            self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._tick)

    def _tick(self) -> None:
        self._timer = self._deadline = None
        self._inbox.append(self._do_tick)
        self._breathe()

    def _do_tick(self) -> None:
        if self.trap is not None:
            core: Core = self.trap.core
            core.kernel.tick(core.clock())

    def _crash(self, failure: BaseException) -> None:
        log.critical("the kernel's thread failed; the system is down", exc_info=failure)
        self.failure = failure
        self._end()
        for crashed in self._crashed:
            crashed(failure)


def _bind(function: Callable[[Request], None], request: Request) -> Callable[[], None]:
    return lambda: function(request)


def _raiser(panic: Panic) -> Callable[[], None]:
    def throw() -> None:
        raise panic

    return throw
