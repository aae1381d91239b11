"""A kernel over the dummy device, driven by hand under a virtual clock."""

from __future__ import annotations

from typing import Any

from llmos.drivers.dummy import DummyDevice
from llmos.kernel.burst import Burst
from llmos.kernel.device import Outcome, Step, StepFailed
from llmos.kernel.errno import DeviceFailed
from llmos.kernel.kernel import Kernel
from llmos.kernel.param import Params


class Machine:
    def __init__(self, *, policy: str = "fair", params: Params | None = None, **device: Any) -> None:
        self.kernel = Kernel(params, policy=policy)
        self.device = DummyDevice(**device)
        self.kernel.attach(self.device.geometry)
        self.now = 0.0
        self.steps: list[Step] = []

    @property
    def memory(self):
        return self.kernel.schedulers["dummy"].memory

    def spawn(self, parent: int = 1, name: str = "agent", **kwargs: Any) -> int:
        return self.kernel.spawn(self.now, parent, name=name, **kwargs)

    def open(self, pid: int) -> int:
        return self.kernel.open(self.now, pid, "dummy")

    def append(self, pid: int, cid: int, tokens) -> Burst:
        return self.kernel.burst(pid, self.kernel.append(self.now, pid, cid, list(tokens)))

    def generate(self, pid: int, cid: int, most: int, tokens=(), **kwargs: Any) -> Burst:
        return self.kernel.burst(pid, self.kernel.generate(self.now, pid, cid, tokens=list(tokens), max_tokens=most, **kwargs))

    def plan(self) -> Step | None:
        return self.kernel.plan(self.now, "dummy")

    def retire(self, step: Step) -> None:
        outcome: Outcome | StepFailed
        try:
            outcome = self.device.execute(step)
        except DeviceFailed as fault:
            outcome = StepFailed(step.number, str(fault), 0.001)
        self.now += outcome.seconds
        self.kernel.retire(self.now, "dummy", outcome)
        self.kernel.check_integrity()
        self.steps.append(step)

    def run(self, steps: int = 10_000) -> int:
        """Up to `steps` steps; returns how many there was work for."""
        for done in range(steps):
            step = self.plan()
            if step is None:
                return done
            self.retire(step)
        return steps
