"""Turns the tokens of a line or script into its syntax tree.

    script    list of lists
    list      and-or          run in order, or in the background after `&`
    and-or    pipeline        joined by && and ||
    pipeline  command         joined by |, inverted by !
    command   assignments, words, redirections

The tree is immutable, and each list keeps the text it came from, so that `jobs` can show it. An alias is replaced here, where
the first word of a command stands, as in sh. Runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

from .lexer import COMPOUND, REDIRECTIONS, BadSyntax, Incomplete, Literal, Operator, Part, Substitution, Token, Variable, Word, lex

MOST_TOKENS = 100_000
"""Words and operators of a text after its aliases were replaced."""
MOST_REPLACED = 1_000
"""Words of a text that may be replaced."""

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")


@dataclass(frozen=True, slots=True)
class Redirection:
    """`fd` is 0, 1 or 2; `kind` is one of < > >> >&, whose target is a file or, for >&, the number of a stream."""

    fd: int
    kind: str
    target: Word


@dataclass(frozen=True, slots=True)
class Assignment:
    """`NAME=value` before a command."""

    name: str
    value: Word


@dataclass(frozen=True, slots=True)
class Command:
    """One command; it may be nothing but assignments or redirections."""

    assignments: tuple[Assignment, ...]
    words: tuple[Word, ...]
    redirections: tuple[Redirection, ...]
    start: int


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands that run at once, each reading what the one before writes."""

    commands: tuple[Command, ...]
    inverted: bool


@dataclass(frozen=True, slots=True)
class AndOr:
    """`first`, then each pipeline whose operator agrees with the status so far."""

    first: Pipeline
    rest: tuple[tuple[str, Pipeline], ...]
    background: bool
    text: str
    """As the user wrote it, without the `&`."""


@dataclass(frozen=True, slots=True)
class Script:
    """Everything to run, in order."""

    lists: tuple[AndOr, ...]

    @property
    def commands(self) -> tuple[Command, ...]:
        """Every command, in order, whether or not it would come to run."""
        pipelines = [each for item in self.lists for each in (item.first, *(pipeline for _, pipeline in item.rest))]
        return tuple(command for pipeline in pipelines for command in pipeline.commands)


def parse(text: str, aliases: Mapping[str, str] | None = None) -> Script:
    """The tree of `text`. Raises Incomplete if it stops in the middle, BadSyntax if it is no command."""
    tokens = lex(text)
    for token in tokens:
        if isinstance(token, Word):
            _check(token.parts)
    return _Parser(text, tokens, aliases or {}).script()


def _check(parts: Iterable[Part]) -> None:
    """What stands in `$( )` must be commands too, so that nothing of a script runs which has an error."""
    for part in parts:
        if isinstance(part, Variable):
            _check(part.word)
        elif isinstance(part, Substitution):
            try:
                parse(part.text)
            except BadSyntax as bad:
                raise BadSyntax(f"in $( ): {bad.message}", min(part.start + bad.position, part.start + len(part.text))) from None


class _Parser:
    """Recursive descent over the tokens, one method for each level of the grammar."""

    def __init__(self, text: str, tokens: list[Token], aliases: Mapping[str, str]) -> None:
        self.text = text
        self.tokens = tokens
        self.aliases = aliases
        self.origins: dict[int, frozenset[str]] = {}
        """Of a word by its id(): the aliases in whose text it stood."""
        self.kept: list[Token] = []
        """Words that were replaced, so that no other has their id."""
        self.at = 0

    def peek(self) -> str | None:
        """The operator that comes next, or None if that is a word or the end."""
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        return token.text if isinstance(token, Operator) else None

    @property
    def ended(self) -> bool:
        return self.at >= len(self.tokens)

    def skip_newlines(self) -> None:
        while self.peek() == "\n":
            self.at += 1

    def script(self) -> Script:
        lists: list[AndOr] = []
        self.skip_newlines()
        while not self.ended:
            lists.append(self.and_or())
            self.skip_newlines()
        return Script(tuple(lists))

    def and_or(self) -> AndOr:
        begin = self.at
        first = self.pipeline()
        rest: list[tuple[str, Pipeline]] = []
        while (operator := self.peek()) in ("&&", "||"):
            self.at += 1
            self.expect_more(operator)
            rest.append((operator, self.pipeline()))
        text = self.text[self.tokens[begin].start : self.tokens[self.at - 1].end]
        background = self.peek() == "&"
        if self.peek() in ("&", ";", "\n"):
            self.at += 1
        elif not self.ended:
            self.unexpected()
        return AndOr(first, tuple(rest), background, text)

    def pipeline(self) -> Pipeline:
        inverted = False
        while not self.ended and isinstance(word := self.tokens[self.at], Word) and word.plain == "!":
            inverted = not inverted
            self.at += 1
        commands = [self.command()]
        while self.peek() == "|":
            self.at += 1
            self.expect_more("|")
            commands.append(self.command())
        return Pipeline(tuple(commands), inverted)

    def expect_more(self, operator: str) -> None:
        """A line may end after | && || and go on in the next."""
        self.skip_newlines()
        if self.ended:
            raise Incomplete(f"nothing follows '{operator}': give it a command", len(self.text))

    def replace_aliases(self) -> None:
        """The first word of a command, and what it became, while that is an alias; not inside its own text.

        Behind a text that ends with a blank the next word is looked at too.
        """
        places = [self.at]
        while places:
            at = places.pop(0)
            while at < len(self.tokens) and isinstance(word := self.tokens[at], Word):
                name, origin = word.plain or "", self.origins.get(id(word), frozenset())
                value = self.aliases.get(name)
                if value is None or name in origin:
                    break
                tokens = [replace(each, start=word.start, end=word.end) for each in lex(value)]
                self.origins |= {id(each): origin | {name} for each in tokens}
                self.kept.append(word)
                self.tokens[at : at + 1] = tokens
                places = [each + len(tokens) - 1 for each in places]
                if value[-1:] in (" ", "\t") and at + len(tokens) not in places:
                    places.insert(0, at + len(tokens))
                if len(self.tokens) > MOST_TOKENS or len(self.kept) > MOST_REPLACED:
                    raise BadSyntax(f"its aliases replace more than {MOST_REPLACED} words: unalias some", word.start)

    def command(self) -> Command:
        self.replace_aliases()
        start = self.tokens[self.at].start if not self.ended else len(self.text)
        assignments: list[Assignment] = []
        words: list[Word] = []
        redirections: list[Redirection] = []
        while not self.ended:
            token = self.tokens[self.at]
            if isinstance(token, Word):
                self.at += 1
                assignment = None if words else _assignment(token)
                if assignment is None:
                    words.append(token)
                else:
                    assignments.append(assignment)
            elif token.text in REDIRECTIONS:
                redirections.append(self.redirection(token))
            else:
                break
        if not (assignments or words or redirections):
            self.unexpected()
        if words and not assignments and words[0].plain in COMPOUND:
            raise BadSyntax(
                f"'{words[0].plain}' is not supported: there are && and ||, map for the lines of a file, and llmos run FILE.py:MAIN",
                words[0].start,
            )
        return Command(tuple(assignments), tuple(words), tuple(redirections), start)

    def redirection(self, operator: Operator) -> Redirection:
        self.at += 1
        target = self.tokens[self.at] if not self.ended else None
        if not isinstance(target, Word):
            raise BadSyntax(f"'{operator.text}' needs a file name after it", operator.start)
        self.at += 1
        fd = operator.fd if operator.fd is not None else (0 if operator.text == "<" else 1)
        if (fd == 0) != (operator.text == "<"):
            raise BadSyntax(f"cannot use '{operator.text}' with {fd}: 0 is read with <, 1 and 2 are written with >", operator.start)
        if operator.text == ">&" and target.plain not in ("1", "2"):
            raise BadSyntax("'>&' needs 1 (output) or 2 (errors) after it", target.start)
        return Redirection(fd, operator.text, target)

    def unexpected(self) -> NoReturn:
        if self.ended:
            raise BadSyntax("a command is missing at the end", len(self.text))
        token = self.tokens[self.at]
        shown = "end of line" if self.peek() == "\n" else f"'{self.text[token.start : token.end]}'"
        raise BadSyntax(f"unexpected {shown}: put it in quotes if it is text", token.start)


def _assignment(word: Word) -> Assignment | None:
    first = word.parts[0] if word.parts else None
    if not isinstance(first, Literal) or first.quoted or not (match := _ASSIGNMENT.match(first.text)):
        return None
    rest = first.text[match.end() :]
    parts = (Literal(rest, quoted=False), *word.parts[1:]) if rest else word.parts[1:]
    return Assignment(match.group(1), Word(parts, word.start + match.end(), word.end))
