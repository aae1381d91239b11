"""The daemon's commands, each in an OS process of its own: one daemon for a home, and clear words when something is wrong."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmos
from llmos.services.init.daemon import locked
from llmos.services.init.place import daemon_folder, daemon_pid, private_folder, socket_path

PLACE = Path(llmos.__file__).parent.parent


class Commands:
    """`llmos` and `llmsh` with a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "PYTHONPATH": str(PLACE), "LLMOS_HOME": str(home), "LLMOS_DEVICE": "dummy", "NO_COLOR": "1"}

    def __call__(self, *words: str, module: str = "llmos") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)

    def shell(self, commands: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self(*words, "-c", commands, module="llmos.shell.main")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    yield commands
    if (pid := daemon_pid(tmp_path)) is not None:
        os.kill(pid, signal.SIGKILL)


def up(run: Commands) -> int:
    done = run("up")
    assert done.returncode == 0, done.stderr
    pid = daemon_pid(run.home)
    assert pid is not None
    assert f"pid {pid}" in done.stdout
    return pid


def test_up_status_shell_down(run: Commands) -> None:
    for words in (("status",), ("down",)):
        done = run(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert "llmos up" in done.stderr
    assert json.loads(run("status", "--json").stdout)["running"] is False
    pid = up(run)
    told = json.loads(run("status", "--json").stdout)
    assert (told["running"], told["pid"], told["clients"], told["processes"]) == (True, pid, 0, 0)
    assert f"pid {pid}" in run("status").stdout
    reply = run.home / "reply"
    shell = run.shell(f"ask hello > {reply}; ps")
    assert shell.returncode == 0, shell.stderr
    assert "llmsh" in shell.stdout
    assert reply.read_bytes()
    assert "llmsh" not in run.shell("ps", "--embedded").stdout
    assert "is here" in run("logs", "-n", "1000").stdout
    assert len(run("logs", "-n", "1").stdout.splitlines()) == 1
    done = run("down")
    assert (done.returncode, done.stdout) == (0, f"llmos is down: pid {pid} has ended\n")
    assert daemon_pid(run.home) is None
    assert not socket_path(run.home).exists()
    assert run.shell("ps", "--embedded").returncode == 0
    assert daemon_pid(run.home) is None


def test_a_second_daemon_says_who_the_first_is(run: Commands) -> None:
    pid = up(run)
    for words in (("up",), ("up", "--foreground")):
        done = run(*words)
        assert done.returncode == 1
        assert f"pid {pid}" in done.stderr
        assert "EEXIST" in done.stderr
    assert daemon_pid(run.home) == pid


def test_what_a_killed_daemon_leaves_is_replaced(run: Commands) -> None:
    os.kill(pid := up(run), signal.SIGKILL)
    descriptor = os.open(daemon_folder(run.home) / "lock", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # given up when its process is no more
    os.close(descriptor)
    assert socket_path(run.home).exists()
    assert "no daemon runs" in run("status").stderr
    assert up(run) != pid
    assert run("status").returncode == 0


def test_a_daemon_that_cannot_start_says_why(run: Commands) -> None:
    run.environment["LLMOS_DEVICE_MEMORY"] = "1"
    done = run("up")
    assert done.returncode == 2
    assert "LLMOS_DEVICE_MEMORY" in done.stderr
    del run.environment["LLMOS_DEVICE_MEMORY"]
    folder = private_folder(daemon_folder(run.home))
    (folder / "socket").mkdir()
    done = run("up")
    assert done.returncode == 1
    assert str(folder / "socket") in done.stderr


def test_help_has_an_example(run: Commands) -> None:
    for command in ("up", "down", "status", "logs"):
        assert f"example:\n  llmos {command}" in run(command, "--help").stdout


def test_programs_have_a_grace_when_the_daemon_goes_down(run: Commands) -> None:
    code = """
import anyio, llmos
async def polite(me):
    print("ready", flush=True)
    try:
        await me.stdin.read()
    except llmos.Interrupted:
        print("goodbye", flush=True)
async def main():
    async with llmos.connect() as system:
        child = await system.spawn(polite)
        try:
            await child.wait()
            await system.wait()
        except llmos.NoSuchChild:
            await anyio.sleep_forever()
try:
    anyio.run(main)
except* llmos.ShutDown as group:
    pass
"""
    up(run)
    with subprocess.Popen([sys.executable, "-c", code], env=run.environment, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        assert run("down").returncode == 0
        assert client.stdout.readline() == "goodbye\n"
        client.kill()


def test_a_home_with_a_long_name_has_a_short_socket(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 100)
    path = socket_path(home)
    assert len(os.fsencode(path)) <= 107
    assert path != socket_path(tmp_path / ("x" * 101))
    with locked(home) as given:
        assert given == path
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(given))
        assert path.parent.stat().st_mode & 0o777 == 0o700
    path.parent.rmdir()


def test_a_folder_of_somebody_elses_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(llmos.NotPermitted):
        private_folder(tmp_path / "link")
    (tmp_path / "open").mkdir(mode=0o777)
    assert private_folder(tmp_path / "open").stat().st_mode & 0o077 == 0


def test_sync_connects_too(run: Commands) -> None:
    up(run)
    with llmos.sync.connect(home=run.home) as system:
        child = system.spawn("summarise", stdin="a text")
        assert "".join(child.stdout)
        assert child.wait().status == 0
    with pytest.raises(llmos.NotFound), llmos.sync.connect(home=run.home / "elsewhere"):
        pass


def test_who_runs_a_program_when_the_daemon_goes_hears_it_in_a_line(run: Commands) -> None:
    (run.home / "long.py").write_text("import asyncio\n\nasync def main(me):\n    await me.print('here')\n    await asyncio.sleep(60)\n")
    up(run)
    words = [sys.executable, "-m", "llmos", "run", str(run.home / "long.py:main")]
    with subprocess.Popen(
        words, env=run.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "here\n"
        assert run("down").returncode == 0
        _, said = program.communicate(timeout=20)
    assert program.returncode == 1
    assert said.startswith("llmos: run: the daemon at ")
    assert said.endswith("[ESHUTDOWN]\n")
    assert said.count("\n") == 1
