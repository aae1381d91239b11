"""Host: files of the machine, reached as host:PATH, or below one folder of it. No quota, no versions, and what the machine permits
its user.

Links are common there, and may lead anywhere: `settled` says where a path really leads, the caller's capability is asked for that,
and the walk that follows takes no link any more. Devices, pipes and sockets are refused here too.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmos.kernel.errno import AlreadyExists, InvalidArgument, NotFound, NotPermitted, TryAgain

from ..place import Place, place_of
from ..results import FileData, FileInfo, FileList
from . import beneath
from .beneath import folder, told


def settled(place: Place, *, last: bool) -> Place:
    """The place without links; with `last`, without one at its end. Raises NotFound for a path that no call could name."""
    path = "/" + "/".join(place.parts)
    with told(place):
        real = os.path.realpath(path) if last or not place.parts else os.path.join(os.path.realpath(os.path.dirname(path)), place.name)
    try:
        return place_of(f"host:{real}")
    except InvalidArgument:
        raise NotFound(f"{place}: it leads to a file whose name is no text") from None


class Host:
    """See the module."""

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, beneath.FOLDER)
        self._listings = beneath.Listings()

    def close(self) -> None:
        os.close(self._root)

    def stat(self, place: Place) -> FileInfo:
        with told(place):
            if not place.parts:
                return beneath.info_of(place.mount if place.mount != "host" else "/", os.fstat(self._root))
            with self._above(place) as parent:
                found = beneath.look(parent, place.name)
        if found is None:
            raise NotFound(f"{place}: there is no such file")
        return beneath.info_of(place.name, found)

    def page(self, place: Place, after: str, limit: int) -> FileList:
        with told(place), folder(self._root, place.parts) as here:
            return self._listings.page(here, after, limit)

    def read(self, place: Place, offset: int, most: int) -> FileData:
        with told(place), self.opened(place) as descriptor:
            return beneath.read(descriptor, offset, most)

    @contextmanager
    def opened(self, place: Place) -> Iterator[int]:
        with self._above(place) as parent, beneath.opened(beneath.regular(parent, place.name, os.O_RDONLY, place)) as descriptor:
            yield descriptor

    @contextmanager
    def _above(self, place: Place) -> Iterator[int]:
        if not place.parts:
            raise InvalidArgument(f"{place}: it is a folder")
        with folder(self._root, place.parts[:-1]) as parent:
            yield parent

    def write(self, place: Place, data: bytes) -> FileInfo:
        with told(place), self._above(place) as parent, self._replacement(parent, place) as descriptor:
            beneath.spill(descriptor, data)
        return self.stat(place)

    def adopt(self, place: Place, source: int, size: int) -> FileInfo:
        """Write the first `size` bytes of an open file."""
        with told(place), self._above(place) as parent, self._replacement(parent, place) as descriptor:
            beneath.pour(source, descriptor, size)
            if os.fstat(descriptor).st_size != size:
                raise TryAgain(f"{place}: what was copied there became shorter meanwhile; try again")
        return self.stat(place)

    @contextmanager
    def _replacement(self, parent: int, place: Place) -> Iterator[int]:
        """A new file beside the old one, which takes its place, and has its mode, if the body succeeds."""
        found = beneath.look(parent, place.name)
        if found is not None:
            beneath.demand_regular(found, place)
        name = f".llmos-{secrets.token_hex(8)}"
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | beneath.FILE, 0o666, dir_fd=parent)
        try:
            with beneath.opened(descriptor):
                if found is not None:
                    os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
                yield descriptor
                os.fsync(descriptor)
            os.rename(name, place.name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            os.unlink(name, dir_fd=parent)
            raise
        os.fsync(parent)

    def append(self, place: Place, data: bytes) -> FileInfo:
        with told(place), self._above(place) as parent:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            with beneath.opened(beneath.regular(parent, place.name, flags, place, 0o666)) as descriptor:
                beneath.spill(descriptor, data)
                os.fsync(descriptor)
                return beneath.info_of(place.name, os.fstat(descriptor))

    def make(self, place: Place, *, parents: bool) -> FileInfo:
        if not place.parts:
            raise AlreadyExists(f"{place}: it is there already")
        with told(place):
            for end in range(1 if parents else len(place.parts), len(place.parts) + 1):
                with folder(self._root, place.parts[: end - 1]) as parent:
                    try:
                        os.mkdir(place.parts[end - 1], dir_fd=parent)
                    except FileExistsError:
                        if not parents:
                            raise
        return self.stat(place)

    def move(self, source: Place, target: Place, *, folders: bool) -> None:
        with told(source), self._above(source) as parent, told(target), self._above(target) as other:
            found = beneath.look(parent, source.name)
            if found is None:
                raise NotFound(f"{source}: there is no such file")
            there = beneath.look(other, target.name)
            if stat.S_ISDIR(found.st_mode):
                if not folders:
                    raise TryAgain(f"{source} has become a folder meanwhile; try again")
                if there is not None:
                    raise AlreadyExists(f"{target}: it is there already, and a folder replaces nothing; remove it first")
            elif there is not None:
                beneath.demand_regular(there, target)
                if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
                    raise InvalidArgument(f"{source} and {target} are the same file")
            os.rename(source.name, target.name, src_dir_fd=parent, dst_dir_fd=other)

    def remove(self, place: Place, *, tree: bool) -> None:
        """A file, an empty folder, or a tree; of a link, the link."""
        with told(place), self._above(place) as parent:
            found = beneath.look(parent, place.name)
            if found is None:
                raise NotFound(f"{place}: there is no such file")
            _remove(parent, place.name, found, tree=tree, deep=0, place=place)


def _remove(parent: int, name: str, found: os.stat_result, *, tree: bool, deep: int, place: Place) -> None:
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    if tree:
        if deep > 256:
            raise NotPermitted(f"{place}: it is more than 256 folders deep; remove it on the machine")
        with beneath.opened(os.open(name, beneath.FOLDER, dir_fd=parent)) as here:
            for each in os.listdir(here):
                if (inner := beneath.look(here, each)) is not None:
                    _remove(here, each, inner, tree=True, deep=deep + 1, place=place)
    os.rmdir(name, dir_fd=parent)
