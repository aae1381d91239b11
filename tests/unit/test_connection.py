"""The shell's connection: boots when wanted, says why when it cannot, tries again, and goes down with the shell."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest

import llmos
from llmos.shell.connection import Connection

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Context:
    async def close(self) -> None:
        pass


class System:
    """As much of a system as a connection uses."""

    def __init__(self, load: anyio.Event | llmos.Fault | None) -> None:
        self.load = load

    async def open(self) -> Context:
        if isinstance(self.load, llmos.Fault):
            raise self.load
        if self.load is not None:
            await self.load.wait()
        return Context()


class Boots:
    """Boots as it is told to, and notes what happens."""

    def __init__(self, *outcomes: System | llmos.Fault | None) -> None:
        self.outcomes = list(outcomes)
        self.log: list[str] = []

    @asynccontextmanager
    async def boot(self) -> AsyncIterator[System]:
        self.log.append("boot")
        outcome = self.outcomes.pop(0)
        if outcome is None:
            await anyio.sleep_forever()
        if isinstance(outcome, llmos.Fault):
            raise outcome
        assert outcome is not None
        try:
            yield outcome
        finally:
            self.log.append("down")


def connection_to(boots: Boots, *, load: bool = True) -> Connection:
    boot: Callable[[], AbstractAsyncContextManager[System]] = boots.boot
    return Connection(boot, "tiny", load=load)  # type: ignore[arg-type]


async def test_boots_once_when_wanted_and_loads_behind() -> None:
    loaded = anyio.Event()
    boots = Boots(System(loaded))
    connection = connection_to(boots)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run)
        await anyio.wait_all_tasks_blocked()
        assert (boots.log, connection.loading, connection.ready) == ([], False, None)
        first = await connection.system()
        assert await connection.system() is first is connection.ready
        assert connection.loading
        assert connection.label().startswith("loading tiny: ")
        loaded.set()
        await connection.loaded()
        assert not connection.loading
        connection.stop()
    assert boots.log == ["boot", "down"]


async def test_a_boot_that_fails_is_told_to_all_who_wait_and_tried_again() -> None:
    boots = Boots(llmos.NotFound("no model"), System(None))
    connection = connection_to(boots)
    told: list[str] = []

    async def wait() -> None:
        with pytest.raises(llmos.NotFound) as caught:
            await connection.system()
        told.append(str(caught.value))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run)
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(wait)
            waiting.start_soon(wait)
        assert told == ["no model [ENOENT]"] * 2
        assert str(connection.fault) == "no model [ENOENT]"
        assert await connection.system() is connection.ready
        await connection.loaded()
        assert connection.fault is None
        connection.stop()
    assert boots.log == ["boot", "boot", "down"]


async def test_a_model_that_cannot_be_loaded_leaves_the_system_up() -> None:
    connection = connection_to(Boots(System(llmos.NotFound("no model"))))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run)
        await connection.system()
        await connection.loaded()
        assert str(connection.fault) == "no model [ENOENT]"
        assert connection.ready is not None
        connection.stop()


async def test_without_a_model_nothing_is_loaded() -> None:
    connection = connection_to(Boots(System(llmos.NotFound("never asked"))), load=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run)
        await connection.system()
        assert (connection.loading, connection.fault) == (False, None)
        connection.stop()


@pytest.mark.parametrize("wanted", [True, False])
async def test_stop_breaks_off_a_boot_or_the_wait_for_one(wanted: bool) -> None:
    connection = connection_to(Boots(None))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run)
        if wanted:
            connection.want()
        await anyio.wait_all_tasks_blocked()
        connection.stop()
