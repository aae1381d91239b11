"""A process as its own program sees it: everything the system offers, and its standard streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmos.syscalls.abi import Spawned

from .port import Port
from .program import Programs
from .stream import Reader, Writer
from .system import System


class Process(System):
    """What an async program is given as its first argument."""

    def __init__(
        self, port: Port, streams: Spawned, programs: Programs, folders: tuple[Path, ...], model: str | None, args: tuple[Any, ...]
    ) -> None:
        super().__init__(port, streams.pid, programs, folders, model)
        self.args = args
        self.stdin = Reader(port, self.pid, streams.child_stdin)
        self.stdout = Writer(port, self.pid, streams.child_stdout)
        self.stderr = Writer(port, self.pid, streams.child_stderr)

    async def print(self, *values: object, sep: str = " ", end: str = "\n") -> None:
        """Write to stdout, as Python's print does. Waits while the pipe is full."""
        await self.stdout.write(sep.join(map(str, values)) + end)

    async def write(self, text: str | bytes) -> None:
        """Write to stdout as it is."""
        await self.stdout.write(text)

    def __repr__(self) -> str:
        return f"<Process pid={self.pid}>"
