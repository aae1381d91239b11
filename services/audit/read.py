"""Reads the audit log: what is asked of it, and whether it is whole. Never writes, and needs no lock: it may be written meanwhile.

`records` gives what can be read and goes over what cannot; `verify` is for that. Knows the chain, and nothing of calls but the names of
a few fields.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos.kernel.errno import InvalidArgument, NotFound

from .chain import Broken, Head, digest, follow, read_line
from .log import _known_head, files

POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records are wanted; None is any."""

    pid: int | None = None
    call: str | None = None
    since: float | None = None
    denied: bool = False
    """Only those that were not permitted."""

    def takes(self, record: dict[str, Any]) -> bool:
        return (
            (self.pid is None or record.get("pid") == self.pid)
            and (self.call is None or record.get("call") == self.call)
            and (self.since is None or record.get("time", 0.0) >= self.since)
            and (not self.denied or record.get("outcome") == "EPERM")
        )


@dataclass(frozen=True, slots=True)
class Verified:
    """A log that is whole."""

    lines: int
    files: int
    head: Head
    notes: tuple[str, ...]
    """What is no damage, and still worth saying."""


def records(folder: Path, wanted: Filter, *, follow: bool = False) -> Iterator[dict[str, Any]]:
    """Records in their order, those that keep the log itself left out. With `follow` it waits for more, for ever. Raises NotFound."""
    demand(folder)
    read = ""
    while True:
        for path in [each for each in files(folder) if each.name > read]:
            yield from _records_of(path, wanted, folder if follow else None)
            read = path.name
        if not follow:
            return
        time.sleep(POLL_SECONDS)


def _records_of(path: Path, wanted: Filter, folder: Path | None) -> Iterator[dict[str, Any]]:
    """Those of one file. With the folder given it goes on until there is a later file."""
    rest = b""
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below, by the with
    except FileNotFoundError:  # the oldest go
        return
    with file:
        while True:
            later = folder is None or files(folder)[-1].name > path.name
            for data in iter(lambda: file.read(1 << 20), b""):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    try:
                        record = read_line(line)
                    except Broken:
                        continue
                    if "kind" not in record and wanted.takes(record):
                        yield record
            if later:
                return
            time.sleep(POLL_SECONDS)


def demand(folder: Path) -> None:
    """Raises NotFound if there is no log."""
    if not files(folder):
        raise NotFound(f"there is no audit log in {folder}: the daemon keeps one (llmos up), and so does a boot with LLMOS_AUDIT=on")


def anchor_of(text: str) -> Head:
    """A head that was written down elsewhere: NUMBER:HASH. Raises InvalidArgument."""
    number, _, mark = text.partition(":")
    if not (number.isascii() and number.isdecimal() and len(number) < 16 and len(mark) == 64 and set(mark) <= set("0123456789abcdef")):
        raise InvalidArgument(f"an anchor is NUMBER:HASH, as llmos audit --verify prints it, not {text[:100]!r}")
    return Head(int(number), mark)


def verify(folder: Path, anchor: Head | None = None) -> Verified:
    """Follow the whole chain. Raises NotFound, and Broken, which says at which line of which file it does not hold."""
    demand(folder)
    told = _known_head(folder)  # before the lines are read: while they are written it may only be behind them
    walk = _Walk([each for each in (told, anchor) if each is not None])
    present = files(folder)
    for path in present:
        walk.file(path)
    head = walk.head
    if head is None:
        raise Broken("there is not one whole line in the log")
    if walk.first > 1 and int(present[0].stem) - 1 not in walk.removed:
        raise Broken(f"{present[0].name} begins with line {walk.first}, and no line says that what was before it has been removed")
    for each in walk.heads:
        where = "the file head" if each == told else "the anchor"
        if each.number < walk.first:
            raise Broken(f"{where} is of line {each.number}, and the log is kept from line {walk.first} on: take a later one")
        raise Broken(
            f"{where} says that there is a line {each.number} with the hash {each.hash[:16]}..., and the log has {head.number} lines: "
            "some were cut off at the end, or all were written anew"
        )
    notes = list(walk.notes)
    if walk.first > 1:
        notes.append(f"lines before {walk.first} were removed because the log was too long")
    for name, size, _ in walk.torn:
        notes.append(f"{name} ends with {size} bytes of a line: it is being written, or a crash tore it; the next boot goes on after it")
    if told is None:
        notes.append("the file head is missing or not readable: lines cut off at the end would not be seen")
    return Verified(walk.lines, len(present), head, tuple(notes))


class _Walk:
    """What is known of the chain so far."""

    def __init__(self, heads: list[Head]) -> None:
        self.heads = heads
        """What must be met on the way."""
        self.head: Head | None = None
        self.first = 0
        self.lines = 0
        self.removed: set[int] = set()
        """Numbers of the files that lines say are gone."""
        self.notes: list[str] = []
        self.torn: list[tuple[str, int, str]] = []
        """What is left over at the ends of files, until a line tells of it: file, bytes, hash."""

    def file(self, path: Path) -> None:
        *lines, rest = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                record, self.head = follow(self.head, line)
                self._take(record, self.head)
            except Broken as broken:
                raise Broken(f"{path.name}, line {number}: {broken}") from None
        if rest:
            self.torn.append((path.name, len(rest), digest(rest)))

    def _take(self, record: dict[str, Any], head: Head) -> None:
        self.lines += 1
        self.first = self.first or head.number
        told = record.get("torn", []) if record.get("kind") == "file" else []
        for name, size, mark in self.torn:
            if {"file": name, "bytes": size, "hash": mark} not in told:
                raise Broken(f"{name} ends in the middle of a line, and this does not tell of it: lines are missing there")
            self.notes.append(f"a crash tore {size} bytes off at the end of {name}; the log went on after them")
        self.torn = []
        if record.get("kind") == "file":
            self.removed.update(int(Path(name).stem) for name in record.get("removed", []))
        elif record.get("kind") == "lost":
            self.notes.append(f"line {head.number}: {record.get('calls')} calls are missing, since the disk took nothing")
        if any(each.number == head.number and each != head for each in self.heads):
            raise Broken("has another hash than the file head, or the anchor, says: the log was written anew")
        self.heads = [each for each in self.heads if each != head]
