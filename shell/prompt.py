"""The line that a person edits: history, completion, and text that appears above it while it is edited.

Owns the prompt_toolkit session. Ctrl-C throws the line away, Ctrl-D on an empty one ends the input, Ctrl-Z does nothing, Tab
completes (completion.py). While the model loads the line says so. Runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from .completion import ShellCompleter
from .lines import LineCancelled
from .session import Shell

REFRESH = 0.2
"""Seconds between two drawings of the line that says what is loading."""


class Prompt:
    """Reads lines from a terminal with cursor control."""

    def __init__(self, shell: Shell, history: Path) -> None:
        self._shell = shell
        self._history = _private_history(history)
        self._path = history
        self._offered = ""
        self._session: PromptSession[str] = PromptSession(
            history=self._history,
            key_bindings=_keys(),
            completer=ShellCompleter(shell),
            complete_while_typing=False,
            enable_history_search=True,
            interrupt_exception=LineCancelled,
            reserve_space_for_menu=4,
        )

    def history(self) -> list[str]:
        """Every line typed so far, this time and before, the oldest first."""
        return list(self._history.load_history_strings())[::-1]

    def forget(self) -> None:
        """Everything typed so far, in the file too."""
        self._path.write_text("", encoding="utf-8")
        self._session.history = self._history = _private_history(self._path)
        self._session.default_buffer.history = self._history
        self._session.default_buffer.reset()

    def offer(self, text: str) -> None:
        """The next line begins with this, to be changed."""
        self._offered = text

    def remember(self, line: str) -> None:
        """A line that was not typed but agreed to."""
        self._history.append_string(line)

    async def answer(self, question: str) -> str | None:
        """What a person says to a question, which is no line of the history. None, if nothing."""
        asking: PromptSession[str] = PromptSession(history=InMemoryHistory(), interrupt_exception=LineCancelled, key_bindings=_keys())
        session, self._session = self._session, asking
        try:
            return await self.line(question)
        finally:
            self._session = session

    async def line(self, prompt: str) -> str | None:
        offered, self._offered = self._offered, ""
        terminal = self._shell.terminal
        await terminal.fresh_line()
        line: str | None = None
        cancelled = False
        async with anyio.create_task_group() as tasks:
            if self._shell.connection.loading:
                tasks.start_soon(self._show_loading)
            terminal.above = self._above
            try:
                line = await self._session.prompt_async(FormattedText([("bold", prompt)]), default=offered, handle_sigint=False)
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


def _keys() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("c-z")
    def _(event: KeyPressEvent) -> None:
        """There is no job in front to stop."""

    return bindings


def _private_history(path: Path) -> FileHistory:
    """Only its owner may read what was typed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    return FileHistory(str(path))
