"""Runs llmsh: sets up terminal, shell and system, gives them something to run, and leaves the terminal as it was.

    options -> settings -> model in the store (pulled if it is the first time) -> Shell -> Runner -> status

Whatever the end, by exit, Ctrl-D, a signal or the reader of our output, jobs are ended and the system is shut down.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

import llmos
from llmos.services.init.settings import read_settings

from .builtins import table
from .chat import Chat
from .connection import Connection
from .jobs import INTERRUPTED
from .lexer import BadSyntax
from .lines import PlainLines
from .main import Options
from .parser import parse
from .runner import USAGE, Runner
from .session import Shell
from .streams import Empty, FileSource, Source
from .terminal import Terminal

if TYPE_CHECKING:
    from llmos.services.init.settings import Settings


def run(options: Options) -> int:
    """Run llmsh as it was called; its exit status."""
    try:
        settings = read_settings(model=options.model, device=options.device, home=options.home)
    except llmos.InvalidArgument as wrong:
        print(f"llmsh: {wrong}", file=sys.stderr)
        return USAGE
    try:
        if needs_model(options):
            from .store import provide  # the library costs 0.1 s: loaded if anything may use a model

            provide(settings)
    except llmos.Fault as fault:
        print(f"llmsh: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("llmsh: stopped; the next start goes on from there", file=sys.stderr)
        return INTERRUPTED
    try:
        return anyio.run(_run, options, settings)
    finally:
        _abandon_closed_output()


def needs_model(options: Options) -> bool:
    """Whether anything that is to be run may ask the model. What is not known before it is read may."""
    if options.commands is None:
        return True
    builtins = table()
    try:
        names = [command.words[0].plain for command in parse(options.commands).commands if command.words]
    except BadSyntax:
        return False
    return any(name is None or (name in builtins and builtins[name].needs_system) for name in names)


async def _run(options: Options, settings: Settings) -> int:
    terminal = Terminal(dumb=os.environ.get("TERM", "dumb") == "dumb")
    reads_lines = options.commands is None and options.script is None and not options.demo
    interactive = reads_lines and os.isatty(0)
    connection = Connection(lambda: llmos.boot(options.model, home=settings.home, device=settings.device), settings.model)
    # The environment is where a shell's variables come from. Nothing else in this folder reads it.
    variables = {name: value.encode(errors="replace").decode() for name, value in os.environ.items()}
    shell = Shell(terminal, connection, settings.home, variables=variables, interactive=interactive)
    shell.script, shell.arguments = options.script or "llmsh", list(options.arguments)
    if not reads_lines or interactive:
        shell.standard_input = _standard_input()
        shell.typed = os.isatty(0)
    runner = Runner(shell, Chat(shell))
    status = 0
    async with shell.running(), runner.signals():
        if reads_lines or needs_model(options):
            connection.want()
        if options.demo:
            status = await runner.demo()
        elif options.commands is not None:
            status = await runner.text(options.commands)
        elif options.script is not None:
            status = await runner.file(options.script)
        elif interactive and terminal.is_tty and not terminal.dumb:
            from .prompt import Prompt  # prompt_toolkit costs 0.2 s: loaded for people only

            prompt = Prompt(shell, settings.home / "history")
            shell.history = prompt.history
            status = await runner.lines(prompt)
        else:
            status = await runner.lines(PlainLines(0, terminal, prompts=interactive))
    return status if runner.ended_by_signal is None else runner.ended_by_signal


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


def _abandon_closed_output() -> None:
    """If the reader of standard output is gone, nothing is left to flush, and nothing to complain of at exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
