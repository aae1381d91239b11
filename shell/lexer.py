"""Splits a line of llmsh into words and operators, with quoting as in POSIX sh.

Owns what a character means: quotes, backslashes, comments, `$NAME` and the operators. A word is kept in parts,
because what may happen to it later (variables, splitting, file patterns) depends on how each part was quoted.
Every token knows where it stood in the text. Expands nothing and knows no grammar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_CHARACTERS = 1_000_000
"""Longest text that is read as commands. Data belongs into files and pipes."""

TOO_LONG = f"more than {MOST_CHARACTERS} characters are too many for a command: put the text in a file and use `< FILE`"

OPERATORS = ("&&", "||", ">>", ">&", "<&", "<<", "<>", ">|", "|", "&", ";", "<", ">", "(", ")", "\n")
"""Longest first: the first that matches is the operator."""

REDIRECTIONS = frozenset({"<", ">", ">>", ">&"})

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPECIAL = "?!$#@0123456789"
_BLANK = " \t\r"
_UNSUPPORTED = {
    "(": "subshells '( )' are not supported: put the text in quotes, or use a script file",
    ")": "unexpected ')': put it in quotes if it is text",
    "<<": "here-documents are not supported: use `< FILE`, or `echo TEXT | spawn AGENT`",
    "<&": "'<&' is not supported: use `< FILE`",
    "<>": "'<>' is not supported: use `< FILE` or `> FILE`",
    ">|": "'>|' is not supported: use `> FILE`",
}


class BadSyntax(Exception):
    """The text is not a command. `position` is the offset of the character at fault."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


class Incomplete(BadSyntax):
    """The text may become a command when another line follows: an open quote, a trailing `|` or `\\`.

    `closer` is the quote that a line must hold to change that, if it takes one.
    """

    def __init__(self, message: str, position: int, closer: str = "") -> None:
        super().__init__(message, position)
        self.closer = closer


@dataclass(frozen=True, slots=True)
class Literal:
    """Characters that stand for themselves; unquoted ones may still be a file pattern."""

    text: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Variable:
    """`$name`; an unquoted one is split at blanks after it was replaced."""

    name: str
    quoted: bool


Part = Literal | Variable


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command. `parts` is empty for no text at all, never for `''`."""

    parts: tuple[Part, ...]
    start: int
    end: int

    @property
    def plain(self) -> str | None:
        """The text, if the word is one unquoted literal: what a keyword or a name must be."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Literal) and not self.parts[0].quoted:
            return self.parts[0].text
        return None


@dataclass(frozen=True, slots=True)
class Operator:
    """`text` is one of OPERATORS; a redirection has the number written before it as `fd`, if there was one."""

    text: str
    start: int
    end: int
    fd: int | None = None


Token = Word | Operator


def lex(text: str) -> list[Token]:
    """The tokens of `text`. Raises Incomplete if a quote is open at its end, BadSyntax if it can mean nothing."""
    if len(text) > MOST_CHARACTERS:
        raise BadSyntax(TOO_LONG, 0)
    if (null := text.find("\0")) >= 0:
        raise BadSyntax("a NUL character can be part of no command: take it out, or put the text in a file and use `< FILE`", null)
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        if text[at] in _BLANK:
            at += 1
        elif text.startswith("\\\n", at):
            at += 2
        elif text[at] == "#":
            newline = text.find("\n", at)
            at = len(text) if newline < 0 else newline
        else:
            token = _operator(text, at, None) or _redirection(text, at) or _Reader(text, at).word()
            tokens.append(token)
            at = token.end
    return tokens


def _operator(text: str, at: int, fd: int | None) -> Operator | None:
    for operator in OPERATORS:
        if text.startswith(operator, at):
            if operator in _UNSUPPORTED:
                raise BadSyntax(_UNSUPPORTED[operator], at)
            return Operator(operator, at, at + len(operator), fd)
    return None


def _redirection(text: str, at: int) -> Operator | None:
    """`2>`: a number is part of a redirection only if it touches it and begins a word."""
    end = at
    while end < len(text) and text[end] in "0123456789":
        end += 1
    if end == at or end >= len(text) or text[end] not in "<>":
        return None
    operator = _operator(text, end, None)
    if operator is None or end - at > 1 or text[at] not in "012":
        raise BadSyntax(f"cannot redirect {text[at:end]}: 0 is input, 1 is output, 2 is errors", at)
    return Operator(operator.text, at, operator.end, int(text[at]))


class _Reader:
    """Reads one word: parts are collected as quotes open and close."""

    def __init__(self, text: str, start: int) -> None:
        self.text = text
        self.start = start
        self.at = start
        self.parts: list[Part] = []
        self.pending: list[str] = []

    def word(self) -> Word:
        text = self.text
        while self.at < len(text):
            character = text[self.at]
            if character in _BLANK or self._is_operator():
                break
            if character == "\\":
                self._escape()
            elif character == "'":
                self._single()
            elif character == '"':
                self._double()
            elif character == "$":
                self._variable(quoted=False)
            elif character == "`":
                raise BadSyntax("command substitution with ` is not supported: put ` in single quotes if it is text", self.at)
            else:
                self.pending.append(character)
                self.at += 1
        self._flush(quoted=False)
        return Word(tuple(self.parts), self.start, self.at)

    def _is_operator(self) -> bool:
        return self.text[self.at] in "|&;<>()\n"

    def _flush(self, *, quoted: bool) -> None:
        if self.pending:
            self.parts.append(Literal("".join(self.pending), quoted))
            self.pending.clear()

    def _escape(self) -> None:
        if self.at + 1 >= len(self.text):
            raise Incomplete("nothing follows the backslash at the end: write \\\\ for a backslash", self.at)
        following = self.text[self.at + 1]
        if following != "\n":  # backslash-newline joins two lines
            self._flush(quoted=False)
            self.parts.append(Literal(following, quoted=True))
        self.at += 2

    def _single(self) -> None:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise Incomplete("the quote ' is never closed: write \\' for an apostrophe", self.at, "'")
        self._flush(quoted=False)
        self.parts.append(Literal(self.text[self.at + 1 : end], quoted=True))
        self.at = end + 1

    def _double(self) -> None:
        opened = self.at
        self._flush(quoted=False)
        self.at += 1
        empty = len(self.parts)
        while self.at < len(self.text):
            character = self.text[self.at]
            if character == '"':
                self._flush(quoted=True)
                if len(self.parts) == empty:
                    self.parts.append(Literal("", quoted=True))
                self.at += 1
                return
            if character == "\\" and self.at + 1 < len(self.text) and self.text[self.at + 1] in '$`"\\\n':
                if self.text[self.at + 1] != "\n":
                    self.pending.append(self.text[self.at + 1])
                self.at += 2
            elif character == "$":
                self._variable(quoted=True)
            elif character == "`":
                raise BadSyntax("command substitution with ` is not supported: write \\` if it is text", self.at)
            else:
                self.pending.append(character)
                self.at += 1
        raise Incomplete('the quote " is never closed: write \\" for a quotation mark', opened, '"')

    def _variable(self, *, quoted: bool) -> None:
        text, at = self.text, self.at + 1
        following = text[at : at + 1]
        if following == "(":
            raise BadSyntax("command substitution with $( ) is not supported: write \\$ if it is text", self.at)
        if following == "{":
            close = text.find("}", at)
            name = text[at + 1 : close] if close >= 0 else ""
            if not (_NAME.fullmatch(name) or name.isdecimal() or (len(name) == 1 and name in _SPECIAL)):
                raise BadSyntax("only ${NAME} is supported in braces: write \\$ if it is text", self.at)
            end = close + 1
        elif match := _NAME.match(text, at):
            name, end = match.group(), match.end()
        elif following and following in _SPECIAL:
            name, end = following, at + 1
        else:  # a dollar before anything else is a dollar, as in `costs 5$`
            self.pending.append("$")
            self.at += 1
            return
        self._flush(quoted=quoted)
        self.parts.append(Variable(name, quoted))
        self.at = end
