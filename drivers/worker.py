"""Workers: a thread per device that only executes.

It makes the device (loading takes seconds, and a device's methods are called from one thread), then takes steps from a
queue, runs each to its end and posts the result back. Invariant: every step submitted is answered, by an Outcome or a
StepFailed, in order, until `close`. A step that fails never ends the thread. Decides nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar, cast

from llmos.kernel.device import Device, Retired, Step, StepFailed
from llmos.kernel.errno import DeviceFailed, Fault, Panic
from llmos.kernel.slot import SlotDevice

Post = Callable[[Callable[[], None]], None]
"""Runs a function on the kernel's thread, soon. May be called from any thread."""


class Loaded(Protocol):
    """What a worker makes: a device, and what goes with it."""

    @property
    def device(self) -> Device | SlotDevice: ...


L = TypeVar("L", bound=Loaded)


class Worker(Generic[L]):
    """The thread of one device."""

    def __init__(self, name: str, post: Post) -> None:
        self.name = name
        self._post = post
        self._steps: SimpleQueue[tuple[Step, Callable[[Retired], None]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, load: Callable[[], L], loaded: Callable[[L | Fault], None]) -> None:
        """Begin to load the device. `loaded` is called on the kernel's thread with what was made, or why not."""
        self._thread = threading.Thread(target=self._run, args=(load, loaded), name=f"llmos-{self.name}", daemon=True)
        self._thread.start()

    def submit(self, step: Step, done: Callable[[Retired], None]) -> None:
        """Queue a step. `done` is called on the kernel's thread with its result."""
        self._steps.put((step, done))

    def close(self, seconds: float) -> bool:
        """End the thread after the steps queued, and give the device's memory back. False if it is not over in time."""
        self._steps.put(None)
        if self._thread is None or self._thread.ident is None:  # never started
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self, load: Callable[[], L], loaded: Callable[[L | Fault], None]) -> None:
        try:
            made = load()
        except Fault as fault:
            self._answer(loaded, fault)
            return
        except BaseException as error:  # noqa: BLE001 - anything may be raised by a load (libraries in Rust panic); who asked is told
            self._answer(loaded, DeviceFailed(f"{self.name} could not be loaded: {type(error).__name__}: {error}"))
            return
        self._answer(loaded, made)
        while (item := self._steps.get()) is not None:
            step, done = item
            try:
                result = self._execute(cast(Device, made.device), step)  # one with slots has a thread of its own, and gets no steps here
            except Panic as panic:
                self._post(_raiser(panic))
                break
            self._answer(done, result)
        made.device.close()

    def _execute(self, device: Device, step: Step) -> Retired:
        try:
            return device.execute(step)
        except DeviceFailed as fault:
            return StepFailed(step.number, str(fault.args[0] if fault.args else fault))
        except Panic:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a driver raises is a failed step, and the kernel's to deal with
            return StepFailed(step.number, f"{type(error).__name__}: {error}")

    def _answer(self, call: Callable[[L | Fault], None] | Callable[[Retired], None], value: L | Fault | Retired) -> None:
        self._post(lambda: call(value))  # type: ignore[arg-type]


def _raiser(panic: Panic) -> Callable[[], None]:
    def throw() -> None:
        raise panic

    return throw
