"""Beneath: files below an open folder, reached one part at a time.

Each part is opened relative to the folder before it, and no link is followed, so that whoever plants a link, or swaps a folder for one
between two steps, leads nobody astray: a path ends below the folder it began in, or in a fault. Only regular files are read, and
nothing else is opened. What the machine refuses is told as a Fault that names the path. Knows no users, quotas and versions.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llmos.kernel.errno import (
    AlreadyExists,
    DeviceFailed,
    Fault,
    InvalidArgument,
    NoSpace,
    NotFound,
    NotPermitted,
    NotSupported,
    TooLong,
    TryAgain,
)

from ..place import Place, is_name
from ..results import FileData, FileInfo, FileList

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
LISTINGS = 8
"""Folders whose sorted names are remembered: who turns the pages of a large one sorts it once."""
SETTLED_NS = 100_000_000
"""Age of a folder's last change from which on its time tells it from any later one."""

_FAULTS: dict[int, tuple[type[Fault], str]] = {
    errno.ENOENT: (NotFound, "there is no such file, or no such folder on the way"),
    errno.EEXIST: (AlreadyExists, "it is there already"),
    errno.ENOTEMPTY: (InvalidArgument, "the folder is not empty: remove its tree, or what is in it first"),
    errno.ENOTDIR: (InvalidArgument, "something on the way is no folder (links are not followed)"),
    errno.EISDIR: (InvalidArgument, "it is a folder"),
    errno.EINVAL: (InvalidArgument, "a folder cannot be moved into itself"),
    errno.ELOOP: (NotPermitted, "it is a link, and links are not followed"),
    errno.EACCES: (NotPermitted, "the machine does not permit it"),
    errno.EPERM: (NotPermitted, "the machine does not permit it"),
    errno.EROFS: (NotPermitted, "the file system is read-only"),
    errno.ENAMETOOLONG: (TooLong, "the file system has no room for so long a name"),
    errno.EFBIG: (TooLong, "the file system has no room for so large a file"),
    errno.ENOSPC: (NoSpace, "the disk is full: make room on it and try again"),
    errno.EDQUOT: (NoSpace, "the machine's own quota is used up: make room and try again"),
    errno.EMFILE: (TryAgain, "too many files are open; try again"),
    errno.ENFILE: (TryAgain, "too many files are open; try again"),
    errno.EXDEV: (NotSupported, "a file system is mounted on the way: copy it and remove the original"),
}


def fault_of(error: OSError, place: Place) -> Fault:
    """What the machine refused, so that one can tell what to do."""
    kind, words = _FAULTS.get(error.errno or 0, (DeviceFailed, f"the disk failed: {error.strerror or error}"))
    return kind(f"{place}: {words}")


@contextmanager
def told(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise fault_of(error, place) from None


@contextmanager
def opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def folder(root: int, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """The folder at `parts` below `root`, open; with `make`, made if it is not there. Raises OSError."""
    current = os.open(".", FOLDER, dir_fd=root)
    try:
        for part in parts:
            if make:
                try:
                    os.mkdir(part, 0o700, dir_fd=current)
                except FileExistsError:
                    pass
            below = os.open(part, FOLDER, dir_fd=current)
            os.close(current)
            current = below
        yield current
    finally:
        os.close(current)


def look(parent: int, name: str) -> os.stat_result | None:
    """What is there, not followed if it is a link; None if nothing is. Raises OSError."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def regular(parent: int, name: str, flags: int, place: Place, mode: int = 0o600) -> int:
    """Open a regular file, and nothing else, not even for a moment: to open a device may do something. Raises OSError, NotPermitted."""
    found = look(parent, name)
    if found is not None:
        demand_regular(found, place)
    descriptor = os.open(name, flags | FILE, mode, dir_fd=parent)
    try:
        demand_regular(os.fstat(descriptor), place)  # it may have been swapped
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def demand_regular(found: os.stat_result, place: Place) -> None:
    """Raises InvalidArgument for a folder, NotPermitted for what is neither."""
    if stat.S_ISDIR(found.st_mode):
        raise InvalidArgument(f"{place}: it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise NotPermitted(f"{place}: it is {_strange(found.st_mode)}, and only files and folders are for use here; remove it")


def _strange(mode: int) -> str:
    kinds = ((stat.S_ISLNK, "a link"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    return next((words for test, words in kinds if test(mode)), "a device")


def info_of(name: str, found: os.stat_result) -> FileInfo:
    if stat.S_ISREG(found.st_mode):
        return FileInfo(name, "file", found.st_size, found.st_mtime)
    return FileInfo(name, "folder" if stat.S_ISDIR(found.st_mode) else "other", 0, found.st_mtime)


def read(descriptor: int, offset: int, most: int) -> FileData:
    """A part of an open file."""
    data = b""
    while len(data) < most and (more := os.pread(descriptor, most - len(data), offset + len(data))):
        data += more  # what the machine makes as it is read comes a little at a time
    found = os.fstat(descriptor)
    return FileData(data, max(found.st_size, offset + len(data)) if data else found.st_size, found.st_ino)


def pour(source: int, target: int, size: int) -> None:
    """Copy the first `size` bytes of one open file to another. Raises OSError."""
    done = 0
    while done < size:
        data = os.pread(source, min(1 << 20, size - done), done)
        if not data:
            break
        spill(target, data)
        done += len(data)


def spill(target: int, data: bytes) -> None:
    """Write all of it. Raises OSError."""
    left = memoryview(data)
    while left:
        left = left[os.write(target, left) :]


class Listings:
    """Pages of folders. Invariant: what is remembered of a folder is what it held at its last change."""

    def __init__(self) -> None:
        self._names: dict[tuple[int, int, int], list[str]] = {}
        self._lock = threading.Lock()

    def page(self, descriptor: int, after: str, limit: int) -> FileList:
        """Up to `limit` entries whose names come after `after`. Names that no path can have are left out."""
        names = self._sorted(descriptor)
        entries: list[FileInfo] = []
        for name in names[bisect_right(names, after) :]:
            if len(entries) == limit:
                return FileList(entries, True)
            if (found := look(descriptor, name)) is not None:  # it may have gone since
                entries.append(info_of(name, found))
        return FileList(entries, False)

    def _sorted(self, descriptor: int) -> list[str]:
        found = os.fstat(descriptor)
        key = (found.st_dev, found.st_ino, found.st_mtime_ns)
        with self._lock:
            names = self._names.get(key)
        if names is None:
            names = sorted(filter(is_name, os.listdir(descriptor)))
            if time.time_ns() - found.st_mtime_ns > SETTLED_NS:
                with self._lock:
                    self._names[key] = names
                    while len(self._names) > LISTINGS:
                        del self._names[next(iter(self._names))]
        return names
