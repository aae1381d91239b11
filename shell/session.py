"""The shell: what its commands share, and the life of its jobs.

Owns the variables, the last status, the table of jobs, which job Ctrl-C goes to, and the notes that wait for the next
prompt. At most one job is in front. Reads no lines (lines.py, prompt.py) and runs no syntax (interpreter.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from llmos import Fault
from llmos.sdk import agentnames
from llmos.services.init.place import folders_of

from .attend import Start, attend
from .builtins import table
from .builtins.approvals import tell_of_approvals
from .builtins.call import Leave
from .connection import Connection
from .desk import Desk
from .jobs import CLOSED, STOPPED, Job, Jobs
from .routing import nearest
from .streams import Closed, Empty, Sink, Source
from .terminal import ErrorSink, Terminal, TerminalSink

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmos import Child, Explanation, System

MOST_STATUSES = 10_000
"""Ended processes whose status is remembered for `wait`."""

MOST_EXPLANATIONS = 100

MOST_DONE = 1_000
"""Finished jobs that a script keeps for `wait` and `jobs`."""


class Shell:
    """One shell, interactive or running a script."""

    def __init__(
        self, terminal: Terminal, connection: Connection, home: Path, *, variables: dict[str, str], interactive: bool = False
    ) -> None:
        self.terminal = terminal
        self.connection = connection
        self.home = home
        """Where models, agents and history of this user are."""
        self.interactive = interactive
        self.variables = variables
        self.exported = set(variables)
        """Names of those that commands of the host see."""
        self.settings: set[str] = set()
        """What `set -o` has turned on."""
        self.aliases: dict[str, str] = {}
        self.substituted = 0
        """Status of the last `$( )` of the command that runs."""
        self.arguments: list[str] = []
        """$1, $2, ... of a script; $0 is in `script`."""
        self.script = "llmsh"
        self.status = 0
        self.statuses: dict[int, int] = {}
        """Exit status of every process that ended, for `wait` and `$?`."""
        self.explanations: dict[int, Explanation] = {}
        """Where the time went of those that ended last, for `explain`."""
        self.jobs = Jobs()
        self.last_pid: int | None = None
        self.warn_of_jobs = interactive
        """The next `exit` with running jobs warns first."""
        self.standard_input: Callable[[], Source] = Empty
        """Makes what a command in the foreground reads when nothing else is given: the keyboard, or the shell's own input."""
        self.typed = False
        """What it makes is a keyboard."""
        self.history: Callable[[], list[str]] = list
        self.forget: Callable[[], None] | None = None
        """Empties the history, if there is one."""
        self.source: Callable[[str], Awaitable[int]] | None = None
        """Runs the lines of a file in this shell."""
        self.conversation: Callable[[], int | None] = lambda: None
        """The pid of the conversation behind the prompt."""
        self.builtins = table()
        """The commands there are."""
        self.shown_digests: dict[int, str] = {}
        """Approvals that a person was shown -> what exactly."""
        self._front: Job | None = None
        self._notes: list[str] = []
        self._tasks: TaskGroup | None = None

    # --- jobs -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The life of the shell: its connection and its background jobs. Whatever still runs at the end is killed."""
        async with anyio.create_task_group() as serving:
            if self.interactive:
                self.connection.beside = partial(tell_of_approvals, self)
            serving.start_soon(self.connection.run)
            try:
                async with anyio.create_task_group() as self._tasks:
                    yield
                    self._tasks.cancel_scope.cancel()
            finally:
                self.connection.stop()

    def watch(self, body: Callable[[Child], Coroutine[Any, Any, None]], child: Child) -> None:
        """Run `body` beside everything else, for as long as the shell lives."""
        self._running_tasks().start_soon(body, child)

    def beside(self, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something small behind the prompt."""
        self._running_tasks().start_soon(body)

    def _running_tasks(self) -> TaskGroup:
        if self._tasks is None:
            raise RuntimeError("jobs need `async with shell.running()` around them")
        return self._tasks

    @contextmanager
    def attending(self, job: Job, *, closes: bool = True) -> Iterator[None]:
        """While the body runs, `job` is in front: Ctrl-C and Ctrl-Z go to it, and the keyboard. `closes`: Ctrl-D ends its input."""
        before, self._front = self._front, job
        job.foreground = True
        if job.desk is not None:
            job.desk.give(self.standard_input(), closes=closes)
        try:
            yield
        finally:
            self._front = before
            job.foreground = False
            if job.desk is not None:
                job.desk.take_away()

    def input_of(self, job: Job, *, foreground: bool) -> Source:
        """What a job reads where nothing else is given: the keyboard while it is in front, or in a script what the script was given."""
        if self.interactive and self.typed:
            job.desk = Desk(job.forgive)
            return job.desk
        return self.standard_input() if foreground else Empty()

    async def front(self, job: Job, body: Callable[[], Awaitable[int]]) -> int:
        """Run `body` as the job in front, until it ends or Ctrl-Z stops it. Raises Leave if it was an `exit`."""
        with self.attending(job):
            self._running_tasks().start_soon(self._run, job, body)
            await job.turned.wait()
        if not job.done.is_set():
            return await self.stopped(job)
        if job.left:
            raise Leave(job.status)
        return job.status

    async def stopped(self, job: Job) -> int:
        """A job that was in front has stopped: it goes into the table. Returns the status for `$?`."""
        if not job.number:
            self.jobs.add(job)
        self.jobs.touch(job)
        if self.terminal.is_tty:
            await self.terminal.end_line()
        await self.note(f"[{job.number}]{self.jobs.mark(job)} {job.state:<11} {job.text}")
        return STOPPED

    def start(self, job: Job, body: Callable[[], Awaitable[int]]) -> None:
        """Run `body` as a job in the background."""
        self.jobs.add(job)
        self._running_tasks().start_soon(self._run, job, body)

    async def _run(self, job: Job, body: Callable[[], Awaitable[int]]) -> None:
        status: int | None = None
        try:
            with job.scope:
                try:
                    status = await body()
                except Leave as left:
                    status, job.left = left.status, True
                except Closed:
                    status = CLOSED
        finally:
            job.finish(status)
        if not job.number:
            return
        if self.interactive:
            await self.note(f"[{job.number}]{self.jobs.mark(job)} {job.state:<11} {job.text}")
            self.jobs.remove(job)
        else:
            done = [each for each in self.jobs.all() if each.done.is_set()]
            for each in done[:-MOST_DONE]:
                self.jobs.remove(each)

    async def announce(self, job: Job) -> None:
        """Wait until the job has a pid; then `[1] 7`, and `$!`."""
        await job.begun.wait()
        if job.pids:
            self.last_pid = job.pids[0]
            if self.interactive:
                await self.note(f"[{job.number}] {job.pids[0]}")

    def announce_later(self, job: Job) -> None:
        """The same, without waiting for it."""
        self._running_tasks().start_soon(self.announce, job)

    async def adopt(self, start: Start, text: str) -> Job:
        """A job in the background for a process that the system makes: `fork`. Returns when it has started.

        Before a person `fg` gives it the keyboard, and it waits until then; elsewhere its input is at its end.
        """
        child = await start()
        job = Job(text, foreground=False)
        stdin = self.input_of(job, foreground=False)

        async def started() -> Child:
            return child

        async def body() -> int:
            out = TerminalSink(self.terminal, job)
            try:
                return await attend(job, started, stdin, out, ErrorSink(self.terminal), self)
            finally:
                await out.finish()

        self.start(job, body)
        await job.begun.wait()
        return job

    async def ending(self, pid: int) -> None:
        """Keep where the time of a process went: afterwards the system knows it no more."""
        if (system := self.connection.ready) is None:
            return
        try:
            self.explanations[pid] = await system.explain(pid)
        except Fault:  # it is gone already, or the system is
            return
        if len(self.explanations) > MOST_EXPLANATIONS:
            del self.explanations[next(iter(self.explanations))]

    def ended(self, pid: int, status: int) -> None:
        """Remember how a process ended; the oldest is forgotten."""
        self.statuses[pid] = status
        if len(self.statuses) > MOST_STATUSES:
            del self.statuses[next(iter(self.statuses))]

    async def interrupt(self) -> bool:
        """Ctrl-C. True if there was a job in front to take it."""
        if self._front is None:
            return False
        await self._front.interrupt()
        return True

    async def suspend(self) -> bool:
        """Ctrl-Z. True if there was a job in front to take it."""
        if self._front is None:
            return False
        await self._front.suspend()
        return True

    async def note(self, text: str) -> None:
        """A line about a job: above the prompt if there is one, else before the next."""
        if self.terminal.above is not None:
            await self.terminal.error(text)
        else:
            self._notes.append(text)

    async def note_at_once(self, text: str) -> None:
        """A line that the job in front may be waiting for: it does not wait for the next prompt."""
        if self._front is not None:
            await self.terminal.error(text)
        else:
            await self.note(text)

    async def show_notes(self) -> None:
        """Before a prompt: what happened to jobs meanwhile."""
        notes, self._notes = self._notes, []
        for text in notes:
            await self.terminal.error(text)

    # --- what commands ask ----------------------------------------------------------------------------------------

    async def system(self) -> System:
        """The running system, waited for under a progress line. A person whose daemon has gone gets the next one."""
        if self.interactive and self.connection.lost:
            await self.note_at_once("llmsh: the daemon of this shell has gone, and what ran there with it: connecting again")
            self.connection.leave()
            self.statuses.clear()
            self.explanations.clear()
        if (ready := self.connection.ready) is not None:
            return ready
        async with self.terminal.progress(self.connection.label):
            return await self.connection.system()

    async def model_loaded(self, job: Job) -> None:
        """Before a process that a person waits for: say what takes so long, while it does. Others wait in the system."""
        if job.foreground and self.connection.loading and self.terminal.err_is_tty:
            async with self.terminal.progress(self.connection.label):
                await self.connection.loaded()

    def lookup(self, name: str) -> str | None:
        """The value of a variable, also of `$?`, `$!` and a script's arguments; None if it has none."""
        if name.isdecimal():
            words = [self.script, *self.arguments]
            return words[int(name)] if len(name) < 6 and int(name) < len(words) else None
        special = {"?": str(self.status), "!": str(self.last_pid or ""), "#": str(len(self.arguments))}
        if name in special:
            return special[name]
        if name == "$":
            return str(self.connection.ready.pid) if self.connection.ready is not None else ""
        return self.variables.get(name)

    def agents(self) -> list[str]:
        """The agents that spawn finds by name, in the places and the order of the system, whether or not it has booted."""
        return agentnames.names(folders_of(self.home))

    def unknown(self, name: str) -> str:
        """What to say of a command that does not exist."""
        if name in self.agents():
            return f"unknown command '{name}', but there is an agent of that name: spawn {name}"
        if near := nearest(name, self.builtins):
            return f"unknown command '{name}': did you mean {near}?"
        return f"unknown command '{name}': see help; to put a question to the model: ask TEXT"

    async def draw(self, sink: Sink, drawing: RenderableType) -> None:
        """Write a table: in the terminal's width and colours if it goes there, else plain and as wide as it needs."""
        from .render import plain_text, styled_text

        if isinstance(sink, TerminalSink) and self.terminal.is_tty:
            await sink.write_styled(styled_text(drawing))
        else:
            await sink.write(plain_text(drawing))
