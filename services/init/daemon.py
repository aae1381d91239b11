"""The daemon: a system without a program of its own, that clients connect to. One for each home.

    lock the home -> wire kernel, models, thread -> socket -> ready ... SIGTERM -> TERM to all -> grace -> KILL -> socket closed -> unlock

The lock is the truth about whether a daemon runs: it goes with the process, however that ends. Whoever holds it may replace a
socket that lies there. Nothing here is imported by a client.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from llmos.kernel.errno import AlreadyExists
from llmos.kernel.signal import Signal
from llmos.syscalls import param
from llmos.syscalls.endpoint import Endpoint
from llmos.syscalls.trap import Trap

from .boot import INIT, TERM_SECONDS, Wired, begin_load, catalogue_of, wired
from .desertion import Desertion
from .models import Catalogue
from .place import daemon_folder, private_folder, socket_path
from .runners import Runners
from .settings import Settings
from .tools import serving, tools_of

if TYPE_CHECKING:
    from .gate import Gate

log = logging.getLogger("llmos.init")

RUNNERS_SECONDS = 15.0
"""How long runners have to be gone when the system goes down."""
LOOKS = 5
"""Attempts to become the daemon of a home."""


@contextmanager
def locked(home: Path) -> Iterator[Path]:
    """Be the daemon of a home. Gives the socket's path. Raises AlreadyExists if another is, NotPermitted."""
    folder = private_folder(daemon_folder(home))
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor, home)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        path = socket_path(home)
        private_folder(path.parent)
        path.unlink(missing_ok=True)  # of a daemon that was killed: nobody listens, since we have the lock
        yield path
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, home: Path) -> None:
    """Raises AlreadyExists. Who only looks whether a daemon runs holds the lock for a moment: a few attempts get past that."""
    for attempt in range(LOOKS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if attempt < LOOKS - 1:
                time.sleep(0.01)
    pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    raise AlreadyExists(f"a daemon runs already for {home}, with pid {pid or '?'}; llmos status shows it, llmos down ends it")


def serve(settings: Settings, asked: str | None, ready: Callable[[], None]) -> None:
    """Be the daemon until SIGTERM or SIGINT. `ready` is called when clients can connect. Raises AlreadyExists, and what boot does."""
    _raise_open_files()
    with locked(settings.home) as path:
        anyio.run(_serve, settings, catalogue_of(settings, asked), path, ready, backend="asyncio")


async def _serve(settings: Settings, catalogue: Catalogue, path: Path, ready: Callable[[], None]) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)

    def failed() -> None:
        loop.call_soon_threadsafe(over.set)

    def deserted() -> None:
        log.info("nobody has been here for %g minutes", settings.idle_minutes)
        loop.call_soon_threadsafe(over.set)

    async with listening(settings, catalogue, path, failed=failed, deserted=deserted, above=os.getpid()):
        log.info("the daemon %d listens at %s", os.getpid(), path)
        async with gated(settings, path):
            ready()
            await over.wait()
            log.info("the daemon goes down")


@asynccontextmanager
async def gated(settings: Settings, path: Path) -> AsyncIterator[str | None]:
    """Let clients with a key in over the network, if the settings say where: at this address. Raises what Gate.open does."""
    if settings.listen is None:
        yield None
        return
    from .gate import Gate

    gate = Gate(settings.listen, path, settings.home)
    gate.open()
    log.info("clients with a key come in at %s", gate.bound)
    serving = asyncio.create_task(gate.serve())
    serving.add_done_callback(partial(_gone, gate))
    try:
        yield gate.bound
    finally:
        serving.cancel()
        gate.close()


def _gone(gate: Gate, serving: asyncio.Task[None]) -> None:
    if not serving.cancelled() and (error := serving.exception()) is not None:
        log.error("nobody comes in over the network any more: the gate has failed", exc_info=error)
        gate.close()


@asynccontextmanager
async def listening(
    settings: Settings,
    catalogue: Catalogue,
    path: Path,
    *,
    failed: Callable[[], None] = lambda: None,
    preload: bool = True,
    silence: float = param.SILENCE_SECONDS,
    deserted: Callable[[], None] = lambda: None,
    above: int = 0,
) -> AsyncIterator[Endpoint]:
    """A system that listens at a socket. `failed` is called on the kernel's thread if that fails, `deserted` when nobody uses it.

    What descends from the OS process `above` cannot connect, but for runners; 0: all of this user may. Raises the kernel's failure."""
    file = await anyio.to_thread.run_sync(tools_of, settings.home)
    async with wired(settings, catalogue, audited=True) as made:
        thread = made.thread

        def died(pid: int) -> None:
            endpoint.died(pid)
            runners.died(pid)

        thread.trap = trap = Trap(made.core, thread.elsewhere, died, thread.aside)
        made.core.runners = runners = Runners(trap, thread, settings)
        endpoint = Endpoint(trap, thread, path, model=settings.model, silence=silence, left=runners.left, above=above)
        runners.endpoint = endpoint
        thread.on_breath(endpoint.flush, lambda why: failed())
        await thread.ask(endpoint.open)
        try:
            thread.post(runners.refill)
            if settings.idle_minutes is not None:
                thread.post(Desertion(thread, endpoint, settings.idle_minutes * 60, deserted).look)
            if preload:
                thread.post(lambda: begin_load(made.models))
            async with serving(thread, made.kernel, file) as tools:
                if tools is not None:
                    endpoint.own.add(tools)
                yield endpoint
        finally:
            with anyio.CancelScope(shield=True):
                await _end(made, endpoint, runners)
        if thread.failure is not None:
            raise thread.failure


async def _end(made: Wired, endpoint: Endpoint, runners: Runners) -> None:
    """TERM to every process that no client is, and after a grace the end of all."""
    thread = made.thread
    if thread.failure is not None:
        await anyio.to_thread.run_sync(thread.stop, TERM_SECONDS)  # two threads must not have the socket at once
        endpoint.close("it has failed", broken=True)
        runners.shut()
        await anyio.to_thread.run_sync(runners.join, RUNNERS_SECONDS)
        return
    idle = asyncio.Event()
    loop = asyncio.get_running_loop()
    hosts = {session.host for session in endpoint.sessions.values() if not session.runner}

    def nobody() -> None:
        loop.call_soon_threadsafe(idle.set)

    def look() -> None:
        if not _programs(made, hosts):
            nobody()

    def ask_to_end() -> None:
        for pid in _programs(made, hosts):
            made.kernel.kill(time.monotonic(), INIT, pid, Signal.TERM)

    await thread.ask(ask_to_end)
    thread.on_breath(look, lambda why: nobody())
    thread.post(lambda: None)  # a breath, in case there is nobody
    with anyio.move_on_after(TERM_SECONDS):
        await idle.wait()

    def close() -> None:
        endpoint.close("the daemon goes down")
        runners.shut()

    await thread.ask(close)
    await anyio.to_thread.run_sync(runners.join, RUNNERS_SECONDS)


def _programs(made: Wired, hosts: set[int]) -> list[int]:
    """Every live process but init and those that stand for clients."""
    return [pid for pid, process in made.kernel.table.all.items() if process.live and pid != INIT and pid not in hosts]


def _raise_open_files() -> None:
    """Each client takes four descriptors: use as many as this user may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
