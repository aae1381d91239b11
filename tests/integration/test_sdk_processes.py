"""Processes through the SDK: programs, ends, signals, limits, trees."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import anyio
import pytest

import llmos

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


async def debate(me: llmos.Process, topic: str) -> str:
    """The example of the README, to its end."""
    context = await me.open(system="You argue briefly.")
    await context.append(user=f"Argue about: {topic}")  # fills its pages
    pro, con = await context.fork(), await context.fork()  # shares every full page, copies none
    sides = [pro.generate(max_tokens=16, temperature=1.0), con.generate(max_tokens=16, temperature=1.0)]
    replies = [await side for side in sides]
    await me.print(f"{topic}: {len(replies)} sides")
    return max(reply.text for reply in replies)


async def test_the_example(system: llmos.System) -> None:
    child = await system.spawn(debate, "tabs or spaces", nice=5, limits=llmos.Limits(tokens=2000))
    assert child.stdout is not None
    printed = [piece async for piece in child.stdout]
    ended = await child.wait()
    assert "".join(printed) == "tabs or spaces: 2 sides\n"
    assert (ended.status, ended.error, ended.name) == (0, None, "debate")
    assert isinstance(ended.value, str)
    assert 0 < ended.usage.tokens <= 2000
    assert [process.pid for process in await system.ps()] == [1, system.pid]


async def returns(me: llmos.Process, value: Any) -> Any:
    return value


async def forever(me: llmos.Process) -> None:
    await me.stdin.read()


async def test_values_come_back_to_whoever_waits(system: llmos.System) -> None:
    marker = object()
    first, second = await system.spawn(returns, marker), await system.spawn(partial(returns, value=2))
    ended = {each.pid: each.value for each in [await system.wait(), await system.wait()]}
    assert ended == {first.pid: marker, second.pid: 2}
    with pytest.raises(llmos.NoSuchChild):
        await system.wait()


async def test_several_tasks_may_wait_and_a_cancelled_wait_loses_nothing(system: llmos.System) -> None:
    child = await system.spawn(forever)
    assert child.stdin is not None
    found = []

    async def wait() -> None:
        found.append(await child.wait())

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        with anyio.move_on_after(0):
            await child.wait()
        await child.stdin.close()
    assert [each.status for each in found] == [0, 0, 0]
    assert await child.wait() == found[0]


async def test_a_program_that_raises(system: llmos.System) -> None:
    async def broken(me: llmos.Process) -> None:
        await me.print("before")
        raise ValueError("a reason")

    child = await system.spawn(broken)
    assert child.stdout is not None
    assert child.stderr is not None
    ended = await child.wait()
    assert ended.status == 1
    assert ended.value is None
    assert ended.error is not None
    assert "Traceback" in ended.error
    assert 'raise ValueError("a reason")' in ended.error
    assert await child.stdout.read() == "before\n"
    assert await child.stderr.read() == f"broken (pid {child.pid}): ValueError: a reason\n"


async def test_errors_of_a_task_group_count_as_the_one_in_it(system: llmos.System) -> None:
    async def grouped(me: llmos.Process, error: Exception) -> None:
        async def fail() -> None:
            raise error

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)

    ended = await (await system.spawn(grouped, llmos.QuotaExceeded("over"))).wait()
    assert (ended.status, ended.error) == (152, "over [EDQUOT]")
    ended = await (await system.spawn(grouped, ValueError("x"))).wait()
    assert ended.status == 1
    assert "ValueError: x" in str(ended.error)


async def test_a_wait_for_any_child_that_is_cancelled_loses_none(system: llmos.System) -> None:
    for n in range(20):
        child = await system.spawn(returns, n)
        with anyio.move_on_after(0.0002 * n):
            ended = await system.wait()
            assert ended.pid == child.pid
            continue
        assert (await system.wait()).value == n


async def test_text_that_is_no_unicode_does_not_keep_a_program_alive(system: llmos.System) -> None:
    async def broken(me: llmos.Process) -> None:
        raise ValueError("\ud800")

    ended = await (await system.spawn(broken)).wait()
    assert ended.status == 1
    assert "\\ud800" in str(ended.error)


async def test_a_wait_that_is_interrupted_can_be_made_again(system: llmos.System) -> None:
    async def parent(me: llmos.Process) -> int:
        child = await me.spawn(forever)
        try:
            await child.wait()
        except llmos.Interrupted:
            assert child.stdin is not None
            await child.stdin.close()
        return (await child.wait()).status + 7

    child = await system.spawn(parent)
    await until_blocked(system, child.pid)
    await child.kill("TERM")
    assert (await child.wait()).value == 7


@pytest.mark.parametrize(("code", "status", "error"), [(None, 0, None), (3, 3, None), ("no", 1, "no"), (300, 44, None)])
async def test_sys_exit_is_an_exit_status(system: llmos.System, code: Any, status: int, error: str | None) -> None:
    async def leaves(me: llmos.Process) -> None:
        sys.exit(code)

    ended = await (await system.spawn(leaves)).wait()
    assert (ended.status, ended.error) == (status, error)


async def test_kill_ends_a_program_at_once_wherever_it_is(system: llmos.System) -> None:
    cleaned = anyio.Event()

    async def stubborn(me: llmos.Process) -> None:
        while True:
            try:
                await anyio.sleep_forever()
            finally:
                cleaned.set()

    child = await system.spawn(stubborn)
    await child.kill("KILL")
    ended = await child.wait()
    assert (ended.status, ended.error) == (137, "killed")
    await cleaned.wait()


async def test_kill_cancels_every_generation_and_frees_the_pages(system: llmos.System) -> None:
    started = anyio.Event()

    async def endless(me: llmos.Process) -> None:
        contexts = [await me.open(system="s") for _ in range(3)]
        generations = [context.generate(user="go", max_tokens=4000, ignore_stop=True) for context in contexts]
        async for _ in generations[0]:
            started.set()

    child = await system.spawn(endless)
    await started.wait()
    await child.kill("SIGKILL")
    assert (await child.wait()).status == 137
    with anyio.fail_after(30):  # the step in flight is charged when it retires, and the pages are free then
        while (after := (await system.statistics()).kernel.devices[0]).device_free < after.device_total - after.device_cached:
            await anyio.sleep(0.01)
    assert (after.resident, (await system.statistics()).kernel.contexts) == (0, 0)
    await anyio.sleep(0.2)
    assert (await system.statistics()).kernel.devices[0].steps == after.steps


async def test_term_interrupts_a_call_and_the_program_may_say_goodbye(system: llmos.System) -> None:
    async def polite(me: llmos.Process) -> str:
        try:
            await me.stdin.read()
        except llmos.Interrupted:
            await me.print("goodbye")
            return "on my own terms"
        return "not reached"

    child = await system.spawn(polite)
    assert child.stdout is not None
    await until_blocked(system, child.pid)
    await child.kill()
    ended = await child.wait()
    assert (ended.status, ended.value) == (0, "on my own terms")
    assert await child.stdout.read() == "goodbye\n"


async def test_term_that_is_not_caught_is_the_exit_status(system: llmos.System) -> None:
    child = await system.spawn(forever)
    await until_blocked(system, child.pid)
    await child.kill("TERM")
    ended = await child.wait()
    assert ended.status == 143
    assert ended.error is not None
    assert "SIGTERM" in ended.error


async def until_blocked(system: llmos.System, pid: int) -> None:
    """Wait until a process sleeps in a call. The condition is asked for again and again: there is nothing to wait on."""
    while next(each.state for each in await system.ps() if each.pid == pid) != "blocked":
        await anyio.lowlevel.checkpoint()


async def test_stop_and_cont(system: llmos.System) -> None:
    child = await system.spawn(debate, "to stop")
    await child.kill("STOP")
    state = next(each.state for each in await system.ps() if each.pid == child.pid)
    assert state in ("stopped", "zombie")
    await child.kill("CONT") if state == "stopped" else None
    assert (await child.wait()).status == 0


async def test_interrupt_ends_the_generation_only(system: llmos.System) -> None:
    begun = anyio.Event()

    async def talks(me: llmos.Process) -> tuple[str, bool]:
        context = await me.open(system="s")
        generation = context.generate(user="go", max_tokens=4000, ignore_stop=True)
        async for _ in generation:
            begun.set()
        return (await generation).reason, (await context.generate(max_tokens=2, ignore_stop=True)).reason == "length"

    child = await system.spawn(talks)
    await begun.wait()
    await system.interrupt(child.pid)
    assert (await child.wait()).value == ("interrupted", True)


async def test_a_child_that_outlives_its_parent_goes_to_init_and_ends_with_the_system(boot: Any) -> None:
    ended = anyio.Event()

    async def orphan(me: llmos.Process) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def parent(me: llmos.Process) -> int:
        return (await me.spawn(orphan)).pid

    async with boot() as system:
        child = await system.spawn(parent)
        pid = (await child.wait()).value
        (view,) = [each for each in await system.ps() if each.pid == pid]
        assert view.parent == 1
        with pytest.raises(llmos.NoSuchChild):
            await system.wait(pid)
        await system.kill(pid, "KILL")
        await ended.wait()


async def test_a_tree_is_killed_as_one(system: llmos.System) -> None:
    async def parent(me: llmos.Process, depth: int) -> None:
        if depth:
            await me.spawn(parent, depth - 1)
        await anyio.sleep_forever()

    child = await system.spawn(parent, 3)
    while len(await system.ps()) < 6:
        pass
    await child.kill("KILL", tree=True)
    await child.wait()
    assert [each.pid for each in await system.ps()] == [1, system.pid]


async def test_limits(system: llmos.System) -> None:
    async def spends(me: llmos.Process) -> None:
        context = await me.open(system="s")
        await context.generate(user="go", max_tokens=4000, ignore_stop=True)

    ended = await (await system.spawn(spends, limits=llmos.Limits(tokens=50))).wait()
    assert ended.status == 152
    assert ended.error is not None
    assert "50" in ended.error
    assert ended.usage.tokens <= 50

    async def breeds(me: llmos.Process) -> str:
        await me.spawn(forever)
        try:
            await me.spawn(forever)
        except llmos.QuotaExceeded as fault:
            return fault.code
        return "none"

    assert (await (await system.spawn(breeds, limits=llmos.Limits(children=1))).wait()).value == "EDQUOT"
    ended = await (await system.spawn(forever, limits=llmos.Limits(wall_seconds=0.05))).wait()
    assert ended.error is not None
    assert "passed a limit" in ended.error


async def test_permissions_are_a_subset(system: llmos.System) -> None:
    async def weak(me: llmos.Process, pid: int) -> list[str]:
        found = []
        for attempt in (
            lambda: me.open(),
            lambda: me.spawn(forever),
            lambda: me.pipe(),
            lambda: me.kill(pid, "KILL"),
            lambda: me.nice(me.pid, -5),
        ):
            try:
                await attempt()
            except llmos.Fault as fault:
                found.append(fault.code)
        return found

    child = await system.spawn(weak, system.pid, capabilities=[])
    assert (await child.wait()).value == ["EPERM"] * 5

    async def gives(me: llmos.Process) -> str:
        try:
            await me.spawn(forever, capabilities=["proc:kill"])
        except llmos.NotPermitted as fault:
            return str(fault)
        return ""

    assert "proc:kill" in (await (await system.spawn(gives, capabilities=["proc:spawn"])).wait()).value


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        (lambda me: None, llmos.InvalidArgument),
        (42, llmos.InvalidArgument),
        ("no-such-agent", llmos.NotFound),
        ("no.such.module:main", llmos.NotFound),
        ("os:getcwd", llmos.InvalidArgument),
        ("./missing.toml", llmos.NotFound),
    ],
)
async def test_what_is_no_program_is_refused(system: llmos.System, program: Any, kind: type[llmos.Fault]) -> None:
    with pytest.raises(kind):
        await system.spawn(program)
    assert len(await system.ps()) == 2


async def test_bad_arguments_are_named_and_leave_nothing_behind(system: llmos.System) -> None:
    for arguments, name in (
        ({"nice": 99}, "nice"),
        ({"cls": "fast"}, "cls"),
        ({"name": ""}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"limits": llmos.Limits(tokens=-1)}, "limits.tokens"),
        ({"capabilities": ["a b"]}, "capabilities.0"),
    ):
        with pytest.raises(llmos.Fault, match=name):
            await system.spawn(forever, **arguments)  # type: ignore[arg-type]
    statistics = (await system.statistics()).kernel
    assert (statistics.processes, statistics.pipes) == (2, 0)


async def test_where_the_time_went_adds_up(system: llmos.System) -> None:
    child = await system.spawn(debate, "time")
    while next((each.state for each in await system.ps() if each.pid == child.pid), None) != "zombie":
        await anyio.lowlevel.checkpoint()
    explanation = await system.explain(child.pid)
    assert sum(explanation.seconds.values()) == pytest.approx(explanation.wall)
    assert explanation.decode_tokens == 32 or explanation.decode_tokens > 0
    await child.wait()


async def test_many_processes(system: llmos.System) -> None:
    async def small(me: llmos.Process, n: int) -> int:
        context = await me.open(system="the same for all")
        await context.generate(user=str(n), max_tokens=3, ignore_stop=True)
        return n

    children = [await system.spawn(small, n) for n in range(100)]
    assert [(await child.wait()).value for child in children] == list(range(100))
    statistics = (await system.statistics()).kernel
    assert statistics.devices[0].hit_tokens > 0
    assert (statistics.processes, statistics.contexts) == (2, 0)
