"""The stdio transport of MCP: a server as a child process, a JSON message a line.

The SDK's own reads lines of any length, and reads on. Here a line is bounded, lines without sense are counted, and end the call that they
name; who says what nobody asked for is read slowly, and of that only what means something here goes on. What comes on stderr is
logged at a bounded rate, and the rest of it forgotten but for its end. A server gets no more than a few variables of the environment,
and its process group is gone with the block, in time.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

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
MAX_UNASKED = 100
"""Messages that answer nothing, after which a server is not listened to for a moment."""
LOGGED_LINES = 100
"""Of stderr, that a server may say at once."""
LINE_SECONDS = 10.0
"""After which it may say one more."""
LAST_LINES = 20
"""Of what was not logged, that are when it ends."""
LINE = 1_000
"""Bytes of a line of stderr that are kept."""
_PIECE = 1 << 16
_MOMENT = 0.01
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
    stdout, garbage, unasked, why = process.stdout, 0, 0, "it has ended"
    try:
        while stdout is not None and (line := await stdout.readline()) and garbage <= MAX_GARBAGE:
            message: SessionMessage | Exception | None
            try:
                said = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                message = None if _means_nothing(said) else SessionMessage(said)
                unasked += isinstance(said, types.JSONRPCNotification | types.JSONRPCRequest)
            except ValueError as error:
                garbage += 1
                failed = _failed(line)
                message = error if failed is None else SessionMessage(failed)
            if message is not None:
                await into.send(message)
            if unasked >= MAX_UNASKED:  # lines that are there already come without a wait, and would leave nobody else a turn
                unasked = 0
                await anyio.sleep(_MOMENT)
        if garbage > MAX_GARBAGE:
            why = f"{garbage} of its lines made no sense"
    except ValueError:  # what StreamReader says of a line that is too long
        why = f"it sent a message of more than {MAX_LINE:,} bytes"
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):  # the session is over
        return
    lost(why)
    into.close()


def _means_nothing(said: Any) -> bool:
    """A notification that nothing here listens to."""
    return isinstance(said, types.JSONRPCNotification) and said.method != "notifications/tools/list_changed"


def _failed(line: bytes) -> types.JSONRPCError | None:
    """What is no message but names a request, as the failure of that request; None if it names none."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    number = said.get("id") if isinstance(said, dict) and "method" not in said else None
    if isinstance(number, bool) or not isinstance(number, int | str):
        return None
    data = types.ErrorData(code=types.INTERNAL_ERROR, message="what it answered is no message of MCP")
    return types.JSONRPCError(jsonrpc="2.0", id=number, error=data)


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
    stderr, said = process.stderr, _Said(name)
    try:
        while stderr is not None and (piece := await stderr.read(_PIECE)):
            if said.take(piece, anyio.current_time()):
                await anyio.sleep(_MOMENT)
    finally:
        with anyio.move_on_after(_EXIT_SECONDS, shield=True):  # its last words often say why it has ended
            while stderr is not None and (piece := await stderr.read(_PIECE)):
                said.take(piece, anyio.current_time())
                await anyio.sleep(0)
        said.end()


class _Said:
    """Lines of stderr: as many as may be are logged, of the others the last are kept."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = b""
        """The line that has not ended, as far as it is kept."""
        self._allowed, self._at = float(LOGGED_LINES), 0.0
        self._missing = 0
        self._last: deque[bytes] = deque(maxlen=LAST_LINES)

    def take(self, piece: bytes, now: float) -> bool:
        """True if something of it was not logged: whoever says too much is read slowly."""
        before = self._missing
        self._allowed = min(LOGGED_LINES, self._allowed + (now - self._at) / LINE_SECONDS)
        self._at = now
        *lines, rest = piece.split(b"\n")
        for line in lines:
            self._line((self._begun + line[:LINE])[:LINE])
            self._begun = b""
        self._begun = (self._begun + rest[:LINE])[:LINE]
        return self._missing > before or not lines

    def _line(self, line: bytes) -> None:
        if self._allowed >= 1:
            self._allowed -= 1
            self._tell(line)
        else:
            self._missing += 1
            self._last.append(line)

    def end(self) -> None:
        """The last of what was not logged."""
        if self._begun:
            self._line(self._begun)
        if self._missing:
            log.info("MCP server %s said %d lines more; the last of them:", self._name, self._missing)
        for line in self._last:
            self._tell(line)

    def _tell(self, line: bytes) -> None:
        log.info("MCP server %s says: %s", self._name, line.decode(errors="replace").rstrip())


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
