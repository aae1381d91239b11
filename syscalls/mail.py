"""Handlers of the mail family: whole messages between processes, one inbox for each, with back-pressure."""

from __future__ import annotations

from llmos.kernel.errno import TryAgain

from . import abi
from .call import Call
from .clock import sleep_until
from .core import Core


def _deadline(core: Core, timeout: float | None) -> float | None:
    return None if timeout is None else core.clock() + timeout


async def send(core: Core, call: Call, args: abi.Send) -> abi.Done:
    """Put a message into the mailbox of a process of one's own tree, sleeping while that has no room. Others take ipc:send.

    With a time-out of 0 a box without room is TryAgain, with another TimedOut.
    """
    core.kernel.may_send(call.pid, args.pid)
    deadline = _deadline(core, args.timeout)
    while True:
        try:
            core.kernel.send(core.clock(), call.pid, args.pid, args.data)
        except TryAgain:
            if args.timeout == 0:
                raise
            await sleep_until(core, ("room", args.pid), deadline, f"the mailbox of pid {args.pid} had no room")
        else:
            return abi.Done()


async def receive(core: Core, call: Call, args: abi.Receive) -> abi.Mail:
    """Take the oldest message out of one's mailbox, sleeping while there is none.

    With a time-out of 0 an empty box is TryAgain, with another TimedOut.
    """
    deadline = _deadline(core, args.timeout)
    while True:
        try:
            mail = core.kernel.receive(core.clock(), call.pid)
        except TryAgain:
            if args.timeout == 0:
                raise
            await sleep_until(core, ("mail", call.pid), deadline, "no mail came")
        else:
            return abi.Mail(mail.sender, mail.data, mail.sent - core.booted)
