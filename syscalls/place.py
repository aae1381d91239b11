"""Places: paths of the one namespace, taken apart and put in their one spelling.

    /               its mounts: home models output proc tmp tools
    /home/a/b       mount "home", parts ("a", "b"): of the caller's user
    host:/etc/fstab mount "host", parts ("etc", "fstab"): of the machine, as the user whose system this is

Invariant: no part of a place is empty, ".", ".." or too long, has a control character or a slash in it, or is not UTF-8. So a
place can be walked part by part and stays below its mount. Two names that only look alike (Unicode's normal forms) are two
names. Knows nothing of what is there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from llmos.kernel.errno import InvalidArgument, NotFound, TooLong

from . import param

MOUNTS: Final = ("home", "models", "output", "proc", "tmp", "tools")
WRITABLE: Final = frozenset({"home", "tmp", "host"})
HOST: Final = "host:"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Place:
    mount: str
    """One of MOUNTS, "host", or "" for the root that they hang from."""
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.mount == "host":
            return HOST + "/" + "/".join(self.parts)
        return "/" + "/".join((self.mount, *self.parts) if self.mount else ())

    @property
    def name(self) -> str:
        """The last part, as a listing shows it."""
        return self.parts[-1] if self.parts else self.mount

    @property
    def within(self) -> str:
        """Everything below it, as the pattern of a capability."""
        return str(self).rstrip("/") + "/*"


def place_of(path: str) -> Place:
    """The place that a path means. "." and doubled slashes are dropped and ".." taken back, since there are no links.

    Raises InvalidArgument for what is no path, TooLong, NotFound if it begins with no mount.
    """
    if len(path.encode(errors="replace")) > param.MAX_FILE_PATH:
        raise TooLong(f"a path has at most {param.MAX_FILE_PATH} bytes")
    host = path.startswith(HOST)
    rest = path.removeprefix(HOST) if host else path
    if not rest.startswith("/"):
        raise InvalidArgument(
            f"{path[:64]!r} is no path: it must begin with /, such as /home/notes.txt, or with host:/ for files of the machine"
        )
    parts: list[str] = []
    for part in rest.split("/"):
        if part == "..":
            if not parts:
                raise InvalidArgument(f"{path[:64]!r} leads above the root")
            parts.pop()
        elif part not in ("", "."):
            parts.append(_checked(part))
    if len(parts) > param.MAX_DEPTH:
        raise TooLong(f"a path has at most {param.MAX_DEPTH} parts, not {len(parts)}")
    if host:
        return Place("host", tuple(parts))
    if parts and parts[0] not in MOUNTS:
        raise NotFound(f"there is no /{parts[0][:64]}: paths begin with /{', /'.join(MOUNTS)}; a file of the machine is host:{path[:64]}")
    return Place(parts[0], tuple(parts[1:])) if parts else Place("")


def _checked(part: str) -> str:
    try:
        size = len(part.encode())
    except UnicodeEncodeError:
        raise InvalidArgument("a path must be valid Unicode text") from None
    if size > param.MAX_PART:
        raise TooLong(f"a name has at most {param.MAX_PART} bytes, not {size}")
    if _CONTROL.search(part):
        raise InvalidArgument("a path must not contain control characters")
    return part


def is_name(name: str) -> bool:
    """True if a name that lies on the disk can be a part of a path."""
    try:
        return len(name.encode()) <= param.MAX_PART and not _CONTROL.search(name)
    except UnicodeEncodeError:
        return False
