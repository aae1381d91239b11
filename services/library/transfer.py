"""Bytes into files: over HTTP, resumable and checked, or from a local file.

Owns the part file. Invariant: `fetch` returns only when the part has the promised size and hash; whenever it does not
return (no network, full disk, Ctrl-C, a progress function that raises), the part is left as it is and the next call
goes on where it ended. A part that turns out wrong is deleted. Knows nothing of models.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from llmos.kernel.errno import BadFormat, IntegrityError, InvalidArgument, NoSpace, NotFound, NotPermitted, TimedOut

if TYPE_CHECKING:
    import httpx

Progress = Callable[[str, int, int | None], None]
"""Called with (what is going on, bytes done, bytes in all or None). May raise to stop the pull."""

MAX_FILE = 1 << 42
MAX_SMALL = 64 << 20
"""Bytes of a file that is read whole."""
CHUNK = 1 << 20
MARGIN = 32 << 20
"""Bytes of disk to leave free."""
TRIES = 5
"""Attempts without a byte of progress before giving up."""


@dataclass(frozen=True, slots=True)
class Download:
    """A file on a server. `sha256` and `git_sha1` are what its source promises, where it does."""

    url: str
    name: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


def fetch(client: httpx.Client, download: Download, part: Path, progress: Progress, pause: Callable[[float], None]) -> str:
    """Download into `part`, going on where it ends; returns its SHA-256.

    Raises NotFound, NotPermitted, TimedOut (the server cannot be reached; try again later), NoSpace, IntegrityError.
    """
    import httpx

    idle, most = 0, 0
    while True:
        most = max(most, _size(part))
        why = "the connection broke"
        try:
            if _receive(client, download, part, _size(part), progress):
                break
        except httpx.HTTPStatusError as error:
            why = f"the server answers {error.response.status_code}"
        except httpx.HTTPError as error:
            why = str(error)[:120] or type(error).__name__
        # More than ever before, not more than just now: a server that makes us begin anew must not keep us forever.
        idle = 0 if _size(part) > most else idle + 1
        if idle >= TRIES:
            host = _host(download.url)
            raise TimedOut(f"{download.name} could not be fetched from {host} ({why}); pull again later: it goes on where it stopped")
        pause(min(8.0, 0.5 * 2**idle))
    return _checked(download, part)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _receive(client: httpx.Client, download: Download, part: Path, have: int, progress: Progress) -> bool:
    """One request. True if the part is complete; raises httpx errors for what may pass, faults for what will not."""
    if download.size is not None and have == download.size:
        return True
    if download.size is not None and have > download.size:
        part.unlink()
        have = 0
    if download.size is not None:
        require_space(part.parent, download.size - have, download.name)
    headers = dict(download.headers) | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", download.url, headers=headers) as response:
        code = response.status_code
        if code == 416:  # nothing is left, or the file is another one now
            part.unlink(missing_ok=True)
            return False
        if code in (404, 410):
            raise NotFound(f"{download.name} is not at {_host(download.url)} (it answers {code}); check the name")
        if code in (401, 403):
            raise NotPermitted(
                f"{_host(download.url)} does not give out {download.name} (it answers {code}); log in there, or accept its licence"
            )
        response.raise_for_status()
        resumed = code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if code == 206 and not resumed:
            part.unlink(missing_ok=True)
            return False
        have = have if resumed else 0
        length = response.headers.get("Content-Length", "")
        total = download.size if download.size is not None else have + int(length) if length.isdecimal() else None
        with part.open("ab" if resumed else "wb") as file, no_space(download.name):
            for chunk in response.iter_raw():  # as they come: what waits for a full chunk is lost when the connection breaks
                have += len(chunk)
                if have > (MAX_FILE if total is None else total):
                    file.close()
                    part.unlink()
                    raise IntegrityError(
                        f"{download.name} is longer than {_host(download.url)} promised ({total} bytes); pull from another source"
                    )
                file.write(chunk)
                progress(f"fetching {download.name}", have, total)
        return total is None or have == total


def _checked(download: Download, part: Path) -> str:
    """Compare the complete part with what was promised."""
    size = part.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with part.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
            if download.git_sha1:
                git.update(chunk)
    for promised, have in ((download.sha256, sha256.hexdigest()), (download.git_sha1, git.hexdigest())):
        if promised and promised.lower() != have:
            part.unlink()
            raise IntegrityError(
                f"{download.name} has the checksum {have[:16]}..., promised was {promised[:16]}...; it was deleted: pull again"
            )
    return sha256.hexdigest()


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. InvalidArgument if it is no regular file: a pipe would keep us waiting, a device may never end."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115  # the caller closes it
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise InvalidArgument(f"{path} is not a regular file; give a GGUF file or a model directory")


def read_small(path: Path) -> bytes:
    """The bytes of a small file. Raises OSError, InvalidArgument if it is no regular file, BadFormat if it is not small."""
    with open_regular(path) as file:
        content = file.read(MAX_SMALL + 1)  # not the size that it says it has: it may grow
    if len(content) > MAX_SMALL:
        raise BadFormat(f"{path.name} is larger than {MAX_SMALL} bytes: it is not what its name says")
    return content


def copy(source: Path, target: Path, progress: Progress) -> str:
    """Copy a file; returns its SHA-256. Raises InvalidArgument if it is no regular file, NoSpace."""
    with open_regular(source) as reader:
        status = os.fstat(reader.fileno())
        require_space(target.parent, status.st_size, source.name)
        sha256 = hashlib.sha256()
        with target.open("wb") as writer, no_space(source.name):
            while chunk := reader.read(CHUNK):
                sha256.update(chunk)
                writer.write(chunk)
                progress(f"copying {source.name}", writer.tell(), status.st_size)
    return sha256.hexdigest()


def require_space(folder: Path, nbytes: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if nbytes + MARGIN > free:
        raise NoSpace(
            f"{name} needs {nbytes + MARGIN >> 20} MiB ({MARGIN >> 20} of them to stay free), {folder} has {free >> 20} MiB left; "
            "free some space, or set LLMOS_HOME to a larger disk"
        )


@contextmanager
def no_space(name: str) -> Iterator[None]:
    """A full disk is a fault that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise NoSpace(f"the disk became full while writing {name}; free some space and pull again: it goes on where it stopped") from None


def _host(url: str) -> str:
    """Where a URL points, without passwords."""
    from urllib.parse import urlsplit

    return urlsplit(url).hostname or "its source"
