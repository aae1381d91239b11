"""Commands under bubblewrap: what they may see and use up, and what is left of them. Skipped where it is missing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from llmos.sdk.tool import Asked, Said
from llmos.services.tools import command as commands, sandbox, watch
from llmos.services.tools.cgroup import ROOTS, Group
from llmos.services.tools.config import Command
from llmos.syscalls.abi import Fault, NotSupported

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _bubblewrap(request: pytest.FixtureRequest) -> None:
    if "no_bubblewrap" in request.keywords or "bare" in request.node.name:
        return
    try:
        sandbox.probe()
    except Fault as fault:
        pytest.skip(str(fault))


async def sh(line: str, most: int = 65_536, stdin: str = "", **settings: Any) -> Said:
    command = Command(argv=["sh", "-c", "{line}"], stdin="{stdin}", **settings)
    return await commands.run(command, Asked(json.dumps({"line": line, "stdin": stdin}), most, 60.0))


async def test_a_command_runs() -> None:
    assert await sh("echo hello; cat; pwd", stdin="in\n") == Said("hello\nin\n/work\n")
    assert await sh("echo out; echo err >&2; exit 3") == Said("out\nerr\n[exit status 3]", True)
    assert await sh("kill -9 $$") == Said("[exit status 137]", True)


async def test_the_schema_names_the_parameters() -> None:
    tool = commands.tool("find", Command(argv=["grep", "-e", "{what}", "{where}", "{what}"], parameters={"what": "a pattern"}))
    assert tool.schema["required"] == ["what", "where"]
    assert tool.schema["properties"] == {"what": {"type": "string", "description": "a pattern"}, "where": {"type": "string"}}


async def test_a_parameter_is_one_argument_whatever_is_in_it() -> None:
    command = Command(argv=["printf", "%s|", "{a}", "x{b}y"])
    said = await commands.run(command, Asked(json.dumps({"a": "; rm -rf / $(id) `id` {b}", "b": "'\"\n"}), 1000, 60.0))
    assert said.text == "; rm -rf / $(id) `id` {b}|x'\"\ny|"
    assert (await commands.run(command, Asked(json.dumps({"a": "\0", "b": ""}), 1000, 60.0))).is_error
    assert (await commands.run(command, Asked(json.dumps({"a": "x" * 200_000, "b": ""}), 1000, 60.0))).is_error


async def test_it_sees_nothing_of_the_machine(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    assert "No such file" in (await sh(f"cat {secret}")).text
    assert "No such file" in (await sh("cat /etc/shadow")).text
    assert "No such file" in (await sh("ls /root /home /var")).text
    assert set((await sh("env | cut -d= -f1 | sort")).text.split()) == {"HOME", "LANG", "PATH", "PWD", "TERM"}
    listed = (await sh("ls /proc | grep -c '^[0-9]'")).text
    assert int(listed) < 10
    assert str(os.getpid()) not in (await sh("ls /proc")).text.split()


async def test_what_it_may_write(tmp_path: Path) -> None:
    for place in ("/usr/x", "/x", "/etc/x", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger"):
        said = await sh(f"echo x > {place}")
        assert said.is_error, place
    assert not (await sh("echo x > /tmp/x && echo y > /work/y && cat /tmp/x /work/y")).is_error
    assert "No such file" in (await sh("cat /tmp/x /work/y")).text  # gone with the command
    assert (await sh("echo kept > file", folder=str(tmp_path))).text == ""
    assert (tmp_path / "file").read_text() == "kept\n"


async def test_other_folders_are_read_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert (await sh(f"cat {tmp_path}/file", read=[str(tmp_path)])).text == "x"
    assert "Read-only" in (await sh(f"echo y > {tmp_path}/file", read=[str(tmp_path)])).text


async def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        line = f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached"
        argv = ["bash", "-c", line]
        closed = await commands.run(Command(argv=argv), Asked("{}", 1000, 60.0))
        assert closed.is_error
        opened = await commands.run(Command(argv=argv, network=True), Asked("{}", 1000, 60.0))
        assert opened.text == "reached\n"


# --- limits


async def test_time(tmp_path: Path) -> None:
    begun = time.monotonic()
    said = await sh("echo begun; (sleep 100 &) ; sleep 100", seconds=0.5)
    assert said == Said("begun\n[killed after 0.5 s]", True)
    assert time.monotonic() - begun < 5


async def test_a_busy_command_is_ended_too() -> None:
    assert "[killed after 0.5 s]" in (await sh("while :; do :; done", seconds=0.5)).text


async def test_much_output_is_cut_with_a_mark_and_without_memory() -> None:
    said = await sh("echo first; head -c 10000000 /dev/zero | tr '\\0' x; echo; echo last", most=1000)
    assert said.text.startswith("first\nxxx")
    assert said.text.endswith("xxx\nlast\n")
    assert f"[... {said.missing:,} bytes cut ...]" in said.text
    assert len(said.text) < 1000
    endless = await sh("yes", most=1000)
    assert endless.is_error
    assert "[killed: it printed more than 67,108,864 bytes]" in endless.text


async def test_memory() -> None:
    said = await sh("head -c 300000000 /dev/zero | tail", memory="64MiB")
    assert said.is_error
    grow = """awk 'BEGIN { s = "x"; while (length(s) < 60000000) s = s s; system("sleep 20") }' & """
    many = await sh(grow * 6 + "wait", memory="256MiB")  # none of them is over the limit, all together are
    assert "[killed: it took more than 268,435,456 bytes of memory]" in many.text
    full = await sh("head -c 300000000 /dev/zero > /work/file", memory="64MiB")
    assert "No space left" in full.text


async def test_a_fork_bomb() -> None:
    if os.geteuid() == 0 and (group := Group.make(5)) is None:
        pytest.skip("this user is root, whom no limit binds, and there are no control groups")
    elif os.geteuid() == 0 and group is not None:
        assert group.remove()
    most = 0

    async def look() -> None:
        nonlocal most
        while True:
            most = max(most, len(watch.below(os.getpid(), 10_000)))
            await asyncio.sleep(0.005)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        said = await sh("f() { f | f & }; f; sleep 60", processes=32, seconds=1)
        tasks.cancel_scope.cancel()
    assert said.is_error
    assert most <= 32 + 10
    assert not [place for root in ROOTS for place in root.glob(f"llmos-{os.getpid()}-*")]


async def test_cancellation_kills_all_of_it_at_once(tmp_path: Path) -> None:
    """Also what has left the session and ignores signals."""
    mark = tmp_path / "begun"
    line = "trap '' TERM HUP INT; (setsid sleep 98765 &); (sleep 98765 &); touch begun; sleep 98765"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: sh(line, folder=str(tmp_path)))
        while not mark.exists():
            await asyncio.sleep(0.01)
        begun = time.monotonic()
        tasks.cancel_scope.cancel()
    assert time.monotonic() - begun < 1.0  # 0.1 s on a quiet machine
    assert not sleepers("98765")


async def test_bubblewrap_is_killed_in_a_call() -> None:
    """By whoever may: the call ends with an error at once, and nothing of the command is left."""
    said: list[Said] = []

    async def call() -> None:
        said.append(await sh("echo begun; (setsid sleep 98764 &); sleep 98764"))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            while len(sleepers("98764")) < 2:
                await asyncio.sleep(0.01)
            wrapper = next(pid for pid in watch.below(os.getpid(), 100) if Path(f"/proc/{pid}/comm").read_text() == "bwrap\n")
            os.kill(wrapper, signal.SIGKILL)
        while sleepers("98764"):
            await asyncio.sleep(0.01)
    assert said[0].is_error
    assert "begun" in said[0].text
    assert "killed by signal 9" in said[0].text


def sleepers(seconds: str) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if place.read_bytes().split(b"\0")[:2] == [b"sleep", seconds.encode()]:
                found.append(place.parent.name)
        except OSError:
            continue
    return found


async def test_many_at_once() -> None:
    said: list[Said] = []

    async def one(number: int) -> None:
        said.append(await sh(f"sleep 0.2; echo {number}"))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(one, number)
    assert sorted(int(each.text) for each in said) == list(range(20))


# --- without


async def test_bare_commands_are_bounded_too(tmp_path: Path) -> None:
    said = await sh("echo x; (sleep 87654 &); setsid sleep 87654 & sleep 87654", sandbox=False, seconds=0.5, folder=str(tmp_path))
    assert said == Said("x\n[killed after 0.5 s]", True)
    assert not sleepers("87654")
    assert "HOME" in (await sh("env", sandbox=False)).text
    many = await sh("for i in $(seq 20); do sleep 60 & done; wait", sandbox=False, processes=8)
    assert many.is_error
    assert "more than 8 processes" in many.text or "fork" in many.text
    assert await sh("echo x; sleep 60 &", sandbox=False) == Said("x\n")  # what is left behind is ended, not waited for


async def test_bare_is_never_chosen_for_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    said = await sh("echo x")
    assert said.is_error
    assert "bubblewrap (bwrap) is not installed" in said.text
    assert "apt install bubblewrap" in said.text
    with pytest.raises(NotSupported):
        sandbox.probe()


def test_bare_look_at_what_is_gone() -> None:
    assert watch.below(2**22 + 1, 5) == []
    assert watch.memory([2**22 + 1]) == 0
    watch.end(2**22 + 1, 5)
