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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import chain, islice

from llmos.kernel.errno import AlreadyExists, BadHandle, NotFound, TryAgain
from llmos.kernel.process import Process

from . import param
from .channel import Channel
from .schema import Schema

_COMPARED = 100
"""Names that one which is not there is compared with."""
_SHORT = 40
"""Characters of such names."""


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
        own = self._of[offer.pid]
        if (count := sum(len(each.tools) for each in own if each is not offer) + len(tools)) > param.MAX_OWN_TOOLS:
            raise TryAgain(f"pid {offer.pid} would offer {count} tools; {param.MAX_OWN_TOOLS} is the most of one process: withdraw some")
        if offer.public:
            self._public = {name: tool for name, tool in self._public.items() if tool.offer is not offer} | tools
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

    def visible(self, process: Process) -> list[Mapping[str, Tool]]:
        """Every tool that a name of the process can mean: what is in a mapping stands in the place of what follows. None ever changes."""
        return [*(offer.tools for offer in self._candidates(process)), self._public]

    def _candidates(self, process: Process) -> Iterator[Offer]:
        for above in process.lineage():
            yield from (offer for offer in self._of.get(above.pid, ()) if not offer.public)

    def meant(self, process: Process, name: str) -> Tool | None:
        """What a name means to a process."""
        return next((tools[name] for tools in self.visible(process) if name in tools), None)

    def find(self, process: Process, name: str) -> Tool:
        """The same. Raises NotFound."""
        if (tool := self.meant(process, name)) is not None:
            return tool
        near = get_close_matches(name, self._short_names(process), n=1) if len(name) <= _SHORT else []
        hint = f"did you mean {near[0]!r}?" if near else "llmos tools lists those there are; who offers it may have gone"
        raise NotFound(f"there is no tool {name!r}; {hint}")

    def _short_names(self, process: Process) -> list[str]:
        """Some that a misspelt one may be meant for: the time to compare them is that of this thread."""
        return [name for name in islice(chain(*self.visible(process)), _COMPARED) if len(name) <= _SHORT]

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
