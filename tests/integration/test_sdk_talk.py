"""Mail and time through the SDK, in a system of one's own and over the socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest

import llmos

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


async def echo(me: llmos.Process, count: int) -> None:
    for _ in range(count):
        mail = await me.receive()
        await me.send(mail.sender, mail.text.upper())


async def test_mail_goes_there_and_back(system: llmos.System) -> None:
    child = await system.spawn(echo, 100)
    for n in range(100):
        await system.send(child.pid, f"message {n} é", timeout=5.0)
    found = []
    for _ in range(100):
        mail = await system.receive()
        assert mail.sender == child.pid
        found.append(mail.text)
    assert found == [f"MESSAGE {n} É" for n in range(100)]
    assert (await child.wait()).status == 0


async def test_more_than_a_box_holds_waits_until_it_is_read(system: llmos.System) -> None:
    async def reader(me: llmos.Process) -> int:
        await me.stdin.read()
        found = [int((await me.receive()).data) for _ in range(1_000)]
        assert found == sorted(found)
        return len(found)

    read, write = await system.pipe()
    child = await system.spawn(reader, stdin=read)
    async with anyio.create_task_group() as tasks:

        async def send_all() -> None:
            for n in range(1_000):
                await system.send(child.pid, str(n))

        tasks.start_soon(send_all)
        while (await system.explain(system.pid)).causes.get("blocked: waits for room") is None:
            await asyncio.sleep(0)
        await write.close()
    assert (await child.wait()).value == 1_000


async def test_mail_that_comes_as_its_receiver_gives_up_is_not_lost(system: llmos.System) -> None:
    sent = 0
    got: list[int] = []
    for turn in range(60):
        waiting = asyncio.create_task(system.receive())
        for _ in range(turn % 7):
            await asyncio.sleep(0)
        sending = asyncio.create_task(system.send(system.pid, str(sent)))
        sent += 1
        for _ in range(turn % 5):
            await asyncio.sleep(0)
        waiting.cancel()
        try:
            got.append(int((await waiting).data))
        except asyncio.CancelledError:
            pass
        await sending
    while len(got) < sent:
        got.append(int((await system.receive(timeout=5.0)).data))
    assert got == list(range(sent))
    with pytest.raises(llmos.TryAgain):
        await system.receive(timeout=0.0)


async def test_time(system: llmos.System) -> None:
    before = await system.clock()
    await system.sleep(0.02)
    after = await system.clock()
    assert 0.02 <= after.uptime - before.uptime < 10
    assert after.wall >= before.wall
    with pytest.raises(llmos.TimedOut, match="no mail came in time"):
        await system.receive(timeout=0.01)
    with pytest.raises(llmos.InvalidArgument, match="seconds"):
        await system.sleep(-1.0)


async def test_a_sleeper_is_killed_at_once(system: llmos.System) -> None:
    async def sleeper(me: llmos.Process) -> None:
        await me.sleep(1_000.0)

    child = await system.spawn(sleeper)
    while next(each for each in await system.ps() if each.pid == child.pid).waiting_for != "timer":
        await asyncio.sleep(0)
    await child.kill("TERM")
    end = await child.wait()
    assert end.status in (1, 128 + 15)


def test_without_await(tmp_path: Path) -> None:
    with llmos.sync.boot(device="dummy", home=tmp_path) as system:
        system.send(system.pid, "to myself")
        assert system.receive().text == "to myself"
        system.sleep(0.0)
        assert system.clock().uptime > 0
        assert system.approvals() == []
