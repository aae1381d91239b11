"""Decides whether a line that a person typed is a command or a question to the chat agent.

A line is a command if its first word is one, or an alias, or sets a variable, or is a comment, or begins with ! (a program of
the host). A line that is nearly a command (one misspelt word, alone or with what only commands have: numbers, options,
< > | &) is neither: the person is asked, rather than the model. Everything else is a question, whatever quotes it holds.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from enum import Enum

from .lexer import COMPOUND

ALIKE = 0.75
"""How much of two words must agree for one to be a misspelling of the other (difflib's ratio)."""

OTHER_NAMES = {
    "quit": "exit",
    "logout": "exit",
    "bye": "exit",
    "htop": "top",
    "pstree": "tree",
    "source": ".",
    "dir": "ls",
    "type": "help",
    "which": "help",
}
"""What people type out of habit, alone on a line, and the command that they want."""

ENGLISH = frozenset({"what", "that", "many", "then"})
"""Words that questions begin with, though they are nearly a command (chat, man, tree)."""

_FIRST = re.compile(r"\s*(!\s+)*([^\s|&;<>()]*)")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_FUNCTION = re.compile(r"\s*[A-Za-z_][A-Za-z0-9_]*\s*\(\)\s*\{")
_CLAUSE = re.compile(r";\s*(do|then)\b")
_SIGNS = re.compile(r"[-%+]?[0-9]+|-.*|[<>|&;]+.*|%.*|.*[/.][A-Za-z0-9]+|&")


class Kind(Enum):
    """What a line is."""

    COMMAND = "command"
    QUESTION = "question"
    MISSPELT = "misspelt"


def route(line: str, commands: Collection[str], aliases: Collection[str] = ()) -> tuple[Kind, str]:
    """What `line` is, and for a misspelt command the one that was likely meant."""
    found = _FIRST.match(line)
    first = found.group(2) if found else ""
    if (first in COMPOUND and _CLAUSE.search(line)) or _FUNCTION.match(line):
        return Kind.COMMAND, ""  # of another shell, which is said where it is parsed
    rest = line[found.end() :].split() if found else []
    if first in commands or first in aliases or first.startswith(("#", "!")) or _ASSIGNMENT.match(first) or not first:
        return Kind.COMMAND, ""
    bare = first.lower().strip("?!.,:")
    meant = OTHER_NAMES.get(bare, "") if not rest else ""
    looks_typed = not rest or _SIGNS.fullmatch(rest[0]) or any(word in ("<", ">", ">>", "|", "&") for word in rest)
    if not meant and looks_typed:
        meant = nearest(bare, commands, ALIKE)
    return (Kind.MISSPELT, meant) if meant else (Kind.QUESTION, "")


def nearest(word: str, commands: Collection[str], alike: float = 0.6) -> str:
    """The command that a word is nearly, or ""."""
    return "" if word.lower() in ENGLISH else "".join(difflib.get_close_matches(word, commands, n=1, cutoff=alike))
