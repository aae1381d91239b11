"""Policies: who runs next. One object gives each ready burst its rank; the scheduler knows nothing else about it.

`fair` is the default. Within a class, the process that has received the least weighted service runs first, where service
is what the device did for it (tokens prefilled and decoded, pages kept wired) divided by its nice weight. A process that
becomes ready after a pause is lifted to the service of those who are being served, less a small credit: short new work
is served at once, and nobody saves up idleness
(virtual token counters, Sheng et al. 2024, "Fairness in Serving Large Language Models"; min_vruntime of CFS).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .burst import Burst
from .errno import InvalidArgument
from .param import Weights
from .process import Process

Rank = tuple[float, float]
"""(class, order within the class); lower runs first."""


class Policy(Protocol):
    """What the scheduler asks of a policy."""

    def rank(self, burst: Burst) -> Rank: ...

    def wake(self, process: Process) -> None:
        """The process wants the device after it did not."""

    def moved(self, process: Process) -> None:
        """The process has changed its class."""

    def served(self, bursts: Sequence[Burst]) -> None:
        """These have been chosen to run in one step."""

    def charge(self, process: Process, prefill: int, decode: int, pages: int) -> None:
        """The device has computed tokens for the process, with so many pages wired for one step."""

    def preempts(self, waiter: Burst, runner: Burst, gap: float) -> bool:
        """True if the waiter may take the pages of the runner."""


class Fair:
    """Least weighted service first, within a class."""

    def __init__(self, weights: Weights | None = None) -> None:
        self.weights = weights or Weights()
        self.floor: dict[int, float] = {}
        """Per class, the least service in the latest batch: rises only."""

    def rank(self, burst: Burst) -> Rank:
        return (burst.process.cls, burst.process.service)

    def wake(self, process: Process) -> None:
        process.service = max(process.service, self.floor.get(process.cls, 0.0) - self.weights.credit)

    def moved(self, process: Process) -> None:
        process.service = self.floor.get(process.cls, 0.0)  # what it got in one class is no debt in another

    def served(self, bursts: Sequence[Burst]) -> None:
        least: dict[int, float] = {}
        for burst in bursts:
            process = burst.process
            least[process.cls] = min(process.service, least.get(process.cls, process.service))
        for cls, service in least.items():
            self.floor[cls] = max(service, self.floor.get(cls, 0.0))

    def charge(self, process: Process, prefill: int, decode: int, pages: int) -> None:
        w = self.weights
        process.service += (w.prefill * prefill + w.decode * decode + w.page_step * pages) / process.weight

    def preempts(self, waiter: Burst, runner: Burst, gap: float) -> bool:
        if waiter.process.cls != runner.process.cls:
            return waiter.process.cls < runner.process.cls
        return runner.process.service - waiter.process.service > gap


class Fcfs:
    """First come, first served, whatever the class: what most servers do. To compare with."""

    def rank(self, burst: Burst) -> Rank:
        return (0.0, float(burst.bid))

    def wake(self, process: Process) -> None:
        pass

    def moved(self, process: Process) -> None:
        pass

    def served(self, bursts: Sequence[Burst]) -> None:
        pass

    def charge(self, process: Process, prefill: int, decode: int, pages: int) -> None:
        pass

    def preempts(self, waiter: Burst, runner: Burst, gap: float) -> bool:
        return waiter.bid < runner.bid


POLICIES: dict[str, type[Fair] | type[Fcfs]] = {"fair": Fair, "fcfs": Fcfs}


def policy_of(name: str) -> Policy:
    """Raises InvalidArgument for a name that is none of POLICIES."""
    if name not in POLICIES:
        raise InvalidArgument(f"no policy {name!r}; choose one of {', '.join(POLICIES)}")
    return POLICIES[name]()
