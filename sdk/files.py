"""Files as one process sees them: its user's /home and /tmp, in /output what detached programs
wrote, the live /proc, /models and /tools, and host:PATH of the machine.

What a file holds comes in parts of a bounded size, so that a large one neither fills a message nor holds up anybody. `read` gives one
content, never the beginning of one and the end of another: if the file is replaced meanwhile it begins again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from llmos.syscalls.abi import BadFormat, FileData, FileInfo, FileList, TooLong, TryAgain, VersionInfo, VersionList, param

from .arguments import encoded
from .port import Port

PART = param.MAX_BYTES
"""Bytes asked for at once."""
ATTEMPTS = 5
"""Times that a file is read from its beginning because it was replaced meanwhile."""


class Files:
    """`system.files`, and `me.files` in a program. A path begins with /home, /tmp, /output, /proc, /models, /tools, or host:/."""

    def __init__(self, port: Port, pid: int) -> None:
        self._port, self.pid = port, pid

    async def _call(self, name: str, /, **arguments: Any) -> Any:
        return await self._port.call(self.pid, name, **arguments)

    # --- looking

    async def chunks(self, path: str, offset: int = 0) -> AsyncIterator[bytes]:
        """What a file holds from `offset` on, in parts, as long as one likes. Raises TryAgain if it is replaced meanwhile."""
        identity: int | None = None
        while True:
            part: FileData = await self._call("file_read", path=path, offset=offset, most=PART)
            if identity not in (None, part.identity):
                raise TryAgain(f"{path}: it was replaced while it was read; begin again")
            identity = part.identity
            offset += len(part.data)
            if part.data:
                yield part.data
            if len(part.data) < PART:
                return

    async def read(self, path: str) -> bytes:
        """All that a file holds."""
        for _ in range(ATTEMPTS):
            try:
                return b"".join([data async for data in self.chunks(path)])
            except TryAgain:
                continue
        raise TryAgain(f"{path}: it is replaced all the time; try again when it rests")

    async def read_text(self, path: str) -> str:
        """The same as text. Raises BadFormat if it is not UTF-8."""
        data = await self.read(path)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise BadFormat(
                f"{path}: not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}; read() gives its bytes"
            ) from None

    async def stat(self, path: str) -> FileInfo:
        """What is at a path. Raises NotFound."""
        info: FileInfo = await self._call("file_stat", path=path)
        return info

    async def entries(self, path: str) -> AsyncIterator[FileInfo]:
        """What is in a folder, by name, a page at a time: as long as one likes."""
        after, more = "", True
        while more:
            page: FileList = await self._call("file_list", path=path, after=after, limit=param.MAX_ENTRIES)
            for entry in page.entries:
                yield entry
            more = page.more
            after = page.entries[-1].name if page.entries else after

    # --- changing

    async def write(self, path: str, data: str | bytes) -> FileInfo:
        """Replace what a file holds, or make it. After a crash it holds the old or the new, and in /home the old is kept."""
        info: FileInfo = await self._call("file_write", path=path, data=_bounded(data))
        return info

    async def append(self, path: str, data: str | bytes) -> FileInfo:
        """Add to the end of a file, or make it."""
        info: FileInfo = await self._call("file_write", path=path, data=_bounded(data), append=True)
        return info

    async def copy(self, source: str, target: str) -> FileInfo:
        """Copy a file of any size, also between the machine (host:PATH) and the system."""
        info: FileInfo = await self._call("file_copy", source=source, target=target)
        return info

    async def move(self, source: str, target: str) -> None:
        """Give a file or folder another name. A file takes the place of one that is there. Versions stay with the old name."""
        await self._call("file_move", source=source, target=target)

    async def remove(self, path: str, *, tree: bool = False, versions: bool = False) -> None:
        """Remove a file, an empty folder, or with `tree` all in it. `restore` brings a file back, unless its `versions` go too."""
        await self._call("file_remove", path=path, tree=tree, versions=versions)

    async def make(self, path: str, *, parents: bool = False) -> FileInfo:
        """Make a folder; with `parents`, those above it too, and it may be there already."""
        info: FileInfo = await self._call("file_make", path=path, parents=parents)
        return info

    # --- versions

    async def versions(self, path: str) -> list[VersionInfo]:
        """What a file in /home held before, the newest first."""
        kept: VersionList = await self._call("file_versions", path=path)
        return kept.versions

    async def restore(self, path: str, version: int | None = None) -> FileInfo:
        """Write a version to its file again, the newest if none is named. It brings back a file that was removed."""
        info: FileInfo = await self._call("file_restore", path=path, version=version)
        return info

    async def list(self, path: str) -> list[FileInfo]:  # the last: from here on `list` is this
        """What is in a folder, all of it at once."""
        return [entry async for entry in self.entries(path)]

    def __repr__(self) -> str:
        return f"<Files of pid {self.pid}>"


def _bounded(data: str | bytes) -> bytes:
    found = encoded(data, "data")
    if len(found) > param.MAX_FILE_WRITE:
        raise TooLong(
            f"{len(found)} bytes are more than the {param.MAX_FILE_WRITE} of one write: append the rest, or copy a file of the machine"
        )
    return found
