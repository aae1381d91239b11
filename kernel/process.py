"""Processes: one entry of the table per agent.

    NEW --spawn--> ALIVE --exit--> ZOMBIE --reap--> gone
                   ALIVE <-STOP/CONT-> STOPPED

A process is NEW only inside spawn. Every change of state passes through `Process.move`. Knows nothing of pages
or schedules: contexts and bursts are only listed here by number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import Enum, IntEnum

from .account import Account
from .errno import InvalidArgument, Panic, QuotaExceeded
from .param import MAX_NICE, MIN_NICE, NICE_STEP
from .signal import Signal


class Class(IntEnum):
    """Scheduling classes, best first."""

    INTERACTIVE = 0
    NORMAL = 1
    BATCH = 2
    IDLE = 3


class Phase(Enum):
    NEW = "new"
    ALIVE = "alive"
    STOPPED = "stopped"
    ZOMBIE = "zombie"


_LEGAL = {
    Phase.NEW: {Phase.ALIVE},
    Phase.ALIVE: {Phase.STOPPED, Phase.ZOMBIE},
    Phase.STOPPED: {Phase.ALIVE, Phase.ZOMBIE},
    Phase.ZOMBIE: set[Phase](),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on a process and everything below it in the tree; None is no bound. Passing one is QuotaExceeded."""

    tokens: int | None = None
    """Tokens appended and generated."""
    pages: int | None = None
    """Entries of its page tables."""
    wall_seconds: float | None = None
    """Seconds since its spawn."""
    children: int | None = None
    """Descendants that live or have not been waited for."""
    tool_calls: int | None = None
    """Calls of tools."""
    tool_seconds: float | None = None
    """Seconds that its calls of tools took, added up."""
    cost: float | None = None
    """Money, in whatever the prices of devices are given in."""

    def check(self) -> None:
        """Raises InvalidArgument for a negative or non-finite bound."""
        for name in LIMITS:
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**53:
                raise InvalidArgument(f"limit {name}={value} is out of bounds; use 0 to 2**53 or None for no limit")


LIMITS = tuple(field.name for field in fields(Limits))
"""Their names."""


@dataclass(slots=True)
class Usage:
    """What a process has used so far, itself and with everything below it."""

    prefill_tokens: int = 0
    """Tokens computed in prefill rows."""
    cached_tokens: int = 0
    """Tokens found in the prefix index instead of computed."""
    decode_tokens: int = 0
    """Tokens sampled."""
    guessed_tokens: int = 0
    """Tokens guessed before they were sampled."""
    right_tokens: int = 0
    """Of those sampled, how many were guessed right: each saved a step."""
    bursts: int = 0
    preemptions: int = 0
    tree_tokens: int = 0
    tree_pages: int = 0
    tree_children: int = 0
    tree_cost: float = 0.0
    tree_pipes: int = 0
    """Pipes it has made that still are."""
    tree_tool_calls: int = 0
    tree_tool_seconds: float = 0.0
    tree_mail: int = 0
    """Bytes of what it has sent and nobody has received yet."""


@dataclass(slots=True, eq=False)
class Process:
    # identity: constant after spawn
    pid: int
    parent: Process | None = field(repr=False)
    """Who waits for it: changes to init when the parent dies."""
    sponsor: Process | None = field(repr=False)
    """Who spawned it, alive or dead: its limits bind, and its usage counts, what the process does. Never changes."""
    name: str
    user: str
    depth: int
    started: float
    # protection
    capabilities: frozenset[str]
    limits: Limits
    # state: changed by the kernel only
    phase: Phase = Phase.NEW
    pending: Signal | None = None
    kill_at: float | None = None
    alarm: float | None = None
    """The earliest deadline the kernel has set for it."""
    status: int = 0
    reason: str = ""
    value: bytes = b""
    """What its program left for whoever waits for it: bytes that the kernel does not read."""
    ended: float = 0.0
    # schedule
    cls: Class = Class.NORMAL
    nice: int = 0
    weight: float = 1.0
    service: float = 0.0
    ready: int = 0
    """Bursts of this process that want the device."""
    # what it holds
    children: dict[int, Process] = field(default_factory=dict, repr=False)
    contexts: set[int] = field(default_factory=set)
    bursts: set[int] = field(default_factory=set)
    readers: dict[int, int] = field(default_factory=dict)
    writers: dict[int, int] = field(default_factory=dict)
    blocked_on: dict[str, list[float]] = field(default_factory=dict)
    """What its calls sleep on -> when each began to."""
    usage: Usage = field(default_factory=Usage)
    account: Account = field(default_factory=lambda: Account(0.0))

    def move(self, phase: Phase) -> None:
        if phase not in _LEGAL[self.phase]:
            raise Panic(f"pid {self.pid}: {self.phase.value} -> {phase.value} is not a legal transition")
        self.phase = phase

    def renice(self, nice: int) -> None:
        if not MIN_NICE <= nice <= MAX_NICE:
            raise InvalidArgument(f"nice {nice} is out of bounds; use {MIN_NICE} (most favoured) to {MAX_NICE}")
        self.nice = nice
        self.weight = NICE_STEP**-nice

    @property
    def live(self) -> bool:
        return self.phase in (Phase.ALIVE, Phase.STOPPED)

    def over_tokens(self, more: int) -> QuotaExceeded | None:
        """The error to report if `more` tokens would pass a limit of the process or of one above it."""
        for process in self.lineage():
            limit, used = process.limits.tokens, process.usage.tree_tokens
            if limit is not None and used + more > limit:
                return QuotaExceeded(
                    f"pid {process.pid} may use {limit} tokens, has used {used}, and {more} more are wanted; raise its limit"
                )
        return None

    def tokens_left(self, most: int) -> int:
        """How many more tokens, up to `most`, pass no limit of the process or of one above it."""
        for process in self.lineage():
            if process.limits.tokens is not None:
                most = min(most, process.limits.tokens - process.usage.tree_tokens)
        return max(most, 0)

    def over_pages(self, more: int) -> QuotaExceeded | None:
        """The same for entries of page tables."""
        for process in self.lineage():
            limit, used = process.limits.pages, process.usage.tree_pages
            if limit is not None and used + more > limit:
                return QuotaExceeded(
                    f"pid {process.pid} may map {limit} pages, maps {used}, and {more} more are wanted; close a context or raise its limit"
                )
        return None

    def over_cost(self, more: float) -> QuotaExceeded | None:
        """The same for money."""
        for process in self.lineage():
            limit, used = process.limits.cost, process.usage.tree_cost
            if limit is not None and used + more > limit:
                return QuotaExceeded(
                    f"pid {process.pid} may spend {limit:g}, has spent {used:g}, and at least {more:g} more is wanted; raise its limit"
                )
        return None

    def cost_left(self) -> float | None:
        """How much money passes no limit of the process or of one above it; None if there is no limit."""
        left = [p.limits.cost - p.usage.tree_cost for p in self.lineage() if p.limits.cost is not None]
        return max(0.0, min(left)) if left else None

    def charge_cost(self, cost: float) -> None:
        if cost:
            for process in self.lineage():
                process.usage.tree_cost += cost

    def over_children(self) -> QuotaExceeded | None:
        """The same for one descendant more."""
        for process in self.lineage():
            limit, used = process.limits.children, process.usage.tree_children
            if limit is not None and used + 1 > limit:
                return QuotaExceeded(f"pid {process.pid} may have {limit} descendants and has {used}; wait for one or raise its limit")
        return None

    def over_tools(self) -> QuotaExceeded | None:
        """The same for one call more of a tool."""
        for process in self.lineage():
            limits, usage = process.limits, process.usage
            if limits.tool_calls is not None and usage.tree_tool_calls + 1 > limits.tool_calls:
                return QuotaExceeded(f"pid {process.pid} may call tools {limits.tool_calls} times, and has; raise its limit")
            if limits.tool_seconds is not None and usage.tree_tool_seconds >= limits.tool_seconds:
                return QuotaExceeded(f"pid {process.pid} may wait {limits.tool_seconds:g} s for tools, and has; raise its limit")
        return None

    def tool_seconds_left(self, most: float) -> float:
        """How long a call of a tool may take, up to `most`. Each of several at once may take all that was left when it began."""
        for process in self.lineage():
            if process.limits.tool_seconds is not None:
                most = min(most, process.limits.tool_seconds - process.usage.tree_tool_seconds)
        return max(most, 0.0)

    def charge_tool(self, calls: int, seconds: float) -> None:
        for process in self.lineage():
            process.usage.tree_tool_calls += calls
            process.usage.tree_tool_seconds += seconds

    def charge_tokens(self, tokens: int) -> None:
        for process in self.lineage():
            process.usage.tree_tokens += tokens

    def lineage(self) -> Iterator[Process]:
        """The process, who spawned it, and so on up to init: those whose limits bind it, dead ones included."""
        process: Process | None = self
        while process is not None:
            yield process
            process = process.sponsor

    @property
    def root(self) -> Process:
        """The one below init that it descends from, dead or alive: of what a client has spawned, that client. Init's is init."""
        process = self
        while process.sponsor is not None and process.sponsor.sponsor is not None:
            process = process.sponsor
        return process

    def wall_deadline(self) -> float | None:
        """When the wall time of the process, or of one above it, is over."""
        ends = [p.started + p.limits.wall_seconds for p in self.lineage() if p.limits.wall_seconds is not None]
        return min(ends) if ends else None

    def subtree(self) -> list[Process]:
        """The process and everything below it, parents first."""
        found = [self]
        for process in found:
            found.extend(process.children.values())
        return found
