"""The shell: what its commands share, and the life of its jobs.

Owns the variables, the last status, the table of jobs, which job Ctrl-C goes to, and the notes that wait for the next
prompt. At most one job is in front. Reads no lines (lines.py, prompt.py) and runs no syntax (interpreter.py).
"""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup
from llmos import Fault

from .attend import Start, attend
from .builtins.call import Leave
from .jobs import CLOSED, INTERRUPTED, Job, Jobs
from .machine import Machine
from .streams import Closed, Empty, Sink, Source
from .terminal import Terminal, TerminalSink

if TYPE_CHECKING:
    from llmos import System
    from rich.console import RenderableType

MOST_STATUSES = 10_000
"""Ended processes whose status is remembered for `wait`."""

MOST_DONE = 1_000
"""Finished jobs that a script keeps for `wait` and `jobs`."""


class Shell:
    """One shell, interactive or running a script."""

    def __init__(self, terminal: Terminal, machine: Machine, *, variables: dict[str, str], interactive: bool = False) -> None:
        self.terminal = terminal
        self.machine = machine
        self.interactive = interactive
        self.variables = variables
        self.arguments: list[str] = []
        """$1, $2, ... of a script; $0 is in `script`."""
        self.script = "llmsh"
        self.status = 0
        self.statuses: dict[int, int] = {}
        """Exit status of every process that ended, for `wait` and `$?`."""
        self.jobs = Jobs()
        self.last_pid: int | None = None
        self.warn_of_jobs = interactive
        """The next `exit` with running jobs warns first."""
        self.standard_input: Callable[[], Source] = Empty
        """Makes what a command in the foreground reads when nothing else is given: the keyboard, or the shell's own input."""
        self.history: Callable[[], list[str]] = list
        self.names: tuple[str, ...] = ()
        """The commands there are."""
        self._front: Job | None = None
        self._notes: list[str] = []
        self._tasks: TaskGroup | None = None

    # --- jobs -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The life of the shell: its machine and its background jobs. Whatever still runs at the end is killed."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self.machine.run)
            try:
                yield
            finally:
                for job in self.jobs.running:
                    job.scope.cancel()
                with anyio.CancelScope(shield=True):
                    for job in self.jobs.running:
                        await job.done.wait()
                self.machine.stop()

    @contextmanager
    def attending(self, job: Job) -> Iterator[None]:
        """While the body runs, `job` is in front: Ctrl-C goes to it."""
        before, self._front = self._front, job
        was_foreground, job.foreground = job.foreground, True
        try:
            yield
        finally:
            self._front = before
            job.foreground = was_foreground

    def start(self, job: Job, body: Callable[[], Awaitable[int]]) -> None:
        """Run `body` as a job in the background."""
        if self._tasks is None:
            raise RuntimeError("start a job inside `async with shell.running()`")
        self.jobs.add(job)
        self._tasks.start_soon(self._background, job, body)
        self._tasks.start_soon(self._announce, job)

    async def _background(self, job: Job, body: Callable[[], Awaitable[int]]) -> None:
        status = INTERRUPTED
        try:
            with job.scope:
                try:
                    status = await body()
                except Leave as left:
                    status = left.status
                except Closed:
                    status = CLOSED
        finally:
            job.finish(status)
        if self.interactive:
            await self.note(f"[{job.number}]{self.jobs.mark(job)} {job.state:<11} {job.text}")
            self.jobs.remove(job)
        else:
            done = [each for each in self.jobs.all() if each.done.is_set()]
            for each in done[:-MOST_DONE]:
                self.jobs.remove(each)

    async def _announce(self, job: Job) -> None:
        """`[1] 7`, once the pid is known; and `$!`."""
        await job.begun.wait()
        if job.pids:
            self.last_pid = job.pids[0]
            if self.interactive:
                await self.note(f"[{job.number}] {job.pids[0]}")

    async def adopt(self, start: Start, text: str) -> Job:
        """A job in the background for a process that the system has made: `fork`. Returns when it has started."""
        job = Job(text, foreground=False)
        failed: list[Fault] = []

        async def body() -> int:
            out = TerminalSink(self.terminal, job)
            try:
                return (await attend(job, start, None, out, self.statuses))[0]
            except Fault as fault:
                failed.append(fault)
                return 1
            finally:
                await out.finish()

        self.start(job, body)
        await job.begun.wait()
        if failed:
            raise failed[0]
        return job

    async def interrupt(self) -> bool:
        """Ctrl-C. True if there was a job in front to take it."""
        if self._front is None:
            return False
        await self._front.interrupt()
        return True

    async def note(self, text: str) -> None:
        """A line about a job: above the prompt if there is one, else before the next."""
        if self.terminal.above is not None:
            await self.terminal.error(text)
        else:
            self._notes.append(text)

    async def show_notes(self) -> None:
        """Before a prompt: what happened to jobs meanwhile."""
        notes, self._notes = self._notes, []
        for text in notes:
            await self.terminal.error(text)

    # --- what commands ask ----------------------------------------------------------------------------------------

    async def system(self) -> System:
        """The running system, waited for under a progress line."""
        if (ready := self.machine.ready) is not None:
            return ready
        async with self.terminal.progress(self.machine.label):
            return await self.machine.system()

    def lookup(self, name: str) -> str:
        """The value of a variable, also of `$?`, `$!` and a script's arguments; "" if it has none."""
        if name.isdecimal():
            words = [self.script, *self.arguments]
            return words[int(name)] if len(name) < 6 and int(name) < len(words) else ""
        special = {"?": str(self.status), "!": str(self.last_pid or ""), "#": str(len(self.arguments)), "@": " ".join(self.arguments)}
        if name in special:
            return special[name]
        if name == "$":
            return str(self.machine.ready.pid) if self.machine.ready is not None else ""
        return self.variables.get(name, "")

    def unknown(self, name: str) -> str:
        """What to say of a command that does not exist."""
        near = difflib.get_close_matches(name, self.names, n=1)
        if near:
            return f"unknown command '{name}': did you mean {near[0]}?"
        if name in agent_names():
            return f"unknown command '{name}', but there is an agent of that name: spawn {name}"
        return f"unknown command '{name}': see help; to put a question to the model: ask TEXT"

    async def draw(self, sink: Sink, drawing: RenderableType) -> None:
        """Write a table: in the terminal's width and colours if it goes there, else plain and as wide as it needs."""
        from .render import plain_text, styled_text

        if isinstance(sink, TerminalSink) and self.terminal.is_tty:
            await sink.write_styled(styled_text(drawing))
        else:
            await sink.write(plain_text(drawing))
