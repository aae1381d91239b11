"""The toolbox: which tools are offered, by whom, and the calls of them under way.

    tool_call -> find -> ask -> the offer's queue --tool_next--> who offers it --tool_result--> answer -> tool_call
                          the caller gave up, died, or its deadline passed --> drop -> the offer's list of cancelled calls

An offer is private, for its process and those spawned below it, or public. A name means the nearest private offer up the line of
those who spawned the caller, else the public one: so nobody can put a tool in the place of another for a stranger. An offer goes
with its process, and every call of it ends. Invariant: a call under way is in one offer's `calls` until it is answered or dropped.
Belongs to the kernel's thread. Checks no capability and knows no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches

from llmos.kernel.errno import AlreadyExists, BadHandle, NotFound, TryAgain
from llmos.kernel.process import Process

from . import param
from .channel import Channel
from .schema import Schema


@dataclass(frozen=True, slots=True, eq=False)
class Tool:
    """One tool that is offered."""

    name: str
    description: str
    schema: Schema
    seconds: float
    offer: Offer = field(repr=False)
    needs: tuple[str, ...] = ()
    """Capabilities, besides tool:NAME."""


@dataclass(slots=True, eq=False)
class Pending:
    """A call of a tool that waits for its answer."""

    number: int
    tool: Tool
    pid: int
    arguments: str
    most: int
    deadline: float
    fetched: bool = False
    answer: tuple[str, bool, int] | None = None
    """Text, whether it is an error, bytes missing."""

    @property
    def channel(self) -> tuple[str, int]:
        return ("tool", self.number)


@dataclass(slots=True, eq=False)
class Offer:
    """Tools of one process, and their calls."""

    number: int
    pid: int
    public: bool
    tools: dict[str, Tool] = field(default_factory=dict)
    queue: deque[Pending] = field(default_factory=deque)
    calls: dict[int, Pending] = field(default_factory=dict)
    """Under way, those in the queue included."""
    cancelled: list[int] = field(default_factory=list)
    issued: int = 0
    """The highest number of a call that it was given."""

    @property
    def channel(self) -> tuple[str, int]:
        return ("offer", self.number)


class Toolbox:
    """See the module."""

    def __init__(self, wake: Callable[[Channel], None]) -> None:
        self._wake = wake
        self.offers: dict[int, Offer] = {}
        self._of: dict[int, list[Offer]] = {}
        """pid -> its offers."""
        self._public: dict[str, Tool] = {}
        self._last = 0

    # --- offers

    def offer(self, pid: int, public: bool) -> Offer:
        """A new offer without tools. Raises TryAgain."""
        own = self._of.setdefault(pid, [])
        if len(own) >= param.MAX_OFFERS:
            raise TryAgain(f"pid {pid} has {len(own)} offers of tools, the most there may be; withdraw one, or offer several tools at once")
        self._last += 1
        offer = Offer(self._last, pid, public)
        self.offers[offer.number] = offer
        own.append(offer)
        return offer

    def own(self, pid: int, number: int) -> Offer:
        """An offer of a process. Raises BadHandle."""
        offer = self.offers.get(number)
        if offer is None or offer.pid != pid:
            raise BadHandle(f"pid {pid} has no offer {number}; make one with tool_offer")
        return offer

    def fill(self, offer: Offer, tools: dict[str, Tool]) -> None:
        """Give an offer these tools in place of those it has. Raises AlreadyExists for a name that is taken, and changes nothing."""
        for name in tools:
            if offer.public:
                taken = self._public.get(name)
            else:
                taken = next((each.tools[name] for each in self._of.get(offer.pid, ()) if not each.public and name in each.tools), None)
            if taken is not None and taken.offer is not offer:
                whose = f"pid {taken.offer.pid}"
                raise AlreadyExists(f"a tool {name!r} is offered already by {whose}; give this one another name, or withdraw that offer")
        if offer.public:
            for name in offer.tools:
                del self._public[name]
            self._public |= tools
        offer.tools = tools

    def withdraw(self, offer: Offer, why: str) -> None:
        """The offer is no more: its calls end with an error that says why."""
        self.fill(offer, {})
        del self.offers[offer.number]
        own = self._of[offer.pid]
        own.remove(offer)
        if not own:
            del self._of[offer.pid]
        for pending in list(offer.calls.values()):
            self._end(pending, (f"the call of {pending.tool.name} was lost: {why}", True, 0))
        offer.queue.clear()
        self._wake(offer.channel)

    def forget(self, pid: int) -> None:
        """The process is gone, and its offers with it."""
        for offer in list(self._of.get(pid, ())):
            self.withdraw(offer, f"pid {pid}, which offered it, has ended")

    # --- names

    def visible(self, process: Process) -> dict[str, Tool]:
        """Every tool that a name of the process can mean, by name."""
        found = dict(self._public)
        for above in reversed(list(process.lineage())):
            for offer in self._of.get(above.pid, ()):
                if not offer.public:
                    found |= offer.tools
        return dict(sorted(found.items()))

    def _candidates(self, process: Process) -> Iterator[Offer]:
        for above in process.lineage():
            yield from (offer for offer in self._of.get(above.pid, ()) if not offer.public)

    def find(self, process: Process, name: str) -> Tool:
        """What a name means to a process. Raises NotFound."""
        for offer in self._candidates(process):
            if name in offer.tools:
                return offer.tools[name]
        if name in self._public:
            return self._public[name]
        near = get_close_matches(name, self.visible(process), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "llmos tools lists those there are; who offers it may have gone"
        raise NotFound(f"there is no tool {name!r}; {hint}")

    # --- calls

    def ask(self, tool: Tool, pid: int, arguments: str, most: int, deadline: float) -> Pending:
        """Queue a call for who offers the tool. Raises TryAgain, and NotFound if the offer has gone meanwhile."""
        offer = tool.offer
        if self.offers.get(offer.number) is not offer:
            raise NotFound(f"the tool {tool.name!r} is offered no more: pid {offer.pid} has withdrawn it or ended")
        if len(offer.calls) >= param.MAX_TOOL_CALLS:
            raise TryAgain(f"{len(offer.calls)} calls of the tools of pid {offer.pid} are under way already; wait for some of them")
        self._last += 1
        pending = Pending(self._last, tool, pid, arguments, most, deadline)
        offer.calls[pending.number] = pending
        offer.queue.append(pending)
        self._wake(offer.channel)
        return pending

    def fetch(self, offer: Offer, most: int) -> tuple[list[Pending], list[int]]:
        """What is new for who offers it: calls to serve, and calls that he need serve no more."""
        taken: list[Pending] = []
        size = 0
        while offer.queue and len(taken) < most and size <= param.MAX_TEXT:
            pending = offer.queue.popleft()
            pending.fetched = True
            offer.issued = pending.number
            taken.append(pending)
            size += len(pending.arguments)
        cancelled, offer.cancelled = offer.cancelled, []
        return taken, cancelled

    def answer(self, offer: Offer, number: int, text: str, is_error: bool, missing: int) -> None:
        """A call is answered. One that nobody waits for any more is forgotten. Raises BadHandle for one that was never given out."""
        pending = offer.calls.get(number)
        if pending is not None and pending.fetched:
            self._end(pending, (text, is_error, missing))
        elif pending is not None or not 0 < number <= offer.issued:
            raise BadHandle(f"offer {offer.number} was given no call {number}; answer those that tool_next gives")

    def _end(self, pending: Pending, answer: tuple[str, bool, int]) -> None:
        pending.answer = answer
        del pending.tool.offer.calls[pending.number]
        self._wake(pending.channel)

    def drop(self, pending: Pending) -> None:
        """Nobody waits for the answer any more."""
        offer = pending.tool.offer
        if offer.calls.pop(pending.number, None) is None:
            return
        if pending.fetched:
            offer.cancelled.append(pending.number)
            self._wake(offer.channel)
        else:
            offer.queue.remove(pending)
