"""Streams of the shell: UTF-8 or an error that says where, pipes with back-pressure, and ends that are noticed."""

import os
import socket
from pathlib import Path

import anyio
import pytest

from llmos.shell.streams import CHANNEL, Channel, Closed, FileSink, FileSource, NotText, describe, open_sink, open_source

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def text_of(source: FileSource) -> str:
    pieces = []
    while piece := await source.read():
        pieces.append(piece)
    source.close()
    return "".join(pieces)


async def test_a_file_is_read_whole_and_ends(tmp_path: Path) -> None:
    text = "naïve 日本 🙂\n" * 20_000
    (tmp_path / "a").write_text(text, encoding="utf-8")
    source = await open_source(str(tmp_path / "a"))
    assert await text_of(source) == text
    assert await source.read() == ""


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff", "byte 0xff at offset 0"),
        (b"a" * 70_000 + b"\xc3\x28", "byte 0xc3 at offset 70000"),
        (b"ok \xe2\x82", "byte 0xe2 at offset 3"),
        (b"a" * 65_535 + b"\xe2\x28\xa1", "byte 0xe2 at offset 65535"),
    ],
)
async def test_bytes_that_are_no_text_are_named(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "a").write_bytes(data)
    source = await open_source(str(tmp_path / "a"))
    with pytest.raises(NotText, match=says):
        await text_of(source)
    assert await source.read() == ""
    source.close()


async def test_characters_cut_in_two_are_put_together() -> None:
    read, write = os.pipe()
    source = FileSource(read, "pipe", owned=True)
    os.write(write, b"\xe2\x82")
    async with anyio.create_task_group() as tasks:
        found: list[str] = []

        async def reader() -> None:
            found.append(await text_of(source))

        tasks.start_soon(reader)
        await anyio.wait_all_tasks_blocked()
        os.write(write, b"\xac")
        os.close(write)
    assert found == ["€"]


async def test_a_wait_for_input_can_be_cancelled() -> None:
    read, write = os.pipe()
    source = FileSource(read, "pipe", owned=True)
    with anyio.move_on_after(0) as scope:
        await source.read()
    assert scope.cancelled_caught
    os.write(write, b"kept")
    assert await source.read() == "kept"
    os.close(write)
    source.close()


async def test_files_are_replaced_or_appended_to(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    for append, text in ((False, "one"), (True, "two"), (False, "three"), (True, "four")):
        sink = await open_sink(path, append=append)
        await sink.write(text)
        sink.close()
    assert Path(path).read_text() == "threefour"


async def test_a_reader_that_went_is_noticed() -> None:
    read, write = os.pipe()
    os.close(read)
    sink = FileSink(write, "pipe", owned=True)
    with pytest.raises(Closed):
        await sink.write("x")
    sink.close()


async def test_a_full_disk_says_which_file() -> None:
    sink = FileSink(os.open("/dev/full", os.O_WRONLY), "out.txt", owned=True)
    with pytest.raises(OSError, match="No space") as caught:
        await sink.write("x")
    assert describe(caught.value) == "out.txt: no space left on device [ENOSPC]"
    sink.close()


async def test_errors_of_files_are_named(tmp_path: Path) -> None:
    for path, code in ((tmp_path / "none", "ENOENT"), (tmp_path, "EISDIR")):
        with pytest.raises(OSError, match=r"Errno") as caught:
            await open_source(str(path))
        assert describe(caught.value).startswith(str(path))
        assert f"[{code}]" in describe(caught.value)


async def test_a_channel_keeps_order_waits_when_full_and_ends() -> None:
    channel = Channel()
    pieces = [f"{number}," * 1000 for number in range(100)]
    taken: list[str] = []

    async def writer() -> None:
        for piece in pieces:
            await channel.sink.write(piece)
        channel.sink.close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer)
        await anyio.wait_all_tasks_blocked()
        while piece := await channel.source.read():
            assert len(piece) <= CHANNEL + len(pieces[-1])
            taken.append(piece)
    assert "".join(taken) == "".join(pieces)


async def test_a_channel_nobody_reads_refuses() -> None:
    channel = Channel()
    async with anyio.create_task_group() as tasks:

        async def writer() -> None:
            await channel.sink.write("x" * CHANNEL)
            with pytest.raises(Closed):
                await channel.sink.write("more")

        tasks.start_soon(writer)
        await anyio.wait_all_tasks_blocked()
        channel.source.close()


async def test_a_named_pipe_waits_for_its_writer_and_the_wait_can_be_cancelled(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with anyio.fail_after(30):
        source = await open_source(str(tmp_path / "pipe"))
        with anyio.move_on_after(0.05) as waited:
            await source.read()
        assert waited.cancelled_caught
        sink = await open_sink(str(tmp_path / "pipe"), append=False)
        await sink.write("through")
        sink.close()
        assert await text_of(source) == "through"


async def test_writing_to_a_named_pipe_waits_for_its_reader_and_the_wait_can_be_cancelled(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with anyio.fail_after(30):
        with anyio.move_on_after(0.1) as waited:
            await open_sink(str(tmp_path / "pipe"), append=False)
        assert waited.cancelled_caught
        async with anyio.create_task_group() as tasks:

            async def write() -> None:
                sink = await open_sink(str(tmp_path / "pipe"), append=True)
                await sink.write("x" * 300_000)
                sink.close()

            tasks.start_soon(write)
            assert await text_of(await open_source(str(tmp_path / "pipe"))) == "x" * 300_000


async def test_a_socket_is_no_file_to_write_to(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match="No such device"):
            await open_sink(str(tmp_path / "socket"), append=False)
