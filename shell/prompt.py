"""The line that a person edits: history, completion, and text that appears above it while it is edited.

Owns the prompt_toolkit session. Ctrl-C throws the line away, Ctrl-D on an empty one ends the input, Tab completes
commands, pids, jobs, signals, agents and paths. While the model loads the line says so. Runs nothing.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path

import anyio
from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory

from .builtins.processes import SENDABLE
from .lexer import BadSyntax, Operator, lex
from .lines import LineCancelled
from .session import Shell

REFRESH = 0.2
"""Seconds between two drawings of the line that says what is loading."""


class Prompt:
    """Reads lines from a terminal with cursor control."""

    def __init__(self, shell: Shell, history: Path) -> None:
        self._shell = shell
        self._history = _private_history(history)
        self._session: PromptSession[str] = PromptSession(
            history=self._history,
            completer=ShellCompleter(shell),
            complete_while_typing=False,
            enable_history_search=True,
            interrupt_exception=LineCancelled,
            reserve_space_for_menu=4,
        )

    def history(self) -> list[str]:
        """Every line typed so far, this time and before, the oldest first."""
        return list(self._history.load_history_strings())[::-1]

    async def line(self, prompt: str) -> str | None:
        terminal = self._shell.terminal
        await terminal.fresh_line()
        line: str | None = None
        cancelled = False
        async with anyio.create_task_group() as tasks:
            if self._shell.connection.loading:
                tasks.start_soon(self._show_loading)
            terminal.above = self._above
            try:
                line = await self._session.prompt_async(FormattedText([("bold", prompt)]), handle_sigint=False)
            except EOFError:
                pass
            except LineCancelled:
                cancelled = True
            finally:
                terminal.above = None
            tasks.cancel_scope.cancel()
        if cancelled:
            raise LineCancelled
        return line

    def cancel(self) -> None:
        """A signal from elsewhere: the key comes as a key."""
        if self._session.app.is_running:
            self._session.app.exit(exception=LineCancelled)

    async def _above(self, write: Callable[[], None]) -> None:
        await run_in_terminal(write)

    async def _show_loading(self) -> None:
        """At the right of the line, where it is seen in every terminal and is gone when the line is entered."""
        connection, session = self._shell.connection, self._session
        session.rprompt = lambda: "" if session.app.is_done else connection.label()
        try:
            while connection.loading:
                session.app.invalidate()
                await anyio.sleep(REFRESH)
        finally:
            session.rprompt = None
            session.app.invalidate()
        if connection.fault is not None:
            await self._shell.terminal.error(f"llmsh: {connection.fault}")


def _private_history(path: Path) -> FileHistory:
    """Only its owner may read what was typed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    return FileHistory(str(path))


class ShellCompleter(Completer):
    """Proposes what can stand at the cursor, from the words before it."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """The session asks get_completions_async; this is for those who cannot wait."""
        return ()

    async def get_completions_async(self, document: Document, complete_event: CompleteEvent) -> AsyncGenerator[Completion, None]:
        before = document.text_before_cursor
        words, current = _words(before)
        for text, meta in await self._proposals(words, current):
            if text.lstrip("'").startswith(current):  # a path with blanks is proposed in quotes
                yield Completion(text, start_position=-len(current), display_meta=meta)

    async def _proposals(self, words: list[str], current: str) -> list[tuple[str, str]]:
        shell = self._shell
        if not words:
            return [(f"{name} ", "") for name in shell.builtins]
        command = words[0]
        if words[-1] in ("<", ">", ">>"):
            return _paths(current)
        if command in ("kill", "nice", "explain", "fork", "wait"):
            if command == "kill" and current.startswith("-"):
                return [(f"-{name} ", "") for name in SENDABLE]
            return _jobs(shell) + await _pids(shell)
        if command == "fg":
            return _jobs(shell)
        if command == "help":
            return [(name, "") for name in shell.builtins]
        if command == "spawn" and len(words) == 1:
            return [(f"{name} ", "") for name in shell.agents()]
        return _paths(current)


def _words(before: str) -> tuple[list[str], str]:
    """The words of the command at the cursor, and the one that it touches, which may be empty."""
    try:
        tokens = lex(before)
    except BadSyntax:
        return [""], ""
    texts: list[str] = []
    for token in tokens:
        text = before[token.start : token.end]
        if isinstance(token, Operator) and token.text in ("|", "||", "&&", "&", ";", "\n"):
            texts = []
        else:
            texts.append(text)
    touching = bool(tokens) and tokens[-1].end == len(before) and not isinstance(tokens[-1], Operator)
    return (texts[:-1], texts[-1]) if touching else (texts, "")


def _paths(current: str) -> list[tuple[str, str]]:
    folder, name = os.path.split(current)
    try:
        entries = sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    found = []
    for entry in entries:
        if entry.name.startswith(name) and (name.startswith(".") or not entry.name.startswith(".")):
            path = os.path.join(folder, entry.name)
            found.append((shlex.quote(path) + ("/" if entry.is_dir() else " ") if not path.startswith("~") else path, ""))
    return found


def _jobs(shell: Shell) -> list[tuple[str, str]]:
    return [(f"%{job.number}", job.text) for job in shell.jobs.all()]


async def _pids(shell: Shell) -> list[tuple[str, str]]:
    system = shell.connection.ready
    if system is None:
        return []
    return [(str(each.pid), each.name) for each in await system.ps()]
