"""Children: a process that one has spawned, and how it ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from llmos.syscalls.abi import ExitRecord, Fault, Spawned

from .port import Port, ignore
from .program import Programs
from .stream import Reader, Writer

SIGNALS = {2: "INT", 9: "KILL", 15: "TERM", 18: "CONT", 19: "STOP"}


def signal_name(signal: str | int) -> str:
    """ "TERM" from "TERM", "SIGTERM", "term" or 15; what is none of them comes back as it is, for the kernel to refuse."""
    if isinstance(signal, int):
        return SIGNALS.get(signal, str(signal))
    return str(signal).upper().removeprefix("SIG")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and those below it used."""

    tokens: int
    wall: float
    """Seconds from spawn to exit."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended."""

    pid: int
    name: str
    status: int
    """0 if it went well, 1 if its program raised, 128 + signal if it was killed."""
    value: Any
    """What its program returned; from a runner, as far as that crosses between OS processes: a tuple comes as a list."""
    error: str | None
    """The traceback of a program that raised, or why it was killed."""
    usage: Usage


def exit_of(record: ExitRecord, programs: Programs) -> Exit:
    """The end of a child that was just waited for, with the value its program left."""
    value = programs.collect(record.pid)
    if record.value:
        from llmos.syscalls.wire import unpack

        value = unpack(record.value)
    return Exit(
        record.pid,
        record.name,
        record.status,
        value if record.status == 0 else None,
        record.reason or None,
        Usage(record.tokens, record.wall),
    )


class Child:
    """A child process: its streams, its signals, its end."""

    def __init__(self, port: Port, parent: int, programs: Programs, streams: Spawned) -> None:
        self._port, self._parent, self._programs = port, parent, programs
        self.pid = streams.pid
        self.stdin = Writer(port, parent, streams.stdin) if streams.stdin is not None else None
        """Where to write what it reads; None if it was given something else to read."""
        self.stdout = Reader(port, parent, streams.stdout) if streams.stdout is not None else None
        self.stderr = Reader(port, parent, streams.stderr) if streams.stderr is not None else None
        self.log: str | None = None
        """The file on the daemon's machine with what it writes, if it is detached and nobody else reads that. For `files` see `output`."""
        self._waiting: asyncio.Future[ExitRecord] | None = None
        self._exit: Exit | None = None

    @property
    def output(self) -> str | None:
        """`log` as a path of the system: `await system.files.read(child.output)`, from whatever machine."""
        return None if self.log is None else "/output/" + self.log.rpartition("/")[2]

    async def wait(self) -> Exit:
        """Sleep until it has ended. May be called again, by several tasks, and cancelled: the end is never lost.

        A child that writes more to its stdout than a pipe holds waits for somebody to read it.
        """
        if self._exit is None:
            if self._waiting is None or self._waiting.cancelled():
                _, slot = self._port.request(self._parent, "wait", {"pid": self.pid})
                slot.future.add_done_callback(ignore)
                self._waiting = slot.future
            try:
                record = await asyncio.shield(self._waiting)
            except Fault:  # the wait ended, not the child: it can be waited for again
                self._waiting = None
                raise
            if self._exit is None:
                self._exit = exit_of(record, self._programs)
        return self._exit

    async def kill(self, signal: str | int = "TERM", *, tree: bool = False) -> None:
        """Send it a signal; with `tree`, to everything below it too."""
        await self._port.call(self._parent, "kill", pid=self.pid, signal=signal_name(signal), tree=tree)

    def __repr__(self) -> str:
        return f"<Child pid={self.pid}>"
