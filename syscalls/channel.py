"""Wait channels: how a handler sleeps, and who wakes it. xv6's sleep and wakeup.

A handler is a coroutine that the trap drives by hand. `await sleep(channel)` gives the channel to the trap, which lists the
call there; `wake(channel)` takes every call off the list. A wakeup says "look again", never "it is so": handlers sleep in a
loop that checks its condition,

    while (record := kernel.reap(now, pid)) is None:
        await sleep(("child", pid))

and since everything happens on one thread, with no await between the check and the sleep, no wakeup can fall between the
two. That is what xv6 needs its lock for. Each call is on one channel at most. Knows no clock, thread or event loop.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

if TYPE_CHECKING:
    from .call import Call

Channel: TypeAlias = tuple[Any, ...]
"""("burst", 7), ("pipe", 3), ("child", 2), ("model", "smollm2"), ..."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Offload:
    """Work that would hold up the kernel's thread; another thread does it while the call sleeps."""

    work: Callable[[], Any]
    slow: bool = False
    """It may take seconds: it waits for others of its kind only, and they for it."""


@types.coroutine
def sleep(channel: Channel) -> Generator[Channel, None, None]:
    """Sleep until the channel is woken. Raises Interrupted, QuotaExceeded or Cancelled when the call must end instead."""
    yield channel


@types.coroutine
def _offload(work: Callable[[], Any], slow: bool) -> Generator[Offload, Any, Any]:
    return (yield Offload(work, slow))


async def offload(work: Callable[[], T], *, slow: bool = False) -> T:
    """Run `work` on another thread and sleep until it is done; its Fault is raised here."""
    return cast(T, await _offload(work, slow))


@dataclass(slots=True)
class Channels:
    """Which calls sleep where. Invariant: a call listed under a channel has it as its `channel`."""

    waiting: dict[Channel, dict[Call, None]] = field(default_factory=dict)

    def add(self, channel: Channel, call: Call) -> None:
        call.channel = channel
        self.waiting.setdefault(channel, {})[call] = None

    def remove(self, call: Call) -> None:
        """Take a call off its channel, wherever it sleeps."""
        channel, call.channel = call.channel, None
        if channel is None:
            return
        calls = self.waiting.get(channel)
        if calls is not None:
            calls.pop(call, None)
            if not calls:
                del self.waiting[channel]

    def wake(self, channel: Channel) -> list[Call]:
        """Every call that slept there, in the order in which they fell asleep; none is listed any more."""
        calls = list(self.waiting.pop(channel, ()))
        for call in calls:
            call.channel = None
        return calls
