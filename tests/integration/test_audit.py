"""The audit log of a daemon and of a boot: who reads it, what attacks leave in it, and what kill -9 does to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import llmos
from llmos.services.audit.log import files
from llmos.services.audit.read import Filter, records, verify
from llmos.services.init.place import audit_folder, daemon_pid, socket_path

from .conftest import connected
from .raw import raw
from .shell_harness import shell_in

PLACE = Path(llmos.__file__).parent.parent


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    if (pid := daemon_pid(tmp_path)) is not None:
        os.kill(pid, signal.SIGKILL)


def run(home: Path, *words: str, module: str = "llmos") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PLACE), "LLMOS_HOME": str(home), "LLMOS_DEVICE": "dummy", "NO_COLOR": "1"}
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def audit(home: Path, *words: str) -> list[dict[str, Any]]:
    done = run(home, "audit", "--json", *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_daemon_writes_down_what_is_done_and_goes_on_after_kill_9(home: Path) -> None:
    none = run(home, "audit")
    assert (none.returncode, none.stdout) == (1, "")
    assert "llmos up" in none.stderr
    assert run(home, "up").returncode == 0
    done = run(home, "-c", "ask hello; kill 1; ps > /dev/null", module="llmos.shell.main")
    assert "EPERM" in done.stderr
    (denied,) = audit(home, "--denied")
    assert (denied["call"], denied["name"], denied["outcome"], denied["arguments"]) == (
        "kill",
        "llmsh",
        "EPERM",
        {"pid": 1, "signal": "TERM", "tree": False},
    )
    assert {"spawn", "generate", "exit", "wait", "ps"} <= {each["call"] for each in audit(home)}
    assert "hello" not in "".join(path.read_text() for path in files(audit_folder(home)))
    assert {each["call"] for each in audit(home, "--call", "ps", "--since", "1h")} == {"ps"}
    assert audit(home, "--since", "2100-01-01") == []
    assert audit(home, "--pid", str(denied["pid"]), "--denied") == [denied]
    assert "EPERM" in run(home, "audit", "--denied").stdout
    for wrong in (("--since", "yesterday"), ("--anchor", "x")):
        done = run(home, "audit", *wrong)
        assert (done.returncode, done.stdout) == (2, "")
    pid = daemon_pid(home)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while daemon_pid(home) is not None:
        time.sleep(0.01)
    (path,) = files(audit_folder(home))
    with open(path, "ab") as file:  # as if the machine had stopped in the middle of a write
        file.write(b'{"n":99999,"time":1')
    assert run(home, "up").returncode == 0
    assert run(home, "-c", "ps", module="llmos.shell.main").returncode == 0
    assert run(home, "down").returncode == 0
    whole = run(home, "audit", "--verify")
    assert whole.returncode == 0
    assert "the log is whole" in whole.stdout
    assert "a crash tore 19 bytes off" in whole.stdout
    anchor = json.loads(run(home, "audit", "--verify", "--json").stdout)["head"]
    assert run(home, "audit", "--anchor", anchor).returncode == 0
    path.write_bytes(path.read_bytes().replace(b'"kill"', b'"ps"  '))
    broken = run(home, "audit", "--verify")
    assert (broken.returncode, broken.stdout) == (1, "")
    assert "000001.jsonl, line" in broken.stderr
    assert json.loads(run(home, "audit", "--verify", "--json").stdout)["whole"] is False


def test_follow(home: Path) -> None:
    assert run(home, "up").returncode == 0
    run(home, "status")
    environment = {**os.environ, "PYTHONPATH": str(PLACE), "LLMOS_HOME": str(home)}
    with subprocess.Popen(
        [sys.executable, "-m", "llmos", "audit", "-f", "--json", "--call", "kill"], env=environment, stdout=subprocess.PIPE, text=True
    ) as following:
        run(home, "-c", "kill 1", module="llmos.shell.main")
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["call"] == "kill"
        following.send_signal(signal.SIGINT)
        assert following.wait(30) == 130


@pytest.mark.anyio
async def test_whoever_says_to_be_another_is_written_down_as_who_it_is(tmp_path: Path) -> None:
    async with connected(home=tmp_path) as system, raw(socket_path(tmp_path)) as thief:
        with pytest.raises(llmos.NotPermitted, match="calls are made as one's own"):
            await anyio.to_thread.run_sync(lambda: thief.result(1, "spawn", {"name": "mine"}, pid=system.pid))
        host = thief.pid
    (record,) = [each for each in records(audit_folder(tmp_path), Filter(denied=True)) if each["call"] == "spawn"]
    assert (record["pid"], record["capabilities"]) == (host, [f"pid:{system.pid}"])


@pytest.mark.anyio
async def test_a_boot_of_ones_own_keeps_a_log_if_it_is_told_to(tmp_path: Path) -> None:
    async with llmos.boot(device="dummy", home=tmp_path):
        pass
    assert not audit_folder(tmp_path).exists()
    for how in ("on", "full"):
        async with llmos.boot(device="dummy", home=tmp_path, audit=how) as system:
            await system.tokenize("what was said")
            with pytest.raises(llmos.AlreadyExists, match="another system writes the audit log"):
                async with llmos.boot(device="dummy", home=tmp_path, audit="on"):
                    pass
    lines = list(records(audit_folder(tmp_path), Filter(call="tokenize")))
    assert [each["arguments"].get("text") == "what was said" for each in lines] == [False, True]
    assert verify(audit_folder(tmp_path)).files == 2


@pytest.mark.anyio
async def test_in_the_shell(tmp_path: Path) -> None:
    """A person sees what waits, says yes and no, and is told of new ones."""
    async with shell_in(tmp_path, interactive=True) as shell:
        assert (await shell.run("approvals")).out == ""
        system = await shell.shell.system()

        async def careful(me: llmos.Process) -> str:
            await me.pipe(7)
            try:
                await me.pipe(8)
            except llmos.NotPermitted as refused:
                return str(refused)
            return "made"

        child = await system.spawn(careful, capabilities=["ask:pipe:*"])
        await system.next_approvals()
        ran = await shell.run("approvals; approvals --json; allow 1")
        assert f"[1] pid {child.pid} (careful) wants pipe:new, for pipe" in ran.out
        assert '{"capacity": 7}' in ran.out
        assert ran.status == 0
        await system.next_approvals(1)
        ran = await shell.run("allow 1; deny 2 no more of them")
        assert "[ENOENT]" in ran.err
        assert "no more of them" in (await child.wait()).value
        await shell.shell.show_notes()
        told = (await shell.run("approvals")).err
        assert f"[approval 1] pid {child.pid} (careful) wants pipe:new" in told
        assert "[approval 2]" in told
        for wrong in ("allow", "deny", "allow x", "approvals 1 2", "allow 0"):
            assert (await shell.run(wrong)).status == 2


@pytest.mark.anyio
async def test_another_shell_answers_for_an_agent_of_the_first(home: Path) -> None:
    assert (await anyio.to_thread.run_sync(run, home, "up")).returncode == 0
    environment = {**os.environ, "PYTHONPATH": str(PLACE), "LLMOS_HOME": str(home), "LLMOS_DEVICE": "dummy", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "llmos.shell.main", "-c", "spawn --can ask:llm:*,pipe:* summarise 'some text'"]
    known: list[str] = []
    async with (
        llmos.connect(home=home) as system,
        await anyio.open_process(command, env=environment) as first,
        anyio.create_task_group() as tasks,
    ):

        async def answer() -> None:
            while True:
                for each in await system.next_approvals(len(known)):
                    known.append(each.capability)
                    if each.id == 1:
                        words = ("-c", "allow 1")
                        done = await anyio.to_thread.run_sync(lambda words=words: run(home, *words, module="llmos.shell.main"))
                        assert (done.returncode, done.stderr) == (0, "")
                    else:
                        await system.allow(each.id, digest=each.digest)

        tasks.start_soon(answer)
        with anyio.fail_after(60):
            assert await first.wait() == 0
        tasks.cancel_scope.cancel()
    assert len(known) >= 2
    assert set(known) == {"llm:smollm2"}
    made = await anyio.to_thread.run_sync(audit, home, "--call", "generate")
    assert {len(each["approved_by"]) for each in made} == {1}
