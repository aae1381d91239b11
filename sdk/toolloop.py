"""The loop of an agent with tools: generate, make the calls that the reply asks for, add what they gave, until it asks for none.

    generate --calls_in--> call_tool, all at once --results--> generate ... at most so many rounds, and then once more without

Whatever is wrong with a call is told to the model: a tool that is not there, arguments that do not fit, a tool that failed. What is
wrong with the process is not: a limit that is passed, a signal, the end of the system are raised.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from llmos.syscalls.abi import BadFormat, InvalidArgument, NotFound, NotPermitted, Reply, ToolInfo, TooLong, ToolResult, TryAgain

from .toolcalls import Screen, Wanted, calls_in, held_to
from .unwrapped import unwrapped

if TYPE_CHECKING:
    from .context import Context

ROUNDS = 8
"""Replies that may ask for tools, of one answer."""
TOLD = (BadFormat, InvalidArgument, NotFound, NotPermitted, TooLong, TryAgain)
"""Faults of a call that its model may do better about."""
ENOUGH = "No more calls can be made. Answer now, in plain words."


class Caller(Protocol):
    """Who calls tools by name."""

    async def call_tool(self, name: str, arguments: str, /) -> ToolResult: ...


async def results_of(caller: Caller, calls: Sequence[Wanted]) -> list[dict[str, str]]:
    """Make calls, all at once, and give what came of them as messages, in the order of the calls."""
    said = [""] * len(calls)

    async def one(number: int, wanted: Wanted) -> None:
        said[number] = await _result(caller, wanted)

    with unwrapped():
        async with anyio.create_task_group() as tasks:
            for number, wanted in enumerate(calls):
                tasks.start_soon(one, number, wanted)
    return [{"role": "user", "content": "\n".join(said)}]


async def _result(caller: Caller, wanted: Wanted) -> str:
    if wanted.wrong:
        return response(wanted.name, wanted.wrong, is_error=True)
    try:
        result = await caller.call_tool(wanted.name, wanted.arguments)
    except TOLD as fault:
        return response(wanted.name, str(fault.args[0]), is_error=True)
    return response(wanted.name, result.text, is_error=result.is_error)


def response(name: str, text: str, *, is_error: bool) -> str:
    """What a tool said, in tags that it cannot close itself."""
    about = json.dumps({"name": name, "error": True} if is_error else {"name": name})
    inner = text.replace("</tool_response", "<\\/tool_response").replace("<tool_response", "<\\tool_response")
    return f"<tool_response>\n{about}\n{inner}\n</tool_response>"


async def answer(
    caller: Caller,
    context: Context,
    tools: Iterable[ToolInfo],
    *,
    rounds: int = ROUNDS,
    write: Callable[[str], Awaitable[None]] | None = None,
    **arguments: Any,
) -> Reply:
    """Generate with these arguments until a reply asks for no tool, and give that reply. `write` is given the text as it comes."""
    offered = list(tools)
    names = {tool.name for tool in offered}
    if not any(arguments.get(form) is not None for form in ("schema", "regex", "choice", "tools")):
        arguments |= held_to(offered)
    kept = {name: value for name, value in arguments.items() if name not in ("user", "messages", "text", "tokens")}
    for number in range(rounds + 1):
        generation = context.generate(**arguments)
        screen = Screen(names)
        async for piece in _shown(generation, screen):
            if write is not None:
                await write(piece)
        reply = await generation
        calls = calls_in(reply.text, names)
        if not calls or number == rounds or reply.reason not in ("stop", "length"):
            break
        messages = await results_of(caller, calls)
        if number == rounds - 1:
            messages[-1]["content"] += f"\n{ENOUGH}"
        arguments = {**kept, "messages": messages}
    return reply


async def _shown(generation: AsyncIterator[str] | Any, screen: Screen) -> AsyncIterator[str]:
    async for piece in generation:
        if shown := screen.push(piece):
            yield shown
    if rest := screen.rest():
        yield rest
