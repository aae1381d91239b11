"""Models: which there are, and which are loaded on a device of their own.

A catalogue knows the models of one kind of device: the store's on the CPU, made-up ones on the dummy. `LoadedModels` loads
on first use, each on its own worker thread with a page pool of its own, and keeps what it loaded. Runs on the kernel's
thread, except where a catalogue says otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from llmos.drivers.grammar import Grammars
from llmos.drivers.worker import Worker
from llmos.kernel.device import Device
from llmos.kernel.errno import DeviceFailed, Fault, ShutDown
from llmos.kernel.kernel import Kernel
from llmos.kernel.slot import SlotDevice
from llmos.syscalls.results import ModelInfo
from llmos.syscalls.text import Text

from .line import Line
from .machine import Machine
from .thread import Advancing, KernelThread


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What a worker makes: a device and its text."""

    device: Device | SlotDevice
    text: Text
    grammars: Grammars | None = None
    """None: its replies cannot be held to a form."""


class Catalogue(Protocol):
    """The models that a kind of device can run."""

    def resolve(self, name: str | None) -> str:
        """The full name of a model, or of the default one. Raises NotFound."""
        ...

    def load(self, name: str) -> LoadedModel:
        """Load it, on the calling thread; its device is used on that thread only. Raises Fault."""
        ...

    def sizes(self) -> dict[str, int]:
        """Every model there is -> bytes on disk."""
        ...

    def kind(self, name: str) -> str:
        """local, or remote: what is asked of it leaves this machine."""
        ...


@dataclass(slots=True)
class Load:
    """A load under way, or over."""

    worker: Worker[LoadedModel]
    done: bool = False
    fault: Fault | None = None


class LoadedModels:
    """See the module. Implements `Models` of syscalls/core.py."""

    def __init__(self, catalogue: Catalogue, kernel: Kernel, thread: KernelThread, clock: Callable[[], float]) -> None:
        self._catalogue, self._kernel, self._thread, self._clock = catalogue, kernel, thread, clock
        self._loads: dict[str, Load] = {}
        self._closed = False
        self.texts: dict[str, Text] = {}
        self.grammars: dict[str, Grammars] = {}

    def resolve(self, name: str | None) -> str:
        return self._catalogue.resolve(name)

    def load(self, name: str) -> Load:
        """Begin to load a model, or join the load under way. A load that failed is tried again."""
        load = self._loads.get(name)
        if load is None or load.fault is not None:
            load = self._loads[name] = Load(Worker(name, self._thread.post))
            if self._closed:
                load.done, load.fault = True, ShutDown("the system is going down")
            else:
                self._start(name, load)
        return load

    def _start(self, name: str, load: Load) -> None:
        load.worker.start(lambda: self._catalogue.load(name), lambda made: self._loaded(name, load, made))

    def _loaded(self, name: str, load: Load, made: LoadedModel | Fault) -> None:
        load.done = True
        if isinstance(made, Fault):
            load.fault = made
        elif made.device.geometry.name != name:
            load.fault = DeviceFailed(f"the device of {name} calls itself {made.device.geometry.name}: this is a bug in its driver")
        else:
            self._kernel.attach(made.device.geometry)
            self.texts[name] = made.text
            if made.grammars is not None:
                self.grammars[name] = made.grammars
            self._thread.machines[name] = self._loop_of(name, made.device, load.worker)
        if self._thread.trap is not None:
            self._thread.trap.wake(("model", name))

    def _loop_of(self, name: str, device: Device | SlotDevice, worker: Worker[LoadedModel]) -> Advancing:
        if device.geometry.slots:  # it has a thread of its own: the worker's waits to close it
            return Line(self._kernel, name, cast(SlotDevice, device), self._clock, self._thread.post)
        return Machine(self._kernel, name, worker, self._clock)

    def sizes(self) -> dict[str, int]:
        return self._catalogue.sizes()

    def inventory(self, sizes: Mapping[str, int]) -> list[ModelInfo]:
        default = self._default()
        windows = {name: geometry.window for name, geometry in self._kernel.geometries().items()}
        return [
            ModelInfo(name, name in self.texts, name == default, sizes.get(name, 0), windows.get(name), self._catalogue.kind(name))
            for name in sorted({*sizes, *self.texts})
        ]

    def _default(self) -> str | None:
        try:
            return self._catalogue.resolve(None)
        except Fault:
            return None

    def close(self, seconds: float) -> list[str]:
        """End every worker. Returns those that did not end in time. Not on the kernel's thread."""
        closed = threading.Event()

        def close() -> None:  # on the kernel's thread, where loads begin: none begins after it
            self._closed = True
            closed.set()

        self._thread.post(close)
        closed.wait(1.0 if self._thread.failure is None else 0.0)
        self._closed = True
        late = [name for name, load in self._loads.items() if not load.worker.close(seconds)]
        for grammars in self.grammars.values():
            grammars.close()
        return late
