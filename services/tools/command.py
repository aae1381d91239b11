"""Commands as tools: their parameters, their run in the sandbox, and what they printed as the answer.

    arguments -> argv -> sandbox -> output, its beginning and end kept -> "[exit status 3]"        cancelled, over a limit: killed

Everything that a command does ends with it: its processes are killed before the answer is given.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from llmos.sdk.tool import Asked, Said, Tool
from llmos.syscalls.abi import Collected, Fault, NotFound

from . import sandbox, watch
from .cgroup import Group
from .config import HOLE, Command

PIECE = 1 << 16
"""Bytes that are read at once."""
MOST_PRINTED = 64 << 20
"""Bytes that a command may print, after which it is killed: nobody will read them."""
OWN = 3
"""Processes that are not the command's: two of bubblewrap, and the shell that sets the limits, for a moment."""
LOOK_SECONDS = 0.1
"""Between two looks at its processes."""
_LAST_SECONDS = 2.0
"""For the last words of a command that has been killed."""
_GRACE = 1_000
"""Processes that are counted to kill them one by one; a namespace ends with its first."""


def tool(name: str, command: Command) -> Tool:
    """A command of tools.toml as a tool."""
    properties: dict[str, Any] = {hole: {"type": "string"} for hole in command.holes}
    for hole, words in command.parameters.items():
        properties[hole]["description"] = words
    schema = {"type": "object", "properties": properties, "required": command.holes, "additionalProperties": False}
    words = command.description or f"Runs the command: {' '.join(command.argv)}"
    # Its own clock ends it first, and says so with what it had printed by then.
    needs = ("net:*",) if command.network else ()
    return Tool(name, words, schema, partial(run, command), min(command.seconds + 5.0, 86_400.0), needs)


async def run(command: Command, asked: Asked) -> Said:
    """Run it once. Faults, as of a sandbox that is missing, are errors for the caller to read."""
    given: dict[str, str] = json.loads(asked.arguments)
    if any("\0" in value for value in given.values()):
        return Said("no argument may hold a NUL character", True)
    argv = [_filled(part, given) for part in command.argv]
    try:
        line = sandbox.wrapped(command, argv) if command.sandbox else sandbox.bare(command, argv)
    except Fault as fault:
        return Said(str(fault.args[0]), True)
    group = Group.make(command.processes + OWN)
    try:
        process = await asyncio.create_subprocess_exec(
            *(line if group is None else group.around(line)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            cwd=command.folder if not command.sandbox and command.folder else "/",
            env={} if command.sandbox else {**sandbox.environment(command), **command.env},
        )
    except OSError as error:
        if group is not None:
            group.remove()
        return Said(f"the command cannot be started: {error.strerror or error}", True)
    run = _Run(command, process, asked.most, group)
    try:
        await run.follow(_filled(command.stdin, given).encode())
    finally:
        await run.end()
    return run.said()


def _filled(template: str, given: dict[str, str]) -> str:
    return HOLE.sub(lambda hole: given.get(hole[1], hole[0]), template)


class _Run:
    """One command under way."""

    def __init__(self, command: Command, process: asyncio.subprocess.Process, most: int, group: Group | None) -> None:
        self._command, self._process, self._group = command, process, group
        self._output = Collected(most)
        self._why = ""
        """Why it was killed."""

    async def follow(self, data: bytes) -> None:
        """Feed, read and watch it until it has ended, or must."""
        with anyio.move_on_after(self._command.seconds) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._feed, data)
                tasks.start_soon(self._look, tasks.cancel_scope)
                await self._read()
                await self._process.wait()
                tasks.cancel_scope.cancel()
        if scope.cancelled_caught:
            self._why = f"killed after {self._command.seconds:g} s"

    async def _feed(self, data: bytes) -> None:
        stdin = self._process.stdin
        if stdin is None:
            return
        try:
            stdin.write(data)
            await stdin.drain()
        except (BrokenPipeError, ConnectionResetError):  # it does not want to read
            pass
        stdin.close()

    async def _read(self) -> None:
        stdout = self._process.stdout
        while stdout is not None and (piece := await stdout.read(PIECE)):
            self._output.add(piece)
            if self._output.total > MOST_PRINTED:
                self._why = f"killed: it printed more than {MOST_PRINTED:,} bytes"
                watch.end(self._process.pid, _GRACE)
                return

    async def _look(self, all_of_it: anyio.CancelScope) -> None:
        most, room = self._command.processes + OWN, self._command.memory
        while True:
            await anyio.sleep(LOOK_SECONDS)
            if self._process.returncode is not None:  # what it left behind may hold the pipe: it is not waited for
                all_of_it.cancel()
                return
            pids = watch.below(self._process.pid, most)
            if len(pids) > most:
                self._why = f"killed: it had more than {self._command.processes} processes"
            elif watch.memory(pids) > room:
                self._why = f"killed: it took more than {room:,} bytes of memory"
            if self._why:
                all_of_it.cancel()
                return

    async def end(self) -> None:
        """See that nothing of it is left. What it had printed is read first: asyncio waits for the end of the pipe, not of the process."""
        watch.end(self._process.pid, _GRACE)
        stdout = self._process.stdout
        with anyio.move_on_after(_LAST_SECONDS, shield=True):
            while stdout is not None and (piece := await stdout.read(PIECE)):
                self._output.add(piece)
            await self._process.wait()
            while self._group is not None and not self._group.remove():
                await anyio.sleep(0.005)
        transport = getattr(self._process, "_transport", None)  # asyncio closes it itself, unless somebody got away with the pipe
        if transport is not None:
            transport.close()

    def said(self) -> Said:
        text, missing = self._output.text()
        status = self._process.returncode
        note = self._why or (f"killed by signal {-status}" if status and status < 0 else f"exit status {status}" if status else "")
        if note:
            text += ("" if not text or text.endswith("\n") else "\n") + f"[{note}]"
        return Said(text, bool(note), missing)


def check(command: Command) -> str:
    """How a command would run on this machine. Raises NotFound, NotSupported if it would not."""
    for folder in (*command.read, *([command.folder] if command.folder else [])):
        if not Path(folder).is_dir():
            raise NotFound(f"there is no folder {folder}")
    if not command.sandbox:
        return "runs without a sandbox, as its sandbox = false says"
    sandbox.probe()
    return "runs in a sandbox" + (", with the network" if command.network else "")
