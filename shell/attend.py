"""Attends one process: its input is fed, its output written, its end waited for, and no cancellation leaves it behind.

    stdin --feed--> child.stdin      child.stdout --> stdout
                                     child.stderr --> stderr      until both have ended, then wait()

A process whose output nobody reads any more is terminated, as PIPE would. Whatever ends this function early kills it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import anyio

from llmos import Fault
from llmos.sdk.unwrapped import unwrapped

from .jobs import CLOSED, Job
from .streams import Closed, NotText, Sink, Source

if TYPE_CHECKING:
    from llmos import Child, Exit
    from llmos.sdk.stream import Reader

Start = Callable[[], Awaitable["Child"]]


class Register(Protocol):
    """Whoever keeps what is known of processes that have ended."""

    async def ending(self, pid: int) -> None:
        """Its outputs are closed and it has not been waited for: the last time that the system knows it."""
        ...

    def ended(self, pid: int, status: int) -> None:
        """It was waited for."""
        ...


@dataclass(slots=True)
class _Course:
    """What went wrong on the way."""

    unread: bool = False
    problems: list[NotText | OSError] = field(default_factory=list)


async def attend(job: Job, start: Start, stdin: Source | None, stdout: Sink, stderr: Sink, register: Register) -> int:
    """Start a process for `job`, see it through, and return its status. Without `stdin` its input is at its end.

    Raises NotText or OSError if a stream of the host fails; the process is killed then. Raises ShutDown if the system goes.
    """
    with anyio.CancelScope(shield=True):  # between its start and our knowing of it nothing may come
        child = await start()
        job.started(child)
    if job.stopped:  # Ctrl-Z came while it started
        await _signal(child, "STOP")
    course = _Course()
    exit_: Exit | None = None
    try:
        with unwrapped():
            exit_ = await _through(child, stdin, stdout, stderr, register, course)
    finally:
        if exit_ is None:
            with anyio.CancelScope(shield=True):
                exit_ = await _put_down(child)
        job.ended(child)
        status = CLOSED if course.unread else exit_.status if exit_ is not None else 1
        register.ended(child.pid, status)
    if course.problems:
        raise course.problems[0]
    return status


async def _through(child: Child, stdin: Source | None, stdout: Sink, stderr: Sink, register: Register, course: _Course) -> Exit:
    async with anyio.create_task_group() as feeding:
        feeding.start_soon(_feed, child, stdin, course)
        async with anyio.create_task_group() as draining:
            draining.start_soon(_drain, child, child.stdout, stdout, course)
            draining.start_soon(_drain, child, child.stderr, stderr, course)
        await register.ending(child.pid)
        exit_ = await child.wait()
        feeding.cancel_scope.cancel()
    return exit_


async def _feed(child: Child, source: Source | None, course: _Course) -> None:
    if child.stdin is None:
        return
    try:
        while source is not None and (text := await source.read()):
            await child.stdin.write(text)
        await child.stdin.close()
    except (NotText, OSError) as error:
        course.problems.append(error)
        await _signal(child, "KILL")
    except Fault:  # it reads no more, or has ended
        if source is not None:
            source.close()


async def _drain(child: Child, stream: Reader | None, sink: Sink, course: _Course) -> None:
    if stream is None:
        return
    try:
        async for piece in stream:
            if not course.unread:  # what it says of a broken pipe is no news, as in sh
                await sink.write(piece)
    except Closed:
        course.unread = True
        await _signal(child, "TERM")
    except OSError as error:
        course.problems.append(error)
        await _signal(child, "KILL")
    finally:
        await stream.close()  # what it still writes gets BrokenPipe instead of waiting for us


async def _signal(child: Child, signal: str) -> None:
    try:
        await child.kill(signal)
    except Fault:
        pass  # it has ended already


async def _put_down(child: Child) -> Exit | None:
    """Kill it and take its end; None if the system is gone, and with it every process."""
    try:
        await _signal(child, "KILL")
        return await child.wait()
    except Fault:
        return None
