"""The gate: whether a call may have a capability; and those who answer at it.

    permit(core, call, wanted)   held: on it goes   not held: NotPermitted   held by asking: the call sleeps until somebody answers

The trap asks here for the capability of a call's row, and handlers for what they learn only as they go. What sleeps here is the call,
with its arguments checked and copied: when it wakes, the very same go on. An answer comes from a process that holds
`approve:` of what is wanted outright, and is neither the asker nor below it, so that nobody can approve of itself or raise somebody to do
it; approving cannot itself be held by asking.
"""

from __future__ import annotations

from llmos.kernel.capability import Verdict, judge
from llmos.kernel.errno import NotFound, NotPermitted
from llmos.kernel.process import Phase

from . import abi, param
from .approval import Pending
from .call import REFUSED, Call
from .channel import offload, sleep
from .clock import sleep_until
from .core import Core
from .digest import cut, digest, shown

_NEWS = ("approvals", 0)
"""Woken when there is something to answer."""


async def permit(core: Core, call: Call, wanted: str) -> None:
    """Go on if the process holds the capability, or somebody says so for this call. Raises NotPermitted, TryAgain, TimedOut.

    Once granted, it is for the rest of this call.
    """
    if call.permits.get(wanted, REFUSED) >= 0:
        return
    call.permits[wanted] = REFUSED  # until it is found to be otherwise
    if core.kernel.judge(call.pid, wanted) is Verdict.HELD:
        call.permits[wanted] = 0
        return
    process, arguments = core.kernel.table.get(call.pid), call.arguments
    core.approvals.demand_room(process)  # before it costs anything

    def told() -> tuple[str, tuple[str, int]]:
        return digest(call.pid, call.row.name, wanted, arguments), shown(arguments)

    which, text = told() if call.record.size <= param.INLINE_TEXT else await offload(told)
    pending = core.approvals.ask(call, process, wanted, which, text, core.clock())
    core.kernel.wake(_NEWS)
    try:
        while pending.allowed is None:
            await sleep_until(core, pending.channel, pending.deadline, f"nobody has approved of {wanted!r}")
        while process.phase is Phase.STOPPED:  # it was stopped while it waited: nothing happens before it goes on
            await sleep(("signal", call.pid))
    finally:
        core.approvals.drop(pending)
    call.permits[wanted] = pending.by if pending.allowed else -pending.by
    if not pending.allowed:
        why = f": {pending.reason}" if pending.reason else ""
        raise NotPermitted(f"pid {pending.by} has denied {wanted!r} to pid {call.pid}{why}; do without it")


def _may_answer(core: Core, pid: int, pending: Pending) -> bool:
    by = core.kernel.table.get(pid)
    held = judge(by.capabilities, f"approve:{pending.capability}") is Verdict.HELD
    return held and pending.process not in by.lineage()


def _told(core: Core, pending: Pending, most: int) -> abi.Approval:
    now, process = core.clock(), pending.process
    text, length = pending.shown
    return abi.Approval(
        pending.id, process.pid, process.name, process.user, pending.call.row.name, pending.capability, cut(text, most, length),
        pending.digest, now - pending.asked, pending.deadline - now,
    )  # fmt: skip


def approvals(core: Core, call: Call, args: abi.ListApprovals) -> abi.ApprovalList:
    """List the calls that wait for an approval and that one may answer, or tell of one with its arguments in full."""
    if args.id is not None:
        pending = core.approvals.find(args.id)
        if not _may_answer(core, call.pid, pending):
            raise _refused(call.pid, pending)
        return abi.ApprovalList([_told(core, pending, param.MAX_SHOWN)])
    mine = [each for each in core.approvals.waiting.values() if _may_answer(core, call.pid, each)]
    return abi.ApprovalList([_told(core, each, param.LISTED) for each in mine])


async def next_approval(core: Core, call: Call, args: abi.NextApproval) -> abi.ApprovalList:
    """Sleep until there are approvals to answer with higher ids than `after`, and list them."""
    while True:
        found = [each for each in core.approvals.waiting.values() if each.id > args.after and _may_answer(core, call.pid, each)]
        if found:
            return abi.ApprovalList([_told(core, each, param.LISTED) for each in found])
        await sleep(_NEWS)


def answer(core: Core, call: Call, args: abi.Answer) -> abi.Done:
    """Allow or deny a call that waits for approval: with exactly the arguments that were shown, and once.

    It takes approve: of what is wanted, held outright, by a process that is neither the one that asks nor below it.
    """
    pending = core.approvals.find(args.id)
    if not _may_answer(core, call.pid, pending):
        raise _refused(call.pid, pending)
    process = pending.process
    if not process.live or process.pending is not None:
        raise NotFound(f"approval {args.id} is of a call that is gone: pid {process.pid} has ended, or is to end")
    core.approvals.answer(pending, call.pid, args.allow, args.reason, args.digest)
    call.permits[f"approve:{pending.capability}"] = 0
    core.kernel.wake(pending.channel)
    return abi.Done()


def _refused(pid: int, pending: Pending) -> NotPermitted:
    takes = f"it takes approve:{pending.capability}, and never falls to pid {pending.process.pid} or to what that has spawned"
    return NotPermitted(f"pid {pid} may not answer approval {pending.id}: {takes}; answer it from llmsh")
