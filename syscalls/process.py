"""Handlers of the process family: spawn, exit, wait, signals, priorities, limits, ps, explain, fork."""

from __future__ import annotations

from llmos.kernel.capability import DEFAULT, attenuate
from llmos.kernel.errno import BadHandle, Fault
from llmos.kernel.process import Class
from llmos.kernel.signal import Signal
from llmos.kernel.view import view_process

from . import abi
from .call import Call
from .channel import sleep
from .core import Core

_STREAM_BYTES = 65_536
"""Capacity of stdin, stdout and stderr."""


def _class(name: str) -> Class:
    return Class[name.upper()]


def _streams(core: Core, pid: int, given: tuple[int | None, int | None, int | None]) -> tuple[int, int, int]:
    """Pipes for stdin, stdout and stderr of a child: those given, which the caller must hold, and new ones for the rest."""
    kernel, now = core.kernel, core.clock()
    holder = kernel.table.get(pid)
    for number, ends, name in zip(given, (holder.readers, holder.writers, holder.writers), ("stdin", "stdout", "stderr"), strict=True):
        if number is not None and number not in ends:
            raise BadHandle(f"{name}: pid {pid} does not hold that end of pipe {number}; make one with pipe")
    made: list[int] = []
    try:
        for number in given:
            if number is None:
                made.append(kernel.pipe(now, pid, _STREAM_BYTES))
    except Fault:
        for number in made:
            kernel.pipe_close(now, pid, number, read=True, write=True)
        raise
    fresh = iter(made)
    stdin, stdout, stderr = (next(fresh) if number is None else number for number in given)
    return stdin, stdout, stderr


def _hand_over(core: Core, pid: int, child: int, given: tuple[int | None, ...], pipes: tuple[int, int, int]) -> abi.Spawned:
    """Give the child its ends of the pipes; of those made for it, the caller keeps the other end only."""
    kernel, now = core.kernel, core.clock()
    for number, reads in zip(pipes, (True, False, False), strict=True):
        kernel.pipe_give(now, pid, child, number, read=reads, write=not reads)
    kept = []
    for asked, number, reads in zip(given, pipes, (True, False, False), strict=True):
        if asked is None:
            kernel.pipe_close(now, pid, number, read=reads, write=not reads)
        kept.append(number if asked is None else None)
    return abi.Spawned(child, kept[0], kept[1], kept[2], *pipes)


def _capabilities(core: Core, pid: int, args: abi.Spawn) -> frozenset[str] | None:
    """Those that are given, else the default ones as far as the caller holds them; and the tools that are given."""
    tools = {f"tool:{name}" for name in args.tools}
    if args.capabilities is None:
        return frozenset(attenuate(core.kernel.table.get(pid).capabilities, DEFAULT) | tools) if tools else None
    return frozenset(args.capabilities) | tools


def spawn(core: Core, call: Call, args: abi.Spawn) -> abi.Spawned:
    """Make a child process, with pipes for its stdin, stdout and stderr. Nothing runs in it until its host runs a program."""
    given = (args.stdin, args.stdout, args.stderr)
    pipes = _streams(core, call.pid, given)
    now = core.clock()
    try:
        child = core.kernel.spawn(
            now,
            call.pid,
            name=args.name,
            user=args.user,
            cls=None if args.cls is None else _class(args.cls),
            nice=args.nice,
            limits=args.limits.to_limits(),
            capabilities=_capabilities(core, call.pid, args),
        )
    except Fault:
        _abandon(core, call.pid, given, pipes)
        raise
    return _hand_over(core, call.pid, child, given, pipes)


def _abandon(core: Core, pid: int, given: tuple[int | None, ...], pipes: tuple[int, int, int]) -> None:
    """Close the pipes that were made for a child that did not come to be."""
    for asked, number in zip(given, pipes, strict=True):
        if asked is None:
            core.kernel.pipe_close(core.clock(), pid, number, read=True, write=True)


def fork(core: Core, call: Call, args: abi.Fork) -> abi.Forked:
    """Make a twin of a process: every context forked, copy-on-write, and pipes of its own. The twin is the caller's child."""
    given = (None, None, None)
    pipes = _streams(core, call.pid, given)
    try:
        child, contexts = core.kernel.fork(core.clock(), call.pid, args.pid, name=args.name)
    except Fault:
        _abandon(core, call.pid, given, pipes)
        raise
    for old, new in contexts.items():
        length = len(core.kernel.context(child, new).tokens)
        core.keep(new, core.transcript(args.pid, old).fork(child, length))
    return abi.Forked(_hand_over(core, call.pid, child, given, pipes), contexts)


def exit_process(core: Core, call: Call, args: abi.ExitArguments) -> abi.Done:
    """End the calling process. All it holds is closed; its children go to init; its parent may wait for it."""
    core.kernel.exit(core.clock(), call.pid, args.status, args.reason, args.value)
    return abi.Done()


async def wait(core: Core, call: Call, args: abi.Wait) -> abi.ExitRecord:
    """Sleep until a child has ended, any if none is named, and take it off the process table."""
    while (record := core.kernel.reap(core.clock(), call.pid, args.pid)) is None:
        await sleep(("child", call.pid))
    return record


def kill(core: Core, call: Call, args: abi.Kill) -> abi.Done:
    """Send a signal to a process, or with `tree` to everything below it too. Beyond one's own tree it takes proc:kill."""
    send = core.kernel.killpg if args.tree else core.kernel.kill
    send(core.clock(), call.pid, args.pid, Signal[args.signal])
    return abi.Done()


def renice(core: Core, call: Call, args: abi.Renice) -> abi.Done:
    """Change a nice value: each step is a factor of 1.25 in service. Lowering it takes proc:nice."""
    core.kernel.renice(core.clock(), call.pid, args.pid, args.nice)
    return abi.Done()


def reclass(core: Core, call: Call, args: abi.Reclass) -> abi.Done:
    """Change a scheduling class. A better one takes proc:nice."""
    core.kernel.reclass(core.clock(), call.pid, args.pid, _class(args.cls))
    return abi.Done()


def setlimits(core: Core, call: Call, args: abi.SetLimits) -> abi.Done:
    """Replace the limits of a process. Raising one takes proc:limits."""
    core.kernel.setlimits(core.clock(), call.pid, args.pid, args.limits.to_limits())
    return abi.Done()


def ps(core: Core, call: Call, args: abi.ListProcesses) -> abi.ProcessList:
    """List processes by pid, a page at a time, so that a full table does not hold up everybody's steps."""
    kernel, now = core.kernel, core.clock()
    pids = sorted(pid for pid in kernel.table.all if pid > args.after)
    page = [kernel.table.all[pid] for pid in pids[: args.limit]]
    views = [view_process(process, [kernel.contexts[cid] for cid in sorted(process.contexts)], now) for process in page]
    return abi.ProcessList(views, len(pids) > args.limit)


def explain(core: Core, call: Call, args: abi.OfProcess) -> abi.Explanation:
    """Tell where the wall time of a process went, and which decisions delayed it."""
    return core.kernel.explain(core.clock(), args.pid)
