"""What Tab proposes, from the words before the cursor. The prompt never waits for it, and it never fails.

    commands  aliases    at the start of a command          agents, models, classes    after spawn, map, ask and their options
    pids      jobs       kill nice explain fork wait ...    pages                      after man, help
    $NAMES    settings   $ set unset export                 paths                      everywhere else

What the system, a disk or an import must be asked for is asked in the background: what is known PATIENCE seconds later is
proposed, the rest the next time. At most MOST proposals are made.
"""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial

import anyio
import anyio.to_thread
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from llmos import Fault

from .builtins.agents import CLASSES, SCHEMA, VALUES_OF
from .builtins.language import SETTINGS
from .builtins.manual import calls_of_the_system
from .builtins.processes import SENDABLE
from .lexer import BadSyntax, Operator, lex
from .session import Shell
from .where import HOST, MOUNTS, Where, where, where_to

PATIENCE = 0.03
"""Seconds that Tab waits for what it does not know yet."""
FRESH = 0.5
"""Seconds for which it asks no second time."""
MOST = 500
MOST_ENTRIES = 5_000
"""Entries of a folder that are looked at."""

Proposal = tuple[str, str]
"""The text, and what is said beside it."""

OF_PROCESSES = frozenset({"kill", "nice", "explain", "fork", "wait", "chat"})
OF_JOBS = frozenset({"fg", "bg"})
OF_MACHINE = frozenset({"cd", "."})
"""Those that know the machine's paths only, as its programs do."""


class ShellCompleter(Completer):
    """Proposes what can stand at the cursor."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._processes = _Known(shell, self._ask_processes)
        self._models = _Known(shell, self._ask_models)
        self._agents = _Known(shell, self._ask_agents)
        self._calls = _Known(shell, self._ask_calls)
        self._folders: dict[tuple[str, bool], _Known] = {}
        """(folder, whether it is one of the system) -> what it holds."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """The session asks get_completions_async; this is for those who cannot wait."""
        return ()

    async def get_completions_async(self, document: Document, complete_event: CompleteEvent) -> AsyncGenerator[Completion, None]:
        words, current = words_at(document.text_before_cursor)
        made = 0
        for text, meta in await self.proposals(words, current):
            if text.lstrip("'").startswith(current.lstrip("'")) and made < MOST:  # a path with blanks is proposed in quotes
                made += 1
                yield Completion(text, start_position=-len(current), display_meta=meta)

    async def proposals(self, words: list[str], current: str) -> list[Proposal]:
        """What may stand after `words`, for someone who has typed `current`."""
        shell = self._shell
        if words == [""]:  # an open quote: nobody knows what it will be
            return []
        if current.startswith("$"):
            return [(f"${name} ", value[:40]) for name, value in sorted(shell.variables.items())]
        if not words:
            names = [(f"{name} ", builtin.summary) for name, builtin in sorted(shell.builtins.items())]
            return names + [(f"{name} ", text) for name, text in sorted(shell.aliases.items())]
        command, before = words[0], words[-1]
        if before in ("<", ">", ">>"):
            return await self._paths(where_to, current)
        if current.startswith("-") and command in VALUES_OF:
            return [(f"{option} ", "") for option in sorted(VALUES_OF[command])]
        if current.startswith("--") and "--json".startswith(current):
            return [("--json ", "for scripts")] if "--json" in getattr(shell.builtins.get(command), "usage", "") else []
        if command in OF_PROCESSES:
            if command == "kill" and current.startswith("-"):
                return [(f"-{name} ", "") for name in SENDABLE]
            return _jobs(shell) + await self._processes.get()
        if command in OF_JOBS:
            return _jobs(shell)
        found = await self._of_names(command, before, words, current)
        if found is not None:
            return found
        return await self._paths(
            _machine if command in OF_MACHINE or command.startswith("!") else where_to if before == SCHEMA else where, current
        )

    async def _of_names(self, command: str, before: str, words: list[str], current: str) -> list[Proposal] | None:
        """Where a name of something is wanted; None where a path may stand."""
        shell = self._shell
        if command in VALUES_OF and before in VALUES_OF[command]:
            if before in ("-m", "--model"):
                return await self._models.get()
            return [(f"{name} ", "") for name in CLASSES] if before in ("-c", "--class") else None if before == SCHEMA else []
        if command in ("spawn", "map") and not _has_word(words[1:], VALUES_OF[command]) and "/" not in current:
            return await self._agents.get() or await self._paths(where, current)
        if command == "help":
            return [(f"{name} ", builtin.summary) for name, builtin in sorted(shell.builtins.items())]
        if command == "man":
            commands = [(f"{name} ", builtin.summary) for name, builtin in sorted(shell.builtins.items())]
            return (commands if before != "2" else []) + (await self._calls.get() if before != "1" else [])
        if command in ("unset", "export"):
            return [(f"{name} ", value[:40]) for name, value in sorted(shell.variables.items())]
        if command in ("alias", "unalias"):
            return [(f"{name} ", text) for name, text in sorted(shell.aliases.items())]
        if command == "set":
            return [(f"{name} ", "") for name in SETTINGS.values()] if before in ("-o", "+o") else []
        return None

    # --- what has to be asked for

    async def _ask_processes(self) -> list[Proposal]:
        system = self._shell.connection.ready
        return [] if system is None else [(f"{each.pid} ", each.name) for each in await system.ps()]

    async def _ask_agents(self) -> list[Proposal]:
        names = await anyio.to_thread.run_sync(self._shell.agents, abandon_on_cancel=True)
        return [(f"{name} ", "") for name in names]

    async def _ask_models(self) -> list[Proposal]:
        shell = self._shell

        def names() -> list[str]:
            from .store import stored_models  # the library costs 0.2 s

            return [f"{row['name']}:{row['tag']}" for row in stored_models(shell.home, shell.connection.model, set())]

        full = await anyio.to_thread.run_sync(names, abandon_on_cancel=True)
        short = dict.fromkeys(name.partition(":")[0] for name in full)
        return [(f"{name} ", "") for name in [*short, *full]]

    async def _ask_calls(self) -> list[Proposal]:
        names = await anyio.to_thread.run_sync(calls_of_the_system, abandon_on_cancel=True)
        return [(f"{name} ", "system call") for name in names]

    async def _paths(self, meaning: Callable[[str, Mapping[str, str]], Where], current: str) -> list[Proposal]:
        """What a folder holds, of the system or of the machine as `meaning` says."""
        folder, name = os.path.split(current.lstrip("'"))
        if not folder and current.lstrip("'").startswith(HOST):
            folder, name = HOST, name.removeprefix(HOST)
        place = meaning(folder, self._shell.variables)
        of_system = not place.plain and not place.path.startswith(HOST)
        known = self._folders.get((folder, of_system))
        if known is None:
            if len(self._folders) > 50:
                self._folders.clear()

            async def ask() -> list[Proposal]:
                if of_system:
                    return await self._entries_of_system(folder)
                return await anyio.to_thread.run_sync(_entries, folder, abandon_on_cancel=True)

            known = self._folders[folder, of_system] = _Known(self._shell, ask)
        hidden = name.startswith(".")
        return [(text, meta) for text, meta in await known.get() if hidden or not os.path.basename(text.strip("' /")).startswith(".")]

    async def _entries_of_system(self, folder: str) -> list[Proposal]:
        system = self._shell.connection.ready
        found: list[Proposal] = []
        if system is not None:
            async for entry in system.files.entries(folder):
                if len(found) >= MOST_ENTRIES:
                    break
                if entry.name.isprintable():
                    found.append(_proposal(os.path.join(folder, entry.name), entry.kind == "folder"))
        if not folder.strip("/"):  # beside the system's folders stand those of the machine that they do not hide
            others = await anyio.to_thread.run_sync(_entries, folder, abandon_on_cancel=True)
            found += [each for each in others if each[0].strip(" /'") not in MOUNTS]
        return found


class _Known:
    """What was found out last, asked for anew in the background when it is old."""

    def __init__(self, shell: Shell, ask: Callable[[], Awaitable[list[Proposal]]]) -> None:
        self._shell, self._ask = shell, ask
        self._found: list[Proposal] = []
        self._until = -1.0
        self._asking: anyio.Event | None = None

    async def get(self) -> list[Proposal]:
        if self._asking is None and anyio.current_time() >= self._until:
            self._asking = anyio.Event()
            self._shell.beside(self._refresh)
        if self._asking is not None:
            with anyio.move_on_after(PATIENCE):
                await self._asking.wait()
        return self._found

    async def _refresh(self) -> None:
        try:
            self._found = await self._ask()
        except (Fault, OSError, ValueError):  # Tab is no place to complain
            self._found = []
        finally:
            self._until = anyio.current_time() + FRESH
            asking, self._asking = self._asking, None
            if asking is not None:
                asking.set()


def words_at(before: str) -> tuple[list[str], str]:
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


def _has_word(words: list[str], values: Collection[str]) -> bool:
    """Whether one of these words is neither an option nor the value of one."""
    waiting = False
    for word in words:
        if not waiting and not word.startswith("-"):
            return True
        waiting = not waiting and word in values
    return False


def _entries(folder: str) -> list[Proposal]:
    """What a folder of the machine holds, as it is typed. Called on a thread: a disk may sleep."""
    path = os.path.expanduser(folder.removeprefix(HOST)) or "."
    try:
        with os.scandir(path) as listing:
            entries = sorted(itertools.islice(listing, MOST_ENTRIES), key=lambda entry: entry.name)
    except OSError:
        return []
    named = HOST.__add__ if folder == HOST else partial(os.path.join, folder)
    return [_proposal(named(entry.name), entry.is_dir()) for entry in entries if entry.name.isprintable()]


def _machine(word: str, variables: Mapping[str, str]) -> Where:
    return Where(word, HOST + os.path.abspath(word), True)


def _proposal(path: str, folder: bool) -> Proposal:
    """A path as it is typed: a folder may be gone into."""
    return (shlex.quote(path) + ("/" if folder else " ") if not path.startswith("~") else path, "")


def _jobs(shell: Shell) -> list[Proposal]:
    return [(f"%{job.number} ", job.text) for job in shell.jobs.all()]
