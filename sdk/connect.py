"""Connect: the system of a daemon, as a program in another OS process sees it.

    probe -> hello -> welcome: a host process in the daemon -> port -> System
    the end: TERM to the programs -> grace -> bye: the daemon kills what is left -> programs end -> port closed -> socket closed

Programs run here, in tasks of the caller's loop, as after a boot. They are attached: when this OS process vanishes, or the daemon,
they end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from llmos.syscalls.abi import NotSupported, ShutDown

from .link import Link
from .port import Port
from .program import Programs
from .system import System

if TYPE_CHECKING:
    from .clientkey import ClientKey

TERM_SECONDS = 2.0
"""How long programs have between TERM and KILL when their client leaves."""
BYE_SECONDS = 5.0
"""How long the daemon has to answer the last message."""


@asynccontextmanager
async def connect(
    path: Path | str, *, folders: tuple[Path, ...], model: str | None = None, name: str = "host", key: ClientKey | None = None
) -> AsyncIterator[System]:
    """Connect to the daemon at a socket, or with a key at tcp://HOST:PORT.

    `folders` is where agents are looked for; `model` what contexts use that name none.

    Raises NotFound if no daemon is there, NotPermitted, NotSupported if it is of another version, TimedOut.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise NotSupported("llmos runs on asyncio's loop: start yours with asyncio.run, or anyio.run and its asyncio backend") from None
    async with AsyncExitStack() as stack:
        link = Link(path, loop, key)
        stack.callback(link.close)
        welcome = await link.open(name)
        link.port = port = Port(link, loop)
        stack.callback(port.close, ShutDown(f"the connection to the daemon at {path} is closed; connect again"))
        failure: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            programs = Programs(port, tasks, remote=True)
            link.ended = programs.died

            def lost(why: ShutDown) -> None:
                port.close(why)
                programs.hang_up()

            link.lost = lost
            try:
                system = System(port, welcome.pid, programs, folders, model)
                system.daemon = welcome
                yield system
            except BaseException as raised:  # noqa: BLE001 - raised again below, outside the task group, as it is
                failure = raised
            with anyio.CancelScope(shield=True):
                await _end_programs(link, port, welcome.pid, programs)
        if failure is not None:
            raise failure


async def _end_programs(link: Link, port: Port, host: int, programs: Programs) -> None:
    """TERM to every program, and after a grace the end of the session, which kills them."""
    if programs.running:
        for pid in programs.pids():
            port.later(host, "kill", {"pid": pid, "signal": "TERM"})
        with anyio.move_on_after(TERM_SECONDS):
            await programs.idle()
    await link.bye(BYE_SECONDS)
    programs.hang_up()
