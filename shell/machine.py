"""The system under the shell: booted when it is first needed, in the background, and shut down with the shell.

Owns the one booted System. Whoever asks for it waits until it is there, or gets the fault that stopped the boot; the
next who asks makes it try again. Knows nothing of models and devices: it is given a function that boots.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import anyio
from llmos import Fault

if TYPE_CHECKING:
    from llmos import System

Boot = Callable[[], AbstractAsyncContextManager["System"]]


class Machine:
    """Boots and holds the system. `run` is its task: start it in a task group before asking for the system."""

    def __init__(self, boot: Boot, name: str) -> None:
        self.name = name
        """What is loaded, for the progress line."""
        self._boot = boot
        self._system: System | None = None
        self._fault: Fault | None = None
        self._wake = anyio.Event()
        self._settled = anyio.Event()
        self._stop = anyio.Event()
        self._booting = anyio.CancelScope()
        self._began = 0.0

    @property
    def ready(self) -> System | None:
        """The system, if it runs already."""
        return self._system

    @property
    def loading(self) -> bool:
        return self._wake.is_set() and not self._settled.is_set()

    def label(self) -> str:
        """What the progress line says."""
        return f"loading {self.name}: {time.monotonic() - self._began:.1f} s"

    def want(self) -> None:
        """Begin to boot, without waiting."""
        if self._system is None and not self.loading:
            self._began = time.monotonic()
            self._fault = None
            self._settled = anyio.Event()
            self._wake.set()

    async def system(self) -> System:
        """The running system. Raises the Fault of a boot that failed."""
        self.want()
        await self._settled.wait()
        if self._system is None:
            raise self._fault or RuntimeError("the boot settled without a system")
        return self._system

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
                self._wake = anyio.Event()
                self._settled.set()

    async def _serve(self) -> None:
        async with self._boot() as system:
            self._system = system
            self._settled.set()
            await self._stop.wait()
            self._system = None

    def stop(self) -> None:
        """Shut down, or break off the boot: `run` returns when the system is down."""
        self._stop.set()
        self._wake.set()
        if not self._settled.is_set():
            self._booting.cancel()
