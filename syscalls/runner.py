"""Handlers about runners: a program is run in an OS process of its own, which connects back as the process that it is.

    the client: spawn -> run ................................... Running, or why there is no such program
    the runner:            claim (wire) -> job -> import -> begun -> the program's own calls -> exit

What a runner is, and how one is started and ended, is the business of whoever gives `Core` its `Runners`: this only checks.
"""

from __future__ import annotations

from typing import Protocol

from llmos.kernel.errno import FAULTS, BadHandle, Fault, Interrupted, InvalidArgument, NotPermitted, NotSupported

from . import abi
from .call import Call
from .channel import sleep
from .core import Core


class Start(Protocol):
    """A program on its way into a runner. ("runner", pid) is woken when either changes."""

    @property
    def begun(self) -> bool: ...

    @property
    def fault(self) -> Fault | None:
        """Why it will not begin."""
        ...

    @property
    def log(self) -> str | None:
        """The file on this machine that takes what it writes and nobody reads."""
        ...


class Runners(Protocol):
    """The runners of this system. Init wires them."""

    def start(self, parent: int, args: abi.Run) -> Start:
        """Give a process to a runner. Raises AlreadyExists, TryAgain, NotPermitted."""
        ...

    def job(self, pid: int) -> abi.Job:
        """What the runner of a process is to run. Raises NotPermitted."""
        ...

    def begun(self, pid: int, fault: Fault | None) -> None:
        """Its runner has found the program, or has not."""
        ...


def _runners(core: Core) -> Runners:
    if core.runners is None:
        raise NotSupported("only a daemon has runners: start one with llmos up, and use llmos.connect()")
    return core.runners


async def run(core: Core, call: Call, args: abi.Run) -> abi.Running:
    """Run a program, ``module:function``, in an OS process of its own, as a child that was just spawned.

    Sleeps until the program has been found there, and fails as its import does. From then on the child makes its own calls, and
    nobody else as it.
    """
    runners, pid = _runners(core), args.pid
    process = core.kernel.table.get(pid)
    if process.parent is None or process.parent.pid != call.pid:
        raise NotPermitted(f"pid {pid} is not a child of pid {call.pid}: only a parent says what its child runs")
    for number, ends, name in (
        (args.stdin, process.readers, "stdin"), (args.stdout, process.writers, "stdout"), (args.stderr, process.writers, "stderr"),
    ):  # fmt: skip
        if number not in ends:
            raise BadHandle(f"{name}: pid {pid} does not hold that end of pipe {number}; give what spawn gave")
    start = runners.start(call.pid, args)
    while not start.begun:
        if start.fault is not None:
            raise start.fault
        child = core.kernel.table.all.get(pid)
        if child is None or not child.live:
            raise Interrupted(f"pid {pid} ended before its program began: {child.reason if child else 'nobody waits for it'}")
        await sleep(("runner", pid))
    return abi.Running(start.log)


def job(core: Core, call: Call, args: abi.Nothing) -> abi.Job:
    """What the calling process is to run. For its runner."""
    return _runners(core).job(call.pid)


def begun(core: Core, call: Call, args: abi.Begun) -> abi.Done:
    """Say that the program of the calling process was found and begins, or with an errno that it was not. For its runner."""
    fault = FAULTS.get(args.errno, Fault)(args.message) if args.errno else None
    if args.errno and args.errno not in FAULTS:
        raise InvalidArgument(f"{args.errno} is the errno of no fault")
    _runners(core).begun(call.pid, fault)
    return abi.Done()
