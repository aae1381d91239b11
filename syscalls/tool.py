"""Handlers of the tool family: who offers tools, who calls them, and the calls between the two.

    caller: tool_call --check--> queue ~~sleep~~> ToolResult          who offers: tool_offer, then for ever: tool_next ~~sleep~~> requests,
                                                                      and tool_result for each, in any order

The kernel runs no tool. A caller that gives up, dies or passes the deadline leaves its call to be cancelled by who offers the tool.
"""

from __future__ import annotations

from itertools import islice

from llmos.kernel.capability import ASK, Verdict, judge
from llmos.kernel.errno import BadHandle, Fault, Interrupted, InvalidArgument, NotPermitted, TooLong

from . import abi, param
from .call import Call
from .channel import offload, sleep
from .core import Core
from .cut import cut
from .permit import permit
from .schema import Schema
from .toolbox import Pending, Tool

_PAGE = 4 << 20
"""Characters of a page of tools, after which it ends."""


async def tool_list(core: Core, call: Call, args: abi.ToolListArguments) -> abi.ToolList:
    """List the tools that the caller may call, by name."""
    found: list[abi.ToolInfo] = []
    size = 0
    for tool in await held(core, call.pid, args.after, args.limit + 1):
        if len(found) >= args.limit or size > _PAGE:
            return abi.ToolList(found, more=True)
        lacks = tuple(each for each in tool.needs if not _holds(core.kernel.table.get(call.pid).capabilities, each))
        found.append(
            abi.ToolInfo(tool.name, tool.description, tool.schema.text, tool.seconds, tool.offer.public, tool.offer.pid, tool.needs, lacks)
        )
        size += len(tool.description) + len(tool.schema.text)
    return abi.ToolList(found, more=False)


async def held(core: Core, pid: int, after: str = "", most: int | None = None) -> list[Tool]:
    """The first tools that a process may call, by name, of those whose names come after this one."""
    process = core.kernel.table.get(pid)
    visible, capabilities = core.tools.visible(process), process.capabilities

    def find() -> list[Tool]:
        every = {name: tool for tools in reversed(visible) for name, tool in tools.items() if name > after}
        return list(islice((every[name] for name in sorted(every) if may_call(capabilities, every[name])), most))

    return find() if sum(map(len, visible)) <= param.INLINE_TOOLS else await offload(find)


def may_call(capabilities: frozenset[str], tool: Tool) -> bool:
    """Whether whoever holds these may call the tool, if only by asking."""
    return _holds(capabilities, f"tool:{tool.name}")


def _holds(capabilities: frozenset[str], wanted: str) -> bool:
    return judge(capabilities, wanted) is not Verdict.DENIED


async def tool_call(core: Core, call: Call, args: abi.ToolCall) -> abi.ToolResult:
    """Call a tool and sleep until it has answered.

    What fails in the tool, or hangs, is a result that says so. A fault is what the caller could have known: a tool that is not there,
    arguments that do not fit, a capability that is missing, a limit that is passed.
    """
    pid, kernel = call.pid, core.kernel
    process = kernel.table.get(pid)
    shown = core.tools.meant(process, args.name)
    await permit(core, call, f"tool:{args.name}")
    for need in () if shown is None else shown.needs:
        await permit(core, call, need)
    tool = core.tools.find(process, args.name)
    if tool is not shown:  # whoever approved meant the one that was there
        raise NotPermitted(f"{args.name} is not the tool any more that it was when the call was made; call it again")
    if (over := process.over_tools()) is not None:
        raise over
    await offload(lambda: tool.schema.check(args.arguments))
    if (over := process.over_tools()) is not None:  # others of its calls may have left meanwhile
        raise over
    begun = core.clock()
    allowed = min(tool.seconds, tool.seconds if args.seconds is None else args.seconds)
    left = process.tool_seconds_left(allowed)
    pending = core.tools.ask(tool, pid, args.arguments, args.most, begun + left)
    process.charge_tool(1, 0.0)
    timer = kernel.set_timer(pending.deadline, pending.channel)
    try:
        while pending.answer is None and core.clock() < pending.deadline:
            await sleep(pending.channel)
    except Interrupted as fault:
        if not process.live or process.kill_at is not None:
            raise
        return abi.ToolResult(str(fault.args[0]), True, 0, core.clock() - begun)  # INT: the call is over, not the process
    finally:
        kernel.clear_timer(timer)
        seconds = max(0.0, core.clock() - begun)
        process.charge_tool(0, seconds)
        if pending.answer is None:
            core.tools.drop(pending)
    return _result(pending, seconds, allowed, left)


def _result(pending: Pending, seconds: float, allowed: float, left: float) -> abi.ToolResult:
    if pending.answer is None:
        why = "" if left >= allowed else ", all that its limit of tool_seconds left"
        return abi.ToolResult(f"{pending.tool.name} did not answer within {left:g} s{why}: the call was given up", True, 0, seconds)
    text, is_error, missing = pending.answer
    text, more = cut(text, pending.most)
    return abi.ToolResult(text, is_error, missing + more, seconds)


async def tool_offer(core: Core, call: Call, args: abi.ToolOffer) -> abi.OfferHandle:
    """Offer tools, to oneself and the processes below, or to all; or give an offer other tools. They go with the process.

    Calls of them come by tool_next.
    """
    if args.public:
        await permit(core, call, "tools:public")
    if sum(len(tool.description) + len(tool.schema_) for tool in args.tools) > param.MAX_OFFER:
        raise TooLong(f"the descriptions and schemas of an offer have {param.MAX_OFFER} characters at most; offer fewer tools at once")
    offer = None if args.offer is None else core.tools.own(call.pid, args.offer)
    if offer is not None and args.public != offer.public:
        raise InvalidArgument(f"offer {offer.number} is {'public' if offer.public else 'private'} and stays so; make another")
    made = offer if offer is not None else core.tools.offer(call.pid, args.public)
    tools = {
        spec.name: Tool(spec.name, spec.description, Schema(spec.name, spec.schema_), spec.seconds, made, tuple(spec.needs))
        for spec in args.tools
    }
    try:
        if (asking := next((each for spec in args.tools for each in spec.needs if each.startswith(ASK)), None)) is not None:
            raise InvalidArgument(f"needs: {asking}: whether somebody is asked is said of who calls, not of the tool; leave out {ASK!r}")
        if len(tools) < len(args.tools):
            raise InvalidArgument("two tools of an offer have the same name")
        core.tools.fill(made, tools)
    except Fault:
        if offer is None:
            core.tools.withdraw(made, "it was never made")
        raise
    return abi.OfferHandle(made.number)


async def tool_next(core: Core, call: Call, args: abi.ToolNext) -> abi.ToolRequests:
    """Sleep until there are calls of the tools of an offer, or calls to cancel, and take them. One caller at a time."""
    offer = core.tools.own(call.pid, args.offer)
    while not offer.queue and not offer.cancelled:
        await sleep(offer.channel)
        if core.tools.offers.get(offer.number) is not offer:
            raise BadHandle(f"offer {offer.number} was withdrawn")
    now = core.clock()
    taken, cancelled = core.tools.fetch(offer, args.most)
    requests = [
        abi.ToolRequest(each.number, each.tool.name, each.arguments, each.pid, each.most, max(0.0, each.deadline - now)) for each in taken
    ]
    return abi.ToolRequests(requests, cancelled)


def tool_result(core: Core, call: Call, args: abi.ToolAnswer) -> abi.Done:
    """Answer a call. It does nothing if the caller has given it up meanwhile."""
    core.tools.answer(core.tools.own(call.pid, args.offer), args.call, args.text, args.is_error, args.missing)
    return abi.Done()


def tool_withdraw(core: Core, call: Call, args: abi.OfOffer) -> abi.Done:
    """Offer these tools no more. Calls of them that are under way end with an error."""
    core.tools.withdraw(core.tools.own(call.pid, args.offer), f"pid {call.pid} offers it no more")
    return abi.Done()
