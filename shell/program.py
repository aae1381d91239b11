"""`llmos run`: a Python program in a runner of the daemon: its input, its output, its status.

    llmos run file.py:function ARG... -> connect -> spawn -> our stdin to it, its stdout and stderr to us -> its status is ours
    --detach                          -> spawn -> pid and the file with its output -> done

Ctrl-C is TERM for the program; a second one ends us, and so kills it. Arguments are text. Knows nothing of runners.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

import llmos
from llmos.sdk.unwrapped import unwrapped
from llmos.services.init.place import daemon_pid, home_of

from .daemon import ensure
from .terminal import complain

if TYPE_CHECKING:
    from llmos.services.init.settings import Settings

PIECE = 65_536


def run(found: argparse.Namespace) -> int:
    """Run a program as the command line says; its exit status."""
    if ":" not in found.program:
        raise llmos.InvalidArgument(f"{found.program} names no function: say which, as in {found.program}:main")
    if daemon_pid(home_of(found.home)) is None:
        ensure(_settings(found), found.model, lambda line: print(f"llmos: {line}", file=sys.stderr))
    return anyio.run(_run, found)


def _settings(found: argparse.Namespace) -> Settings:
    """What a daemon that is started for this is to be like, with its model on this machine."""
    from llmos.services.init.settings import read_settings

    from .store import provide

    settings = read_settings(model=found.model, home=found.home)
    provide(settings)
    return settings


async def _run(found: argparse.Namespace) -> int:
    async with llmos.connect(home=found.home, model=found.model, name="run") as system:
        can = None if found.can is None else found.can.split(",")
        options = {"capabilities": can, "detached": found.detach, "memory": found.memory and found.memory << 20, "cpu_seconds": found.cpu}
        child = await system.spawn(found.program, *found.arguments, name=found.name, **options)
        if found.detach:
            _say(found, {"pid": child.pid, "log": child.log}, f"{child.pid}  {child.log}")
            return 0
        _say(found, {"pid": child.pid}, "")
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, _Interrupt(child))
        with unwrapped():
            done, said = await _attend(child, 2 if found.json else 1)
        value = done.value if _is_json(done.value) else repr(done.value)
        _say(found, {"pid": done.pid, "status": done.status, "value": value, "error": done.error}, "")
        if done.error and not found.json and done.error.rstrip().encode(errors="replace") not in said:
            complain("llmos: run", done.error.rstrip())
        return done.status


async def _attend(child: llmos.Child, stdout: int) -> tuple[llmos.Exit, bytes]:
    """See it through: its end, and the end of what it said on its standard error."""
    said = bytearray()
    async with anyio.create_task_group() as tasks:
        for reader, descriptor, kept in ((child.stdout, stdout, bytearray()), (child.stderr, 2, said)):
            if reader is not None:
                tasks.start_soon(_pass_on, reader, descriptor, kept)
        feeding = asyncio.ensure_future(_feed(child))
        try:
            done = await child.wait()
        finally:
            feeding.cancel()
    return done, bytes(said)


class _Interrupt:
    """Ctrl-C: the program is asked to end; then, not asked."""

    def __init__(self, child: llmos.Child) -> None:
        self._child, self._signal = child, "TERM"
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self) -> None:
        if self._signal == "TERM" and sys.stderr.isatty():
            complain("llmos: run", f"asked pid {self._child.pid} to end, which it hears at its next call; Ctrl-C again ends it at once")
        task = asyncio.ensure_future(self._send(self._signal))
        self._tasks.add(task)
        self._signal = "KILL"

    async def _send(self, name: str) -> None:
        try:
            await self._child.kill(name)
        except llmos.NoSuchProcess:  # it has ended meanwhile
            pass


def _say(found: argparse.Namespace, told: dict[str, Any], text: str) -> None:
    if found.json:
        print(json.dumps(told), flush=True)
    elif text:
        print(text, flush=True)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


async def _pass_on(reader: llmos.Reader, descriptor: int, kept: bytearray) -> None:
    """Until the end, or until nobody reads us any more: then the program's writes fail, as in any pipe. The last of it is kept."""
    try:
        while data := await reader.read_bytes(PIECE):
            kept += data
            del kept[: -2 * PIECE]
            while data:
                data = data[await anyio.to_thread.run_sync(os.write, descriptor, data) :]
    except (BrokenPipeError, llmos.BrokenPipe):
        await reader.close()


async def _feed(child: llmos.Child) -> None:
    """Our standard input, until its end."""
    loop = asyncio.get_running_loop()
    if child.stdin is None:
        return
    try:
        while data := await _read(loop):
            await child.stdin.write(data)
    except (llmos.BrokenPipe, llmos.BadHandle, OSError):  # it reads no more, or there is nothing to read from
        pass
    await child.stdin.close()


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _read(loop: asyncio.AbstractEventLoop) -> bytes:
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(0, _settle, ready)
    except OSError:  # a file is always ready
        return os.read(0, PIECE)
    try:
        await ready
    finally:
        loop.remove_reader(0)
    return os.read(0, PIECE)
