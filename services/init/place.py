"""Places: where this user's system keeps its files, and where its daemon listens. All that a thin client needs to know.

    HOME/daemon/        0700   lock (who has locked it is the daemon; its pid is in it), log
    HOME/audit/         0700   what calls were made: services/audit
    HOME/daemon/socket  0600   or, where that path is too long for a socket: TMP/llmos-UID-DIGEST/socket

The home is the one setting that is read here and not in settings.py, which takes 0.2 s to import: a client of a running daemon
needs no other.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from llmos.kernel.errno import NotPermitted
from llmos.sdk.agentnames import SHIPPED

LONGEST_SOCKET = 107
"""Bytes of a unix socket's path on Linux."""


def home_of(given: Path | str | None) -> Path:
    """The home that is meant: the one given, else LLMOS_HOME, else the user's data folder."""
    if given is not None:
        return Path(given)
    if named := os.environ.get("LLMOS_HOME"):
        return Path(named)
    from platformdirs import user_data_path

    return user_data_path("llmos")


def folders_of(home: Path) -> tuple[Path, ...]:
    """Where agents are looked for."""
    return (Path("agents"), home / "agents", SHIPPED)


def daemon_folder(home: Path) -> Path:
    """Of the daemon of a home: its lock, its log, and, if the path is short enough, its socket."""
    return home.absolute() / "daemon"


def audit_folder(home: Path) -> Path:
    """Where the system of a home writes down every call."""
    return home.absolute() / "audit"


def socket_path(home: Path) -> Path:
    """Where the daemon of a home listens."""
    path = daemon_folder(home) / "socket"
    if len(os.fsencode(path)) <= LONGEST_SOCKET:
        return path
    digest = blake2b(os.fsencode(path), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"llmos-{os.getuid()}-{digest}" / "socket"


def daemon_pid(home: Path) -> int | None:
    """The pid of the daemon of a home; None if none runs. It has locked the file that says so."""
    try:
        descriptor = os.open(daemon_folder(home) / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        said = os.pread(descriptor, 32, 0).strip()
        return int(said) if said.isdigit() else None
    finally:
        os.close(descriptor)


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user can enter, or see that it is one. Raises NotPermitted."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise NotPermitted(f"{folder} is not a folder of yours: somebody has put it there; remove it, or use another --home")
    if stat.S_IMODE(found.st_mode) & 0o077:
        folder.chmod(0o700)
    return folder


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock on a file, which is made; whoever else wants it waits. It goes with the OS process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
