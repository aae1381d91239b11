"""Bursts: one `generate` or `append` on one context. What the scheduler runs.

    WAITING   another burst is filling a page this one needs
    READY     wants the device
    PAGING    its pages are being copied in
    RUNNING   in the step in flight
    HELD      its process is stopped
    DONE, CANCELLED   over

Every transition passes through `Burst.move`, which knows the legal table and keeps the account of the process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from .account import Activity
from .device import Grammar, Logprobs, Sampling
from .errno import Fault, Panic
from .lookup import Lookup
from .process import Process
from .recital import Recital
from .slot import Counted, Form

if TYPE_CHECKING:
    from .context import Context


class State(IntEnum):
    WAITING = 0
    READY = 1
    PAGING = 2
    RUNNING = 3
    HELD = 4
    DONE = 5
    CANCELLED = 6


_ENDS = {State.DONE, State.CANCELLED}
_LEGAL: tuple[set[State], ...] = (  # by state
    {State.READY, State.HELD} | _ENDS,
    {State.RUNNING, State.PAGING, State.WAITING, State.HELD} | _ENDS,
    {State.READY, State.HELD} | _ENDS,
    {State.READY, State.HELD} | _ENDS,
    {State.READY} | _ENDS,
    set(),
    set(),
)
_ACTIVITY = (Activity.QUEUED, Activity.QUEUED, Activity.PAGING, Activity.DECODE, Activity.BLOCKED)


@dataclass(slots=True, eq=False)
class Burst:
    bid: int
    process: Process = field(repr=False)
    context: Context = field(repr=False)
    sampling: Sampling | None
    """None for an append, which generates nothing."""
    max_tokens: int
    stop_ids: frozenset[int]
    state: State = State.READY
    since: float = 0.0
    cause: str = ""
    reason: str = ""
    fault: Fault | None = None
    output: list[int] = field(default_factory=list)
    logprobs: list[Logprobs] = field(default_factory=list)
    hidden: tuple[float, ...] = ()
    """The hidden state that its sampling asked for."""
    started: float = 0.0
    first_token: float | None = None
    ended: float | None = None
    grammar: Grammar | None = field(default=None, repr=False)
    """What its tokens may be. Not looked at here: a row takes it to the device."""
    form: Form | None = field(default=None, repr=False)
    """The same for a device without pages, which an order takes there."""
    # the scheduler's own
    ticket: int = 0
    """Only the heap entry with this number is valid."""
    resident: bool = False
    """Its context's pages are wired to the device."""
    prefilling: bool = True
    """Running a prefill row, not a decode row."""
    reached: int = 0
    """How far its context has been computed in its time, even if pages were dropped since."""
    progress: int = 0
    """Tokens computed since it became resident."""
    gained: int = 0
    """Those of them that had never been computed before."""
    needed: int | None = None
    """Frames it wanted of `Memory.room` when it was last turned away; None if it has not been since it was resident."""
    shared: int = 0
    """`Memory.shared` at that time."""
    claims: dict[bytes, None] = field(default_factory=dict)
    """Keys of the pages it has promised to fill."""
    awaits: bytes | None = None
    """Key of the page whose fill it waits for."""
    lookup: Lookup | Recital | None = field(default=None, repr=False)
    """Guesses what it says next, once it decodes."""
    # the dispatcher's own
    billed: tuple[int, int] = (0, 0)
    """Tokens of the prompt and of the reply that its process has been charged for."""
    counted: Counted | None = None
    """What the device said that those were."""

    @property
    def done(self) -> bool:
        return self.state >= State.DONE

    @property
    def activity(self) -> Activity:
        if self.prefilling and self.state is State.RUNNING:
            return Activity.PREFILL
        return _ACTIVITY[self.state]

    def begin(self, now: float) -> None:
        """Enter the books in state READY."""
        self.since = self.started = now
        self.process.ready += 1
        self.process.account.enter(Activity.QUEUED, now)

    def move(self, state: State, now: float, cause: str = "", most_causes: int = 64) -> None:
        """The one place where a burst changes state. `cause` says why it is delayed in the new state."""
        if state not in _LEGAL[self.state]:
            raise Panic(f"burst {self.bid}: {self.state.name} -> {state.name} is not a legal transition")
        account = self.process.account
        was = self.activity
        if self.cause:
            account.blame(self.cause, now - self.since, most_causes)
        self.state, self.since, self.cause = state, now, cause
        if state >= State.DONE:
            self.ended = now
            self.process.ready -= 1
        else:
            account.enter(self.activity, now)
        account.leave(was, now)
