"""The runner: the main function of an OS process in which one program runs.

    claim, with the secret -> job -> import -> begun -> the program, as any attached one -> exit, with the value it returned

It is a client of the daemon like any other, whose own process is the one that the secret stands for. Children that the program
spawns from functions are attached to it and end with it. Leaves no thread of its own: when this returns the OS process is to end.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from llmos.syscalls.abi import Fault, Limits, Spawned
from llmos.syscalls.wire import CALLS, reader, shape, unpack

from . import prompt
from .agentfile import AgentFile
from .link import Link
from .port import Port
from .process import Process
from .program import INIT, Attached, Body, Programs
from .reference import function_of

if TYPE_CHECKING:
    from llmos.syscalls.abi import Job


def main(socket: str, secret: bytes) -> int:
    """Run what the daemon at a socket says; the status of the OS process, which nobody looks at if all went well."""
    return asyncio.run(_live(Path(socket), secret))


def prepare() -> None:
    """Compute what every runner needs and none changes, once, before they are forked."""
    shape()
    for _, kind in CALLS.values():
        reader(kind)
    asyncio.run(asyncio.sleep(0))


async def _live(path: Path, secret: bytes) -> int:
    loop = asyncio.get_running_loop()
    link = Link(path, loop)
    over = asyncio.Event()
    try:
        welcome = await link.open("runner", secret)
        link.port = port = Port(link, loop)
        async with anyio.create_task_group() as tasks:
            programs = Programs(port, tasks, remote=True)
            link.ended = programs.died

            def lost(why: Fault) -> None:
                port.close(why)
                programs.hang_up()
                over.set()

            link.lost = lost
            job: Job = await port.call(welcome.pid, "job")
            me = _process(job, welcome.pid, port, programs)
            try:
                body = _body(job, me)
            except Fault as fault:
                await port.call(welcome.pid, "begun", errno=fault.errno, message=str(fault.args[0]))
                return 1
            await port.call(welcome.pid, "begun")
            ends = (me.stdin, me.stdout, me.stderr)
            attached = Attached(welcome.pid, INIT, job.name, job.stderr, plain=job.kind == "agent", ends=ends, alone=True)
            programs.start(attached, body)
            await over.wait()  # the daemon hangs up when the process has ended
            tasks.cancel_scope.cancel()
        return 0
    finally:
        link.close()


def _process(job: Job, pid: int, port: Port, programs: Programs) -> Process:
    if job.folder is not None:
        try:
            os.chdir(job.folder)
        except OSError:  # it is gone, or on another machine: what needs it will say so
            os.chdir("/")
    else:
        os.chdir("/")
    sys.path[:0] = [place for place in job.path if place not in sys.path]
    streams = Spawned(pid, None, None, None, job.stdin, job.stdout, job.stderr)
    return Process(port, streams, programs, tuple(map(Path, job.folders)), job.model, ())


def _body(job: Job, me: Process) -> Body:
    """What runs. Raises NotFound, BadFormat, InvalidArgument."""
    args: list[Any] = unpack(job.arguments) or []
    if job.kind == "agent":
        agent, given = args
        limits = Limits(**agent.pop("limits"))
        state = prompt.State(AgentFile(**agent, limits=limits), given, job.model)
        return partial(prompt.interpret, me, state)
    function = function_of(job.program)
    me.args = tuple(args)
    return partial(function, me, *args)
