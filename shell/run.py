"""Runs llmsh: sets up terminal, shell and system, gives them something to run, and leaves the terminal as it was.

    options -> a daemon that runs, or else settings -> model in the store (pulled if it is the first time) -> Shell -> Runner -> status

Whatever the end, by exit, Ctrl-D, a signal or the reader of our output, jobs are ended and the system is shut down.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

import llmos
from llmos.services.init.place import daemon_pid, home_of

from .builtins import table
from .chat import Chat
from .connection import Boot, Connection
from .jobs import INTERRUPTED
from .lexer import BadSyntax
from .lines import PlainLines
from .log import shown_on
from .main import Options
from .parser import parse
from .runner import USAGE, Runner
from .session import Shell
from .streams import Empty, FileSource, Source, describe
from .terminal import Terminal, abandon_closed_output, complain

if TYPE_CHECKING:
    from llmos.services.init.settings import Settings

log = logging.getLogger("llmos.shell")


def run(options: Options) -> int:
    """Run llmsh as it was called; its exit status."""
    if not all(_is_text(word) for word in (options.commands or "", options.script or "", *options.arguments)):
        print("llmsh: the command line is not UTF-8 text [EILSEQ]: put the commands in a file and save that as UTF-8", file=sys.stderr)
        return USAGE
    try:
        system = _elsewhere(options) or _daemon(options) or _own(options)
    except _WrongUsage as wrong:
        complain("llmsh", wrong.__cause__)
        return USAGE
    except llmos.Fault as fault:
        complain("llmsh", fault)
        return 1
    except OSError as error:
        complain("llmsh", describe(error))
        return 1
    except KeyboardInterrupt:
        print("llmsh: stopped; the next start goes on from there", file=sys.stderr)
        return INTERRUPTED
    try:
        return anyio.run(_run, options, system)
    finally:
        abandon_closed_output()


class _WrongUsage(Exception):
    """The options or the environment say what cannot be."""


@dataclass(frozen=True, slots=True)
class _Reached:
    """The system that the shell is to run on, and how to reach it."""

    boot: Boot
    home: Path
    model: str
    """For the progress line."""


def _elsewhere(options: Options) -> _Reached | None:
    """The system of a daemon on another machine, if one is named."""
    if options.address is None:
        return None
    address, home = options.address, home_of(options.home)
    return _Reached(
        lambda: llmos.connect(address, key=options.key, home=home, model=options.model, name="llmsh"),
        home,
        options.model or "the daemon's model",
    )


def _daemon(options: Options) -> _Reached | None:
    """The system of the daemon of this home, which is started if none runs, unless only a system of one's own will do."""
    home = home_of(options.home)
    if options.embedded or options.device is not None or (options.demo and daemon_pid(home) is None):
        return None
    settings = None if daemon_pid(home) is not None else _settings(options)

    def reach() -> AbstractAsyncContextManager[llmos.System]:
        if settings is not None:
            from .daemon import ensure

            ensure(settings, options.model, log.warning)
        return llmos.connect(home=home, model=options.model, name="llmsh")

    return _Reached(reach, home, options.model or "the daemon's model")


def _own(options: Options) -> _Reached:
    """A system in this OS process. Raises what a pull raises."""
    settings, load = _settings(options), needs_model(options)
    return _Reached(
        lambda: llmos.boot(options.model, home=settings.home, device=settings.device, preload=load), settings.home, settings.model
    )


def _settings(options: Options) -> Settings:
    """What a system is to be like, whose model is on this machine if anything may use it. Raises what a pull raises."""
    from llmos.services.init.settings import read_settings  # 0.2 s that a client of a daemon does not need

    try:
        settings = read_settings(model=options.model, device=options.device, home=options.home)
    except llmos.InvalidArgument as wrong:
        raise _WrongUsage from wrong
    if needs_model(options):
        from .store import provide  # the library costs 0.1 s: loaded if anything may use a model

        provide(settings)
    return settings


def _is_text(word: str) -> bool:
    """Bytes of the command line that are not UTF-8 arrive as lone surrogates."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def needs_model(options: Options) -> bool:
    """Whether anything that is to be run may start an agent. What is not known before it is read may."""
    if options.commands is None:
        return True
    builtins = table()
    try:
        names = [command.words[0].plain for command in parse(options.commands).commands if command.words]
    except BadSyntax:
        return False
    return any(name is None or (name in builtins and builtins[name].uses_model) for name in names)


async def _run(options: Options, system: _Reached) -> int:
    terminal = Terminal(dumb=os.environ.get("TERM", "dumb") == "dumb")
    reads_lines = options.commands is None and options.script is None and not options.demo
    interactive = reads_lines and os.isatty(0)
    load = needs_model(options)
    connection = Connection(system.boot, system.model, load=load)
    # The environment is where a shell's variables come from. Nothing else in this folder reads it.
    variables = {name: value.encode(errors="replace").decode() for name, value in os.environ.items()}
    shell = Shell(terminal, connection, system.home, variables=variables, interactive=interactive)
    shell.script, shell.arguments = options.script or "llmsh", list(options.arguments)
    if not reads_lines or interactive:
        shell.standard_input = _standard_input()
        shell.typed = os.isatty(0)
    runner = Runner(shell, Chat(shell))
    async with shown_on(terminal), shell.running():
        async with runner.signals():
            if load:
                connection.want()
            status = await _feed(runner, shell, options)
        if runner.ended_by_signal is not None:
            status = runner.ended_by_signal
        if connection.loading:
            _leave_at_once(status)
    return status


async def _feed(runner: Runner, shell: Shell, options: Options) -> int:
    """Give the shell what it was called to run."""
    if options.demo:
        return await runner.demo()
    if options.commands is not None:
        return await runner.text(options.commands)
    if options.script is not None:
        return await runner.file(options.script)
    if shell.interactive and options.rc and (left := await runner.rc(shell.home / "llmshrc")) is not None:
        return left
    if shell.interactive and shell.terminal.is_tty and not shell.terminal.dumb:
        from .prompt import Prompt  # prompt_toolkit costs 0.2 s: loaded for people only

        prompt = Prompt(shell, shell.home / "history")
        shell.history, shell.forget = prompt.history, prompt.forget
        return await runner.lines(prompt)
    return await runner.lines(PlainLines(0, shell.terminal, prompts=shell.interactive))


def _leave_at_once(status: int) -> None:
    """A load can be neither broken off nor left to a daemon thread while Python is taken apart, and takes seconds.

    No process of the system has done anything yet that could be lost: whatever uses the model waits for it.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # started with it closed
                stream.flush()
        except OSError:
            pass  # nobody reads it
    os._exit(status)


def _standard_input() -> Callable[[], Source]:
    """A keyboard begins anew for each command, since Ctrl-D ends it for one; a pipe or file goes on where it was left."""
    if os.isatty(0):
        return lambda: FileSource(0, "keyboard", owned=False)
    try:
        os.fstat(0)
    except OSError:  # started with standard input closed
        return Empty
    source = FileSource(0, "standard input", owned=False)
    return lambda: source
