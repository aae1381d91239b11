"""Turns a word of the syntax tree into the arguments it stands for.

In the order of POSIX: `~`, variables, splitting of unquoted variables at blanks, then file patterns. Quoted
characters are never split and never match as a pattern; a pattern that matches no file stays as it is written.
"""

from __future__ import annotations

import glob
from collections.abc import Callable

from .lexer import Literal, Word

Lookup = Callable[[str], str]
"""The value of a variable, "" if it has none."""

MOST_MATCHES = 10_000
"""Most files that one pattern may stand for; more is an error of the user, not a list of arguments."""


class TooManyMatches(Exception):
    """A file pattern matched more files than MOST_MATCHES."""


class _Field:
    """One argument in the making: its text, and the same text as a pattern in which quoted characters are escaped."""

    __slots__ = ("magic", "pattern", "text")

    def __init__(self) -> None:
        self.text = ""
        self.pattern = ""
        self.magic = False

    def add(self, text: str, *, quoted: bool) -> None:
        self.text += text
        self.pattern += glob.escape(text) if quoted else text
        self.magic = self.magic or (not quoted and glob.has_magic(text))


def expand(word: Word, lookup: Lookup) -> list[str]:
    """The arguments of `word`: usually one, none for an empty unquoted variable, several after splitting or a pattern."""
    return [argument for field in _split(word, lookup) for argument in _match(field)]


def expand_text(word: Word, lookup: Lookup) -> str:
    """The text of `word` without splitting and patterns: the value of an assignment."""
    return "".join(part.text if isinstance(part, Literal) else lookup(part.name) for part in _tilde(word, lookup).parts)


def _tilde(word: Word, lookup: Lookup) -> Word:
    """`~` and `~/...` become the home directory; `~name` stays."""
    first = word.parts[0] if word.parts else None
    if not isinstance(first, Literal) or first.quoted or not first.text.startswith("~"):
        return word
    whole = first.text == "~" and len(word.parts) == 1
    home = lookup("HOME")
    if not home or not (whole or first.text.startswith("~/")):
        return word
    return Word((Literal(home, quoted=True), Literal(first.text[1:], quoted=False), *word.parts[1:]), word.start, word.end)


def _split(word: Word, lookup: Lookup) -> list[_Field]:
    fields: list[_Field] = []
    current: _Field | None = None
    for part in _tilde(word, lookup).parts:
        text = part.text if isinstance(part, Literal) else lookup(part.name)
        if isinstance(part, Literal) or part.quoted:
            current = current or _Field()
            current.add(text, quoted=part.quoted)
            continue
        pieces = text.split()
        if current is not None and text[:1].isspace():
            fields.append(current)
            current = None
        for number, piece in enumerate(pieces):
            if number and current is not None:
                fields.append(current)
                current = None
            current = current or _Field()
            current.add(piece, quoted=False)
        if current is not None and pieces and text[-1].isspace():
            fields.append(current)
            current = None
    if current is not None:
        fields.append(current)
    return fields


def _match(field: _Field) -> list[str]:
    if not field.magic:
        return [field.text]
    found: list[str] = []
    for path in glob.iglob(field.pattern):
        found.append(path)
        if len(found) > MOST_MATCHES:
            raise TooManyMatches(f"{field.text}: more than {MOST_MATCHES} files match: put it in quotes if it is text")
    return sorted(found) or [field.text]
