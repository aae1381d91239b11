"""What the kernel tells of itself: frozen snapshots, safe to hand to anybody."""

from __future__ import annotations

from dataclasses import dataclass

from .account import Activity
from .burst import State
from .context import Context
from .memory import NONE
from .process import Class, Phase, Process


@dataclass(frozen=True, slots=True)
class ProcessView:
    """A line of `ps`."""

    pid: int
    parent: int
    user: str
    name: str
    state: str
    """running, ready, paging, blocked, stopped, zombie or sleeping."""
    waiting_for: str
    """What a blocked process waits for (tool, pipe, child, ...), else empty."""
    cls: Class
    nice: int
    tokens: int
    """Appended and generated, of this process and below."""
    device_pages: int
    """Entries of its page tables whose page has a device frame."""
    host_pages: int
    """Entries whose page lies in the host tier only."""
    wall: float
    """Seconds from spawn until now, or until its exit."""
    started: float
    status: int | None
    """Exit status of a zombie."""
    cost: float = 0.0
    """Money spent, of this process and below."""
    own_tokens: int = 0
    """Of `tokens`, those of this process itself."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where the wall time of a process went: `seconds` add up to `wall`."""

    pid: int
    name: str
    wall: float
    seconds: dict[str, float]
    """Seconds per activity: prefill, decode, paging, queued, tool, blocked, own."""
    causes: dict[str, float]
    """Seconds of delay per cause, the longest first. Delays of several bursts at once are counted each."""
    prefill_tokens: int
    cached_tokens: int
    decode_tokens: int
    guessed_tokens: int
    """Guesses that steps have verified."""
    right_tokens: int
    """Of the decode tokens, those that had been guessed right: each saved a step."""
    bursts: int
    preemptions: int
    cost: float = 0.0
    """Money spent, of this process and below."""


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """What a parent learns from wait."""

    pid: int
    name: str
    status: int
    """0 if it went well, 128 + signal if it was killed."""
    reason: str
    tokens: int
    wall: float
    value: bytes = b""
    """What its program returned, packed, if it ran in a runner; empty for None."""


@dataclass(frozen=True, slots=True)
class DeviceStatistics:
    """Counters of one device since boot, and the state of its tiers."""

    device: str
    steps: int = 0
    failures: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    guessed_tokens: int = 0
    right_tokens: int = 0
    hit_tokens: int = 0
    """Tokens found in the prefix index instead of computed."""
    preemptions: int = 0
    resident: int = 0
    queued: int = 0
    """Entries of the queues; may count a burst twice."""
    device_total: int = 0
    device_free: int = 0
    device_cached: int = 0
    """Pages nobody names, kept for the next hit."""
    host_total: int = 0
    host_free: int = 0
    swapped_out: int = 0
    swapped_in: int = 0
    copied: int = 0
    """Pages copied because of a write to a shared one."""
    evicted: int = 0
    slots: int = 0
    """Of a device without pages: requests that it takes at once."""
    orders: int = 0
    """Requests it was given."""
    flying: int = 0
    """Those under way."""


@dataclass(frozen=True, slots=True)
class Statistics:
    processes: int
    contexts: int
    pipes: int
    devices: tuple[DeviceStatistics, ...]


_SHOWN = ((State.RUNNING, "running"), (State.PAGING, "paging"), (State.READY, "ready"), (State.WAITING, "ready"))


def state_of(process: Process, states: set[State]) -> tuple[str, str]:
    """What `ps` shows, and what the process waits for, from its phase, the states of its bursts and its calls."""
    if process.phase is Phase.ZOMBIE:
        return "zombie", ""
    if process.phase is Phase.STOPPED:
        return "stopped", ""
    for state, shown in _SHOWN:
        if state in states:
            return shown, ""
    if process.blocked_on:
        return "blocked", ", ".join(sorted(process.blocked_on))
    return "sleeping", ""


def view_process(process: Process, contexts: list[Context], now: float) -> ProcessView:
    pages = [page for context in contexts for page in context.pages]
    states = {context.burst.state for context in contexts if context.burst is not None}
    shown, waiting_for = state_of(process, states)
    return ProcessView(
        pid=process.pid,
        parent=process.parent.pid if process.parent else 0,
        user=process.user,
        name=process.name,
        state=shown,
        waiting_for=waiting_for,
        cls=process.cls,
        nice=process.nice,
        tokens=process.usage.tree_tokens,
        device_pages=sum(page.device != NONE for page in pages),
        host_pages=sum(page.device == NONE and page.host != NONE for page in pages),
        wall=(process.ended if process.phase is Phase.ZOMBIE else now) - process.started,
        started=process.started,
        status=process.status if process.phase is Phase.ZOMBIE else None,
        cost=process.usage.tree_cost,
        own_tokens=process.usage.own_tokens,
    )


def explain_process(process: Process, contexts: list[Context], now: float) -> Explanation:
    account, usage = process.account, process.usage
    end = process.ended if process.phase is Phase.ZOMBIE else now
    account.settle(end)
    causes = dict(account.causes)
    delays = [(c.burst.cause, c.burst.since) for c in contexts if c.burst is not None and c.burst.cause]
    delays += [(f"blocked: waits for {what}", since) for what, starts in process.blocked_on.items() for since in starts]
    for cause, since in delays:  # what is still going on counts up to now
        causes[cause] = causes.get(cause, 0.0) + end - since
    return Explanation(
        pid=process.pid,
        name=process.name,
        wall=end - process.started,
        seconds={activity.name.lower(): account.seconds[activity] for activity in Activity},
        causes=dict(sorted(causes.items(), key=lambda item: -item[1])),
        prefill_tokens=usage.prefill_tokens,
        cached_tokens=usage.cached_tokens,
        decode_tokens=usage.decode_tokens,
        guessed_tokens=usage.guessed_tokens,
        right_tokens=usage.right_tokens,
        bursts=usage.bursts,
        preemptions=usage.preemptions,
        cost=usage.tree_cost,
    )
