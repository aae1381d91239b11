"""Machines: the step loop of one device.

    wait for work -> kernel.plan -> worker.submit -> (the worker executes) -> kernel.retire -> wait for work

At most one step is in flight. The next is planned the moment one has retired, before anybody reacts to its tokens, so that
the device works while handlers detokenize. Everything here runs on the kernel's thread. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from llmos.kernel.device import Retired, Step
from llmos.kernel.kernel import Kernel


class Executor(Protocol):
    """What executes steps elsewhere: a worker."""

    def submit(self, step: Step, done: Callable[[Retired], None]) -> None: ...


class Machine:
    """One device's loop."""

    def __init__(self, kernel: Kernel, name: str, executor: Executor, clock: Callable[[], float]) -> None:
        self._kernel, self.name, self._executor, self._clock = kernel, name, executor, clock
        self._flying = False

    def advance(self) -> None:
        """Put the next step on its way, if none is and there is something to do."""
        if self._flying or not self._kernel.has_work(self.name):
            return
        step = self._kernel.plan(self._clock(), self.name)
        if step is not None:
            self._flying = True
            self._executor.submit(step, self._retired)

    def _retired(self, result: Retired) -> None:
        self._flying = False
        self._kernel.retire(self._clock(), self.name, result)
        self.advance()
