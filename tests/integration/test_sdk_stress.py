"""Many programs at once doing anything at all, killed, stopped and interrupted at random: the kernel stays whole."""

from __future__ import annotations

import random
import threading
from typing import Any

import anyio
import pytest

import llmos
from llmos.services.init.thread import KernelThread

from .conftest import Boot

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


async def anything(me: llmos.Process, seed: int, depth: int) -> int:
    """Random calls, well formed or not."""
    chance = random.Random(seed)
    contexts = [await me.open(system="shared by all")]
    for turn in range(8):
        context = chance.choice(contexts)
        action = chance.randrange(9)
        try:
            if action == 0:
                await context.append(user=f"{seed} {turn}")
            elif action == 1:
                await context.generate(user="go", max_tokens=chance.randrange(1, 40), temperature=1.0)
            elif action == 2:
                async for _ in context.generate(user="go", max_tokens=500, ignore_stop=True):
                    if chance.random() < 0.2:
                        break
            elif action == 3:
                contexts.append(await context.fork())
            elif action == 4:
                await context.truncate(chance.randrange(context.length + 1))
            elif action == 5 and depth:
                await me.spawn(anything, chance.randrange(10**6), depth - 1)
            elif action == 6:
                await me.print("x" * chance.randrange(2000))
            elif action == 7:
                with anyio.move_on_after(0.001):
                    await me.stdin.read_some()
            else:
                await context.generate(max_tokens=-1)
        except (llmos.TryAgain, llmos.InvalidArgument, llmos.TooLong, llmos.BrokenPipe):
            pass
    return turn


async def integrity(system: llmos.System) -> None:
    """Check every invariant, on the thread where they hold."""
    thread: Any = system._port.gate
    assert isinstance(thread, KernelThread)
    done, failure = threading.Event(), []

    def check() -> None:
        assert thread.trap is not None
        try:
            thread.trap.core.kernel.check_integrity()
        except llmos.Panic as panic:
            failure.append(panic)
        done.set()

    thread.post(check)
    assert await anyio.to_thread.run_sync(done.wait, 10)
    assert not failure


@pytest.mark.parametrize("seed", range(3))
async def test_anything_goes(boot: Boot, seed: int) -> None:
    chance = random.Random(seed)
    async with boot() as system:
        children = [await system.spawn(anything, chance.randrange(10**6), 2) for _ in range(30)]
        for _ in range(60):
            victims = [each.pid for each in await system.ps() if each.pid > system.pid and each.status is None]
            if not victims:
                break
            try:
                await system.kill(chance.choice(victims), chance.choice(["INT", "STOP", "CONT", "TERM", "KILL", "CONT"]))
            except llmos.NoSuchProcess:
                pass
            await integrity(system)
        for each in await system.ps():
            if each.pid > system.pid and each.status is None:
                try:
                    await system.kill(each.pid, "CONT")
                except llmos.NoSuchProcess:
                    pass
        with anyio.move_on_after(20):
            for child in children:
                assert child.stdin is not None
                await child.stdin.close()
                assert (await child.wait()).status in (0, 1, 137, 143)
        await system.kill(system.pid, "INT")
        await integrity(system)
