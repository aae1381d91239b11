"""kill -9 of whatever is between a daemon and a program: nothing of the program is left, and the others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

import llmos
from llmos.services.init.place import daemon_pid

PLACE = Path(llmos.__file__).parent.parent
SECONDS = 20.0

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Of a daemon in an OS process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(PLACE), "LLMOS_HOME": str(tmp_path), "LLMOS_DEVICE": "dummy"}
    subprocess.run([sys.executable, "-m", "llmos", "up"], env=environment, check=True, stdout=subprocess.DEVNULL, timeout=60)
    yield tmp_path
    if (pid := daemon_pid(tmp_path)) is not None:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def system(home: Path) -> AsyncIterator[llmos.System]:
    async with llmos.connect(home=home) as system:
        with anyio.fail_after(60):
            yield system


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def all_gone(pids: list[int]) -> bool:
    until = time.monotonic() + SECONDS
    while any(map(alive, pids)) and time.monotonic() < until:
        await anyio.sleep(0.005)
    return not any(map(alive, pids))


async def family(system: llmos.System) -> tuple[llmos.Child, list[int]]:
    """A program with subprocesses, one of them in a session of its own, and their OS pids, the program's first."""
    child = await system.spawn("programs:family")
    assert child.stdout is not None
    return child, list(map(int, (await child.stdout.readline()).split()))


async def test_the_program_is_killed(system: llmos.System) -> None:
    child, pids = await family(system)
    os.kill(pids[0], signal.SIGKILL)
    done = await child.wait()
    assert done.status == 137
    assert "killed from outside" in (done.error or "")
    assert await all_gone(pids)


async def test_its_supervisor_is_killed(system: llmos.System) -> None:
    """The machine kills the program with it; the fork server inherits the rest, and kills that."""
    child, pids = await family(system)
    os.kill(parent(pids[0]), signal.SIGKILL)
    done = await child.wait()
    assert done.status == 137
    assert await all_gone(pids)


async def test_the_fork_server_is_killed(system: llmos.System) -> None:
    """Programs go on without it, and another is there for the next."""
    child, pids = await family(system)
    server = parent(parent(pids[0]))
    os.kill(server, signal.SIGKILL)
    assert await all_gone([server])
    assert (await (await system.spawn("programs:echo", 1)).wait()).value == [1]
    for _ in range(3):
        other = await system.spawn("programs:bounds")
        assert (await other.wait()).status == 0
    assert all(map(alive, pids))
    await child.kill("KILL")
    assert await all_gone(pids)


async def test_the_daemon_is_killed(home: Path) -> None:
    """Nobody is left to ask: every runner sees its socket close."""
    async with llmos.connect(home=home) as system:
        _, pids = await family(system)
        pids += [parent(pids[0]), parent(parent(pids[0]))]
        daemon = daemon_pid(home)
        assert daemon is not None
        os.kill(daemon, signal.SIGKILL)
        assert await all_gone(pids)
        with pytest.raises(llmos.ShutDown):
            await system.ps()


async def test_the_client_is_killed(home: Path, tmp_path: Path) -> None:
    """What is attached ends with it; what is detached does not."""
    code = """
import anyio, llmos, sys
async def main():
    async with llmos.connect(home=sys.argv[1]) as system:
        for detached in (False, True):
            await system.spawn("programs:ticks", f"{sys.argv[1]}/{detached}", detached=detached)
        print("ready", flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""
    support = Path(__file__).parents[1] / "support"
    environment = {**os.environ, "PYTHONPATH": f"{PLACE}:{support}"}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in ("False", "True")):
            await anyio.sleep(0.01)
        client.kill()
    attached, detached = (int((tmp_path / name).read_text().split()[0]) for name in ("False", "True"))
    assert await all_gone([attached])
    before = (tmp_path / "True").read_text()
    while (tmp_path / "True").read_text() in (before, ""):
        await anyio.sleep(0.01)
    assert alive(detached)


async def test_down_ends_everything_in_order(home: Path) -> None:
    async with llmos.connect(home=home) as system:
        _, pids = await family(system)
        pids += [parent(pids[0]), parent(parent(pids[0]))]
        environment = {**os.environ, "PYTHONPATH": str(PLACE), "LLMOS_HOME": str(home)}
        done = await anyio.run_process([sys.executable, "-m", "llmos", "down"], env=environment)
        assert done.returncode == 0
        assert not any(map(alive, pids))
