"""Namespace: files of the system as commands read and write them, and as patterns stand for them.

    < /home/a  cat host:b      Contents     parts of the file, decoded
    > /home/a                  Replacement  emptied (what it held is a version), then appended to, a part at a time
    /home/*.txt                matches      listed, a folder at a time

What belongs to the machine is in streams.py and expansion.py; which is which, where.py says.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import AsyncIterator
from fnmatch import fnmatchcase
from glob import has_magic
from typing import TYPE_CHECKING

import anyio

from llmos import Fault, InvalidArgument, NotFound, NotPermitted

from .expansion import MOST_MATCHES, TooManyMatches
from .streams import NotText
from .where import HOST

if TYPE_CHECKING:
    from llmos import Files

PART = 65_536
"""Characters that are held back at most before they are written."""
HELD_SECONDS = 0.5
"""A part that is this old when more comes is written: whoever reads the file meanwhile sees it grow."""


class Contents:
    """What a file of the system holds, as text to read."""

    def __init__(self, chunks: AsyncIterator[bytes], name: str) -> None:
        self._chunks, self._name = chunks, name
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._offset = 0

    async def read(self) -> str:
        async for data in self._chunks:
            held = len(self._decoder.getstate()[0])
            try:
                text = self._decoder.decode(data)
            except UnicodeDecodeError as error:
                raise self._bad(error, held) from None
            self._offset += len(data)
            if text:
                return text
        try:
            return self._decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise self._bad(error, len(error.object)) from None

    def _bad(self, error: UnicodeDecodeError, held: int) -> NotText:
        at = self._offset - held + error.start
        return NotText(f"{self._name}: not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset {at} [EILSEQ]")

    def close(self) -> None:
        """There is nothing to close."""


class Replacement:
    """Text into a file of the system. What is held back is written by `finish`."""

    def __init__(self, files: Files, path: str) -> None:
        self._files, self._path = files, path
        self._held: list[str] = []
        self._length, self._since = 0, 0.0
        self._turn = anyio.Lock()

    async def write(self, text: str) -> None:
        if not self._held:
            self._since = time.monotonic()
        self._held.append(text)
        self._length += len(text)
        if self._length >= PART or time.monotonic() - self._since >= HELD_SECONDS:
            await self.finish()

    async def finish(self) -> None:
        """Write what is held back. Raises what the file's system says against it."""
        async with self._turn:
            text, self._held, self._length = "".join(self._held), [], 0
            if text:
                await self._files.append(self._path, text)

    def close(self) -> None:
        """There is nothing to close."""


async def open_contents(files: Files, path: str, name: str) -> Contents:
    """A file of the system to read. Raises NotFound, NotPermitted, InvalidArgument for a folder."""
    if (await files.stat(path)).kind == "folder":
        raise InvalidArgument(f"{name}: it is a folder")
    return Contents(files.chunks(path), name)


async def open_replacement(files: Files, path: str, *, append: bool) -> Replacement:
    """A file of the system to write to, emptied first unless `append`."""
    await (files.append if append else files.write)(path, b"")
    return Replacement(files, path)


async def matches(files: Files, pattern: str) -> list[str]:
    """The paths of the system that a pattern stands for, in order; none if there are none. Raises TooManyMatches.

    A part of it that is a pattern matches names in one folder, and hidden ones only if it begins with a dot. A folder that may not
    be listed holds nothing.
    """
    start = HOST + "/" if pattern.startswith(HOST) else "/"
    parts = [part for part in pattern.removeprefix(HOST).split("/") if part]
    found = [start]
    certain = True
    for place, part in enumerate(parts):
        if not has_magic(part):
            found, certain = [_below(folder, part) for folder in found], False
            continue
        only_folders = place + 1 < len(parts) or pattern.endswith("/")
        listed: list[str] = []
        for folder in found:
            listed += [_below(folder, name) for name in await _names(files, folder, only_folders=only_folders) if _fits(name, part)]
            if len(listed) > MOST_MATCHES:
                raise TooManyMatches(f"{pattern}: more than {MOST_MATCHES} files match: put it in quotes if it is text")
        found, certain = listed, True
    if not certain:
        found = [path for path in found if await _is_there(files, path)]
    return sorted(f"{path}/" if pattern.endswith("/") else path for path in found)


def _below(folder: str, name: str) -> str:
    return folder + name if folder.endswith("/") else f"{folder}/{name}"


def _fits(name: str, part: str) -> bool:
    return fnmatchcase(name, part) and (not name.startswith(".") or part.startswith("."))


async def _names(files: Files, folder: str, *, only_folders: bool) -> list[str]:
    try:
        return [each.name for each in await files.list(folder) if each.kind == "folder" or not only_folders]
    except (NotFound, NotPermitted, InvalidArgument):
        return []


async def _is_there(files: Files, path: str) -> bool:
    try:
        await files.stat(path)
    except Fault:
        return False
    return True
