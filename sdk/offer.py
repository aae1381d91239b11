"""Offers: tools that a program has, for others to call; and the calls that it makes of theirs.

    async with system.offer(search, add):        tools of this program, as long as the block runs
        result = await me.call_tool("search", words="tabs")

    tool_next ~~> a task for each call --run--> tool_result             cancelled by who called, or the deadline: the task is cancelled

Calls are served side by side on the program's own loop. The block ends with the fault that the offer ends with, if that comes first:
a TERM for its process, the end of the connection.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from llmos.syscalls.abi import (
    Fault,
    InvalidArgument,
    NotFound,
    OfferHandle,
    Reply,
    ToolInfo,
    ToolList,
    ToolRequest,
    ToolRequests,
    ToolResult,
    cut,
)

from . import toolloop
from .arguments import listed
from .port import Port, ignore
from .tool import Asked, Said, Tool, failed
from .toolloop import ROUNDS

if TYPE_CHECKING:
    from .context import Context

TOOLS_SECONDS = 10.0
"""How long a tool that is not offered yet is waited for."""
LOOK_SECONDS = 0.05


class Offer:
    """Tools of one process that are offered."""

    def __init__(self, port: Port, pid: int, number: int, tools: Mapping[str, Tool], public: bool) -> None:
        self._port, self.pid, self.number, self._tools, self._public = port, pid, number, dict(tools), public
        self._scopes: dict[int, anyio.CancelScope] = {}
        self.fault: Fault | None = None
        """What it ended with."""

    @property
    def names(self) -> list[str]:
        return sorted(self._tools)

    async def replace(self, *tools: Tool | Callable[..., Any]) -> None:
        """Offer these instead. Calls under way go on."""
        found = tools_of(tools)
        await self._port.call(
            self.pid, "tool_offer", tools=[_spec(tool) for tool in found.values()], offer=self.number, public=self._public
        )
        self._tools = found

    async def serve(self, body: anyio.CancelScope) -> None:
        """Answer calls until the offer ends. Then `body` is cancelled."""
        async with anyio.create_task_group() as tasks:
            while self.fault is None:
                try:
                    news: ToolRequests = await self._port.call(self.pid, "tool_next", offer=self.number)
                except Fault as fault:
                    self.fault = fault
                    break
                self._take(news, tasks)
            body.cancel()

    def _take(self, news: ToolRequests, tasks: TaskGroup) -> None:
        for request in news.requests:
            scope = self._scopes[request.call] = anyio.CancelScope()
            tasks.start_soon(self._answer, request, scope)
        for number in news.cancelled:
            if number in self._scopes:
                self._scopes[number].cancel()

    async def _answer(self, request: ToolRequest, scope: anyio.CancelScope) -> None:
        said: Said | None = None
        try:
            with scope:
                said = await self._run(request)
        finally:
            del self._scopes[request.call]
        if said is None:
            return
        text, more = cut(said.text, request.most)
        arguments = {"text": _sendable(text), "is_error": said.is_error, "missing": said.missing + more}
        try:
            await self._port.call(self.pid, "tool_result", offer=self.number, call=request.call, **arguments)
        except Fault:  # the offer is over, as tool_next is about to tell, or has told
            pass

    async def _run(self, request: ToolRequest) -> Said:
        tool = self._tools.get(request.name)
        if tool is None:
            return Said(f"{request.name} is offered no more", True)
        try:
            return await tool.run(Asked(request.arguments, request.most, request.seconds))
        except Exception as error:  # noqa: BLE001 - a tool that fails is an error of that call, and of nobody else
            return failed(error)


def _sendable(text: str) -> str:
    """Text without half surrogate pairs, which are no Unicode."""
    return text.encode(errors="replace").decode()


def tools_of(given: tuple[Tool | Callable[..., Any], ...]) -> dict[str, Tool]:
    """Tools by name; functions become tools. Raises InvalidArgument."""
    found: dict[str, Tool] = {}
    for each in given:
        if not isinstance(each, Tool) and not callable(each):
            raise InvalidArgument(f"a tool is a function or a Tool, not a {type(each).__name__}")
        tool = each if isinstance(each, Tool) else Tool.of(each)
        if tool.name in found:
            raise InvalidArgument(f"two tools are called {tool.name!r}: give one another name with Tool.of(function, name=...)")
        found[tool.name] = tool
    return found


def _spec(tool: Tool) -> dict[str, Any]:
    try:
        schema = json.dumps(tool.schema, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the schema of {tool.name} is no JSON: {error}") from None
    return {
        "name": tool.name,
        "description": tool.description,
        "schema": schema,
        "seconds": float(tool.seconds),
        "needs": listed(tool.needs, "needs"),
    }


@asynccontextmanager
async def _offered(port: Port, pid: int, tools: Mapping[str, Tool], public: bool) -> AsyncIterator[Offer]:
    withdraw = partial(_withdraw, port, pid)
    specs = [_spec(tool) for tool in tools.values()]
    made: OfferHandle = await port.claim(pid, "tool_offer", {"tools": specs, "public": public}, withdraw)
    offer = Offer(port, pid, made.offer, tools, public)
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(offer.serve, tasks.cancel_scope)
            try:
                yield offer
            except BaseException as raised:  # noqa: BLE001 - raised again below, outside the task group, as it is
                failure = raised
            tasks.cancel_scope.cancel()
    finally:
        withdraw(made)
    if offer.fault is not None and (failure is None or isinstance(failure, anyio.get_cancelled_exc_class())):
        raise offer.fault
    if failure is not None:
        raise failure


def _withdraw(port: Port, pid: int, made: OfferHandle) -> None:
    """In the order of the calls: what its process does next comes after it."""
    _, slot = port.request(pid, "tool_withdraw", {"offer": made.offer})
    slot.future.add_done_callback(ignore)


class ToolCalls:
    """What every process can do with tools."""

    _port: Port
    pid: int

    def offer(self, *tools: Tool | Callable[..., Any], public: bool = False) -> AbstractAsyncContextManager[Offer]:
        """Offer functions, or Tools, to this process and those below it, or with `public` to all, as long as the block runs.

        Raises AlreadyExists for a name that is taken, InvalidArgument for a function that cannot be one, NotPermitted.
        """
        return _offered(self._port, self.pid, tools_of(tools), public)

    async def tools(self) -> list[ToolInfo]:
        """The tools that this process may call, by name."""
        found: list[ToolInfo] = []
        more = True
        while more:
            page: ToolList = await self._port.call(self.pid, "tool_list", after=found[-1].name if found else "")
            found += page.tools
            more = page.more
        return found

    async def wait_for_tools(self, *names: str, seconds: float | None = None) -> list[ToolInfo]:
        """These tools, once all of them are offered to this process: the servers of a tools.toml may still be starting.

        Raises NotFound if one does not come within so many seconds, TOOLS_SECONDS if none are named.
        """
        end = anyio.current_time() + (TOOLS_SECONDS if seconds is None else seconds)
        while True:
            there = {tool.name: tool for tool in await self.tools()}
            missing = [name for name in names if name not in there]
            if not missing:
                return [there[name] for name in dict.fromkeys(names)]
            if anyio.current_time() >= end:
                near = get_close_matches(missing[0], there, n=1)
                known = f"there are {', '.join(there) or 'none'}; llmos tools check tries those of tools.toml"
                raise NotFound(
                    f"nobody offers the tool {missing[0]!r} to pid {self.pid}; " + (f"did you mean {near[0]!r}?" if near else known)
                )
            await anyio.sleep(LOOK_SECONDS)

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | str | None = None,
        /,
        *,
        seconds: float | None = None,
        most: int | None = None,
        **named: Any,
    ) -> ToolResult:
        """Call a tool and wait for what it says, for so many seconds at most, and with so many bytes of text at most.

        Arguments are given by name, or at once as a mapping or JSON text. What fails in the tool, or takes too long, is a result with
        `is_error`. Raises NotFound, NotPermitted, InvalidArgument if the arguments do not fit its schema, QuotaExceeded.
        """
        if arguments is not None and named:
            raise InvalidArgument("give the arguments by name, or all at once, not both")
        text = arguments if isinstance(arguments, str) else _json(named if arguments is None else dict(arguments))
        given: dict[str, Any] = {"name": name, "arguments": text, "seconds": None if seconds is None else float(seconds)}
        result: ToolResult = await self._port.call(self.pid, "tool_call", **given, **({} if most is None else {"most": most}))
        return result

    async def answer(
        self,
        context: Context,
        *,
        tools: Iterable[str] | None = None,
        rounds: int = ROUNDS,
        write: Callable[[str], Awaitable[None]] | None = None,
        **arguments: Any,
    ) -> Reply:
        """Generate on a context, call the tools that the reply asks for, and go on until one asks for none: that is the answer.

        `tools` are names, by default of all that this process may call; the context should begin with llmos.tools_prompt of them.
        `write` is given the text of the answer as it comes; all else are arguments of Context.generate. What goes wrong in a call is
        told to the model. Raises QuotaExceeded, and what generate does.
        """
        there = await self.tools()
        wanted = None if tools is None else set(listed(tools, "tools"))
        chosen = [tool for tool in there if wanted is None or tool.name in wanted]
        return await toolloop.answer(self, context, chosen, rounds=rounds, write=write, **arguments)


def _json(arguments: dict[str, Any]) -> str:
    try:
        return json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the arguments of a tool are what JSON can say: {error}") from None
