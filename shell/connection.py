"""The system under the shell: reached when it is first needed, in the background, and left with the shell.

Owns the one System. Whoever asks for it waits until it is there, or gets the fault that stopped it; the next who asks
makes it try again. One that is lost stays, and its calls say so, until somebody leaves it. Knows nothing of models and
devices: it is given a function that boots.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from llmos import Fault

if TYPE_CHECKING:
    from llmos import System

Boot = Callable[[], AbstractAsyncContextManager["System"]]


class Connection:
    """Boots and holds the system. `run` is its task: start it in a task group before asking for the system."""

    def __init__(self, boot: Boot, model: str, *, load: bool = True) -> None:
        self.model = model
        """What is loaded, for the progress line."""
        self.beside: Callable[[System], Coroutine[Any, Any, None]] | None = None
        """Runs while the system is there."""
        self._boot = boot
        self._load_model = load
        self._system: System | None = None
        self._fault: Fault | None = None
        self._wake = anyio.Event()
        self._settled = anyio.Event()
        self._loaded = anyio.Event()
        self._stop = anyio.Event()
        self._over = anyio.Event()
        """The system that is served is to be left."""
        self._booting = anyio.CancelScope()
        self._began = 0.0

    @property
    def ready(self) -> System | None:
        """The system, if it runs already."""
        return self._system

    @property
    def lost(self) -> bool:
        """The daemon has gone, and with it everything that ran there."""
        return self._system is not None and self._system.lost

    def leave(self) -> None:
        """Give up a system that is lost: whoever asks next connects to the daemon that runs by then."""
        self._system = None
        self._wake = anyio.Event()
        self._over.set()

    @property
    def fault(self) -> Fault | None:
        """Why the last boot, or the load of its model, failed, if it did."""
        return self._fault

    @property
    def loading(self) -> bool:
        """The system boots, or its model is being loaded."""
        return self._wake.is_set() and not self._loaded.is_set()

    def label(self) -> str:
        """What the progress line says."""
        return f"loading {self.model}: {time.monotonic() - self._began:.1f} s"

    def want(self) -> None:
        """Begin to boot, without waiting."""
        if self._system is None and not self._wake.is_set():
            self._began = time.monotonic()
            self._fault = None
            self._settled = anyio.Event()
            self._loaded = anyio.Event()
            self._wake.set()

    async def system(self) -> System:
        """The running system. Raises the Fault of a boot that failed."""
        self.want()
        await self._settled.wait()
        if self._system is None:
            raise self._fault or RuntimeError("the boot settled without a system")
        return self._system

    async def loaded(self) -> None:
        """Until the default model is loaded, or cannot be: who uses it will be told why."""
        await self._loaded.wait()

    async def run(self) -> None:
        """Boot when wanted, then serve until `stop`."""
        while not self._stop.is_set():
            await self._wake.wait()
            try:
                with anyio.CancelScope() as self._booting:
                    if not self._stop.is_set():
                        await self._serve()
            except Fault as fault:
                self._fault = fault
                self._system = None
                self._wake = anyio.Event()
                self._settled.set()
                self._loaded.set()

    async def _serve(self) -> None:
        booting = await anyio.to_thread.run_sync(self._boot)  # it imports half of llmos, while the prompt is there already
        self._over = anyio.Event()
        async with booting as system:
            self._system = system
            self._settled.set()
            async with anyio.create_task_group() as tasks:
                if self._load_model:
                    tasks.start_soon(self._load, system)
                else:
                    self._loaded.set()
                if self.beside is not None:
                    tasks.start_soon(self.beside, system)
                if not self._stop.is_set():
                    await self._over.wait()
                tasks.cancel_scope.cancel()
            if self._system is system:
                self._system = None

    async def _load(self, system: System) -> None:
        """A context cannot be opened before its model is loaded: that is how to wait for it."""
        try:
            context = await system.open()
            await context.close()
        except Fault as fault:
            self._fault = fault
        finally:
            self._loaded.set()

    def stop(self) -> None:
        """Shut down, or break off the boot: `run` returns when the system is down."""
        self._stop.set()
        self._over.set()
        self._wake.set()
        if not self._settled.is_set():
            self._booting.cancel()
