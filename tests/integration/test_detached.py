"""Programs that outlive their client, `llmos run`, and the daemon that llmsh starts: real daemons, in OS processes of their own."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import llmos
from llmos.services.init.output import SPOOL_BYTES
from llmos.services.init.place import daemon_pid

PLACE = Path(llmos.__file__).parent.parent
SUPPORT = Path(__file__).parents[1] / "support"
PROGRAMS = SUPPORT / "programs.py"
SECONDS = 20.0

pytestmark = pytest.mark.anyio


class Commands:
    """`llmos` and `llmsh` with a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "PYTHONPATH": str(PLACE), "LLMOS_HOME": str(home), "LLMOS_DEVICE": "dummy", "NO_COLOR": "1"}

    def start(self, *words: str, module: str = "llmos") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", module, *words]
        return subprocess.Popen(
            command, env=self.environment, cwd=SUPPORT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *words: str, module: str = "llmos", text: str = "") -> tuple[int, str, str]:
        with self.start(*words, module=module) as process:
            out, err = process.communicate(text, timeout=60)
        return process.returncode, out, err


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Commands]:
    yield Commands(tmp_path)
    if (pid := daemon_pid(tmp_path)) is not None:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def up(run: Commands) -> Commands:
    assert run("up")[0] == 0
    return run


def until(path: Path, seconds: float = SECONDS) -> str:
    """The text of a file, when there is some."""
    end = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, f"nothing is written to {path}"
        time.sleep(0.01)
    return path.read_text()


def test_run_gives_input_output_and_status(up: Commands) -> None:
    assert up("run", "programs:echo", "a", "b c") == (0, "", "")
    assert up("run", "programs.py:copy", text="some\ntext") == (0, "some\ntext", "")
    status, out, err = up("run", str(PROGRAMS) + ":fails")
    assert (status, out) == (1, "")
    assert "ValueError: on purpose" in err
    assert err.count("Traceback") == 1
    assert up("run", "programs:ends", "no number")[0] == 1
    status, out, _ = up("run", "--json", "programs:echo", "ü")
    first, last = map(json.loads, out.splitlines())
    assert status == 0
    assert last == {"pid": first["pid"], "status": 0, "value": ["ü"], "error": None}


def test_run_gives_the_capabilities_that_are_named(up: Commands, tmp_path: Path) -> None:
    (tmp_path / "writer.py").write_text("async def main(me):\n    await me.files.write('/home/a', 'b')\n")
    program = f"{tmp_path}/writer.py:main"
    status, _, err = up("run", program)
    assert status == 1
    assert "lacks the capability 'file:rw:/home/a'" in err
    assert up("run", "--can", "file:rw:/home/*", program) == (0, "", "")
    assert up("-c", "cat /home/a", module="llmos.shell.main")[:2] == (0, "b")
    status, _, err = up("run", "--can", "flie:r:/home/*", program)
    assert status == 2
    assert "file" in err


def test_run_says_what_is_wrong(up: Commands) -> None:
    for words, status, says in (
        (("programs.py",), 2, "names no function"),
        (("programs.py:ehco",), 1, "did you mean 'echo'"),
        ((), 2, "the following arguments are required: FILE.py:FUNCTION|MODULE:FUNCTION\n"),
        (("--memory", "1", "programs:echo"), 2, "memory"),
    ):
        code, out, err = up("run", *words)
        assert (code, out) == (status, "")
        assert says in err


def test_ctrl_c_is_term_for_the_program(up: Commands) -> None:
    process = up.start("run", "programs:waits_for_term")
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 128 + 15
        assert process.stderr is not None
        assert "Interrupted" in process.stderr.read()


def test_the_file_of_a_detached_process_says_where_it_crashed(up: Commands) -> None:
    status, out, err = up("run", "--detach", "--json", "programs:fails")
    assert (status, err) == (0, "")
    log = Path(json.loads(out)["log"])
    end = time.monotonic() + SECONDS
    while not (said := until(log)).endswith("ValueError: on purpose\n"):
        assert time.monotonic() < end, said
    assert "programs.py" in said
    assert "in fails" in said


def test_what_is_detached_outlives_its_client_and_keeps_its_output(up: Commands, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    status, out, err = up("run", "--detach", "--json", "programs:ticks", str(shown))
    assert (status, err) == (0, "")
    told = json.loads(out)
    os_pid, before = until(shown).split()
    log = Path(told["log"])
    assert until(log) == "begun\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert up("-c", f"ls /output && cat /output/{log.name}", module="llmos.shell.main") == (0, f"{log.name}\nbegun\n", "")
    status, _, err = up("-c", f"rm /output/{log.name}", module="llmos.shell.main")
    assert status == 1
    assert "read-only" in err
    end = time.monotonic() + SECONDS
    while int(until(shown).split()[-1]) <= int(before):
        assert time.monotonic() < end
    assert f'"pid": {told["pid"]}' in up("-c", "ps --json", module="llmos.shell.main")[1]
    assert up("-c", f"kill -KILL {told['pid']}", module="llmos.shell.main")[0] == 0
    while Path(f"/proc/{os_pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.01)


async def test_a_detached_agent(up: Commands, tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "says.toml").write_text('input = "none"\nprompt = "hello"\n[sampling]\nmax_tokens = 4\n')
    async with llmos.connect(home=tmp_path) as system:
        with anyio.fail_after(SECONDS):
            child = await system.spawn("says", detached=True)
            assert child.stdout is None
            assert child.log is not None
            assert (await child.wait()).status == 0
            shown = await anyio.to_thread.run_sync(until, Path(child.log))
            assert child.output is not None
            assert await system.files.read_text(child.output) == shown


async def test_the_file_of_a_detached_process_is_bounded(up: Commands, tmp_path: Path) -> None:
    async with llmos.connect(home=tmp_path) as system:
        sys.path.insert(0, str(SUPPORT))
        with anyio.fail_after(60):
            child = await system.spawn(f"{PROGRAMS}:prints_for_ever", 3 * SPOOL_BYTES // 60_000, detached=True)
            assert (await child.wait()).status == 0
        assert child.log is not None
        kept = [path.stat().st_size for path in Path(child.log).parent.iterdir()]
        assert SPOOL_BYTES <= sum(kept) <= 2 * SPOOL_BYTES + 65_536 * 2


def test_llmsh_starts_a_daemon_and_says_so(run: Commands) -> None:
    status, out, err = run("-c", "echo hi", module="llmos.shell.main")
    assert (status, out, err, daemon_pid(run.home)) == (0, "hi\n", "", None)  # it needed no system
    status, out, err = run("-c", "ps", module="llmos.shell.main")
    pid = daemon_pid(run.home)
    assert status == 0
    assert pid is not None
    assert "starting one in the background" in err
    assert run("-c", "ps", module="llmos.shell.main")[2] == ""
    assert daemon_pid(run.home) == pid
    assert run("down")[0] == 0
    status, _, err = run("--embedded", "-c", "ps", module="llmos.shell.main")
    assert (status, err, daemon_pid(run.home)) == (0, "", None)


def test_two_shells_at_once_start_one_daemon(run: Commands) -> None:
    shells = [run.start("-c", "ps", module="llmos.shell.main") for _ in range(3)]
    ended = [shell.communicate(timeout=60) for shell in shells]
    assert [shell.returncode for shell in shells] == [0, 0, 0], ended
    assert sum("starting one" in err for _, err in ended) == 1
    assert (run.home / "daemon" / "log").read_text().count(" listens at ") == 1


def test_a_start_that_fails_shows_the_end_of_the_log(run: Commands) -> None:
    run.environment["LLMOS_POLICY"] = "fair"
    (run.home / "daemon").mkdir(mode=0o700)
    (run.home / "daemon" / "socket").mkdir()  # nothing can listen there
    status, out, err = run("-c", "ps", module="llmos.shell.main")
    assert (status, out) == (1, "")
    assert "the daemon ended with status" in err
    assert "socket" in err


def test_a_daemon_that_nobody_uses_ends_itself(run: Commands) -> None:
    run.environment["LLMOS_IDLE_MINUTES"] = "0.03"
    assert run("-c", "ps", module="llmos.shell.main")[0] == 0
    end = time.monotonic() + SECONDS
    while daemon_pid(run.home) is not None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "nobody has been here" in (run.home / "daemon" / "log").read_text()
