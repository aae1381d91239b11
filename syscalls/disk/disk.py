"""The disk: which store a place is in.

    HOME/files/USER/    the store of /home of a user
    HOME/tmp/SYSTEM/USER/  the store of /tmp of a user, in this system, and gone with it
    HOME/output/USER/   /output: what detached processes of a user have written, for that user to read

A system of its own begins with an empty /tmp, and takes away what one that was killed has left. A user whose name is not safe as a
file's has the digest of it in the place of it. Stores are made when they are first used. Every method may be slow, and is called on
threads other than the kernel's.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import threading
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path

from llmos.kernel.errno import InvalidArgument, NotPermitted, NotSupported, ShutDown

from .. import param
from ..place import Place
from ..results import FileData, FileInfo, FileList, VersionInfo
from . import beneath, host
from .beneath import told
from .host import Host
from .store import Store

_SAFE = re.compile(r"[A-Za-z0-9_-]{1,64}")


def folder_name(user: str) -> str:
    """Of a user: a name that is safe for a file, and of no other user."""
    return user if _SAFE.fullmatch(user) else "=" + blake2b(user.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Disk:
    """See the module."""

    def __init__(self, home: Path, quota: int) -> None:
        self._home, self._quota = home.absolute(), quota
        self._stores: dict[tuple[str, str], Store | Host] = {}
        self._lock = threading.Lock()
        self._system = secrets.token_hex(8)
        self._tmp: int | None = None
        self._closed = False

    def _store(self, user: str, place: Place) -> Store | Host:
        key = ("", "host") if place.mount == "host" else (user, place.mount)
        with self._lock:
            if self._closed:
                raise ShutDown("the system is going down")
            if key not in self._stores:
                with told(place):
                    self._stores[key] = Host(Path("/")) if place.mount == "host" else self._open(user, place.mount)
            return self._stores[key]

    def _own(self, user: str, place: Place) -> Store:
        store = self._store(user, place)
        if isinstance(store, Host):
            raise NotSupported(f"{place}: versions are kept of files in /home only")
        return store

    def _open(self, user: str, mount: str) -> Store | Host:
        if mount == "output":
            folder = self.output(user)
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return Host(folder)
        if mount == "home":
            return Store(self._home, ("files", folder_name(user)), self._quota, versions=True)
        self._begin_tmp()
        return Store(self._home, ("tmp", self._system, folder_name(user)), self._quota, versions=False)

    def output(self, user: str) -> Path:
        """The folder of /output on the machine. It may not be there yet."""
        return self._home / "output" / folder_name(user)

    def _begin_tmp(self) -> None:
        """Make the folder of this system's temporary files, and remove those of systems that are gone: they hold no lock."""
        if self._tmp is not None:
            return
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with ExitStack() as stack:
            start = stack.enter_context(beneath.opened(os.open(self._home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))
            above = stack.enter_context(beneath.folder(start, ("tmp",), make=True))
            fcntl.flock(above, fcntl.LOCK_EX)  # so that nobody takes a folder away between its making and its lock
            for name in os.listdir(above):
                _sweep(above, name)
            with beneath.folder(above, (self._system,), make=True) as mine:
                self._tmp = os.dup(mine)
            fcntl.flock(self._tmp, fcntl.LOCK_SH)

    def close(self) -> None:
        """End: temporary files go. May be slow."""
        with self._lock:
            self._closed = True
            stores, self._stores = self._stores, {}
        for store in stores.values():
            store.close()
        if self._tmp is not None:
            os.close(self._tmp)
            self._tmp = None
            shutil.rmtree(self._home / "tmp" / self._system, ignore_errors=True)

    # --- what there is

    def settled(self, place: Place, *, last: bool) -> Place:
        """The place that a path of the machine really leads to."""
        return host.settled(place, last=last)

    def stat(self, user: str, place: Place) -> FileInfo:
        return self._store(user, place).stat(place)

    def page(self, user: str, place: Place, after: str, limit: int) -> FileList:
        return self._store(user, place).page(place, after, limit)

    def read(self, user: str, place: Place, offset: int, most: int) -> FileData:
        return self._store(user, place).read(place, offset, most)

    def versions(self, user: str, place: Place) -> list[VersionInfo]:
        return self._own(user, place).versions(place)

    # --- what changes it

    def write(self, user: str, place: Place, data: bytes, *, append: bool) -> FileInfo:
        store = self._store(user, place)
        return store.append(place, data) if append else store.write(place, data)

    def make(self, user: str, place: Place, *, parents: bool) -> FileInfo:
        return self._store(user, place).make(place, parents=parents)

    def remove(self, user: str, place: Place, *, tree: bool, versions: bool) -> None:
        if not place.parts:
            raise NotPermitted(f"{place}: a mount cannot be removed; remove what is in it")
        store = self._store(user, place)
        if isinstance(store, Host):
            store.remove(place, tree=tree)
        else:
            store.remove(place, tree=tree, versions=versions)

    def restore(self, user: str, place: Place, version: int | None) -> FileInfo:
        return self._own(user, place).restore(place, version)

    def copy(self, user: str, source: Place, target: Place) -> FileInfo:
        """Copy a file, from whichever store to whichever."""
        if source == target:
            raise InvalidArgument(f"{source} and {target} are the same file")
        with told(source), self._store(user, source).opened(source) as descriptor:
            size, store = os.fstat(descriptor).st_size, self._store(user, target)
            if not size:  # or it is made as it is read, such as the machine's host:/proc/cpuinfo
                return store.write(target, b"".join(iter(lambda: os.read(descriptor, param.MAX_BYTES), b"")))
            return store.adopt(target, descriptor, size)

    def move(self, user: str, source: Place, target: Place, *, folders: bool) -> None:
        """Move a file or, within a mount, a folder. Between mounts a file is copied before the original goes."""
        if not source.parts or not target.parts:
            raise NotPermitted(f"{target if source.parts else source}: a mount cannot be moved or replaced")
        if source == target:
            raise InvalidArgument(f"{source} and {target} are the same file")
        if source.mount == target.mount:
            self._store(user, source).move(source, target, folders=folders)
            return
        if self.stat(user, source).kind == "folder":
            raise NotSupported(f"{source}: a folder cannot be moved to another mount: copy it and remove the original")
        self.copy(user, source, target)
        self.remove(user, source, tree=False, versions=False)


def _sweep(above: int, name: str) -> None:
    """Remove the temporary files of a system, unless it lives. What is in the way stays; somebody else may have put it there."""
    try:
        with beneath.folder(above, (name,)) as theirs:
            fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(name, ignore_errors=True, dir_fd=above)
    except OSError:
        pass
