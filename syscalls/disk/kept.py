"""Kept: the earlier contents of files.

    versions/docs/plan.txt/<1f>7        what /home/docs/plan.txt held before it was written for the eighth time

The folders are those of the files; a version's name begins with a control character, as no name of a file can. Versions belong to a
path, not to a file: moving a folder leaves them where they are. A content comes here as the same file that it was, by a link and
not by copying, just before another takes its place; if a crash comes between, the newest version is the file itself (`alias`).
Everything here runs under the lock of the user's usage.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from .. import param
from ..results import VersionInfo
from . import beneath
from .usage import Usage

_MARK = "\x1f"


class Kept:
    """The versions below one folder. Invariant: at most `most` of each path."""

    def __init__(self, root: int, usage: Usage, most: int) -> None:
        self._root, self._usage, self._most = root, usage, most

    def numbers(self, parts: Sequence[str]) -> list[int]:
        """The versions of a path, the oldest first."""
        try:
            with beneath.folder(self._root, parts) as here:
                return sorted({_number(name) for name in os.listdir(here) if name.startswith(_MARK)} - {0})
        except FileNotFoundError:
            return []

    def all(self, parts: Sequence[str]) -> list[VersionInfo]:
        """The same with what is known of each, the newest first."""
        found = []
        for number in reversed(self.numbers(parts)):
            with beneath.folder(self._root, parts) as here:
                info = os.stat(_name(number), dir_fd=here, follow_symlinks=False)
            found.append(VersionInfo(number, info.st_size, info.st_mtime))
        return found

    def open(self, parts: Sequence[str], number: int) -> int:
        """A version, open for reading. Raises OSError."""
        with beneath.folder(self._root, parts) as here:
            return os.open(_name(number), os.O_RDONLY | beneath.FILE, dir_fd=here)

    def alias(self, parts: Sequence[str], file: os.stat_result) -> int | None:
        """The version that is this very file: a crash came before another content took its place."""
        for number in reversed(self.numbers(parts)):
            with beneath.folder(self._root, parts) as here:
                info = os.stat(_name(number), dir_fd=here, follow_symlinks=False)
            if (info.st_dev, info.st_ino) == (file.st_dev, file.st_ino):
                return number
        return None

    def link(self, parent: int, name: str, parts: Sequence[str]) -> int:
        """Keep what is at `name` in the open folder, and leave it there too: another content is about to take its place."""
        number = max(self.numbers(parts), default=0) + 1
        with beneath.folder(self._root, parts, make=True) as here:
            os.link(name, _name(number), src_dir_fd=parent, dst_dir_fd=here, follow_symlinks=False)
            os.fsync(here)
        return number

    def unlink(self, parts: Sequence[str], number: int) -> None:
        """Take that back: nothing took its place."""
        with beneath.folder(self._root, parts) as here:
            os.unlink(_name(number), dir_fd=here)

    def trim(self, parts: Sequence[str]) -> None:
        """Drop the oldest beyond the number that may be kept."""
        for number in self.numbers(parts)[: -self._most]:
            self.drop(parts, number)

    def take(self, parent: int, name: str, parts: Sequence[str]) -> None:
        """Keep what is at `name` in the open folder as the only version of its path, and take it away from there."""
        numbers = self.numbers(parts)
        with beneath.folder(self._root, parts, make=True) as here:
            os.rename(name, _name(max(numbers, default=0) + 1), src_dir_fd=parent, dst_dir_fd=here)
            os.fsync(here)
        for number in numbers:
            self.drop(parts, number)

    def drop(self, parts: Sequence[str], number: int) -> None:
        with beneath.folder(self._root, parts) as here:
            size = os.stat(_name(number), dir_fd=here, follow_symlinks=False).st_size
            os.unlink(_name(number), dir_fd=here)
        self._usage.take(param.ENTRY_BYTES + size)

    def forget(self, parts: Sequence[str], *, tree: bool) -> bool:
        """Drop all versions of a path, and with `tree` of those below it. False if there were none."""
        numbers = self.numbers(parts)
        for number in numbers:
            self.drop(parts, number)
        below = False
        if tree:
            try:
                with beneath.folder(self._root, parts) as here:
                    names = [entry.name for entry in os.scandir(here) if entry.is_dir(follow_symlinks=False)]
            except FileNotFoundError:
                names = []
            for name in names:
                below = self.forget((*parts, name), tree=True) or below
        self._tidy(parts)
        return bool(numbers) or below

    def _tidy(self, parts: Sequence[str]) -> None:
        """Remove folders that hold no version any more."""
        for end in range(len(parts), 0, -1):
            try:
                with beneath.folder(self._root, parts[: end - 1]) as above:
                    os.rmdir(parts[end - 1], dir_fd=above)
            except OSError:  # it is not empty, or was never there
                return

    def count(self) -> int:
        """The bytes of all versions, counted one by one."""
        return _count(self._root)


def _count(here: int) -> int:
    total = 0
    for name in os.listdir(here):
        info = os.stat(name, dir_fd=here, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            with beneath.opened(os.open(name, beneath.FOLDER, dir_fd=here)) as below:
                total += _count(below)
        else:
            total += param.ENTRY_BYTES + info.st_size
    return total


def _name(number: int) -> str:
    return f"{_MARK}{number}"


def _number(name: str) -> int:
    """Of a version's name; what somebody else has put there counts as none."""
    digits = name.removeprefix(_MARK)
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 16 else 0
