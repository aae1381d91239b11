"""Files through the SDK, embedded and over the socket."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

import llmos
from llmos.sdk.files import PART, Files
from llmos.syscalls import param

from .conftest import Boot

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


async def test_a_file_from_its_making_to_its_restoring(system: llmos.System) -> None:
    files = system.files
    await files.make("/home/notes/today", parents=True)
    path = "/home/notes/today/plan ünï.txt"
    await files.write(path, "first\n")
    await files.append(path, "and more\n")
    await files.write(path, b"second\n")
    assert await files.read_text(path) == "second\n"
    assert [(each.version, each.size) for each in await files.versions(path)] == [(1, 15)]
    await files.remove("/home/notes", tree=True)
    with pytest.raises(llmos.NotFound):
        await files.read(path)
    restored = await files.restore(path)
    assert (restored.name, restored.kind, restored.size) == ("plan ünï.txt", "file", 7)
    assert await files.read(path) == b"second\n"
    await files.move(path, "/home/other")
    await files.copy("/home/other", "/tmp/copy")
    assert [each.name for each in await files.list("/home")] == ["notes", "other"]
    assert [each.name for each in await files.list("/tmp")] == ["copy"]
    assert (await files.stat("/home/other")).size == 7


async def test_large_files_come_in_parts(system: llmos.System, tmp_path: Path) -> None:
    data = os.urandom(2 * PART + 12_345)
    (tmp_path / "large").write_bytes(data)
    await system.files.copy(f"host:{tmp_path}/large", "/home/large")
    assert [len(part) async for part in system.files.chunks("/home/large")] == [PART, PART, 12_345]
    assert await system.files.read("/home/large") == data
    assert b"".join([part async for part in system.files.chunks("/home/large", 2 * PART)]) == data[2 * PART :]
    await system.files.write("/home/exact", data[:PART])
    assert await system.files.read("/home/exact") == data[:PART]
    await system.files.copy("/home/large", f"host:{tmp_path}/back")
    assert (tmp_path / "back").read_bytes() == data


async def test_a_reader_sees_one_content(system: llmos.System) -> None:
    """Whoever reads while others replace gets all of one content, or is told that there is none to be had."""
    contents = [bytes([number]) * (PART + 1) for number in (1, 2)]
    await system.files.write("/home/f", contents[0])
    parts = system.files.chunks("/home/f")
    assert await anext(parts) == contents[0][:PART]
    await system.files.write("/home/f", contents[1])
    with pytest.raises(llmos.TryAgain, match="replaced"):
        await anext(parts)
    over = False

    async def replace() -> None:
        while not over:
            for data in contents:
                await system.files.write("/home/f", data)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(replace)
        for _ in range(10):
            try:
                assert await system.files.read("/home/f") in contents
            except llmos.TryAgain:
                pass
        over = True


async def test_one_write_has_a_bound(system: llmos.System) -> None:
    await system.files.write("/tmp/f", bytes(param.MAX_FILE_WRITE))
    with pytest.raises(llmos.TooLong, match="append the rest"):
        await system.files.write("/tmp/f", bytes(param.MAX_FILE_WRITE + 1))
    assert (await system.files.stat("/tmp/f")).size == param.MAX_FILE_WRITE
    with pytest.raises(llmos.InvalidArgument, match="data must be text or bytes"):
        await system.files.write("/tmp/f", 5)  # type: ignore[arg-type]


async def test_what_is_no_text_is_said_to_be_none(system: llmos.System) -> None:
    await system.files.write("/home/f", b"ab\xff")
    with pytest.raises(llmos.BadFormat, match="byte 0xff at offset 2"):
        await system.files.read_text("/home/f")


async def test_a_folder_of_many_comes_in_pages(system: llmos.System, tmp_path: Path) -> None:
    names = [f"{number:05}" for number in range(2 * param.MAX_ENTRIES)]
    await system.files.make("/home/many")
    for name in names:
        (tmp_path / "files/root/now/many" / name).touch()
    assert [each.name for each in await system.files.list("/home/many")] == names
    (tmp_path / "files/root/now/many/zzzzz").touch()
    assert [each.name for each in await system.files.list("/home/many")] == [*names, "zzzzz"]


async def test_programs_have_what_they_were_given(system: llmos.System) -> None:
    await system.files.write("/home/secret", "s")
    await system.files.make("/home/box")

    async def curious(me: llmos.Process) -> list[str]:
        await me.files.write("/home/box/mine", "m")
        found = [await me.files.read_text("/home/box/mine"), *(each.name for each in await me.files.list("/home/box"))]
        for path in ("/home/secret", "/home/box/../secret", "/home/boxes", "host:/etc/hosts"):
            try:
                await me.files.read(path)
            except llmos.NotPermitted as refused:
                found.append(str(refused).partition("'")[2].partition("'")[0])
        return found

    child = await system.spawn(curious, capabilities=["file:rw:/home/box/*"])
    assert (await child.wait()).value == [
        "m", "mine", "file:r:/home/secret", "file:r:/home/secret", "file:r:/home/boxes", "file:r:host:/etc/hosts",
    ]  # fmt: skip

    async def unheard(me: llmos.Process) -> str:
        me_too = await me.files.read_text(f"/proc/{me.pid}/status")
        with pytest.raises(llmos.NotPermitted):
            await me.files.read("/home/secret")
        with pytest.raises(llmos.NotPermitted):
            await me.files.list("/tmp")
        return me_too.splitlines()[0]

    ended = await (await system.spawn(unheard)).wait()
    assert (ended.error, ended.value) == (None, "name: unheard")


async def test_users_see_their_own(system: llmos.System) -> None:
    await system.files.write("/home/f", "root's")
    await system.files.write("/tmp/f", "root's")
    seen: list[list[str]] = []

    async def guest(files: Files) -> None:
        seen.append([each.name for mount in ("/home", "/tmp") for each in await files.list(mount)])
        await files.write("/home/f", "guest's")
        seen.append([await files.read_text("/home/f")])

    for user in ("guest", "../root", "root/", "."):
        streams = await system._call("spawn", name="guest", user=user, capabilities=["file:rw:/*"])
        await guest(Files(system._port, streams.pid))
    assert seen == [[], ["guest's"]] * 4
    assert await system.files.read_text("/home/f") == "root's"


async def test_temporary_files_go_with_the_system_and_homes_stay(boot: Boot, tmp_path: Path) -> None:
    async with boot() as system:
        await system.files.write("/tmp/t", "t")
        await system.files.write("/home/h", "h")
    async with boot() as system:
        assert await system.files.list("/tmp") == []
        assert await system.files.read_text("/home/h") == "h"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_without_await(tmp_path: Path) -> None:
    with llmos.sync.boot(device="dummy", home=tmp_path, seed=1) as system:
        system.files.write("/home/f", "a\nb\n")
        assert system.files.read_text("/home/f") == "a\nb\n"
        assert b"".join(system.files.chunks("/home/f")) == b"a\nb\n"
        assert [each.name for each in system.files.list("/home")] == ["f"]
