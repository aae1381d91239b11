"""A device without pages, driven by hand: it checks what the kernel asks of it, and says what it is told to say."""

from __future__ import annotations

from typing import Any

from llmos.kernel.burst import Burst
from llmos.kernel.device import Geometry
from llmos.kernel.errno import DeviceFailed
from llmos.kernel.kernel import Kernel
from llmos.kernel.param import Params
from llmos.kernel.slot import Counted, Order, Received, Settled


def geometry(name: str = "far", *, slots: int = 2, window: int = 1000, price_in: float = 0.0, price_out: float = 0.0) -> Geometry:
    return Geometry(
        name,
        vocabulary=1 << 64,
        window=window,
        page_slots=1,
        device_frames=0,
        host_frames=0,
        page_bytes=0,
        digest=b"",
        slots=slots,
        price_in=price_in,
        price_out=price_out,
    )


class Far:
    """The device. Its replies are 1000, 1001, 1002, ..."""

    def __init__(self, kernel: Kernel, shape: Geometry) -> None:
        self.kernel, self.geometry = kernel, shape
        self.under_way: dict[int, Order] = {}
        self.said: dict[int, int] = {}
        """Burst -> tokens of its reply so far."""
        kernel.attach(shape)

    def advance(self, now: float) -> list[Order]:
        """Take what the kernel has for it, as services/init/line.py does. Returns the new orders."""
        if not self.kernel.has_work(self.geometry.name):
            assert not self.kernel.recalls(self.geometry.name)
            assert not self.kernel.dispatch(now, self.geometry.name)
            return []
        for bid in self.kernel.recalls(self.geometry.name):
            assert bid in self.under_way, "who is recalled is under way"
            self.settle(now, bid, "cancelled")
        orders = self.kernel.dispatch(now, self.geometry.name)
        for order in orders:
            process = self.kernel.bursts[order.burst].process
            assert process.phase.value == "alive", "no slot for a process that is stopped or dead"
            assert order.tokens
            assert order.max_tokens >= 1
            assert len(order.tokens) + order.max_tokens <= self.geometry.window
            assert order.burst not in self.said, "a burst gets one slot, once"
            self.under_way[order.burst], self.said[order.burst] = order, 0
        assert len(self.under_way) <= self.geometry.slots
        flying = self.kernel.dispatchers[self.geometry.name].flying
        assert not any(flying[bid].done for bid in self.under_way), "whose burst is over is recalled"
        return list(orders)

    def speak(self, now: float, bid: int, count: int = 1) -> None:
        first = self.said[bid]
        self.said[bid] += count
        self.kernel.hear(now, self.geometry.name, Received(bid, tuple(range(1000 + first, 1000 + first + count))))

    def settle(self, now: float, bid: int, reason: str = "stop", counted: tuple[int, int] | None = None) -> None:
        del self.under_way[bid]
        fault = DeviceFailed("it broke off") if reason == "failed" else None
        self.kernel.hear(now, self.geometry.name, Settled(bid, reason, None if counted is None else Counted(*counted), fault))


class Rig:
    """A kernel with such a device only."""

    def __init__(self, *, policy: str = "fair", params: Params | None = None, **shape: Any) -> None:
        self.kernel = Kernel(params, policy=policy)
        self.far = Far(self.kernel, geometry(**shape))
        self.now = 0.0

    def spawn(self, parent: int = 1, name: str = "agent", **kwargs: Any) -> int:
        return self.kernel.spawn(self.now, parent, name=name, **kwargs)

    def ask(self, pid: int, prompt: int = 4, most: int = 100, cid: int | None = None) -> Burst:
        """A generate on a context, a new one if none is given."""
        if cid is None:
            cid = self.kernel.open(self.now, pid, "far")
        return self.kernel.burst(pid, self.kernel.generate(self.now, pid, cid, tokens=list(range(prompt)), max_tokens=most))

    def advance(self) -> list[Order]:
        orders = self.far.advance(self.now)
        self.kernel.check_integrity()
        return orders

    def speak(self, burst: Burst, count: int = 1) -> None:
        self.far.speak(self.now, burst.bid, count)
        self.kernel.check_integrity()

    def settle(self, burst: Burst, reason: str = "stop", counted: tuple[int, int] | None = None) -> None:
        self.far.settle(self.now, burst.bid, reason, counted)
        self.kernel.check_integrity()
