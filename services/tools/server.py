"""MCP servers: connected to, their tools offered, and connected to again when they have gone.

    connect -> list -> offer ----> calls, each a request           the server ends, or a call finds it gone -> withdraw -> back-off -+
      ^                                                                                                                             |
      +-----------------------------------------------------------------------------------------------------------------------------+

A server is a stranger: what it lists and answers is bounded and checked here, what it claims of its answers (an output schema) is not
believed and not computed with. A tool of it that nobody may call, since its name or schema cannot be taken, is left out and logged.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import mcp_types as types
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from llmos.sdk.system import System
from llmos.sdk.tool import Asked, Said, Tool
from llmos.syscalls.abi import Fault, NotSupported, cut, param

from .config import Server
from .http import client as http_client
from .stdio import stdio

log = logging.getLogger("llmos.tools")

FIRST_SECONDS = 0.5
"""Before the second attempt; then twice as long each time."""
LONGEST_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A connection that lasted so long has shown that the server works: the next wait is the first again."""
LIST_SECONDS = 1.0
"""From the news that the tools have changed until they are listed, whatever else is news meanwhile."""
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_PAGES = 1_000


class Gone(Exception):
    """There is no connection any more."""


@dataclass(slots=True)
class Connection:
    """One connection to a server."""

    name: str
    server: Server
    client: Client
    news: anyio.Event = field(default_factory=anyio.Event)
    """Set when the tools have changed, or the connection is lost."""
    lost: str = ""
    """Why it is lost."""

    def lose(self, why: str) -> None:
        self.lost = self.lost or why
        self.news.set()

    async def tools(self) -> list[Tool]:
        """What the server lists, as far as it can be taken."""
        found: dict[str, Tool] = {}
        left_out: list[str] = []
        size, cursor = 0, None
        for _ in range(_PAGES):
            page = await self.client.session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
            for each in page.tools:
                tool = self._tool(each)
                size += 0 if tool is None else len(tool.description) + len(json.dumps(tool.schema))
                if tool is None or size > param.MAX_OFFER or len(found) >= param.MAX_TOOLS:
                    left_out.append(str(each.name)[:64])
                else:
                    found[tool.name] = tool
            if not page.next_cursor or page.next_cursor == cursor or len(found) >= param.MAX_TOOLS:
                break
            cursor = page.next_cursor
        if left_out:
            shown = ", ".join(map(repr, left_out[:5]))
            log.warning(
                "MCP server %s: %d of its tools are left out (too many, too long, or a name that cannot be had): %s",
                self.name,
                len(left_out),
                shown,
            )
        return list(found.values())

    def _tool(self, listed: types.Tool) -> Tool | None:
        """A tool of it; None if it cannot be taken, or is not wanted."""
        name = f"{self.name}.{listed.name}"
        if self.server.tools is not None and listed.name not in self.server.tools:
            return None
        schema = listed.input_schema
        if not _NAME.fullmatch(name) or len(name) > param.MAX_TOOL_NAME or len(json.dumps(schema)) > param.MAX_TOOL_SCHEMA:
            return None
        words = (listed.description or "")[: param.MAX_TOOL_DESCRIPTION]
        needs = (f"net:{self.server.host}",) if self.server.host else ()
        return Tool(name, words, schema, partial(self.call, listed.name), self.server.seconds, needs)

    async def call(self, name: str, asked: Asked) -> Said:
        """One call. Cancelled, the server is told so."""
        request = types.CallToolRequest(params=types.CallToolRequestParams(name=name, arguments=json.loads(asked.arguments)))
        try:
            # Not `call_tool`, which checks the answer against the server's own schema, regular expressions and all, on this loop.
            result = await self.client.session.send_request(request, types.CallToolResult)
        except Exception as error:  # noqa: BLE001 - whatever breaks in a library at a stranger's answer is an error of that call
            why = self.lost or _one_line(error)
            if _is_gone(error):
                self.lose(why)
            return Said(f"the MCP server {self.name} did not answer: {why}", True)
        return _said(result, asked.most)


def _is_gone(error: BaseException) -> bool:
    """Whether the connection is of no more use, and not just this call."""
    code = getattr(getattr(error, "error", None), "code", None)
    return code == types.CONNECTION_CLOSED or isinstance(error, anyio.ClosedResourceError | anyio.BrokenResourceError | OSError)


def _one_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return cut(f"{type(error).__name__}: {' '.join(str(error).split())}", 300)[0]


def _said(result: types.CallToolResult, most: int) -> Said:
    """A server's answer as text: what is no text is named, not shown."""
    parts = [_part(block) for block in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    text, missing = cut("\n".join(parts), most)
    return Said(text, bool(result.is_error), missing)


def _part(block: Any) -> str:
    if isinstance(block, types.TextContent):
        return block.text
    if isinstance(block, types.ImageContent | types.AudioContent):
        kind = "image" if isinstance(block, types.ImageContent) else "audio"
        return f"[{kind}, {block.mime_type[:64]}, {len(block.data) * 3 // 4:,} bytes: not shown]"
    if isinstance(block, types.ResourceLink):
        return f"[resource: {str(block.uri)[:2000]}]"
    if isinstance(block, types.EmbeddedResource):
        inner = block.resource
        if isinstance(inner, types.TextResourceContents):
            return inner.text
        return f"[resource: {str(inner.uri)[:2000]}, {len(inner.blob) * 3 // 4:,} bytes: not shown]"
    return f"[{type(block).__name__}: not shown]"


@asynccontextmanager
async def connected(name: str, server: Server) -> AsyncIterator[Connection]:
    """Connect to a server. Raises Gone if that fails, or takes too long."""
    connection: Connection | None = None
    early: list[str] = []

    def lost(why: str) -> None:
        early.append(why)
        if connection is not None:
            connection.lose(why)

    async def heard(message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification) and connection is not None:
            connection.news.set()

    failure: BaseException | None = None
    with anyio.CancelScope(deadline=anyio.current_time() + server.start_seconds) as scope:
        try:
            async with _transport(name, server, lost) as streams, Client(_Open(streams), cache=None, message_handler=heard) as client:
                connection = Connection(name, server, client)
                scope.deadline = float("inf")
                try:
                    yield connection
                except BaseException as raised:  # noqa: BLE001 - raised again below, outside the SDK's task groups, as it is
                    failure = raised
        except Exception as error:  # a stranger's server can break the SDK in any way
            # What fails in the SDK's tasks cancels the body first: that is the end of this connection, and not of who keeps it.
            if failure is None or isinstance(failure, anyio.get_cancelled_exc_class()):
                raise Gone(early[0] if early else _one_line(error)) from error
    if failure is not None:
        raise failure
    if scope.cancelled_caught:
        raise Gone(early[0] if early else f"it did not answer within {server.start_seconds:g} s")


class _Open:
    """A transport that is open already, as the SDK wants to be given one."""

    def __init__(self, streams: Any) -> None:
        self._streams = streams

    async def __aenter__(self) -> Any:
        return self._streams

    async def __aexit__(self, *error: object) -> None:
        pass


@asynccontextmanager
async def _transport(name: str, server: Server, lost: Any) -> AsyncIterator[Any]:
    if server.command is not None:
        async with stdio(name, server.command, server.env, server.folder, lost) as streams:
            yield streams
    else:
        async with (
            http_client(server.headers, server.seconds) as http,
            streamable_http_client(str(server.url), http_client=http) as streams,
        ):
            yield streams


async def keep(system: System, name: str, server: Server) -> None:
    """Offer the tools of a server for as long as the system runs, through all its ends. Raises the fault that the system ends with."""
    wait = FIRST_SECONDS
    while True:
        begun = anyio.current_time()
        try:
            await _once(system, name, server)
        except Fault:  # ours, not the server's
            raise
        except Exception as error:  # noqa: BLE001 - a stranger's server can break the SDK in any way: it is tried again
            why = str(error) if isinstance(error, Gone) else _one_line(error)
        if anyio.current_time() - begun > STEADY_SECONDS:
            wait = FIRST_SECONDS
        log.warning("MCP server %s: %s; it is tried again in %g s", name, why, wait)
        await anyio.sleep(wait)
        wait = min(2 * wait, LONGEST_SECONDS)


async def _once(system: System, name: str, server: Server) -> None:
    """One connection, from its beginning to its end. Raises Gone, or whatever went wrong."""
    async with connected(name, server) as connection:
        with anyio.fail_after(server.start_seconds):
            tools = await connection.tools()
        async with system.offer(*tools, public=True) as offer:
            log.info("MCP server %s is here, with %d tools", name, len(tools))
            while True:
                await connection.news.wait()
                if connection.lost:
                    raise Gone(connection.lost)
                await anyio.sleep(LIST_SECONDS)
                connection.news = anyio.Event()
                with anyio.fail_after(server.start_seconds):
                    await offer.replace(*await connection.tools())


async def check(name: str, server: Server) -> str:
    """Connect once, and say what is there. Raises NotSupported with what went wrong."""
    try:
        async with connected(name, server) as connection:
            with anyio.fail_after(server.start_seconds):
                tools = await connection.tools()
    except Exception as error:
        raise NotSupported(str(error) if isinstance(error, Gone) else _one_line(error)) from error
    return f"{len(tools)} tools: {', '.join(tool.name for tool in tools[:8])}{', ...' if len(tools) > 8 else ''}"
