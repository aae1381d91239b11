"""Handlers of the time family, and how any handler waits no longer than it may."""

from __future__ import annotations

from llmos.kernel.errno import TimedOut

from . import abi
from .call import Call
from .channel import sleep
from .core import Core


async def sleep_until(core: Core, channel: tuple[str, int], deadline: float | None, what: str) -> None:
    """Sleep until the channel is woken. Raises TimedOut once the deadline has passed; `what` is what did not happen."""
    if deadline is None:
        await sleep(channel)
        return
    if core.clock() >= deadline:
        raise TimedOut(f"{what} in time; try again, or wait longer")
    timer = core.kernel.set_timer(deadline, channel)
    try:
        await sleep(channel)
    finally:
        core.kernel.clear_timer(timer)


async def sleep_for(core: Core, call: Call, args: abi.Sleep) -> abi.Done:
    """Do nothing for so many seconds. A signal ends it early, with Interrupted."""
    channel = ("timer", next(core.tickets))
    deadline = core.clock() + args.seconds
    while core.clock() < deadline:
        await sleep_until(core, channel, deadline, "")
    return abi.Done()


def clock(core: Core, call: Call, args: abi.Nothing) -> abi.Clock:
    """Tell the time: since boot, which never runs backwards, and of the day."""
    return abi.Clock(core.clock() - core.booted, core.wall())
