"""Jobs: their numbers and names, and what each Ctrl-C does to them."""

import anyio
import pytest

import llmos
from llmos.shell.jobs import INTERRUPTED, Job, Jobs

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Child:
    """A process that only notes its signals, and may be gone."""

    def __init__(self, pid: int, *, gone: bool = False) -> None:
        self.pid = pid
        self.gone = gone
        self.signals: list[str] = []

    async def kill(self, signal: str = "TERM", *, tree: bool = False) -> None:
        if self.gone:
            raise llmos.NoSuchProcess(f"no process {self.pid}")
        self.signals.append(f"{signal} to all below" if tree else signal)


async def test_numbers_are_the_smallest_that_are_free() -> None:
    table = Jobs()
    first, second, third = (Job(text, foreground=False) for text in ("a", "b", "c"))
    for job in (first, second):
        table.add(job)
    table.remove(first)
    table.add(third)
    assert [(job.number, job.text) for job in table.all()] == [(1, "c"), (2, "b")]
    fourth = Job("d", foreground=False)
    table.add(fourth)
    assert (table.mark(fourth), table.mark(third), table.mark(second)) == ("+", "-", " ")


async def test_names_of_jobs() -> None:
    table = Jobs()
    assert table.find("%+") is None
    assert table.find("%-") is None
    ask, spawn = Job("ask me", foreground=False), Job("spawn x", foreground=False)
    for job, pid in ((ask, 7), (spawn, 8)):
        table.add(job)
        job.started(Child(pid))
    for name, job in (
        ("", spawn),
        ("%", spawn),
        ("%%", spawn),
        ("%+", spawn),
        ("%-", ask),
        ("%1", ask),
        ("%ask", ask),
        ("8", spawn),
        ("7", ask),
    ):
        assert table.find(name) is job
    for name in ("%3", "%nothing", "9", "x", "-7", "%" + "9" * 5000):
        assert table.find(name) is None


async def test_the_first_interrupt_ends_bursts_the_next_terminate_and_kill() -> None:
    job = Job("ask", foreground=True)
    child = Child(3)
    job.started(child)
    for _ in range(4):
        await job.interrupt()
    assert child.signals == ["INT", "TERM", "KILL", "KILL"]
    assert not job.scope.cancel_called
    job.ended(child)
    job.finish(0)
    assert job.status == INTERRUPTED
    assert job.state == "Interrupted"


async def test_a_pipeline_ends_with_the_first_interrupt_whoever_is_gone_already() -> None:
    job = Job("a | b | c", foreground=True)
    children = [Child(3), Child(4, gone=True), Child(5)]
    for child in children:
        job.started(child)
    await job.interrupt()
    assert [child.signals for child in children] == [["INT", "TERM"], [], ["INT", "TERM"]]


async def test_what_has_no_process_is_cancelled() -> None:
    job = Job("sleep 100", foreground=True)
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            with job.scope:
                await anyio.sleep_forever()

        tasks.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        await job.interrupt()
    assert job.scope.cancelled_caught


@pytest.mark.parametrize(
    ("status", "state"), [(0, "Done"), (1, "Exit 1"), (137, "Killed"), (143, "Terminated"), (130, "Interrupted"), (141, "Exit 141")]
)
async def test_states(status: int, state: str) -> None:
    job = Job("x", foreground=False)
    assert job.state == "Running"
    job.finish(status)
    assert job.state == state
    assert job.begun.is_set()


async def test_a_process_with_children_of_its_own_ends_with_the_first_interrupt() -> None:
    job, child = Job("map", foreground=True, several=True), Child(5)
    job.started(child)
    await job.interrupt()
    assert child.signals == ["INT", "TERM"]


async def test_a_stop_holds_everything_below_and_what_has_ended_meanwhile_holds_nobody_up() -> None:
    job = Job("map", foreground=True)
    children = [Child(3, gone=True), Child(4)]
    for child in children:
        job.started(child)
    await job.suspend()
    await job.suspend()
    assert children[1].signals == ["STOP to all below"]
    await job.resume()
    assert children[1].signals == ["STOP to all below", "CONT to all below"]


async def test_the_status_of_one_that_left_can_be_had_until_its_number_is_given_again() -> None:
    table = Jobs()
    job = Job("a", foreground=False)
    table.add(job)
    assert table.announced == {}
    job.finish(3)
    table.remove(job)
    assert table.announced == {"%1": 3}
    table.add(Job("b", foreground=False))
    assert table.announced == {}
