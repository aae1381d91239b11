"""The door: no crowd takes the descriptors that the daemon needs, and who is silent goes."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
import zmq

import llmos
from llmos.kernel.errno import TryAgain
from llmos.syscalls import door as doors, param
from llmos.syscalls.door import Door

from .raw import daemon, raw, until
from .test_attacks import CROWD

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


class Host:
    """A ROUTER with a door, at a path, where whoever has said something is a guest."""

    def __init__(self, path: Path, mark: int) -> None:
        self.path, self.guests = path, set[int]()
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.door = Door(self.context, self.router, lambda: self.guests, mark)
        self.router.bind(f"ipc://{path}")

    def connection(self) -> socket.socket:
        """One that stays silent."""
        each = socket.socket(socket.AF_UNIX)
        each.connect(str(self.path))
        return each

    def close(self) -> None:
        self.door.close()
        self.router.close(0)
        self.context.term()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Any]:
    with ExitStack() as stack:

        def make(mark: int) -> Host:
            host = Host(tmp_path / "socket", mark)
            stack.callback(host.close)
            return host

        yield make


def next_descriptor() -> int:
    number = os.dup(0)
    os.close(number)
    return number


def is_open(each: socket.socket) -> bool:
    """Whether the other side has not shut it; its greeting is read."""
    each.setblocking(False)
    try:
        while piece := each.recv(4096):
            assert piece
        return False
    except BlockingIOError:
        return True


@pytest.mark.parametrize("others", [0, 300])
async def test_below_the_mark_all_are_let_in_and_above_it_none(made: Any, others: int) -> None:
    """A connection takes two descriptors here: both its ends are in this OS process, which has `others` open already."""
    with ExitStack() as stack:
        for _ in range(others):
            stack.enter_context(open(os.devnull))
        host = made(1 << 20)
        before = next_descriptor()
        host.door.mark = (before + 60) * 8 // 7 + 1
        crowd = [stack.enter_context(host.connection()) for _ in range(20)]
        await anyio.sleep(0.2)
        assert all(map(is_open, crowd))
        assert host.door.shut == 0
        host.door.demand_room()
        too_many = (host.door.mark - before) // 2 + 20
        crowd += [stack.enter_context(host.connection()) for _ in range(too_many - len(crowd))]
        await until(lambda: host.door.shut >= 20)
        assert next_descriptor() <= host.door.mark + len(crowd)
        with pytest.raises(TryAgain, match="files and connections open"):
            host.door.demand_room()
    await until(lambda: not host.door._came)
    host.door.demand_room()


async def test_who_is_silent_goes_and_guests_stay(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "HELLO_SECONDS", 0.1)
    host = made(1 << 20)
    silent, guest = host.connection(), host.connection()
    await until(lambda: len(host.door._came) == 2)
    host.guests.add(max(host.door._came))
    await anyio.sleep(1.5)
    assert host.door.shut == 0, "its owner has not looked: it may not have had the time to read a hello"
    host.door.look()
    await anyio.sleep(1.5)
    assert host.door.shut == 0, "what was there at the first look may have come after it"
    host.door.look()
    await until(lambda: host.door.shut == 1)
    assert [is_open(silent), is_open(guest)] == [False, True]
    assert not host.door._came, "a guest is not asked again"
    silent.close()
    guest.close()


async def test_a_number_that_is_another_file_by_now_is_left_alone(made: Any, tmp_path: Path) -> None:
    host = made(1 << 20)
    here, there = socket.socketpair()
    with here, there, open(tmp_path / "file", "w") as file:
        for number in (here.fileno(), file.fileno(), 1 << 19):
            handle = doors.handle_on(number)
            assert (handle is not None) is (number == here.fileno())
            host.door._shut(handle, f"ipc://{host.path}")
        here.sendall(b"still there")
        assert there.recv(20) == b"still there"
        file.write("and this too")
    assert host.door.shut == 0
    with open(tmp_path / "file") as file:
        before = next_descriptor()
        assert doors.handle_on(file.fileno()) is None
        assert next_descriptor() == before, "nothing is left open"


@pytest.mark.parametrize(("limit", "mark"), [(256, 128), (1024, 512), (4096, 2996), (20_000, 15_000), (1_048_576, 786_432)])
def test_the_mark_leaves_room_for_what_libzmq_takes_before_it_waits(limit: int, mark: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert doors.mark() == mark
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert doors.mark() == 1 << 20


async def test_one_client_too_many_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(param, "MAX_SESSIONS", 3)
    async with daemon(tmp_path) as endpoint, raw(endpoint.path), raw(endpoint.path):
        async with raw(endpoint.path):
            with pytest.raises(TryAgain, match="3 clients are connected, the most there may be"):
                async with llmos.connect(home=tmp_path):
                    pass
        await until(lambda: len(endpoint.sessions) == 2)
        async with llmos.connect(home=tmp_path) as system:
            assert await system.ps()


async def test_without_descriptors_a_client_is_told_so_and_the_next_comes_in(tmp_path: Path) -> None:
    async with daemon(tmp_path) as endpoint:
        endpoint.door.mark = (next_descriptor() + 200) // 7 * 8
        async with llmos.connect(home=tmp_path) as system:
            assert await system.ps()
        with ExitStack() as stack:
            while next_descriptor() < endpoint.door.mark * 7 // 8:
                stack.enter_context(open(os.devnull))
            with pytest.raises(TryAgain, match="files and connections open, the most for clients; wait until one has left"):
                async with llmos.connect(home=tmp_path):
                    pass
        async with llmos.connect(home=tmp_path) as system:
            assert await system.ps()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("most", [4_096, pytest.param(20_000, marks=pytest.mark.soak)])
def test_a_crowd_that_would_take_every_descriptor_leaves_the_daemon_standing(tmp_path: Path, most: int) -> None:
    """Two OS processes connect as fast as they can, to more than there are descriptors, and say nothing or half of it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < most:
        pytest.skip(f"this user may open {hard} files")
    environment = {**os.environ, "LLMOS_HOME": str(tmp_path), "LLMOS_DEVICE": "dummy", "LLMOS_RUNNERS": "0"}
    llmos_of = [sys.executable, "-m", "llmos"]
    subprocess.run(
        [*llmos_of, "up"], env=environment, check=True, stdout=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most)),
    )  # fmt: skip
    try:
        words = [sys.executable, "-c", CROWD, str(tmp_path / "daemon" / "socket"), str(min(most * 3 // 4, hard - 100))]
        crowds = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
        for crowd in crowds:
            with crowd:
                assert crowd.stdout is not None
                assert crowd.stdout.readline() == b"ready\n"
                until_then = time.monotonic() + 40
                while subprocess.run([*llmos_of, "status"], env=environment, capture_output=True).returncode:
                    assert time.monotonic() < until_then, "it serves nobody any more"
                crowd.communicate()
    finally:
        subprocess.run([*llmos_of, "down"], env=environment, check=True, stdout=subprocess.DEVNULL)
