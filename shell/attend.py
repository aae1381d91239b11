"""Attends one process: its input is fed, its output written, its end waited for, and no cancellation leaves it behind.

    source --feed--> child.stdin   child.stdout --> sink      until both outputs have ended, then wait()

A process whose output nobody reads any more is terminated, as PIPE would. Whatever ends this function early kills it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
from llmos import BrokenPipe, Fault

from .jobs import CLOSED, Job
from .streams import Closed, NotText, Sink, Source, describe

if TYPE_CHECKING:
    from llmos import Child, Exit

Start = Callable[[], Awaitable["Child"]]


async def attend(job: Job, start: Start, stdin: Source | None, stdout: Sink, statuses: dict[int, int]) -> tuple[int, str | None]:
    """Start a process for `job`, see it through, and return its status with what it says of its failure.

    Raises NotText or OSError if its input cannot be read; the process is killed then.
    """
    with anyio.CancelScope(shield=True):  # between its start and our knowing of it nothing may come
        child = await start()
        job.started(child)
    ended: Exit | None = None
    problem: NotText | OSError | None = None
    unread = False

    async def feed(source: Source) -> None:
        nonlocal problem
        try:
            while text := await source.read():
                await child.stdin.write(text)
            await child.stdin.close()
        except BrokenPipe:
            source.close()
        except (NotText, OSError) as error:
            problem = error
            await child.kill("KILL")

    try:
        async with anyio.create_task_group() as tasks:
            if stdin is not None:
                tasks.start_soon(feed, stdin)
            try:
                async for piece in child.stdout:
                    await stdout.write(piece)
            except Closed:
                unread = True
                await child.kill("TERM")
            except OSError as error:
                problem = error
                await child.kill("KILL")
            ended = await child.wait()
            tasks.cancel_scope.cancel()
    finally:
        if ended is None:
            with anyio.CancelScope(shield=True):
                try:
                    await child.kill("KILL")
                    ended = await child.wait()
                except Fault:
                    pass  # it is gone already, or the system is
        job.ended(child)
        if ended is not None:
            statuses[child.pid] = CLOSED if unread else ended.status
    if problem is not None:
        raise problem
    return statuses[child.pid], None if unread else ended.error
