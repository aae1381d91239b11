"""Runs the syntax tree: lists in order, && and ||, pipelines with every command at once, redirections to files.

Every command is a builtin, called with streams of its own, or one of the host (`!ls`). A pipeline's commands run in one task
group; each closes its ends when it has ended, so that the next sees the end of its input, and the one before that nobody
reads any more. Errors become a message on the command's error stream and a status:

    0 done   1 failed   2 wrong usage   126 cannot run   127 not found   128 + N ended, or stopped (148), by signal N

Knows nothing of prompts and how lines are read.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import anyio

from llmos import Fault

from .builtins.call import Call, Leave, Refused, Usage
from .expansion import TooManyMatches, Unset, Values, expand, expand_text, match
from .host import Ends, run_host
from .jobs import CLOSED, INTERRUPTED, Job
from .lexer import MOST_CHARACTERS, BadSyntax, Part, Substitution, Variable, Word
from .namespace import Replacement, matches, open_contents, open_replacement
from .parser import AndOr, Assignment, Command, Pipeline, Redirection, Script, parse
from .streams import Channel, Closed, NotText, Sink, Source, describe, open_sink, open_source
from .terminal import ErrorSink, TerminalSink
from .where import where, where_to

if TYPE_CHECKING:
    from .session import Shell

FINISH_SECONDS = 10.0
"""How long the end of a command waits until its output is in a file of the system."""
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
        """Every list in order; the status of the last. Ctrl-C and Ctrl-Z end the list that runs and those after it."""
        shell = self.shell
        for item in script.lists:
            if item.background:
                await self.background(item)
                shell.status = 0
                continue
            job = Job(item.text, foreground=True)
            stdin = shell.input_of(job, foreground=True)
            shell.status = await self.foreground(job, partial(self.and_or, item=item, stdin=stdin))
            if job.interrupts or not job.done.is_set():
                break
        return shell.status

    async def foreground(self, job: Job, body: Callable[[Job], Awaitable[int]]) -> int:
        """Run `body` as the job that Ctrl-C and Ctrl-Z go to. Returns its status."""
        return await self.shell.front(job, partial(body, job))

    async def background(self, item: AndOr) -> None:
        """Start the list as a job in the background. If it begins with a process, wait for that, so that `$!` has its pid."""
        job = Job(item.text, foreground=False)
        stdin = self.shell.input_of(job, foreground=False)
        self.shell.start(job, lambda: self.and_or(job, item, stdin))
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
            status = await self.chain(job, item, streams)
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await out.finish()
                except Closed:
                    status = CLOSED
        return status

    async def chain(self, job: Job, item: AndOr, streams: Streams) -> int:
        """The pipelines of a list, one after the other. With `set -e` a failure that nothing asks about leaves the shell."""
        status, last = await self.pipeline(job, item.first, streams), item.first
        for operator, pipeline in item.rest:
            if job.interrupts:
                break
            if (status == 0) == (operator == "&&"):
                self.shell.status = status
                status, last = await self.pipeline(job, pipeline, streams), pipeline
        final = item.rest[-1][1] if item.rest else item.first
        if status and "errexit" in self.shell.settings and last is final and not last.inverted:
            raise Leave(status)
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
        written: list[Replacement] = []
        status = 1
        try:
            status = await self._command(job, command, streams, written)
        finally:
            with anyio.move_on_after(FINISH_SECONDS, shield=True):
                for each in written:
                    try:
                        await each.finish()
                    except Fault as fault:
                        status = await self._report(streams.stderr, "", str(fault), status or 1)
        return status

    async def _command(self, job: Job, command: Command, streams: Streams, written: list[Replacement]) -> int:
        shell = self.shell
        name = ""
        with ExitStack() as opened:
            stderr = streams.stderr
            try:
                await job.gate()
                shell.substituted = 0
                words: list[str] = []
                for word in command.words:
                    if word.plain == "?" and not words:  # the command, not a file of one letter
                        words.append("?")
                        continue
                    words += await self.arguments(word, job, streams)
                name = words[0] if words else ""
                own, redirected = await self.redirect(job, command, streams, opened, written)
                stderr = own.stderr
                assigned: dict[str, str] = {}
                for each in command.assignments:
                    assigned[each.name] = await self.assigned(each, job, streams)
                    if not words:  # the next one sees it
                        shell.variables[each.name] = assigned[each.name]
                if "xtrace" in shell.settings:
                    await stderr.write(" ".join(["+", *(f"{key}={value}" for key, value in assigned.items()), *words]) + "\n")
                if not words:
                    return shell.substituted
                if name.startswith("!") and len(name) > 1:
                    ends = Ends(own.stdin, own.stdout, own.stderr)
                    return await self.host([name[1:], *words[1:]], assigned, ends, job, alone=own.alone)
                if assigned:
                    raise Usage("a variable before a command has no effect: set it in a command of its own, as in `X=1; echo $X`")
                builtin = self.builtins.get(name)
                if builtin is None:
                    raise Refused(shell.unknown(name), 127)
                if words[1:] == ["--help"]:
                    await own.stdout.write(builtin.page + "\n")
                    return 0
                call = Call(shell, name, words[1:], own.stdin, own.stdout, own.stderr, job, redirected or own.piped_in, own.alone)
                return await builtin.run(call)
            except Usage as wrong:
                usage = f"\nusage: {self.builtins[name].usage}" if name in self.builtins else ""
                return await self._report(stderr, name, f"{wrong}{usage}", 2)
            except Refused as refused:
                return await self._report(stderr, name if name in self.builtins else "", str(refused), refused.status)
            except Unset as unset:
                status = await self._report(stderr, "", str(unset), 1)
                if shell.interactive:
                    return status
                raise Leave(status) from None
            except (Fault, NotText, TooManyMatches) as error:
                return await self._report(stderr, name, str(error), 1)
            except OSError as error:
                return await self._report(stderr, name, describe(error), 1)
            except Closed:
                return CLOSED

    async def host(self, words: list[str], assigned: dict[str, str], ends: Ends, job: Job, *, alone: bool) -> int:
        """Run a program of the host."""
        environment = {name: self.shell.variables[name] for name in self.shell.exported if name in self.shell.variables} | assigned
        try:
            return await run_host(words, environment, ends, job, self.shell.terminal, alone=alone)
        except (FileNotFoundError, NotADirectoryError):
            raise Refused(f"!{words[0]}: the host has no program of that name", 127) from None
        except PermissionError:
            raise Refused(f"!{words[0]}: the host does not let you run it", 126) from None

    # --- what words are expanded with -----------------------------------------------------------------------------

    async def arguments(self, word: Word, job: Job, streams: Streams) -> list[str]:
        """The arguments that a word stands for: patterns are files of the machine, or of the system."""
        found: list[str] = []
        for field in expand(word, await self.values(word, job, streams)):
            if not field.magic or "noglob" in self.shell.settings:
                found.append(field.text)
            elif where(field.text, self.shell.variables).plain:
                found += match(field)
            else:
                files = (await self.shell.system()).files
                found += await matches(files, where(field.pattern, self.shell.variables).path) or [field.text]
        return found

    async def values(self, word: Word, job: Job, streams: Streams) -> Values:
        """The variables, and what the commands in `$( )` of this word wrote, which run now."""
        shell = self.shell
        written: dict[int, str] = {}
        values = Values(
            shell.lookup,
            shell.variables.__setitem__,
            shell.arguments,
            strict="nounset" in shell.settings,
            written=written,
        )
        await self._write(word.parts, values, written, job, streams)
        return values

    async def _write(self, parts: tuple[Part, ...], values: Values, written: dict[int, str], job: Job, streams: Streams) -> None:
        for part in parts:
            if isinstance(part, Substitution):
                written[id(part)] = await self.substitute(part.text, job, streams)
            elif isinstance(part, Variable) and part.word and values.wants_word(part):
                await self._write(part.word, values, written, job, streams)

    async def assigned(self, assignment: Assignment, job: Job, streams: Streams) -> str:
        return expand_text(assignment.value, await self.values(assignment.value, job, streams))

    async def substitute(self, text: str, job: Job, streams: Streams) -> str:
        """What commands write, without the newlines at its end. What they change in the shell is undone, as if in a copy of it."""
        shell = self.shell
        out = _Kept()
        own = Streams(streams.stdin, out, streams.stderr, streams.piped_in, alone=False)
        before = dict(shell.variables), set(shell.settings), dict(shell.aliases), set(shell.exported), list(shell.arguments), os.getcwd()
        status = shell.status
        try:
            for item in parse(text).lists:
                if item.background:
                    raise Refused("'&' has no place in $( ): start the job before", 2)
                status = shell.status = await self.chain(job, item, own)
                if job.interrupts:
                    break
        except BadSyntax as bad:
            raise Refused(f"in $( ): {bad.message}", 2) from None
        except Leave as left:
            status = left.status
        finally:
            shell.variables.clear()
            shell.variables.update(before[0])
            shell.settings, shell.aliases, shell.exported, shell.arguments = before[1], before[2], before[3], before[4]
            if os.getcwd() != before[5]:
                os.chdir(before[5])
        shell.substituted = status
        return out.text.rstrip("\n")

    async def _report(self, stderr: Sink, name: str, message: str, status: int) -> int:
        try:
            said = message.removeprefix(f"{name}: ")  # a call of the same name says its own
            await stderr.write(f"llmsh: {name}: {said}\n" if name else f"llmsh: {message}\n")
        except (Closed, OSError):
            pass  # there is nowhere to say it; the status says that it failed
        return status

    async def redirect(
        self, job: Job, command: Command, streams: Streams, opened: ExitStack, written: list[Replacement]
    ) -> tuple[Streams, bool]:
        """The command's own streams, files opened from left to right as in sh; and whether its input is a file."""
        own = Streams(streams.stdin, streams.stdout, streams.stderr, streams.piped_in, streams.alone)
        redirected = False
        for each in command.redirections:
            if each.kind == ">&":
                source = own.stdout if each.target.plain == "1" else own.stderr
                own.stdout, own.stderr = (source, own.stderr) if each.fd == 1 else (own.stdout, source)
                continue
            path = await self._path(each, job, streams)
            place = where_to(path, self.shell.variables)
            files = None if place.plain else (await self.shell.system()).files
            if each.kind == "<":
                own.stdin = await (open_source(path) if files is None else open_contents(files, place.path, path))
                opened.callback(own.stdin.close)
                redirected = True
                continue
            append = each.kind == ">>"
            sink: Sink
            if files is None:
                sink = await open_sink(path, append=append)
                opened.callback(sink.close)
            else:
                sink = await open_replacement(files, place.path, append=append)
                written.append(sink)
            own.stdout, own.stderr = (sink, own.stderr) if each.fd == 1 else (own.stdout, sink)
        return own, redirected

    async def _path(self, redirection: Redirection, job: Job, streams: Streams) -> str:
        paths = await self.arguments(redirection.target, job, streams)
        if len(paths) != 1 or not paths[0]:
            shown = "nothing" if not paths else f"{len(paths)} words" if len(paths) > 1 else "an empty name"
            raise Usage(f"a redirection needs one file name after '{redirection.kind}', and got {shown}: quote it")
        return paths[0]


class _Kept:
    """Output that becomes part of a command, which bounds it."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    async def write(self, text: str) -> None:
        self._length += len(text)
        if self._length > MOST_CHARACTERS:
            raise Refused(f"$( ) gave more than {MOST_CHARACTERS} characters: put them in a file and use `< FILE`")
        self._pieces.append(text.replace("\0", ""))

    def close(self) -> None:
        """It is read when the commands have ended."""
