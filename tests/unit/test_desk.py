"""The keyboard is read by whoever is in front, no character is lost, and Ctrl-D ends what it should."""

from collections import deque

import anyio
import pytest

from llmos.shell.desk import Desk

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Keyboard:
    """Gives what is typed, and waits else."""

    def __init__(self, *typed: str) -> None:
        self.typed = deque(typed)

    async def read(self) -> str:
        while not self.typed:
            await anyio.sleep(0)
        return self.typed.popleft()

    def close(self) -> None:
        """It stays."""


async def test_it_reads_only_while_it_is_in_front() -> None:
    noted: list[int] = []
    desk, keyboard, read = Desk(lambda: noted.append(1)), Keyboard("a"), list[str]()

    async def job() -> None:
        while text := await desk.read():
            read.append(text)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(job)
        await anyio.wait_all_tasks_blocked()
        assert desk.wanted.is_set()
        assert read == []
        desk.give(keyboard)
        while not read:
            await anyio.sleep(0)
        desk.take_away()
        keyboard.typed.append("for the shell")
        await anyio.wait_all_tasks_blocked()
        assert (read, list(keyboard.typed)) == (["a"], ["for the shell"])
        keyboard.typed.clear()
        keyboard.typed.extend(["b", ""])
        desk.give(keyboard)
    assert read == ["a", "b"]
    assert (desk.ended, len(noted)) == (True, 2)
    assert await desk.read() == ""


async def test_ctrl_d_ends_a_talk_and_not_the_input() -> None:
    desk, keyboard, read = Desk(lambda: None), Keyboard("hello", ""), list[str]()

    async def job() -> None:
        while text := await desk.read():
            read.append(text)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(job)
        desk.give(keyboard, closes=False)
        await desk.left.wait()
        assert not desk.ended
        keyboard.typed.extend(["again", ""])
        desk.give(keyboard, closes=False)
        await desk.left.wait()
        keyboard.typed.append("")
        desk.give(keyboard)
    assert read == ["hello", "again"]
    assert desk.ended


async def test_a_desk_that_is_closed_reads_no_more() -> None:
    desk = Desk(lambda: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.read)
        await anyio.wait_all_tasks_blocked()
        desk.give(Keyboard())
        await anyio.sleep(0)
        desk.close()
