"""What a builtin is and what it is given: its words, its streams, the job it belongs to and the shell around it.

A builtin returns its exit status. It reports errors by raising: Usage (status 2), Refused (a status of its choice), a
Fault of a system call, OSError, NotText; the interpreter writes the message. Holds no state.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmos import Fault

from ..jobs import Job
from ..streams import Sink, Source

if TYPE_CHECKING:
    from llmos import System

    from ..session import Shell

MOST_DIGITS = 15
"""Digits of the largest number an argument may be: more can be no pid, job, or count."""


class Usage(Exception):
    """The words do not make a call: printed with the usage line, status 2."""


class Refused(Exception):
    """The call cannot be done; the message says what to do instead."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Leave(Exception):
    """`exit`: the shell ends with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(slots=True)
class Call:
    """One run of one builtin."""

    shell: Shell
    name: str
    args: list[str]
    stdin: Source
    stdout: Sink
    stderr: Sink
    job: Job
    redirected: bool
    """Its input is a file or a pipe, not what the shell itself reads."""
    alone: bool
    """It is no part of a pipeline, so that what it changes in the shell stays changed."""

    async def system(self) -> System:
        """The running system; boots it, or waits for it, if it is not running yet."""
        return await self.shell.system()

    async def say(self, text: str) -> None:
        """Write a line, or lines, to the output."""
        await self.stdout.write(text if text.endswith("\n") else text + "\n")

    async def complain(self, message: str) -> None:
        """Write an error that does not end the builtin."""
        await self.stderr.write(f"llmsh: {self.name}: {message}\n")

    async def each(self, pids: list[int], act: Callable[[int], Awaitable[object]]) -> int:
        """Do it to every pid, complain of those that refuse, and go on: 0 if none did, else 1."""
        status = 0
        for each in pids:
            try:
                await act(each)
            except Fault as fault:
                await self.complain(str(fault))
                status = 1
        return status


@dataclass(frozen=True, slots=True)
class Builtin:
    """One command of the shell, with its page of `help`."""

    name: str
    usage: str
    summary: str
    examples: tuple[str, ...]
    run: Callable[[Call], Awaitable[int]]
    details: str = ""
    uses_model: bool = False
    """Processes that it starts generate: the model had better be here, and loaded soon."""

    @property
    def page(self) -> str:
        lines = [f"{self.name}: {self.summary}", f"usage: {self.usage}"]
        if self.details:
            lines += ["", self.details]
        return "\n".join([*lines, "", *(f"  {example}" for example in self.examples)])


def options(args: list[str], flags: Collection[str] = (), values: Collection[str] = ()) -> tuple[dict[str, str], list[str]]:
    """Options at the front of `args` and the words after them; `--` ends the options. `--name=value` is taken too.

    Flags have the value "". Raises Usage on an option that is in neither, or one without its value.
    """
    found: dict[str, str] = {}
    at = 0
    while at < len(args) and args[at].startswith("-") and args[at] != "-":
        name, equals, value = args[at].partition("=")
        at += 1
        if name == "--" and not equals:
            break
        if name in flags and not equals:
            found[name] = ""
        elif name in values and value:
            found[name] = value
        elif name in values and not equals and at < len(args) and args[at]:
            found[name] = args[at]
            at += 1
        elif name in values:
            raise Usage(f"{name} needs a value")
        else:
            known = ", ".join(sorted({*flags, *values}))
            raise Usage(f"unknown option {args[at - 1]}" + (f": the options are {known}" if known else ": it has none"))
    return found, args[at:]


def number(text: str, what: str, *, least: int = 0) -> int:
    """`text` as a whole number of at least `least`; Usage names `what` it should have been."""
    digits = text.removeprefix("-") if least < 0 else text
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= MOST_DIGITS) or int(text) < least:
        raise Usage(f"'{text}' is no {what}")
    return int(text)


def nice_value(text: str) -> int:
    """`text` as a nice value."""
    what = "nice value: it is a number from -20 (served most) to 19 (served least)"
    value = number(text.removeprefix("+"), what, least=-20)
    if value > 19:
        raise Usage(f"{value} is no {what}")
    return value


def pid(text: str) -> int:
    """`text` as a pid."""
    return number(text, "pid: a pid is a positive number, as ps shows it", least=1)
