"""Whatever a program raises ends that program only, and a spawn that nobody waits for any more leaves nothing behind."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import llmos
from llmos.syscalls.abi import NotFound

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


class Wordless:
    """Has no text: whoever asks for it gets an error."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class Own(BaseException):
    """Raised by a program, and no Exception."""


class OwnWordless(Exception, Wordless):  # type: ignore[misc]
    """The same without a text."""

    __str__ = Wordless.__str__


async def awaits_what_it_cancelled(me: llmos.Process) -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


async def cancels_itself(me: llmos.Process) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)


async def leaves_without_words(me: llmos.Process) -> None:
    raise SystemExit(Wordless())


async def leaves_twice(me: llmos.Process) -> None:
    class Leaves:
        def __str__(self) -> str:
            sys.exit(3)

    raise SystemExit(Leaves())


async def raises_without_words(me: llmos.Process) -> None:
    raise OwnWordless


async def raises_its_own(me: llmos.Process) -> None:
    raise Own("a kind of my own")


async def raises_a_group_of_its_own(me: llmos.Process) -> None:
    raise BaseExceptionGroup("several", [Own(), ValueError()])


async def waits(me: llmos.Process) -> str:
    await me.stdin.read()
    return "fine"


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (awaits_what_it_cancelled, "CancelledError"),
        (cancels_itself, "CancelledError"),
        (leaves_without_words, "SystemExit, whose text cannot be had: ValueError"),
        (leaves_twice, "SystemExit, whose text cannot be had: SystemExit"),
        (raises_without_words, "OwnWordless"),
        (raises_its_own, "a kind of my own"),
        (raises_a_group_of_its_own, "several"),
    ],
)
async def test_a_program_ends_alone(system: llmos.System, program: Callable[[llmos.Process], Awaitable[None]], says: str) -> None:
    other, child = await system.spawn(waits), await system.spawn(program)
    assert other.stdin is not None
    ended = await child.wait()
    assert ended.status == 1
    assert says in str(ended.error)
    await other.stdin.close()
    assert (await other.wait()).value == "fine"


async def test_a_cancelled_host_still_ends_its_programs(boot: Any) -> None:
    with anyio.CancelScope() as scope:
        async with boot() as system:
            child = await system.spawn(waits)
            scope.cancel()
            await child.wait()
    assert scope.cancelled_caught


async def test_an_argument_without_text_is_refused_before_the_spawn(system: llmos.System) -> None:
    with pytest.raises(llmos.InvalidArgument, match="argument 2, a Wordless, has no text: ValueError"):
        await system.spawn("summarise", "well", Wordless())
    assert len(await system.ps()) == 2


async def test_a_module_that_cannot_be_imported_is_refused(system: llmos.System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks_on_import.py").write_text("raise RuntimeError('out of order')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "breaks_on_import", raising=False)
    with pytest.raises(llmos.BadFormat, match=r"breaks_on_import.py, line 1, raised RuntimeError: out of order"):
        await system.spawn("breaks_on_import:main")
    with pytest.raises(NotFound):
        await system.spawn(".relative:main")


async def nothing_left(system: llmos.System) -> None:
    """Wait until only init and the host are there, and no pipe is: what is undone is undone soon, not at once."""
    while True:
        statistics = (await system.statistics()).kernel
        if (statistics.processes, statistics.pipes) == (2, 0):
            return


async def test_a_spawn_that_is_cancelled_is_undone(system: llmos.System) -> None:
    for turns in range(6):  # before the call has left, while the kernel has it, when its answer is there
        task = asyncio.create_task(system.spawn(waits))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            await task.result().kill("KILL")
            await task.result().wait()
        del task  # a child that came through holds its pipes
    await nothing_left(system)


async def test_calls_that_make_something_can_be_cancelled_in_a_stopped_process(system: llmos.System) -> None:
    """A host that has stopped itself waits for CONT; Ctrl-C must reach it all the same."""
    agent = await system.spawn("chat")
    await system.kill(system.pid, "STOP")
    for call in (system.spawn(waits), system.fork(agent.pid), system.pipe()):
        task = asyncio.ensure_future(call)  # type: ignore[arg-type, var-annotated]
        await asyncio.sleep(0)
        await system.ps()  # it is with the kernel now
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    await system.kill(system.pid, "CONT")
    await agent.kill("KILL")
    await agent.wait()
    del agent
    await nothing_left(system)
