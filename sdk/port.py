"""The port: how calls leave the caller's event loop and how their answers come back.

    caller's loop                                                          kernel's thread
    call --> outbound --one ring per turn of the loop-->  Gate.take  -->  trap
    future <-- deliver <--one ring per breath of the kernel-- inbound <--  Sink.finish, fail, push

Both queues are deques, safe to append to on one side and pop from on the other; a ring is one `call_soon_threadsafe`, however
much is queued. Invariant: whatever was queued is taken by the next ring, and a ring follows every append. Streamed pieces
wait in a bounded buffer: when the reader is slow they grow longer, not more. Knows no system call by name.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from llmos.syscalls.abi import Fault, Panic, Piece, Request, ShutDown, param

MAX_PIECES = 256
"""Pieces of one stream that wait for their reader."""


class Gate(Protocol):
    """The kernel's side. Called on the caller's loop; returns at once."""

    def take(self, items: Iterable[tuple[Request, bool]]) -> None:
        """Requests to enter, or with True to cancel, in order."""
        ...


@dataclass(slots=True)
class _Trail:
    """Which task of which process this is: calls are numbered within it."""

    pid: int
    task: int
    path: str
    calls: int = 0
    children: int = 0


_TRAIL: ContextVar[_Trail | None] = ContextVar("llmos_trail", default=None)
"""A task inherits its parent's: that is how a child task is known, and its path formed."""


class Slot:
    """The sink of a call without pieces: a future of the caller's loop."""

    __slots__ = ("_port", "future")

    def __init__(self, port: Port, future: asyncio.Future[Any]) -> None:
        self._port, self.future = port, future

    def push(self, piece: Piece) -> None:
        pass

    def finish(self, result: Any) -> None:
        self._port.queue(self, result, None)

    def fail(self, fault: Fault) -> None:
        self._port.queue(self, None, fault)

    def deliver(self, result: Any, fault: BaseException | None) -> None:
        self._port.forget(self.future)
        if self.future.done():
            return
        if fault is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(fault)


class Stream(Slot):
    """The sink of a call with pieces. Refers to no reader, so that a reader that is dropped is seen to be."""

    __slots__ = ("ended", "news", "pieces", "taken")

    def __init__(self, port: Port, future: asyncio.Future[Any]) -> None:
        super().__init__(port, future)
        self.pieces: deque[Piece] = deque()
        self.news: asyncio.Future[None] | None = None
        """Set by a reader that waits; done when there is a piece, or the end."""
        self.ended: Callable[[Any], None] = _nothing
        """Called with the result before anybody can see that it is there."""
        self.taken: Callable[[], None] = _no_matter
        """Called for every piece that the reader takes: a gate that pushes on credit learns by it that there is room."""

    def push(self, piece: Piece) -> None:
        if len(self.pieces) >= MAX_PIECES:
            try:
                last = self.pieces.pop()
            except IndexError:  # the reader was quicker
                pass
            else:
                piece = Piece(last.text + piece.text, last.tokens + piece.tokens, last.logprobs + piece.logprobs)
        self.pieces.append(piece)
        self._port.queue(self, None, None)

    def deliver(self, result: Any, fault: BaseException | None) -> None:
        if result is not None:
            self.ended(result)
        if result is not None or fault is not None:
            super().deliver(result, fault)
        if self.news is not None and not self.news.done():
            self.news.set_result(None)


def _nothing(result: Any) -> None:
    pass


def _no_matter() -> None:
    pass


class Notice:
    """Something the kernel says unasked."""

    __slots__ = ("_act",)

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def deliver(self, result: Any, fault: BaseException | None) -> None:
        self._act()


@dataclass(slots=True, eq=False)
class Port:
    """One caller's loop. Made on that loop."""

    gate: Gate
    loop: asyncio.AbstractEventLoop
    _outbound: deque[tuple[Request, bool]] = field(default_factory=deque)
    _inbound: deque[tuple[Slot | Notice, Any, BaseException | None]] = field(default_factory=deque)
    _waiting: dict[asyncio.Future[Any], None] = field(default_factory=dict)
    _ringing: bool = False
    _rung: bool = False
    _closed: BaseException | None = None
    _roots: dict[int, int] = field(default_factory=dict)
    _thread: int = field(default_factory=threading.get_ident)

    # --- going out: on the caller's loop

    async def call(self, pid: int, name: str, /, **arguments: Any) -> Any:
        """Make a call and wait for its result. Cancelling the wait cancels the call."""
        request, slot = self.request(pid, name, arguments)
        try:
            return await slot.future
        except asyncio.CancelledError:
            self.cancel(request)
            self.forget(slot.future)
            raise

    async def claim(self, pid: int, name: str, arguments: dict[str, Any], undo: Callable[[Any], None]) -> Any:
        """A call whose result must not be lost: if it comes after the wait was cancelled, `undo` is given it."""
        request, slot = self.request(pid, name, arguments)
        try:
            return await asyncio.shield(slot.future)
        except asyncio.CancelledError:
            self.cancel(request)
            slot.future.add_done_callback(partial(_undo, undo))
            raise

    def request(self, pid: int, name: str, arguments: dict[str, Any], *, stream: bool = False) -> tuple[Request, Slot]:
        """Send a call on its way; its result comes to the slot's future."""
        future = self.loop.create_future()
        slot = Stream(self, future) if stream else Slot(self, future)
        path, sequence = self._id(pid)
        request = Request(pid, name, arguments, path, sequence, slot)
        if self._closed is not None:
            slot.deliver(None, self._ended())
            return request, slot
        self._waiting[future] = None
        self._send(request, False)
        return request, slot

    def cancel(self, request: Request) -> None:
        """The result is no longer wanted."""
        if self._closed is None:
            self._send(request, True)

    def drop(self, request: Request) -> None:
        """Cancel from a finalizer, which may run on any thread."""
        if threading.get_ident() == self._thread:
            self.cancel(request)  # at once: what the caller does next comes after it
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.cancel, request)

    def later(self, pid: int, name: str, arguments: Mapping[str, Any]) -> None:
        """Make a call soon, from any thread, and forget its outcome: for finalizers."""
        if not self.loop.is_closed() and self._closed is None:
            self.loop.call_soon_threadsafe(self._make, pid, name, dict(arguments))

    def _make(self, pid: int, name: str, arguments: dict[str, Any]) -> None:
        _, slot = self.request(pid, name, arguments)
        slot.future.add_done_callback(ignore)

    def forget(self, future: asyncio.Future[Any]) -> None:
        self._waiting.pop(future, None)

    def _send(self, request: Request, cancel: bool) -> None:
        self._outbound.append((request, cancel))
        if not self._ringing:
            # The ring is at the end of this turn of the loop, so that all tasks that run in it make one.
            self._ringing = True
            self.loop.call_soon(self._ring)

    def _ring(self) -> None:
        self._ringing = False
        items = list(self._outbound)
        self._outbound.clear()
        if self._closed is None:
            self.gate.take(items)

    def _id(self, pid: int) -> tuple[str, int]:
        trail = _TRAIL.get()
        task = id(asyncio.current_task())
        if trail is None or trail.pid != pid:
            root = self._roots.get(pid, 0)
            self._roots[pid] = root + 1
            trail = _Trail(pid, task, str(root))
            _TRAIL.set(trail)
        elif trail.task != task:
            path = f"{trail.path}.{trail.children}"
            trail.children += 1
            trail = _Trail(pid, task, path[-param.MAX_PATH :])
            _TRAIL.set(trail)
        sequence = trail.calls
        trail.calls += 1
        return trail.path, sequence

    # --- coming in: on the kernel's thread

    def queue(self, slot: Slot | Notice, result: Any, fault: BaseException | None) -> None:
        self._inbound.append((slot, result, fault))

    def flush(self) -> None:
        """The kernel has drawn a breath: ring if there is anything."""
        if self._inbound and not self._rung and self._closed is None:
            self._rung = True
            try:
                self.loop.call_soon_threadsafe(self.deliver)
            except RuntimeError as gone:  # the caller's loop was closed under us: nobody is left to tell
                self._closed = gone

    # --- on the caller's loop again

    def deliver(self) -> None:
        """Hand what is queued to those who wait for it."""
        self._rung = False  # before the queue is emptied: what is queued from now on rings again
        inbound = self._inbound
        while inbound:
            slot, result, fault = inbound.popleft()
            slot.deliver(result, fault)

    def close(self, reason: BaseException) -> None:
        """No more calls: every call under way and to come ends with ShutDown, the kernel's Panic, or what the gate says."""
        if self._closed is not None:
            return
        self.deliver()
        self._closed = reason
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(self._ended())
        self._waiting.clear()

    @property
    def closed(self) -> bool:
        """Every call raises ShutDown, or the kernel's Panic."""
        return self._closed is not None

    def _ended(self) -> BaseException:
        reason = self._closed
        if isinstance(reason, Panic):
            return reason
        if isinstance(reason, ShutDown):
            return ShutDown(reason.args[0])  # one for each who is told: a raised exception collects its own traceback
        return ShutDown("the system has shut down; boot it again")


def _undo(undo: Callable[[Any], None], future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and future.exception() is None:
        undo(future.result())


def ignore(future: asyncio.Future[Any]) -> None:
    """Its outcome is of no interest: keep asyncio from reporting it."""
    if not future.cancelled():
        future.exception()
