"""Turns a word of the syntax tree into the arguments it stands for.

In the order of POSIX: `~`, variables and what commands wrote, splitting of the unquoted ones at blanks, then file patterns.
Quoted characters are never split and never match as a pattern; a pattern that matches no file stays as it is written. Which files
of the system match, namespace.py finds out. What
stands in `$( )` was run before (`Values.written`): nothing here waits.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .lexer import Literal, Part, Substitution, Variable, Word

MOST_MATCHES = 10_000
"""Most files that one pattern may stand for; more is an error of the user, not a list of arguments."""

BLANKS = " \t\n"
"""What splits an unquoted variable."""
_BLANKS = re.compile(f"[{BLANKS}]+")


class TooManyMatches(Exception):
    """A file pattern matched more files than MOST_MATCHES."""


class Unset(Exception):
    """A variable that has no value, where one is demanded: `${NAME:?why}`, or `set -u`."""


def _cannot(name: str, value: str) -> None:
    raise Unset(f"{name}: only a named variable can be set with = in braces")


@dataclass(frozen=True, slots=True)
class Values:
    """What words are expanded with."""

    lookup: Callable[[str], str | None]
    """The value of a variable, None if it has none."""
    assign: Callable[[str, str], None] = _cannot
    arguments: Sequence[str] = ()
    """$1, $2, ...: what `"$@"` stands for."""
    strict: bool = False
    """A variable without a value is an error."""
    written: Mapping[int, str] = field(default_factory=dict)
    """What the commands in `$( )` wrote, by id() of the part."""

    def value(self, part: Variable) -> str | None:
        """What `$name` is before its operator."""
        if part.name in ("@", "*"):
            return " ".join(self.arguments) if self.arguments else None
        return self.lookup(part.name)

    def wants_word(self, part: Variable) -> bool:
        """Whether the word behind the operator is what counts."""
        value = self.value(part)
        missing = value is None or (":" in part.operator and value == "")
        return bool(part.operator) and part.operator != "#" and missing != part.operator.endswith("+")


class Field:
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


@dataclass(frozen=True, slots=True)
class _Piece:
    """Text of a word. One that `splits` ends an argument at its blanks; one that `begins` ends the argument before it."""

    text: str
    quoted: bool
    splits: bool
    begins: bool = False


def expand(word: Word, values: Values) -> list[Field]:
    """What `word` becomes: usually one field, none for an empty unquoted variable, several after splitting. Raises Unset."""
    return _split(_pieces(_tilde(word.parts, values), values))


def expand_text(word: Word, values: Values) -> str:
    """The text of `word` without splitting and patterns: the value of an assignment. Raises Unset."""
    return _joined(_tilde(word.parts, values), values)


def _joined(parts: Sequence[Part], values: Values) -> str:
    return "".join(f" {piece.text}" if piece.begins else piece.text for piece in _pieces(parts, values))


def _tilde(parts: tuple[Part, ...], values: Values) -> tuple[Part, ...]:
    """`~` and `~/...` become the home directory; `~name` stays."""
    first = parts[0] if parts else None
    if not isinstance(first, Literal) or first.quoted or not first.text.startswith("~"):
        return parts
    whole = first.text == "~" and len(parts) == 1
    home = values.lookup("HOME")
    if not home or not (whole or first.text.startswith("~/")):
        return parts
    return (Literal(home, quoted=True), Literal(first.text[1:], quoted=False), *parts[1:])


def _pieces(parts: Sequence[Part], values: Values) -> Iterator[_Piece]:
    """The text that each part stands for."""
    for part in parts:
        if isinstance(part, Literal):
            yield _Piece(part.text, part.quoted, splits=False)
        elif isinstance(part, Substitution):
            yield _Piece(values.written.get(id(part), ""), part.quoted, splits=not part.quoted)
        elif values.wants_word(part):
            yield from _alternative(part, values)
        elif part.operator != "#" and (part.name == "@" or (part.name == "*" and not part.quoted)):
            if not part.operator.endswith("+"):
                yield from (_Piece(text, part.quoted, not part.quoted, begins=at > 0) for at, text in enumerate(values.arguments))
        else:
            yield _Piece(_value(part, values), part.quoted, splits=not part.quoted)


def _value(part: Variable, values: Values) -> str:
    value = values.value(part)
    if part.operator.endswith("+"):  # and it has none
        return ""
    if part.operator == "#":
        return str(len(values.arguments) if part.name in ("@", "*") else len(value or ""))
    if value is None and values.strict and part.name not in ("@", "*"):
        raise Unset(f"{part.name}: not set: give it a value, or write ${{{part.name}:-}} (set +u takes no offence)")
    return value or ""


def _alternative(part: Variable, values: Values) -> Iterator[_Piece]:
    """What stands behind the operator, in place of the value."""
    if part.operator.endswith("?"):
        raise Unset(f"{part.name}: {_joined(part.word, values) or 'not set: give it a value'}")
    if part.operator.endswith("="):
        text = _joined(part.word, values)
        values.assign(part.name, text)
        yield _Piece(text, part.quoted, splits=not part.quoted)
        return
    for piece in _pieces(_tilde(part.word, values), values):
        yield _Piece(piece.text, piece.quoted, splits=piece.splits or not (piece.quoted or part.quoted), begins=piece.begins)


def _split(pieces: Iterator[_Piece]) -> list[Field]:
    fields: list[Field] = []
    current: Field | None = None
    for piece in pieces:
        if piece.begins and current is not None:
            fields.append(current)
            current = None
        text = piece.text
        if not piece.splits:
            current = current or Field()
            current.add(text, quoted=piece.quoted)
            continue
        words = [each for each in _BLANKS.split(text) if each]
        if current is not None and text[:1] and text[0] in BLANKS:
            fields.append(current)
            current = None
        for number, each in enumerate(words):
            if number and current is not None:
                fields.append(current)
                current = None
            current = current or Field()
            current.add(each, quoted=False)
        if current is not None and words and text[-1] in BLANKS:
            fields.append(current)
            current = None
    if current is not None:
        fields.append(current)
    return fields


def match(field: Field) -> list[str]:
    """The files of the machine that a field stands for; the field as it is if it is no pattern, or none match. Raises TooManyMatches."""
    if not field.magic:
        return [field.text]
    found: list[str] = []
    for path in glob.iglob(field.pattern):
        found.append(path)
        if len(found) > MOST_MATCHES:
            raise TooManyMatches(f"{field.text}: more than {MOST_MATCHES} files match: put it in quotes if it is text")
    return sorted(found) or [field.text]
