"""A store: the files of one user on one mount.

    now/        the files, in folders of their own names
    versions/   what they held before (kept.py); a store of temporary files has none
    staging/    what is being written
    usage alive (usage.py)

A file is written whole: into staging, to the disk, then renamed over the old one, so that a crash leaves the old contents or the
new. What is appended goes to the end of the file itself: a crash may leave a part of that, and never loses what was there. Nothing
is read or written outside of these folders, whatever lies in them (beneath.py). Methods run on any thread, any number at once.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from llmos.kernel.errno import AlreadyExists, InvalidArgument, NotFound, NotPermitted, TooLong, TryAgain

from .. import param
from ..place import Place
from ..results import FileData, FileInfo, FileList, VersionInfo
from . import beneath
from .beneath import folder, told
from .kept import Kept
from .usage import Usage

ENTRY = param.ENTRY_BYTES


class Store:
    """See the module."""

    def __init__(self, above: Path, parts: Sequence[str], quota: int, *, versions: bool) -> None:
        """At `parts` below a folder that is trusted. Raises OSError."""
        above.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._listings = beneath.Listings()
        self._keeps = versions
        with ExitStack() as stack:
            start = stack.enter_context(beneath.opened(os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))
            root = stack.enter_context(folder(start, parts, make=True))
            with ExitStack() as opened:  # closed again if one of them cannot be opened
                self._now, self._staging, kept = (_subfolder(root, name, opened) for name in ("now", "staging", "versions"))
                self.usage = Usage(root, quota)
                opened.callback(self.usage.close)
                self._kept = Kept(kept, self.usage, param.MAX_VERSIONS)
                self.usage.begin(self._recount)
                self._open = opened.pop_all()

    def _recount(self) -> int:
        """The bytes of it all, after what a crash has left in staging is gone."""
        for name in os.listdir(self._staging):
            os.unlink(name, dir_fd=self._staging)
        return _count(self._now) + self._kept.count()

    def close(self) -> None:
        """No more calls."""
        self._open.close()

    # --- looking

    def stat(self, place: Place) -> FileInfo:
        with told(place):
            if not place.parts:
                return FileInfo(place.mount, "folder", self.usage.used(), os.fstat(self._now).st_mtime)
            with self._above(place) as parent:
                found = beneath.look(parent, place.name)
        if found is None:
            raise NotFound(f"{place}: there is no such file")
        return beneath.info_of(place.name, found)

    def page(self, place: Place, after: str, limit: int) -> FileList:
        with told(place), folder(self._now, place.parts) as here:
            return self._listings.page(here, after, limit)

    def read(self, place: Place, offset: int, most: int) -> FileData:
        with told(place), self.opened(place) as descriptor:
            return beneath.read(descriptor, offset, most)

    @contextmanager
    def opened(self, place: Place) -> Iterator[int]:
        """A file, open for reading."""
        with self._above(place) as parent, beneath.opened(beneath.regular(parent, place.name, os.O_RDONLY, place)) as descriptor:
            self._demand_own(os.fstat(descriptor), place)
            yield descriptor

    @contextmanager
    def _above(self, place: Place) -> Iterator[int]:
        """The folder that a file is in, open."""
        if not place.parts:
            raise InvalidArgument(f"{place}: it is a folder")
        with folder(self._now, place.parts[:-1]) as parent:
            yield parent

    def _demand_own(self, found: os.stat_result, place: Place) -> None:
        """Refuse a file that has another name somewhere else on the machine: it is not ours to read or to write."""
        if found.st_nlink > 1 and self._kept.alias(place.parts, found) is None:
            raise NotPermitted(f"{place}: it is a link to a file outside, and links are not followed; remove it")

    def _unalias(self, place: Place, found: os.stat_result) -> bool:
        """Drop the version that is the file itself, as a crash may leave one. False if the file has another name outside."""
        if found.st_nlink > 1:
            alias = self._kept.alias(place.parts, found)
            if alias is None:
                return False
            self._kept.drop(place.parts, alias)
        return True

    # --- writing

    def write(self, place: Place, data: bytes) -> FileInfo:
        """Replace the contents of a file, or make it."""
        with told(place), self.usage.reserved(ENTRY + len(data)), self._staged() as (name, descriptor):
            beneath.spill(descriptor, data)
            return self._commit(place, name, descriptor)

    def adopt(self, place: Place, source: int, size: int) -> FileInfo:
        """The same with the first `size` bytes of an open file."""
        with told(place), self.usage.reserved(ENTRY + size), self._staged() as (name, descriptor):
            beneath.pour(source, descriptor, size)
            if os.fstat(descriptor).st_size != size:
                raise TryAgain(f"{place}: what was copied there became shorter meanwhile; try again")
            return self._commit(place, name, descriptor)

    @contextmanager
    def _staged(self) -> Iterator[tuple[str, int]]:
        """A new file in staging, which is gone afterwards unless it was renamed."""
        name = secrets.token_hex(16)
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | beneath.FILE, 0o600, dir_fd=self._staging)
        try:
            yield name, descriptor
        finally:
            os.close(descriptor)
            try:
                os.unlink(name, dir_fd=self._staging)
            except FileNotFoundError:
                pass

    def _commit(self, place: Place, name: str, descriptor: int) -> FileInfo:
        """Put a staged file in its place."""
        os.fsync(descriptor)
        with self._above(place) as parent, self.usage.changing():
            with self._replacing(parent, place):
                os.rename(name, place.name, src_dir_fd=self._staging, dst_dir_fd=parent)
            os.fsync(parent)
        return beneath.info_of(place.name, os.fstat(descriptor))

    @contextmanager
    def _replacing(self, parent: int, place: Place) -> Iterator[None]:
        """Keep what a file held that the body replaces. Under the lock."""
        found = beneath.look(parent, place.name)
        if found is None:
            yield
            return
        beneath.demand_regular(found, place)
        self._demand_own(found, place)
        if not self._keeps or found.st_nlink > 1:  # a crash came after it was kept: it was counted as a version and as the file
            yield
            self.usage.take(ENTRY + found.st_size)
            return
        number = self._kept.link(parent, place.name, place.parts)
        try:
            yield
        except BaseException:
            self._kept.unlink(place.parts, number)
            raise
        self._kept.trim(place.parts)

    def append(self, place: Place, data: bytes) -> FileInfo:
        """Add to the end of a file, or make it. No version is kept: what was there is there still."""
        with told(place), self._above(place) as parent, self.usage.changing():
            found = beneath.look(parent, place.name)
            if found is not None:
                beneath.demand_regular(found, place)
                self._demand_own(found, place)
                self._unalias(place, found)  # or the version would grow too
            size = len(data) + (ENTRY if found is None else 0)
            self.usage.add(size)
            before = None
            try:
                flags = os.O_WRONLY | os.O_APPEND | (os.O_CREAT | os.O_EXCL if found is None else 0)
                with beneath.opened(beneath.regular(parent, place.name, flags, place)) as descriptor:
                    before = os.fstat(descriptor).st_size
                    self._spill_whole(descriptor, data, before)
                    os.fsync(descriptor)
                    info = beneath.info_of(place.name, os.fstat(descriptor))
                if found is None:
                    os.fsync(parent)
            except BaseException:
                self.usage.take(size)
                if found is None and before is not None:
                    os.unlink(place.name, dir_fd=parent)
                raise
            return info

    @staticmethod
    def _spill_whole(descriptor: int, data: bytes, before: int) -> None:
        """All of it or nothing: a disk that becomes full half way leaves the file as it was."""
        try:
            beneath.spill(descriptor, data)
        except OSError:
            os.ftruncate(descriptor, before)
            raise

    def make(self, place: Place, *, parents: bool) -> FileInfo:
        """Make a folder."""
        if not place.parts:
            raise AlreadyExists(f"{place}: it is there already")
        with told(place), self.usage.changing():
            for end in range(1 if parents else len(place.parts), len(place.parts) + 1):
                with folder(self._now, place.parts[: end - 1]) as parent:
                    self._make_one(parent, place.parts[end - 1], exists=parents)
            with folder(self._now, place.parts) as here:
                return beneath.info_of(place.name, os.fstat(here))

    def _make_one(self, parent: int, name: str, *, exists: bool) -> None:
        if (found := beneath.look(parent, name)) is not None:
            if exists and stat.S_ISDIR(found.st_mode):
                return
            raise OSError(errno.ENOTDIR if exists else errno.EEXIST, "it is there")
        self.usage.add(ENTRY)
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            os.fsync(parent)
        except OSError:
            self.usage.take(ENTRY)
            raise

    def move(self, source: Place, target: Place, *, folders: bool) -> None:
        """Give a file another name, over the file that has it. A folder only with `folders`, and over nothing."""
        with told(source), self._above(source) as parent, told(target), self._above(target) as other, self.usage.changing():
            found = beneath.look(parent, source.name)
            if found is None:
                raise NotFound(f"{source}: there is no such file")
            there = beneath.look(other, target.name)
            if stat.S_ISDIR(found.st_mode):
                self._demand_movable(source, target, folders=folders, free=there is None)
                os.rename(source.name, target.name, src_dir_fd=parent, dst_dir_fd=other)
            else:
                beneath.demand_regular(found, source)
                self._demand_own(found, source)
                if there is not None and (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
                    raise InvalidArgument(f"{source} and {target} are the same file")
                self._unalias(source, found)
                with self._replacing(other, target):
                    os.rename(source.name, target.name, src_dir_fd=parent, dst_dir_fd=other)
            os.fsync(other)
            os.fsync(parent)

    def _demand_movable(self, source: Place, target: Place, *, folders: bool, free: bool) -> None:
        if not folders:
            raise TryAgain(f"{source} has become a folder meanwhile; try again")
        if not free:
            raise AlreadyExists(f"{target}: it is there already, and a folder replaces nothing; remove it first")
        if target.parts[: len(source.parts)] == source.parts:
            raise InvalidArgument(f"{source}: a folder cannot be moved into itself")
        with folder(self._now, source.parts) as here:
            if len(target.parts) + _depth(here) > param.MAX_DEPTH:
                raise TooLong(f"{target}: what is in the folder would be deeper than {param.MAX_DEPTH} names there")

    # --- removing and restoring

    def remove(self, place: Place, *, tree: bool, versions: bool) -> None:
        """Remove a file, an empty folder, or a whole tree. What a file held last is kept, unless `versions` are to go too."""
        with told(place), self.usage.changing():
            found = None
            try:
                with self._above(place) as parent:
                    found = beneath.look(parent, place.name)
                    if found is not None:
                        self._remove(parent, place, found, tree=tree, keep=self._keeps and not versions)
                        os.fsync(parent)
            except FileNotFoundError:
                pass
            if not (versions and self._kept.forget(place.parts, tree=tree)) and found is None:
                raise NotFound(f"{place}: there is no such file")

    def _remove(self, parent: int, place: Place, found: os.stat_result, *, tree: bool, keep: bool) -> None:
        if stat.S_ISDIR(found.st_mode):
            if tree:
                if len(place.parts) > param.MAX_DEPTH:
                    raise TooLong(f"{place}: it is deeper than {param.MAX_DEPTH} names; remove it on the machine, below the home of llmos")
                with beneath.opened(os.open(place.name, beneath.FOLDER, dir_fd=parent)) as here:
                    for name in os.listdir(here):
                        if (inner := beneath.look(here, name)) is not None:
                            self._remove(here, Place(place.mount, (*place.parts, name)), inner, tree=True, keep=keep)
            os.rmdir(place.name, dir_fd=parent)
            self.usage.take(ENTRY)
            return
        regular = stat.S_ISREG(found.st_mode)
        if keep and regular and self._unalias(place, found):
            self._kept.take(parent, place.name, place.parts)
        else:  # a link or device: it goes, and what it leads to stays
            os.unlink(place.name, dir_fd=parent)
            self.usage.take(ENTRY + (found.st_size if regular else 0))

    def versions(self, place: Place) -> list[VersionInfo]:
        """What is kept of a path, the newest first."""
        with told(place), self.usage.changing():
            found = self._kept.all(place.parts)
        if not found:
            self.stat(place)  # raises NotFound
        return found

    def restore(self, place: Place, version: int | None) -> FileInfo:
        """Make a version the contents of its file again. What the file holds now is kept like any other."""
        with told(place):
            with self.usage.changing():
                numbers = self._kept.numbers(place.parts)
                if not numbers or (version is not None and version not in numbers):
                    there = f"there are {', '.join(map(str, numbers))}" if numbers else "none is kept"
                    raise NotFound(f"{place}: there is no version {version or 'to restore'}; {there}")
                source = self._kept.open(place.parts, numbers[-1] if version is None else version)
            with beneath.opened(source):
                if len(place.parts) > 1:  # its folder may have been removed with it
                    self.make(Place(place.mount, place.parts[:-1]), parents=True)
                return self.adopt(place, source, os.fstat(source).st_size)


def _subfolder(root: int, name: str, stack: ExitStack) -> int:
    """Open for as long as the stack is."""
    return stack.enter_context(folder(root, (name,), make=True))


def _count(here: int) -> int:
    """The bytes of all that is in a folder."""
    total = 0
    for name in os.listdir(here):
        info = beneath.look(here, name)
        if info is None:
            continue
        total += ENTRY + (info.st_size if stat.S_ISREG(info.st_mode) else 0)
        if stat.S_ISDIR(info.st_mode):
            with beneath.opened(os.open(name, beneath.FOLDER, dir_fd=here)) as below:
                total += _count(below)
    return total


def _depth(here: int) -> int:
    """How many names deep a folder goes."""
    deepest = 0
    with os.scandir(here) as entries:
        names = [entry.name for entry in entries]
        for name in names:
            found = beneath.look(here, name)
            below = 0
            if found is not None and stat.S_ISDIR(found.st_mode):
                with beneath.opened(os.open(name, beneath.FOLDER, dir_fd=here)) as inner:
                    below = _depth(inner)
            deepest = max(deepest, 1 + below)
    return deepest
