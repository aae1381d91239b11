"""Programs: what runs in attached processes, as tasks of the caller's loop.

    start --task--> body() --value--> exit(0)
                      | raises: exit(1, traceback), one line on stderr      | the kernel says it died: the task is cancelled

A program ends with its process and a process with its program, whichever is first. The value it returned stays here until
its parent collects it, or nobody can any more. Whatever a program raises, and whatever the text of that raises in turn, ends
this program only. Knows nothing of what a program does.
"""

from __future__ import annotations

import asyncio
import math
import sys
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

from llmos.syscalls.abi import BrokenPipe, Fault, Interrupted, Panic, QuotaExceeded, param

from .port import Port, ignore
from .prompt import State
from .stream import End, Writer

STATUSES: dict[type[Fault], int] = {Interrupted: 128 + 15, BrokenPipe: 128 + 13, QuotaExceeded: 128 + 24}
"""Exit status of a program that ends by one of these faults: 128 and the signal that it stands for."""
ENDS_ALL = (Panic, KeyboardInterrupt, GeneratorExit)
"""What is raised to end the whole system, or the loop, and not by the program that it comes through."""
INIT = 1
Body: TypeAlias = Callable[[], Awaitable[Any]]


@dataclass(slots=True, eq=False)
class Attached:
    """One program under way, or its value until that is collected."""

    pid: int
    parent: int
    name: str
    stderr: int
    state: State | None = None
    """None for a Python program: its local variables cannot be copied."""
    plain: bool = False
    """Errors are told in a line, not as a traceback."""
    ends: tuple[End, ...] = ()
    """Its standard streams: the kernel closes them with the process."""
    alone: bool = False
    """The OS process is its own: what it has printed leaves before its end, and what it returns goes to its parent through the kernel."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    finished: bool = False
    dead: bool = False
    value: Any = None


class Programs:
    """Every attached program of one caller's loop."""

    def __init__(self, port: Port, tasks: TaskGroup, *, remote: bool = False) -> None:
        self._port, self._tasks, self.remote = port, tasks, remote
        """remote: the system is a daemon's, and has runners."""
        self._all: dict[int, Attached] = {}
        self._kept: dict[int, tuple[End | None, ...]] = {}
        self._children: dict[int, set[int]] = {}
        self._idle = anyio.Event()
        self.running = 0
        """Programs under way."""

    def start(self, attached: Attached, body: Body) -> None:
        self._all[attached.pid] = attached
        self._children.setdefault(attached.parent, set()).add(attached.pid)
        self.running += 1
        self._tasks.start_soon(self._run, attached, body, name=f"llmos:{attached.pid}:{attached.name}")

    async def idle(self) -> None:
        """Wait until no program runs."""
        while self.running:
            self._idle = anyio.Event()
            await self._idle.wait()

    def cancel(self) -> None:
        """Cancel every program at once: the kernel is no more."""
        self._tasks.cancel_scope.cancel()

    def pids(self) -> list[int]:
        """The processes of the programs under way."""
        return [pid for pid, attached in self._all.items() if not attached.finished]

    def hang_up(self) -> None:
        """All their processes are gone, or cannot be reached any more."""
        for pid in list(self._all):
            self.died(pid)

    def get(self, pid: int) -> Attached | None:
        found = self._all.get(pid)
        return None if found is None or found.finished else found

    def keep(self, pid: int, ends: tuple[End | None, ...]) -> None:
        """Hold the other ends of a child's streams until it is waited for: a child that nobody looks at may still write."""
        self._kept[pid] = ends

    def feed(self, writer: Writer, data: bytes) -> None:
        """Write all of `data` in the background, then close."""
        self._tasks.start_soon(self._feed, writer, data)

    async def _feed(self, writer: Writer, data: bytes) -> None:
        try:
            await writer.write(data)
        except Fault:  # its reader has ended, or its writer's process has: nobody misses the rest
            pass
        await writer.close()

    def collect(self, pid: int) -> Any:
        """The value of a program whose process has just been waited for."""
        self._kept.pop(pid, None)
        attached = self._forget(pid)
        return None if attached is None else attached.value

    def _forget(self, pid: int) -> Attached | None:
        attached = self._all.pop(pid, None)
        if attached is not None:
            self._children.get(attached.parent, set()).discard(pid)
        return attached

    def died(self, pid: int) -> None:
        """The kernel says that a process has ended."""
        attached = self._all.get(pid)
        if attached is not None:
            attached.dead = True
            if not attached.finished:
                attached.scope.cancel()
            elif attached.parent == INIT:
                self._forget(pid)  # init has reaped it
        for number in self._children.pop(pid, ()):
            child = self._all[number]
            child.parent = INIT
            self._children.setdefault(INIT, set()).add(number)
            self._kept.pop(number, None)
            if child.dead and child.finished:
                self._forget(number)

    async def _run(self, attached: Attached, body: Body) -> None:
        status, reason, value = 0, "", b""
        with attached.scope:
            try:
                attached.value = await body()
            except BaseException as error:
                if _ends_all(error):
                    raise
                status, reason = _outcome(error, plain=attached.plain)
        if attached.alone:
            status, reason, value = _left(attached.value, status, reason)
        attached.finished = True
        self.running -= 1
        if not self.running:
            self._idle.set()
        for end in attached.ends:
            end.forget()
        if attached.dead:
            if attached.parent == INIT:
                self._forget(attached.pid)
            return
        self._end(attached, status, reason, value)

    def _end(self, attached: Attached, status: int, reason: str, value: bytes) -> None:
        """Tell the kernel. Not waited for: a program that is over must not hold up the end of its loop."""
        if reason and status != STATUSES[Interrupted]:  # who sent TERM knows; what ends by it has nothing to say of it
            # All of a traceback where the OS process is the program's own: whoever ran it may be gone by now.
            said = reason.rstrip() if attached.alone else reason.rstrip().rpartition("\n")[2]
            line = f"{attached.name} (pid {attached.pid}): {said}\n"
            for data in (b"", line.encode()[:65_536]):  # a signal that is pending takes the place of one call: not of the line
                _, slot = self._port.request(attached.pid, "write", {"pipe": attached.stderr, "data": data})
                slot.future.add_done_callback(ignore)
        arguments = {"status": status, "reason": reason[-param.MAX_REASON :]}
        if value:
            arguments["value"] = value
        _, slot = self._port.request(attached.pid, "exit", arguments)
        slot.future.add_done_callback(ignore)


def _left(value: Any, status: int, reason: str) -> tuple[int, str, bytes]:
    """Status, reason and packed value of a program that has its OS process to itself. One whose value cannot cross has failed."""
    from llmos.syscalls.wire import pack_value  # msgpack is not needed where programs share an OS process

    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # it has closed it
            pass
    try:
        return status, reason, pack_value(value, param.MAX_VALUE) if status == 0 else b""
    except Fault as fault:
        return 1, str(fault), b""


def _ends_all(error: BaseException) -> bool:
    """Whether more than one program is to end. A program that awaits a task which it has cancelled raises CancelledError of its own."""
    if isinstance(error, asyncio.CancelledError):
        return anyio.current_effective_deadline() == -math.inf  # its own scope, or one around all programs, is cancelled
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(ENDS_ALL) is not None
    return isinstance(error, ENDS_ALL)


def _outcome(error: BaseException, *, plain: bool) -> tuple[int, str]:
    """Exit status and reason of a program that raised. How that reads as text is the program's own code too, and may raise."""
    try:
        status, reason = _status(error) if isinstance(error, SystemExit) else _failure(error, plain=plain)
        return status, reason.encode(errors="backslashreplace").decode()  # lone surrogates are no text
    except BaseException as second:  # noqa: BLE001 - not even a SystemExit out of its `__str__` may keep its process alive
        return 1, f"{type(error).__name__}, whose text cannot be had: {type(second).__name__}"


def _status(leave: SystemExit) -> tuple[int, str]:
    """As Python does: None is 0, a number is itself, anything else is 1 and a message."""
    code = leave.code
    if code is None:
        return 0, ""
    if isinstance(code, int):
        return code & 255, ""
    return 1, str(code)


def _failure(error: BaseException, *, plain: bool) -> tuple[int, str]:
    """Exit status and reason of a program that raised."""
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:  # what a task group makes of one error
        cause = cause.exceptions[0]
    for kind, status in STATUSES.items():
        if isinstance(cause, kind):
            return status, str(cause)
    return 1, str(cause) if plain and isinstance(cause, Fault) else _traceback(error)


def _traceback(error: BaseException) -> str:
    """The traceback from the program's own frame on."""
    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None
    return "".join(traceback.format_exception(type(error), error, frames))
