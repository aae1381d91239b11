"""A shell inside the test: commands in, status and both outputs back, over the dummy device."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import llmos
from llmos.shell.chat import Chat
from llmos.shell.connection import Boot, Connection
from llmos.shell.runner import Runner
from llmos.shell.session import Shell
from llmos.shell.terminal import Terminal


@dataclass
class Ran:
    """What one run of commands gave."""

    status: int
    out: str
    err: str


class ShellUnderTest:
    """A shell whose outputs are files."""

    def __init__(self, home: Path, *, interactive: bool = False, boot: Boot | None = None) -> None:
        self._files = [os.open(home / name, os.O_RDWR | os.O_CREAT | os.O_APPEND) for name in ("stdout", "stderr")]
        connection = Connection(boot or partial(llmos.boot, "dummy", home=home, device="dummy", seed=1), "dummy")
        self.shell = Shell(Terminal(*self._files), connection, home, variables={"HOME": str(home)}, interactive=interactive)
        self.runner = Runner(self.shell, Chat(self.shell))

    def _take(self, file: int) -> str:
        data = os.pread(file, 1 << 24, 0)
        os.ftruncate(file, 0)
        return data.decode()

    async def run(self, text: str) -> Ran:
        status = await self.runner.text(text)
        return Ran(status, *map(self._take, self._files))

    def close(self) -> None:
        for file in self._files:
            os.close(file)


@asynccontextmanager
async def shell_in(home: Path, *, interactive: bool = False, boot: Boot | None = None) -> AsyncIterator[ShellUnderTest]:
    """A running shell with `home` as its home and `home/work` as the current directory."""
    before = Path.cwd()
    (home / "work").mkdir()
    os.chdir(home / "work")
    under_test = ShellUnderTest(home, interactive=interactive, boot=boot)
    try:
        async with under_test.shell.running():
            yield under_test
    finally:
        under_test.close()
        os.chdir(before)
