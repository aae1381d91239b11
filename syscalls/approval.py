"""Approvals: calls that wait for a person.

    permit --ask--> pending --answer--> the call goes on, or ends with NotPermitted
                       |
                       +--------------> gone: its process ended, was asked to end, gave up, or the deadline passed

An approval is of one call under way: whoever answers says yes or no to the arguments that were shown, which nobody can change any
more, and the answer is good for nothing else. Ids are given out once. Invariant: what is pending has no answer, and its call sleeps;
at most MAX_ASKS of a process and MAX_APPROVALS in all. Knows not who may answer: see permit.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmos.kernel.errno import InvalidArgument, NotFound, TryAgain

from . import param

if TYPE_CHECKING:
    from llmos.kernel.process import Process

    from .call import Call


@dataclass(slots=True, eq=False)
class Pending:
    """One call that waits."""

    id: int
    call: Call
    process: Process
    capability: str
    digest: str
    shown: tuple[str, int]
    """See digest.py."""
    asked: float
    deadline: float
    allowed: bool | None = None
    by: int = 0
    """The pid of whoever answered."""
    reason: str = ""

    @property
    def channel(self) -> tuple[str, int]:
        return ("approval", self.id)


@dataclass(slots=True)
class Approvals:
    """All that wait, by id."""

    waiting: dict[int, Pending] = field(default_factory=dict)
    last: int = 0
    """The id given out last."""

    def demand_room(self, process: Process) -> None:
        """Raises TryAgain if the process, or the tree it belongs to, has too many calls waiting already."""
        own = sum(each.process is process for each in self.waiting.values())
        if own >= param.MAX_ASKS:
            raise TryAgain(f"pid {process.pid} has {own} calls waiting for approval already; wait until some are answered")
        free = param.MAX_APPROVALS - len(self.waiting)
        root = process.root
        if sum(each.process.root is root for each in self.waiting.values()) >= free:
            raise TryAgain(f"the tree of pid {root.pid} has as many calls waiting for approval as it may; wait until some are answered")

    def ask(self, call: Call, process: Process, capability: str, digest: str, shown: tuple[str, int], now: float) -> Pending:
        """A new one. Raises TryAgain."""
        self.demand_room(process)
        self.last += 1
        pending = Pending(self.last, call, process, capability, digest, shown, now, now + param.APPROVAL_SECONDS)
        self.waiting[pending.id] = pending
        return pending

    def find(self, number: int) -> Pending:
        """Raises NotFound."""
        pending = self.waiting.get(number)
        if pending is None:
            was = "has been answered already, or its call is gone" if 0 < number <= self.last else "was never asked for"
            raise NotFound(f"approval {number} {was}; approvals lists what waits")
        return pending

    def answer(self, pending: Pending, by: int, allowed: bool, reason: str, digest: str | None) -> None:
        """Raises InvalidArgument if something else was shown to whoever answers."""
        if digest is not None and digest != pending.digest:
            raise InvalidArgument(f"approval {pending.id} is not of what you were shown; look again with approvals")
        del self.waiting[pending.id]
        pending.allowed, pending.by, pending.reason = allowed, by, reason

    def drop(self, pending: Pending) -> None:
        """Nobody waits for it any more."""
        self.waiting.pop(pending.id, None)
