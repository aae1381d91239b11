"""Jobs: what the shell runs, in the foreground or behind it, and the table of those in the background.

A job is one list of commands with every process that they started. It is RUNNING until its last command has ended,
then it has a status and its `done` event is set, once. In between it may be STOPPED: its processes are, it writes nothing to the
terminal and begins no other command. At most one job is in the foreground. Numbers are the smallest that are free, as in sh.
Draws nothing.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from llmos import Fault

from .desk import Desk

CLOSED = 141
"""Status of a command whose reader has ended: 128 + PIPE."""
INTERRUPTED = 130
"""Status of a job that Ctrl-C ended: 128 + INT."""
STOPPED = 148
"""Status of a command that Ctrl-Z stopped: 128 + TSTP."""

SIGNALS = {"INT": 2, "KILL": 9, "TERM": 15, "CONT": 18, "STOP": 19, "XCPU": 24}
_ENDINGS = {128 + SIGNALS["INT"]: "Interrupted", 128 + SIGNALS["KILL"]: "Killed", 128 + SIGNALS["TERM"]: "Terminated", 152: "Over limit"}


class Command(Protocol):
    """A command of the host that a job started."""

    @property
    def pid(self) -> int: ...

    async def kill(self, signal: str = "TERM", /) -> None: ...


class Process(Protocol):
    """A process that a job started: what the sdk calls a child."""

    @property
    def pid(self) -> int: ...

    async def kill(self, signal: str = "TERM", /, *, tree: bool = False) -> None:
        """With `tree`, of everything below it too."""
        ...


@dataclass(eq=False, slots=True)
class Job:
    """One list of commands on its way."""

    text: str
    foreground: bool
    number: int = 0
    """Its number in the table; 0 while it is not in it."""
    children: list[Process] = field(default_factory=list)
    """Processes that were started and have not ended yet."""
    pids: list[int] = field(default_factory=list)
    """Every process that was started, in order."""
    commands: list[Command] = field(default_factory=list)
    """Commands of the host that run. Their pids are the host's."""
    desk: Desk | None = None
    """Its keyboard, if it may have one."""
    stopped: bool = False
    several: bool = False
    """Its process has children of its own and generates nothing: Ctrl-C ends it as it ends a pipeline."""
    left: bool = False
    """It ended with `exit`."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    begun: anyio.Event = field(default_factory=anyio.Event)
    """Set when the first process has started, or the job ended without one."""
    turned: anyio.Event = field(default_factory=anyio.Event)
    """Set when it has stopped or ended: whoever waits in front need not wait any longer."""
    going: anyio.Event = field(default_factory=anyio.Event)
    """Set when a stopped job goes on."""
    done: anyio.Event = field(default_factory=anyio.Event)
    status: int = 0
    interrupts: int = 0
    ending: int = 0
    """The status that it is to end with once the last of its processes has: all of it was told to end. 0: it was not."""

    @property
    def state(self) -> str:
        if not self.done.is_set():
            return "Stopped" if self.stopped else "Running"
        if self.status == 0:
            return "Done"
        return _ENDINGS.get(self.status, f"Exit {self.status}")

    def started(self, child: Process) -> None:
        self.children.append(child)
        self.pids.append(child.pid)
        self.begun.set()

    def ended(self, child: Process | Command) -> None:
        for these in (self.children, self.commands):
            if child in these:
                these.remove(child)  # type: ignore[arg-type]  # it is one of them
        self._wind_up()

    def end(self, status: int) -> None:
        """Its processes were told to end: what runs in the shell itself ends with the last of them, and nothing more begins."""
        self.ending = status
        self._wind_up()

    def _wind_up(self) -> None:
        if self.ending and not self.children and not self.commands:
            self.scope.cancel()

    def finish(self, status: int | None) -> None:
        """It has ended; None: it was cut short."""
        self.status = INTERRUPTED if self.interrupts else self.ending or INTERRUPTED if status is None else status
        self.stopped = False
        self.begun.set()
        self.done.set()
        self.turned.set()

    def forgive(self) -> None:
        """Something was typed to it since the last Ctrl-C: the next one is a first one again."""
        self.interrupts = 0

    async def gate(self) -> None:
        """Wait while it is stopped."""
        while self.stopped:
            await self.going.wait()

    async def suspend(self) -> None:
        """Ctrl-Z: everything of it holds still, and the keyboard is the shell's again."""
        if self.done.is_set() or self.stopped:
            return
        self.stopped, self.going = True, anyio.Event()
        if self.desk is not None:
            self.desk.take_away()
        await self._send("STOP")
        self.turned.set()

    async def resume(self) -> None:
        """Go on after a stop."""
        if not self.stopped:
            return
        self.stopped, self.turned = False, anyio.Event()
        await self._send("CONT")
        self.going.set()

    async def _send(self, signal: str) -> None:
        for child in list(self.children):
            with suppress(Fault):  # it has ended meanwhile
                await child.kill(signal, tree=True)
        for command in list(self.commands):
            with suppress(Fault):
                await command.kill(signal)

    async def interrupt(self) -> None:
        """Ctrl-C. The first ends the bursts, and a pipeline or map; the second terminates what still runs, the third kills it.

        What has no process yet (a job that waits for the model, or for another job) is cancelled at once.
        """
        self.interrupts += 1
        children = [*self.children, *self.commands]
        if not children:
            self.scope.cancel()
            return
        signals = (
            ["INT", "TERM"]
            if self.interrupts == 1 and (self.several or len(children) > 1)
            else [("INT", "TERM", "KILL")[min(self.interrupts, 3) - 1]]
        )
        for signal in signals:
            for child in children:
                if child in self.children or child in self.commands:
                    try:
                        await child.kill(signal)
                    except Fault:
                        pass  # it has ended meanwhile
        if "TERM" in signals or "KILL" in signals:
            self.end(INTERRUPTED)


class Jobs:
    """The table of background jobs: those that run, and those whose end nobody has been told of yet."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._recent: list[int] = []
        """Numbers, the current job last."""
        self.announced: dict[str, int] = {}
        """`%1` -> status, of those that have left the table, until the number is given again."""

    def all(self) -> list[Job]:
        return [self._jobs[number] for number in sorted(self._jobs)]

    @property
    def running(self) -> list[Job]:
        return [job for job in self.all() if not job.done.is_set()]

    def add(self, job: Job) -> None:
        number = 1
        while number in self._jobs:
            number += 1
        job.number = number
        self._jobs[number] = job
        self.announced.pop(f"%{number}", None)
        self._recent.append(number)

    def remove(self, job: Job) -> None:
        if self._jobs.get(job.number) is job:
            del self._jobs[job.number]
            self.announced[f"%{job.number}"] = job.status
            self._recent.remove(job.number)

    def touch(self, job: Job) -> None:
        """It is the current job now."""
        if job.number in self._recent:
            self._recent.remove(job.number)
            self._recent.append(job.number)

    def mark(self, job: Job) -> str:
        """`+` for the current job, `-` for the one before, as jobs and notes show it."""
        place = len(self._recent) - self._recent.index(job.number) if job.number in self._recent else 0
        return {1: "+", 2: "-"}.get(place, " ")

    def find(self, name: str) -> Job | None:
        """The job that `%1`, `%+`, `%%`, `%-`, `%text` or a pid means; without a name the current one."""
        if name in ("", "%", "%%", "%+"):
            return self._jobs[self._recent[-1]] if self._recent else None
        if name == "%-":
            return self._jobs[self._recent[-2]] if len(self._recent) > 1 else None
        if name.startswith("%"):
            if name[1:].isdecimal():
                return next((job for job in self.all() if str(job.number) == name[1:]), None)
            matching = [job for job in self.all() if job.text.startswith(name[1:])]
            return matching[-1] if matching else None
        return next((job for job in self.all() if name in map(str, job.pids)), None)
