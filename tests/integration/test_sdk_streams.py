"""Pipes through the SDK: order, back-pressure, ends, and waits that are cancelled."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import anyio
import pytest

import llmos

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


async def upper(me: llmos.Process) -> int:
    count = 0
    async for line in me.stdin.lines():
        await me.print(line.upper())
        count += 1
    return count


async def test_text_goes_in_and_comes_out(system: llmos.System) -> None:
    child = await system.spawn(upper, stdin="one\ntwo\nthree")
    assert child.stdout is not None
    assert [line async for line in child.stdout.lines()] == ["ONE", "TWO", "THREE"]
    assert (await child.wait()).value == 3


async def test_more_than_a_pipe_holds_goes_through_whole(system: llmos.System) -> None:
    text = "".join(f"line {n} is long enough for a pipe é\n" for n in range(5_000))
    child = await system.spawn(upper, stdin=text)
    assert child.stdout is not None
    assert await child.stdout.read() == text.upper()
    assert (await child.wait()).value == 5_000


async def test_a_writer_waits_for_a_slow_reader(system: llmos.System) -> None:
    async def chatty(me: llmos.Process) -> None:
        for _ in range(100):
            await me.write("x" * 10_000)

    child = await system.spawn(chatty)
    assert child.stdout is not None
    while not next(each for each in await system.ps() if each.pid == child.pid).waiting_for:
        await anyio.lowlevel.checkpoint()
    assert (await system.explain(child.pid)).seconds["blocked"] >= 0
    assert len(await child.stdout.read()) == 1_000_000
    assert (await child.wait()).status == 0


async def test_what_was_written_before_a_kill_can_be_read(system: llmos.System) -> None:
    written = anyio.Event()

    async def writes(me: llmos.Process) -> None:
        await me.print("last words")
        written.set()
        await anyio.sleep_forever()

    child = await system.spawn(writes)
    assert child.stdout is not None
    await written.wait()
    await child.kill("KILL")
    await child.wait()
    assert await child.stdout.read() == "last words\n"


async def test_a_reader_that_went_away_is_a_broken_pipe(system: llmos.System) -> None:
    async def writes(me: llmos.Process) -> None:
        while True:
            await me.print("anybody there?")

    child = await system.spawn(writes)
    assert child.stdout is not None
    await child.stdout.readline()
    await child.stdout.close()
    ended = await child.wait()
    assert ended.status == 141


async def test_a_child_nobody_looks_at_may_still_write(system: llmos.System) -> None:
    async def writes(me: llmos.Process) -> str:
        for n in range(5):
            await me.print(n)
        return "done"

    await system.spawn(writes)
    gc.collect()
    assert (await system.wait()).value == "done"


async def test_a_pipeline(system: llmos.System) -> None:
    read, write = await system.pipe()
    first = await system.spawn(upper, stdin="a\nb\n", stdout=write)
    second = await system.spawn(upper, stdin=read)
    assert first.stdout is None
    assert second.stdin is None
    assert second.stdout is not None
    assert await second.stdout.read() == "A\nB\n"
    assert [(await each.wait()).value for each in (first, second)] == [2, 2]
    with pytest.raises(llmos.BadHandle):
        await write.write("it was given away")
    assert (await system.statistics()).kernel.pipes <= 3


async def test_an_end_can_be_shared(system: llmos.System) -> None:
    read, write = await system.pipe()
    again = await write.share()
    await system.spawn(upper, stdin="first", stdout=write)
    await system.wait()
    await system.spawn(upper, stdin="second", stdout=again)
    assert await read.read() == "FIRST\nSECOND\n"


async def test_a_read_that_is_cancelled_loses_nothing(system: llmos.System) -> None:
    read, write = await system.pipe()
    with anyio.move_on_after(0.01):
        await read.read_some()
    await write.write("héllo\nwor")
    assert await read.readline() == "héllo\n"
    with anyio.move_on_after(0.01):
        await read.readline()
    await write.write("ld")
    await write.close()
    assert await read.readline() == "world"
    assert await read.readline() == ""


async def test_half_a_character_waits_for_its_rest(system: llmos.System) -> None:
    read, write = await system.pipe()
    await write.write("é".encode()[:1])
    with anyio.move_on_after(0.01):
        await read.read_some()
    await write.write("é".encode()[1:])
    assert await read.read_some() == "é"
    await write.write(b"\xff")
    await write.close()
    assert await read.read() == "\ufffd"


async def test_ends_that_are_dropped_are_closed(system: llmos.System) -> None:
    read, write = await system.pipe()
    await write.write("x")
    del write
    gc.collect()
    assert await read.read() == "x"
    del read
    gc.collect()
    while (await system.statistics()).kernel.pipes:
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("capacity", [0, -1, 2**24 + 1, True, 1.5, "many"])
async def test_bad_capacities(system: llmos.System, capacity: Any) -> None:
    with pytest.raises(llmos.InvalidArgument, match="capacity"):
        await system.pipe(capacity)


async def test_a_second_task_that_reads_is_told_to_try_again(system: llmos.System) -> None:
    reader, writer = await system.pipe()
    first = asyncio.create_task(reader.readline())
    await asyncio.sleep(0)
    for second in (reader.read_some(), reader.read(), reader.readline(), reader.read_bytes(2)):
        with pytest.raises(llmos.TryAgain, match="share"):
            await second
    await writer.write("once\nmore")
    assert await first == "once\n"
    assert await reader.read_some() == "more"


async def test_no_read_gives_more_than_was_asked_for(system: llmos.System) -> None:
    reader, writer = await system.pipe()
    with anyio.move_on_after(0):
        await reader.read_bytes(100)
    await writer.write("0123456789")
    assert [await reader.read_bytes(2), await reader.read_bytes(1), await reader.read_some()] == [b"01", b"2", "3456789"]


async def test_text_and_bytes_can_be_read_in_turn(system: llmos.System) -> None:
    reader, writer = await system.pipe()
    await writer.write("head: é\nbody\n" + "ü")
    await writer.close()
    assert await reader.readline() == "head: é\n"
    assert [await reader.read_bytes(2), await reader.readline()] == [b"bo", "dy\n"]
    assert [await reader.read_bytes(1), await reader.read(), await reader.read_bytes(1)] == [b"\xc3", "\ufffd", b""]


@pytest.mark.parametrize("most", [0, -1, True + 2**20, "1", None])
async def test_bad_sizes_of_a_read(system: llmos.System, most: Any) -> None:
    reader, writer = await system.pipe()
    await writer.write("x")
    with pytest.raises(llmos.InvalidArgument, match="most"):
        await reader.read_bytes(most)
    assert await reader.read_bytes(1) == b"x"


async def test_a_read_of_everything_that_is_cancelled_loses_nothing(system: llmos.System) -> None:
    for turns in range(12):  # before there is an answer, when it is there and not taken, in the read after it
        reader, writer = await system.pipe()
        await writer.write("first ")
        task = asyncio.create_task(reader.read())
        for _ in range(turns):
            await asyncio.sleep(0)
        await system.ps()
        task.cancel()
        await asyncio.wait([task])
        await writer.write("second")
        await writer.close()
        assert await reader.read() == "first second"
