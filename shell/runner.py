"""From text to status: the commands of -c, a script, a pipe or a person, run one after the other.

Owns the loop over lines and what Ctrl-C means at each moment: the job in front takes it, else the line that is being read,
else a script ends. Reports syntax errors with their line. Sets nothing up and tears nothing down: that is run.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from llmos import Fault

from .builtins.call import Call, Leave, Refused, Usage
from .chat import Chat
from .interpreter import Interpreter
from .jobs import INTERRUPTED, STOPPED, Job
from .lexer import MOST_CHARACTERS, BadSyntax, Incomplete
from .lines import FileLines, LineCancelled, Lines, LineTooLong
from .parser import Script, parse
from .routing import Kind, route
from .session import Shell
from .streams import Empty, NotText, describe, open_source
from .terminal import ErrorSink, TerminalSink

USAGE = 2
"""Status of what was called wrongly."""

MOST_SOURCED = 20
"""How deep files may run one another with `.`."""

DEMO = ("ask What is the capital of France?", "ps")


class Runner:
    """Feeds one shell."""

    def __init__(self, shell: Shell, chat: Chat) -> None:
        self._shell = shell
        self._chat = chat
        self._interpreter = Interpreter(shell)
        self._lines: Lines | None = None
        self._scope = anyio.CancelScope()
        self._ended_by = 0
        self._sourced = 0
        shell.source = self.source

    # --- signals --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def signals(self) -> AsyncIterator[None]:
        """While the body runs: INT goes where Ctrl-C goes, TERM and HUP end the body, jobs and all."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._receive)
            with self._scope:
                yield
            tasks.cancel_scope.cancel()

    async def _receive(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *([signal.SIGTSTP] if self._shell.interactive else [])]
        with anyio.open_signal_receiver(*numbers) as received:
            task_status.started()
            async for number in received:
                if number == signal.SIGTSTP:
                    await self._shell.suspend()
                elif number != signal.SIGINT:
                    self._ended_by = number
                    self._scope.cancel()
                elif await self._shell.interrupt():
                    pass
                elif self._lines is not None:
                    self._lines.cancel()
                elif not self._shell.interactive:
                    self._ended_by = number
                    self._scope.cancel()

    @property
    def ended_by_signal(self) -> int | None:
        """The status to exit with, if a signal ended the body."""
        return 128 + self._ended_by if self._ended_by else None

    # --- scripts --------------------------------------------------------------------------------------------------

    async def text(self, text: str, name: str = "") -> int:
        """Run a whole script. Nothing of it runs if it has an error of syntax. Its jobs are waited for at its end."""
        try:
            script = parse(text)
        except BadSyntax as bad:
            await self._say_syntax(bad, text, name)
            return USAGE
        return await self._finish(script)

    async def file(self, path: str) -> int:
        """Run a script file."""
        try:
            text = await self._read_script(path)
        except Refused as refused:
            await self._shell.terminal.error(f"llmsh: {refused}")
            return refused.status
        return await self.text(text, path)

    async def source(self, path: str) -> int:
        """Run the lines of a file in this shell, one after the other; what is wrong with one is said, and the next runs.

        Raises Refused if it cannot be read, Leave if it says `exit`.
        """
        if self._sourced >= MOST_SOURCED:
            raise Refused(f"{path}: files run one another more than {MOST_SOURCED} deep")
        shell = self._shell
        lines = FileLines(await self._read_script(path))
        shell.status = 0
        self._sourced += 1
        try:
            while (line := await lines.line("")) is not None:
                script = await self._complete(line, lines, path, lines.number)
                if script is not None and script.lists:
                    await self._interpreter.run(script)
                if shell.status in (INTERRUPTED, STOPPED):
                    break
        finally:
            self._sourced -= 1
        return shell.status

    async def _read_script(self, path: str) -> str:
        """The text of a file with commands. Raises Refused with the status that sh has for it."""
        try:
            source = await open_source(path)
        except OSError as error:
            raise Refused(describe(error), 127 if isinstance(error, FileNotFoundError) else 126) from None
        pieces: list[str] = []
        length = 0
        try:
            while length <= MOST_CHARACTERS and (piece := await source.read()):  # more than that is refused as a whole
                pieces.append(piece)
                length += len(piece)
        except (NotText, OSError) as error:
            raise Refused(str(error) if isinstance(error, NotText) else describe(error), 126) from None
        finally:
            source.close()
        return "".join(pieces).removeprefix("\ufeff")

    async def _finish(self, script: Script) -> int:
        try:
            status = await self._interpreter.run(script)
        except Leave as left:
            status = left.status
        await self._wait_for_jobs()
        return status

    async def _wait_for_jobs(self) -> None:
        """What runs in the background lives in this program: it is let finish, so that nothing of it is lost."""
        for job in self._shell.jobs.running:
            await job.done.wait()

    async def _say_syntax(self, bad: BadSyntax, text: str, name: str, first: int = 1) -> None:
        line = text.count("\n", 0, bad.position) + first
        where = f"{name}: line {line}: " if name else f"line {line}: " if "\n" in text.rstrip("\n") else ""
        await self._shell.terminal.error(f"llmsh: {where}{bad.message}")

    async def demo(self) -> int:
        """One question and a look at the processes, as a person would type them."""
        shell = self._shell
        for line in DEMO:
            await shell.terminal.write(f"{_prompt(shell)}{line}\n")
            status = await self._interpreter.run(parse(line))
            await shell.terminal.fresh_line()
            if status != 0:
                return status
        return 0

    # --- lines ----------------------------------------------------------------------------------------------------

    async def rc(self, path: Path) -> int | None:
        """Run the lines of llmshrc, if there is one that nobody else may change. A status, if it left the shell."""
        if not path.exists():
            return None
        try:
            about = path.stat()
            if about.st_mode & 0o022 or about.st_uid not in (os.getuid(), 0):
                raise Refused(f"{path} is not run, since others may change it: chmod go-w {path}")
            await self.source(str(path))
        except Refused as refused:
            await self._shell.terminal.error(f"llmsh: {refused}")
        except Leave as left:
            return left.status
        self._shell.status = 0
        return None

    async def lines(self, lines: Lines) -> int:
        """Run lines until they end or `exit`. In an interactive shell those that are no command go to the chat agent."""
        shell = self._shell
        while True:
            await shell.show_notes()
            try:
                line = await self._read(lines, _prompt(shell))
                if line is not None:
                    await self._take(line, lines)
                    continue
                if shell.interactive and shell.jobs.running and shell.warn_of_jobs:
                    await self._interpreter.run(parse("exit"))
                    continue
                status = shell.status
            except LineCancelled:
                shell.status = INTERRUPTED
                continue
            except LineTooLong as error:
                await shell.terminal.error(f"llmsh: {error}")
                shell.status = USAGE
                continue
            except NotText as error:
                await shell.terminal.error(f"llmsh: {error}")
                status = USAGE
            except Leave as left:
                status = left.status
            break
        if not shell.interactive:
            await self._wait_for_jobs()
        return status

    async def _read(self, lines: Lines, prompt: str) -> str | None:
        self._lines = lines
        try:
            return await lines.line(prompt)
        finally:
            self._lines = None

    async def _take(self, line: str, lines: Lines) -> None:
        shell = self._shell
        line = line.encode(errors="replace").decode()  # bytes typed that are no UTF-8 come as lone surrogates
        if shell.interactive and line.lstrip().startswith("?"):
            await self.propose(line.lstrip()[1:].strip(), lines)
            return
        if shell.interactive:
            kind, meant = route(line, shell.builtins, shell.aliases)
            if kind is Kind.QUESTION:
                await self.question(line.strip())
                return
            if kind is Kind.MISSPELT:
                word = line.split()[0]
                await shell.terminal.error(
                    f"llmsh: '{word}' is no command: did you mean {meant}? To ask the chat agent: ask {line.strip()}"
                )
                shell.status = 127
                return
        script = await self._complete(line, lines)
        if script is not None:
            if not _is_exit(script):
                shell.warn_of_jobs = shell.interactive
            await self._interpreter.run(script)

    async def _complete(self, text: str, lines: Lines, name: str = "", first: int = 1) -> Script | None:
        """The tree of a command that may go on over more lines; None if it never became one."""
        while True:
            try:
                return parse(text, self._shell.aliases)
            except Incomplete as incomplete:
                more = await self._more(lines, incomplete.closer, MOST_CHARACTERS - len(text))
                if more is None:
                    await self._say_syntax(incomplete, text, name, first)
                    break
                text += more
            except BadSyntax as bad:
                await self._say_syntax(bad, text, name, first)
                break
        self._shell.status = USAGE
        return None

    async def _more(self, lines: Lines, closer: str, most: int) -> str | None:
        """The lines up to one that may end the command, each after its newline; None at the end of input.

        The others cannot, and a text that was parsed again with each of its lines would take time that grows with its square.
        """
        found: list[str] = []
        while most >= 0:
            line = await self._read(lines, "> ")
            if line is None:
                return None
            found.append(f"\n{line}")
            most -= len(line) + 1
            if closer in line:
                break
        return "".join(found)

    async def question(self, text: str) -> None:
        """Put a line to the chat agent and show what it says."""
        shell = self._shell
        job = Job(text, foreground=True)

        async def body(job: Job) -> int:
            return await self._chat.say(job, text, TerminalSink(shell.terminal, job))

        shell.status = await self._interpreter.foreground(job, body)

    async def propose(self, request: str, lines: Lines) -> None:
        """Ask the model for a command, show it, and run it if the person says so."""
        shell = self._shell
        job = Job(f"? {request}", foreground=True)
        found: list[str] = []

        async def body(job: Job) -> int:
            call = Call(shell, "?", [request], Empty(), _Held(found), ErrorSink(shell.terminal), job, False, True)
            try:
                return await shell.builtins["?"].run(call)
            except (Usage, Refused, Fault) as problem:
                await shell.terminal.error(f"llmsh: ?: {problem}")
                return USAGE if isinstance(problem, Usage) else 1

        shell.status = await self._interpreter.foreground(job, body)
        command = "".join(found).strip()
        if shell.status != 0 or not command:
            return
        await shell.terminal.write(f"  {command}\n")
        said = (await lines.answer("run it? y yes, e edit, anything else no: ") or "").strip().lower()
        if said in ("e", "edit"):
            lines.offer(command)
        elif said in ("y", "yes"):
            lines.remember(command)
            script = await self._complete(command, lines)
            if script is not None:
                await self._interpreter.run(script)


class _Held:
    """Output that is looked at before anybody sees it."""

    def __init__(self, found: list[str]) -> None:
        self._found = found

    async def write(self, text: str) -> None:
        self._found.append(text)

    def close(self) -> None:
        """It is looked at when its writer has ended."""


def _is_exit(script: Script) -> bool:
    return [command.words[0].plain for command in script.commands if command.words] == ["exit"]


def _prompt(shell: Shell) -> str:
    return f"llmsh:{_here(shell)}$ "


def _here(shell: Shell) -> str:
    """The current directory as the prompt shows it."""
    try:
        path = os.getcwd()
    except FileNotFoundError:
        return "?"
    home = shell.variables.get("HOME", "")
    if home and home != "/" and (path == home or path.startswith(home + "/")):
        return f"~{path[len(home) :]}"
    return path
