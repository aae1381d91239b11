"""Splits a line of llmsh into words and operators, with quoting as in POSIX sh.

Owns what a character means: quotes, backslashes, comments, `$NAME`, `${NAME:-WORD}`, `$(COMMANDS)` and the operators. A word
is kept in parts, because what may happen to it later (variables, splitting, file patterns) depends on how each part was
quoted. Every token knows where it stood in the text. Expands nothing and knows no grammar.
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

MOST_DEPTH = 32
"""How deep `$( )` and `${ }` may lie in each other."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPECIAL = "?!$#@*0123456789"
_IN_BRACES = re.compile(r"(#?)([A-Za-z_][A-Za-z0-9_]*|[0-9]+|[?!$#@*])(:?[-=+?])?")
BRACES = "in braces there may be ${NAME}, ${#NAME}, ${NAME:-WORD}, := :+ :? and these without the colon: write \\$ if it is text"
COMPOUND = frozenset({"for", "while", "until", "if", "case", "select", "function"})
"""Words that begin a command of other shells, and none of this one."""
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
    """`$name`; an unquoted one is split at blanks after it was replaced.

    `operator` is what stands after the name in braces: - = + ? with or without a colon, and then `word` is what follows; or #,
    for the length.
    """

    name: str
    quoted: bool
    operator: str = ""
    word: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Substitution:
    """`$(text)`: what those commands write."""

    text: str
    quoted: bool
    start: int
    """Where `text` begins."""


Part = Literal | Variable | Substitution


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

    def __init__(self, text: str, start: int, depth: int = 0) -> None:
        self.text = text
        self.depth = depth
        self.start = start
        self.at = start
        self.quoted = False
        """All of it lies in double quotes."""
        self.parts: list[Part] = []
        self.pending: list[str] = []

    def word(self) -> Word:
        text = self.text
        while self.at < len(text) and text[self.at] not in _BLANK and not self._is_operator():
            self._next()
        self._flush(quoted=False)
        return Word(tuple(self.parts), self.start, self.at)

    def braced(self, *, quoted: bool) -> tuple[Part, ...]:
        """The word in `${NAME:-WORD}`, up to the brace that ends it. In double quotes an apostrophe is one."""
        text, opened = self.text, self.at
        self.quoted = quoted
        while self.at < len(text) and text[self.at] != "}":
            if quoted and text[self.at] == "'":
                self.pending.append("'")
                self.at += 1
            elif quoted and text[self.at] == "\\" and text[self.at + 1 : self.at + 2] not in ("$", "`", '"', "\\", "}", "\n"):
                self.pending.append("\\")
                self.at += 1
            else:
                self._next()
        if self.at >= len(text):
            raise Incomplete("the brace { is never closed: write \\$ if it is text", opened, "}")
        self._flush(quoted=quoted)
        return tuple(self.parts)

    def _next(self) -> None:
        """One character, or what a quote or dollar begins."""
        character = self.text[self.at]
        if character == "\\":
            self._escape()
        elif character == "'":
            self._single()
        elif character == '"':
            self._double()
        elif character == "$":
            self._variable(quoted=self.quoted)
        elif character == "`":
            raise BadSyntax("commands go into $( ), not into backticks: put ` in single quotes if it is text", self.at)
        else:
            self.pending.append(character)
            self.at += 1

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
            self._flush(quoted=self.quoted)
            self.parts.append(Literal(following, quoted=True))
        self.at += 2

    def _single(self) -> None:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise Incomplete("the quote ' is never closed: write \\' for an apostrophe", self.at, "'")
        self._flush(quoted=self.quoted)
        self.parts.append(Literal(self.text[self.at + 1 : end], quoted=True))
        self.at = end + 1

    def _double(self) -> None:
        opened = self.at
        self._flush(quoted=self.quoted)
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
                raise BadSyntax("commands go into $( ), not into backticks: write \\` if it is text", self.at)
            else:
                self.pending.append(character)
                self.at += 1
        raise Incomplete('the quote " is never closed: write \\" for a quotation mark', opened, '"')

    def _variable(self, *, quoted: bool) -> None:
        text, at = self.text, self.at + 1
        following = text[at : at + 1]
        if following in ("(", "{"):
            if self.depth >= MOST_DEPTH:
                raise BadSyntax(f"$( ) and ${{ }} lie deeper than {MOST_DEPTH} in each other: use a variable of its own", self.at)
            self._flush(quoted=quoted)
            self.parts.append(self._substitution(quoted=quoted) if following == "(" else self._braces(quoted=quoted))
            return
        if match := _NAME.match(text, at):
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

    def _braces(self, *, quoted: bool) -> Variable:
        """`${NAME}` and its kin; moves behind it."""
        text, opened = self.text, self.at
        found = _IN_BRACES.match(text, opened + 2)
        if found is None and text.startswith("#}", opened + 2):
            found = re.compile(r"()(#)()").match(text, opened + 2)
        if found is None:
            raise BadSyntax(BRACES, opened)
        length, name, operator = found.group(1), found.group(2), found.group(3) or ""
        self.at = found.end()
        word: tuple[Part, ...] = ()
        if operator and not length:
            reader = _Reader(text, self.at, self.depth + 1)
            word = reader.braced(quoted=quoted)
            self.at = reader.at
        if not text.startswith("}", self.at) or (operator and length):
            if self.at >= len(text):
                raise Incomplete("the brace { is never closed: write \\$ if it is text", opened, "}")
            raise BadSyntax(BRACES, opened)
        self.at += 1
        return Variable(name, quoted, length or operator, word)

    def _substitution(self, *, quoted: bool) -> Substitution:
        """`$(COMMANDS)`; moves behind it."""
        opened = self.at
        self.at = _closing(self.text, opened + 2, self.depth + 1, opened)
        return Substitution(self.text[opened + 2 : self.at - 1], quoted, opened + 2)


def _closing(text: str, at: int, depth: int, opened: int) -> int:
    """The place behind the parenthesis that closes the `$(` whose commands begin at `at`: quotes and words may hold others."""
    while at < len(text):
        if text[at] == ")":
            return at + 1
        if text[at] in "|&;<>(\n" or text[at] in _BLANK:
            at += 1
        elif text[at] == "#":
            newline = text.find("\n", at)
            at = len(text) if newline < 0 else newline
        else:
            at = _Reader(text, at, depth).word().end
    raise Incomplete("the parenthesis of $( is never closed: write \\$ if it is text", opened, ")")
