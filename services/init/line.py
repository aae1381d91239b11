"""Lines: the loop of one device without pages.

    kernel.recalls, kernel.dispatch -> the device (its own thread) -> kernel.hear

Whenever the kernel's thread has thought, the device is told what to end and what to begin. Everything here runs on the kernel's
thread; the device's events come to it in a bundle. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmos.kernel.kernel import Kernel
from llmos.kernel.slot import Event, SlotDevice

Post = Callable[[Callable[[], None]], None]
"""Runs a function on the kernel's thread, soon. May be called from any thread."""


class Line:
    """One device's loop."""

    def __init__(self, kernel: Kernel, name: str, device: SlotDevice, clock: Callable[[], float], post: Post) -> None:
        self._kernel, self.name, self._device, self._clock = kernel, name, device, clock
        device.listen(lambda events: post(lambda: self._hear(events)))

    def advance(self) -> None:
        """Tell the device what there is to tell."""
        if not self._kernel.has_work(self.name):
            return
        for burst in self._kernel.recalls(self.name):
            self._device.recall(burst)
        for order in self._kernel.dispatch(self._clock(), self.name):
            self._device.send(order)

    def _hear(self, events: Sequence[Event]) -> None:
        now = self._clock()
        for event in events:
            self._kernel.hear(now, self.name, event)
