"""grep: the lines that match a regular expression. The matching is done by a program of its own (matcher.py), which has so many seconds
for a batch of lines: a pattern that explodes ends in an error, and the shell goes on."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from llmos import Fault

from ..streams import NotText, Source
from ..where import Where
from .call import Builtin, Call, Refused, Usage
from .files import WORDS, files_of, flags_of, meant, source_of, told

SECONDS = 5.0
"""That one batch of lines may take."""
BATCH = 1 << 18
"""Characters of a batch, and one line more."""
MOST_LINE = 1 << 20
"""Characters of a line."""
MATCHER = Path(__file__).parent.parent / "matcher.py"


class Matcher:
    """The program that matches, while it runs."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, BufferedByteReceiveStream(process.stdout)

    async def ask(self, text: str) -> bytes:
        """Its answer to a frame. Raises Refused if it takes too long, or all memory."""
        data = text.encode("utf-8", "surrogateescape")
        try:
            with anyio.fail_after(SECONDS):
                await self._in.send(struct.pack("<I", len(data)) + data)
                (size,) = struct.unpack("<I", await self._out.receive_exactly(4))
                return await self._out.receive_exactly(size)
        except TimeoutError:
            raise Refused(f"the pattern takes more than {SECONDS:g} s for a few lines: make it simpler", 2) from None
        except (anyio.IncompleteRead, anyio.BrokenResourceError, anyio.EndOfStream):
            raise Refused("the pattern takes more memory than there is for it: make it simpler", 2) from None


@asynccontextmanager
async def matching(pattern: str, flags: str) -> AsyncIterator[Matcher]:
    """A matcher for a pattern. Raises Usage if that is none."""
    process = await anyio.open_process([sys.executable, "-I", "-S", os.fspath(MATCHER)], stderr=subprocess.DEVNULL)
    try:
        matcher = Matcher(process)
        if wrong := await matcher.ask(f"{flags} {pattern}"):
            raise Usage(f"'{pattern[:64]}' is no regular expression: {wrong.decode()}")
        yield matcher
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()


@dataclass(slots=True)
class Search:
    """What one grep looks for and how it tells."""

    call: Call
    matcher: Matcher
    flags: set[str]
    named: bool
    """Lines are shown with the name of their file."""
    selected: bool = False
    status: int = 0
    _lines: list[str] = field(default_factory=list)

    async def place(self, place: Where) -> None:
        """One file, or with -r all in a folder."""
        try:
            if "-r" in self.flags:
                files = await files_of(self.call)
                if (await files.stat(place.path)).kind == "folder":
                    async for entry in files.entries(place.path):
                        if entry.kind != "other":
                            await self.place(place.inside(entry.name))
                    return
            source = await source_of(self.call, place)
            try:
                await self.source(source, place.word)
            finally:
                source.close()
        except (Fault, OSError, NotText) as error:
            await told(self.call, place, error)
            self.status = 2

    async def source(self, source: Source, name: str) -> None:
        """What there is to read, batch by batch."""
        count, first, held, ended = 0, 1, "", False
        while not ended:
            text = await source.read()
            ended = not text
            held += text
            if len(held) < BATCH and not ended:
                continue
            whole, newline, rest = held.rpartition("\n")
            if ended:
                whole, rest = (held.removesuffix("\n"), "") if held else ("", "")
                if not held:
                    break
            elif not newline:
                if len(held) > MOST_LINE:
                    raise NotText(f"{name}: a line has more than {MOST_LINE} characters [E2BIG]")
                continue
            held = rest
            lines = whole.split("\n")
            matched = array("I")
            matched.frombytes(await self.matcher.ask(whole))
            count += len(matched)
            if matched and "-l" in self.flags:
                break
            if "-c" not in self.flags:
                await self._show(name, lines, matched, first)
            first += len(lines)
        self.selected = self.selected or count > 0
        if "-l" in self.flags:
            if count:
                await self.call.say(name)
        elif "-c" in self.flags:
            await self.call.say(f"{name}:{count}" if self.named else str(count))

    async def _show(self, name: str, lines: list[str], matched: array[int], first: int) -> None:
        before = f"{name}:" if self.named else ""
        numbered = "-n" in self.flags
        text = "".join(f"{before}{f'{first + at}:' if numbered else ''}{lines[at]}\n" for at in matched)
        if text:
            await self.call.stdout.write(text)


async def grep(call: Call) -> int:
    flags, words = flags_of(call.args, "inrlvc")
    if not words:
        raise Usage("look for what?")
    places = meant(call, words[1:] or (["."] if "-r" in flags else []))
    async with matching(words[0], "".join(letter for letter in "iv" if f"-{letter}" in flags)) as matcher:
        search = Search(call, matcher, flags, len(places) > 1 or "-r" in flags)
        for place in places:
            await search.place(place)
        if not places:
            await search.source(call.stdin, "(standard input)")
    return search.status or int(not search.selected)


BUILTINS = (
    Builtin(
        "grep",
        "grep [-cilnrv] PATTERN [FILE]...",
        "write the lines that match a regular expression",
        ("grep -n TODO notes.txt", "grep -ri budget /home", "ps | grep -c batch"),
        grep,
        f"""\
{WORDS} Status 0 if there was a line, 1 if there was none, 2 if something
went wrong. The expressions are those of Python. One that takes more than 5 s for a few lines is broken off.
  -i small letters are as good as large ones    -v the lines that do not match    -r all files in a folder
  -n with the number of the line                -c how many                       -l which files""",
    ),
)
