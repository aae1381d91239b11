"""The stdio transport of MCP: a server as a child process, a JSON message a line.

The SDK's own reads lines of any length, and reads on. Here a line is bounded, lines without sense are counted, a server gets no more
than a few variables of the environment, and its process group is gone with the block, in time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage

from . import watch

log = logging.getLogger("llmos.tools")

MAX_LINE = 32 << 20
"""Bytes of one message."""
MAX_GARBAGE = 100
"""Lines without sense, after which the server is given up."""
_EXIT_SECONDS = 0.5
"""From the end of its input until a server must have ended by itself."""
_MOST = 1_000
"""Processes of it that are looked for to end them."""

Inbound = MemoryObjectReceiveStream[SessionMessage | Exception]
Outbound = MemoryObjectSendStream[SessionMessage]


@asynccontextmanager
async def stdio(
    name: str, argv: Sequence[str], env: Mapping[str, str], folder: str | None, lost: Callable[[str], None]
) -> AsyncIterator[tuple[Inbound, Outbound]]:
    """Start a server, and stop it. `lost` is told why nothing more will come. Raises OSError if it cannot be started."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=MAX_LINE,
        start_new_session=True,
        cwd=folder,
        env=get_default_environment() | dict(env),
    )
    into, inbound = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outbound, out = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_read, process, into, lost)
            tasks.start_soon(_write, process, out)
            tasks.start_soon(_log, process, name)
            try:
                yield inbound, outbound
            finally:
                with anyio.CancelScope(shield=True):
                    await _stop(process)
                tasks.cancel_scope.cancel()
    finally:
        for stream in (into, inbound, outbound, out):
            stream.close()


async def _read(
    process: asyncio.subprocess.Process, into: MemoryObjectSendStream[SessionMessage | Exception], lost: Callable[[str], None]
) -> None:
    stdout, garbage, why = process.stdout, 0, "it has ended"
    try:
        while stdout is not None and (line := await stdout.readline()) and garbage <= MAX_GARBAGE:
            try:
                message: SessionMessage | Exception = SessionMessage(types.jsonrpc_message_adapter.validate_json(line, by_name=False))
            except ValueError as error:
                garbage += 1
                message = error
            await into.send(message)
        if garbage > MAX_GARBAGE:
            why = f"{garbage} of its lines made no sense"
    except ValueError:  # what StreamReader says of a line that is too long
        why = f"it sent a message of more than {MAX_LINE:,} bytes"
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):  # the session is over
        return
    lost(why)
    into.close()


async def _write(process: asyncio.subprocess.Process, out: MemoryObjectReceiveStream[SessionMessage]) -> None:
    stdin = process.stdin
    try:
        async for message in out:
            if stdin is not None:
                stdin.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                await stdin.drain()
    except (BrokenPipeError, ConnectionResetError):  # it has ended, as its output is about to tell
        pass


async def _log(process: asyncio.subprocess.Process, name: str) -> None:
    """What a server says on stderr, a line each."""
    while process.stderr is not None:
        try:
            line = await process.stderr.readline()
        except ValueError:
            continue
        if not line:
            return
        log.info("MCP server %s says: %s", name, line[:1000].decode(errors="replace").rstrip())


async def _stop(process: asyncio.subprocess.Process) -> None:
    """The end of its input, a moment, and the end of its group."""
    if process.stdin is not None:
        process.stdin.close()
    with anyio.move_on_after(_EXIT_SECONDS):
        while process.returncode is None:
            await anyio.sleep(0.01)
    watch.end(process.pid, _MOST)
    with anyio.move_on_after(_EXIT_SECONDS):
        while process.returncode is None:
            await anyio.sleep(0.01)
    transport = getattr(process, "_transport", None)  # a descendant that got away may hold the pipes
    if transport is not None:
        transport.close()
