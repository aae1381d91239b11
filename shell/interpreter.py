"""Runs the syntax tree: lists in order, && and ||, pipelines with every command at once, redirections to files.

Every command is a builtin, called with streams of its own. A pipeline's commands run in one task group; each closes its
ends when it has ended, so that the next sees the end of its input, and the one before that nobody reads any more. Errors
become a message on the command's error stream and a status:

    0 done   1 failed   2 wrong usage   126 cannot run   127 not found   128 + N ended by signal N

Knows nothing of prompts and how lines are read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import anyio

from llmos import Fault

from .builtins.call import Call, Leave, Refused, Usage
from .expansion import TooManyMatches, expand, expand_text
from .jobs import CLOSED, INTERRUPTED, Job
from .parser import AndOr, Command, Pipeline, Redirection, Script
from .streams import Channel, Closed, Empty, NotText, Sink, Source, describe, open_sink, open_source
from .terminal import ErrorSink, TerminalSink

if TYPE_CHECKING:
    from .session import Shell

PATIENCE = 0.3
"""Seconds that the prompt waits for the pid of a job in the background."""


@dataclass(slots=True)
class Streams:
    """What a command reads and writes, before its own redirections."""

    stdin: Source
    stdout: Sink
    stderr: Sink
    piped_in: bool = False
    alone: bool = True


class Interpreter:
    """Runs scripts in a shell."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.builtins = shell.builtins

    async def run(self, script: Script) -> int:
        """Every list in order; the status of the last. Ctrl-C ends the list that runs and those after it."""
        shell = self.shell
        for item in script.lists:
            if item.background:
                await self.background(item)
                shell.status = 0
                continue
            job = Job(item.text, foreground=True)
            shell.status = await self.foreground(job, partial(self.and_or, item=item, stdin=shell.standard_input()))
            if job.interrupts:
                break
        return shell.status

    async def foreground(self, job: Job, body: Callable[[Job], Awaitable[int]]) -> int:
        """Run `body` as the job that Ctrl-C goes to. Returns its status."""
        shell = self.shell
        status = INTERRUPTED
        with shell.attending(job), job.scope:
            try:
                status = await body(job)
            except Leave as left:
                job.finish(left.status)
                raise
        job.finish(status)
        return job.status

    async def background(self, item: AndOr) -> None:
        """Start the list as a job in the background. If it begins with a process, wait for that, so that `$!` has its pid."""
        job = Job(item.text, foreground=False)
        self.shell.start(job, lambda: self.and_or(job, item, Empty()))
        names = {command.words[0].plain for command in item.first.commands if command.words}
        starts = any(name in self.builtins and self.builtins[name].uses_model for name in names if name)
        patience = 0 if not starts else PATIENCE if self.shell.interactive else None
        with anyio.move_on_after(patience) as waiting:
            await self.shell.announce(job)
        if waiting.cancelled_caught:
            self.shell.announce_later(job)
        await self.shell.show_notes()

    async def and_or(self, job: Job, item: AndOr, stdin: Source) -> int:
        out = TerminalSink(self.shell.terminal, job)
        streams = Streams(stdin, out, ErrorSink(self.shell.terminal), alone=not item.background)
        status = INTERRUPTED
        try:
            status = await self.pipeline(job, item.first, streams)
            for operator, pipeline in item.rest:
                if job.interrupts:
                    break
                if (status == 0) == (operator == "&&"):
                    self.shell.status = status
                    status = await self.pipeline(job, pipeline, streams)
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await out.finish()
                except Closed:
                    status = CLOSED
        return status

    async def pipeline(self, job: Job, pipeline: Pipeline, streams: Streams) -> int:
        commands = pipeline.commands
        if len(commands) == 1:
            status = await self.command(job, commands[0], streams)
        else:
            statuses = [0] * len(commands)

            async def run(place: int, own: Streams) -> None:
                try:
                    statuses[place] = await self.command(job, commands[place], own)
                except Leave as left:  # `exit` in a pipeline ends its own command only, as in sh
                    statuses[place] = left.status
                finally:
                    if place:
                        own.stdin.close()
                    if place < len(commands) - 1:
                        own.stdout.close()

            channels = [Channel() for _ in commands[1:]]
            async with anyio.create_task_group() as tasks:
                for place in range(len(commands)):
                    own = Streams(
                        channels[place - 1].source if place else streams.stdin,
                        channels[place].sink if place < len(channels) else streams.stdout,
                        streams.stderr,
                        piped_in=place > 0,
                        alone=False,
                    )
                    tasks.start_soon(run, place, own)
            status = statuses[-1]
        return int(status == 0) if pipeline.inverted else status

    async def command(self, job: Job, command: Command, streams: Streams) -> int:
        """Expand, redirect and run one command; its errors become messages."""
        name = ""
        with ExitStack() as opened:
            stderr = streams.stderr
            try:
                words = [argument for word in command.words for argument in expand(word, self.shell.lookup)]
                name = words[0] if words else ""
                own, redirected = await self.redirect(command, streams, opened)
                stderr = own.stderr
                if not words:
                    for assignment in command.assignments:
                        self.shell.variables[assignment.name] = expand_text(assignment.value, self.shell.lookup)
                    return 0
                if command.assignments:
                    raise Usage("a variable before a command has no effect: set it in a command of its own, as in `X=1; echo $X`")
                builtin = self.builtins.get(name)
                if builtin is None:
                    raise Refused(self.shell.unknown(name), 127)
                if words[1:] == ["--help"]:
                    await own.stdout.write(builtin.page + "\n")
                    return 0
                call = Call(self.shell, name, words[1:], own.stdin, own.stdout, own.stderr, job, redirected or own.piped_in, own.alone)
                return await builtin.run(call)
            except Usage as wrong:
                usage = f"\nusage: {self.builtins[name].usage}" if name in self.builtins else ""
                return await self._report(stderr, name, f"{wrong}{usage}", 2)
            except Refused as refused:
                return await self._report(stderr, name if name in self.builtins else "", str(refused), refused.status)
            except (Fault, NotText, TooManyMatches) as error:
                return await self._report(stderr, name, str(error), 1)
            except OSError as error:
                return await self._report(stderr, name, describe(error), 1)
            except Closed:
                return CLOSED

    async def _report(self, stderr: Sink, name: str, message: str, status: int) -> int:
        try:
            await stderr.write(f"llmsh: {name}: {message}\n" if name else f"llmsh: {message}\n")
        except (Closed, OSError):
            pass  # there is nowhere to say it; the status says that it failed
        return status

    async def redirect(self, command: Command, streams: Streams, opened: ExitStack) -> tuple[Streams, bool]:
        """The command's own streams, files opened from left to right as in sh; and whether its input is a file."""
        own = Streams(streams.stdin, streams.stdout, streams.stderr, streams.piped_in, streams.alone)
        redirected = False
        for each in command.redirections:
            if each.kind == ">&":
                source = own.stdout if each.target.plain == "1" else own.stderr
                own.stdout, own.stderr = (source, own.stderr) if each.fd == 1 else (own.stdout, source)
                continue
            path = self._path(each)
            if each.kind == "<":
                own.stdin = await open_source(path)
                opened.callback(own.stdin.close)
                redirected = True
                continue
            sink = await open_sink(path, append=each.kind == ">>")
            opened.callback(sink.close)
            own.stdout, own.stderr = (sink, own.stderr) if each.fd == 1 else (own.stdout, sink)
        return own, redirected

    def _path(self, redirection: Redirection) -> str:
        paths = expand(redirection.target, self.shell.lookup)
        if len(paths) != 1 or not paths[0]:
            shown = "nothing" if not paths else f"{len(paths)} words" if len(paths) > 1 else "an empty name"
            raise Usage(f"a redirection needs one file name after '{redirection.kind}', and got {shown}: quote it")
        return paths[0]
