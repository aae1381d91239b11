"""Boot: wires the kernel, the system calls, the devices and a caller's loop, and takes them apart again.

    settings -> kernel -> core -> trap -> the kernel's thread -> models -> host process -> port -> System
    shutdown: TERM to all -> grace -> KILL -> programs end -> port closed -> workers joined -> kernel's thread joined

What was built is taken apart in the opposite order, also if the boot fails half way or the caller's block raises.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio

from llmos.kernel.errno import Fault, NotSupported, Panic
from llmos.kernel.kernel import Kernel
from llmos.kernel.param import Params
from llmos.kernel.process import Class
from llmos.kernel.signal import Signal
from llmos.sdk.port import Notice, Port
from llmos.sdk.program import Programs
from llmos.sdk.system import System
from llmos.services.audit.log import Log
from llmos.syscalls.core import Core
from llmos.syscalls.disk.disk import Disk
from llmos.syscalls.trap import Trap

from .catalogue import DummyCatalogue
from .models import Catalogue, LoadedModels
from .place import audit_folder, folders_of
from .settings import Settings, read_settings
from .thread import KernelThread
from .tools import serving, tools_of

INIT = 1
TERM_SECONDS = 2.0
"""How long programs have between TERM and KILL when the system goes down."""
JOIN_SECONDS = 30.0
"""How long a thread has to end: a step, or a load, may be under way."""


@asynccontextmanager
async def boot(
    model: str | None = None,
    *,
    home: Path | str | None = None,
    policy: Literal["fair", "fcfs"] | None = None,
    device: Literal["cpu", "torch", "reference", "dummy"] | None = None,
    seed: int | None = None,
    device_memory: int | None = None,
    host_memory: int | None = None,
    threads: int | None = None,
    kv: Literal["bf16", "int8"] | None = None,
    speculate: bool | None = None,
    audit: Literal["on", "full"] | None = None,
    preload: bool = True,
) -> AsyncIterator[System]:
    """Boot the system in this program; its loop is where programs run. Gives the host process.

    `model` is what contexts use that name none, by default the setting; with `preload` its load begins at once, in the
    background. What is None is as LLMOS_* in the environment says, else as services/init/settings.py does.
    Raises InvalidArgument, NotFound for a model that is not there.
    """
    settings = read_settings(
        model=model, home=home, policy=policy, device=device, seed=seed,
        device_memory=device_memory, host_memory=host_memory, threads=threads, kv=kv, speculate=speculate, audit=audit,
    )  # fmt: skip
    catalogue = await anyio.to_thread.run_sync(catalogue_of, settings, model)
    async with attach(settings, catalogue, preload=preload) as system:
        yield system


def catalogue_of(settings: Settings, asked: str | None) -> Catalogue:
    """The models of the device that is set. One that was asked for by name must be there."""
    from .remotes import RemoteCatalogue  # the library and its dependencies take their time to import

    if settings.device == "dummy":
        return RemoteCatalogue(settings.home, settings.model, DummyCatalogue(settings.model))
    from .store import StoreCatalogue

    catalogue = RemoteCatalogue(settings.home, settings.model, StoreCatalogue(settings))
    if asked is not None:
        catalogue.resolve(asked)
    return catalogue


@dataclass(frozen=True, slots=True)
class Wired:
    """A kernel on its thread, with models, and nobody to make calls yet."""

    thread: KernelThread
    kernel: Kernel
    models: LoadedModels
    core: Core


@asynccontextmanager
async def wired(settings: Settings, catalogue: Catalogue, *, audited: bool) -> AsyncIterator[Wired]:
    """Wire the kernel to its thread, its models and, if it is to be, its audit log, and take them apart again."""
    clock = time.monotonic
    async with AsyncExitStack() as stack:
        audit = None
        if audited:
            audit = await anyio.to_thread.run_sync(partial(Log, audit_folder(settings.home), full=settings.audit == "full"))
            stack.push_async_callback(_close_log, audit)
        thread = KernelThread()
        disk = Disk(settings.home, settings.files_quota)
        stack.push_async_callback(_close_disk, disk)
        thread.start()
        stack.push_async_callback(_join, thread)
        kernel = Kernel(Params(speculate=settings.speculate), policy=settings.policy, clock_start=clock())
        models = LoadedModels(catalogue, kernel, thread, clock)
        stack.push_async_callback(_close_models, models)
        seed = secrets.randbits(62) if settings.seed is None else settings.seed
        yield Wired(thread, kernel, models, Core(kernel, clock, models, seed, clock(), disk, audit=audit))


@asynccontextmanager
async def attach(settings: Settings, catalogue: Catalogue, *, preload: bool) -> AsyncIterator[System]:
    """The same with a catalogue of one's own, for tests."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise NotSupported("llmos runs on asyncio's loop: start yours with asyncio.run, or anyio.run and its asyncio backend") from None
    file = await anyio.to_thread.run_sync(tools_of, settings.home)
    async with wired(settings, catalogue, audited=settings.audit is not None) as made:
        thread, kernel = made.thread, made.kernel
        port = Port(thread, loop)
        host = kernel.spawn(time.monotonic(), INIT, name="host", cls=Class.NORMAL, capabilities=frozenset({"*"}))
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                programs = Programs(port, tasks)
                thread.trap = Trap(
                    made.core, thread.elsewhere, lambda pid: port.queue(Notice(lambda: programs.died(pid)), None, None), thread.aside
                )
                thread.on_breath(port.flush, partial(_tell, loop, port))
                if preload:
                    thread.post(lambda: begin_load(made.models))
                try:
                    async with serving(thread, kernel, file):
                        yield System(port, host, programs, folders_of(settings.home), None)
                except BaseException as raised:  # noqa: BLE001 - raised again below, outside the task group, as it is
                    failure = raised
                with anyio.CancelScope(shield=True):
                    await _end_programs(thread, kernel, host, programs)
        except BaseExceptionGroup as group:
            panics = group.subgroup(Panic)
            if panics is not None:
                raise _first(panics) from None
            raise
        finally:
            port.close(Fault("the system has shut down"))
        if failure is not None:
            raise failure


def begin_load(models: LoadedModels) -> None:
    """Begin to load the default model, on the kernel's thread."""
    try:
        models.load(models.resolve(None))
    except Fault:  # there is no default model yet: whoever opens a context on it is told
        pass


def _tell(loop: asyncio.AbstractEventLoop, port: Port, why: BaseException) -> None:
    """The kernel's thread has failed: every call of this loop ends with a Panic."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(port.close, _panic(why))


def _panic(why: BaseException) -> Panic:
    return why if isinstance(why, Panic) else Panic(f"the kernel's thread failed with {type(why).__name__}: {why}; this is a bug in llmos")


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def _end_programs(thread: KernelThread, kernel: Kernel, host: int, programs: Programs) -> None:
    """TERM to every process but the host, and after a grace KILL to all of them."""

    def signal(signal: Signal, spared: set[int]) -> None:
        for view in kernel.processes(time.monotonic()):
            if view.pid not in spared and view.status is None:
                kernel.kill(time.monotonic(), INIT, view.pid, signal)

    if programs.running and thread.failure is None:
        thread.post(lambda: signal(Signal.TERM, {INIT, host}))
        with anyio.move_on_after(TERM_SECONDS):
            await programs.idle()
    if thread.failure is None:
        thread.post(lambda: signal(Signal.KILL, {INIT}))
    else:
        programs.cancel()


async def _close_models(models: LoadedModels) -> None:
    with anyio.CancelScope(shield=True):
        late = await anyio.to_thread.run_sync(models.close, JOIN_SECONDS)
    for name in late:
        print(f"llmos: the device of {name} did not end within {JOIN_SECONDS:g} s", file=sys.stderr)


async def _close_disk(disk: Disk) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(disk.close)


async def _close_log(audit: Log) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(audit.close)


async def _join(thread: KernelThread) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(thread.stop, JOIN_SECONDS)
