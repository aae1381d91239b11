"""Mail, time and approvals, as one process sees them: a part of System.

A message is received once: if the wait for it is cancelled after the kernel has handed it over, the next `receive` gives it.
"""

from __future__ import annotations

from typing import Any

from llmos.syscalls.abi import Approval, ApprovalList, Clock, Mail

from .arguments import encoded
from .port import Port


class Talk:
    """What a process says to others, and hears."""

    _port: Port
    pid: int

    def __init__(self) -> None:
        self._early: list[Mail] = []
        """Mail whose receiver had given up before it came."""

    async def _call(self, name: str, /, **arguments: Any) -> Any:
        return await self._port.call(self.pid, name, **arguments)

    async def send(self, pid: int, message: str | bytes, *, timeout: float | None = None) -> None:
        """Put a message into another process's mailbox, waiting while that is full: for ever, or so many seconds.

        Raises NotPermitted beyond one's own tree of processes (it takes ipc:send), TooLong, NoSuchProcess, and TimedOut, or TryAgain
        with a time-out of 0.
        """
        data = encoded(message, "a message")
        await self._call("send", pid=pid, data=data, timeout=timeout)

    async def receive(self, *, timeout: float | None = None) -> Mail:
        """The oldest message in one's mailbox, waiting while there is none. Raises TimedOut, or TryAgain with a time-out of 0."""
        if not self._early:
            mail: Mail = await self._port.claim(self.pid, "receive", {"timeout": timeout}, self._early.append)
            self._early.append(mail)  # behind what came while nobody waited
        return self._early.pop(0)

    async def sleep(self, seconds: float) -> None:
        """Do nothing for so long. A signal ends it early, with Interrupted."""
        await self._call("sleep", seconds=seconds)

    async def clock(self) -> Clock:
        """Seconds since boot, and of the day."""
        clock: Clock = await self._call("clock")
        return clock

    async def approvals(self, number: int | None = None) -> list[Approval]:
        """Calls that wait until somebody allows them, and that this process may answer; of one, its arguments in full."""
        found: ApprovalList = await self._call("approvals", id=number)
        return found.approvals

    async def next_approvals(self, after: int = 0) -> list[Approval]:
        """Wait for such calls with higher ids than `after`."""
        found: ApprovalList = await self._call("next_approval", after=after)
        return found.approvals

    async def allow(self, number: int, *, digest: str | None = None) -> None:
        """Let a call go on that waits for approval, with the arguments it has, this once. With `digest` only if it is what was shown.

        Raises NotFound if it has been answered, or is gone.
        """
        await self._call("answer", id=number, allow=True, digest=digest)

    async def deny(self, number: int, reason: str = "") -> None:
        """End a call that waits for approval with NotPermitted, which tells the reason."""
        await self._call("answer", id=number, allow=False, reason=reason)
