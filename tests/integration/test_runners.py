"""Programs in runners: OS processes of their own, found, bounded, heard and ended by the daemon."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import llmos
from llmos.services.init.catalogue import DummyCatalogue
from llmos.services.init.daemon import listening, locked
from llmos.services.init.settings import read_settings
from llmos.syscalls import param, wire

from .raw import Raw

DEADLINE = 30.0
MIB = 1 << 20

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[llmos.System]:
    """A client of a daemon with one idle runner."""
    settings = read_settings(home=tmp_path, device="dummy", seed=1, runners=1, runner_memory=2048 * MIB)
    with locked(tmp_path) as path:
        async with listening(settings, DummyCatalogue("dummy"), path), llmos.connect(home=tmp_path) as system:
            with anyio.fail_after(DEADLINE):
                yield system


def alive(pid: int) -> bool:
    """A process that is no zombie has this OS pid."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pids: list[int], seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while any(map(alive, pids)):
        if time.monotonic() > until:
            return False
        await anyio.sleep(0.002)
    return True


async def test_a_program_is_given_its_arguments_and_gives_its_value(system: llmos.System) -> None:
    given = [1, -2.5, "ü", b"\xff", None, True, [1, [2]], {"a": {"b": 1}}, {3: 4}]
    done = await (await system.spawn("programs:echo", *given, (5, 6))).wait()
    assert (done.status, done.value, done.error) == (0, [*given, [5, 6]], None)
    assert (await (await system.spawn("programs:echo")).wait()).value == []


async def test_it_runs_elsewhere_within_its_bounds(system: llmos.System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = (await (await system.spawn("programs:bounds")).wait()).value
    assert told["pid"] != os.getpid()
    assert told["session"] == told["pid"]
    assert told["folder"] == str(tmp_path)
    assert (told["memory"], told["cpu"]) == (2048 * MIB, resource.RLIM_INFINITY)
    assert told["files"][0] == "/dev/null"
    told = (await (await system.spawn("programs:bounds", memory=512 * MIB, cpu_seconds=7)).wait()).value
    assert (told["memory"], told["cpu"]) == (512 * MIB, 7)


async def test_standard_streams_are_the_process_s(system: llmos.System) -> None:
    child = await system.spawn("programs:copy", stdin="some\ntext")
    assert child.stdout is not None
    assert await child.stdout.read() == "some\ntext"
    assert (await child.wait()).value == "some\ntext"


@pytest.mark.parametrize("size", [10, 300_000])
async def test_what_it_prints_comes_too_without_loss(system: llmos.System, size: int) -> None:
    """By the OS process's own stdout, which holds 64 KiB and no more until somebody reads."""
    child = await system.spawn("programs:prints", size)
    assert child.stdout is not None
    assert child.stderr is not None
    assert await child.stdout.read() == "a" * size + "\nfrom a subprocess\n"
    assert await child.stderr.read() == "to stderr\n"
    assert (await child.wait()).status == 0


async def test_a_file_is_a_program_too(system: llmos.System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-tools.py").write_text("import beside\nasync def main(me, n): return n + beside.ONE\n")
    (tmp_path / "beside.py").write_text("ONE = 1\n")
    assert (await (await system.spawn(f"{tmp_path}/my-tools.py:main", 1)).wait()).value == 2
    monkeypatch.chdir(tmp_path)
    assert (await (await system.spawn("my-tools.py:main", 2)).wait()).value == 3


@pytest.mark.parametrize(
    ("program", "kind", "says"),
    [
        ("programs:ehco", llmos.NotFound, "did you mean 'echo'"),
        ("porgrams:echo", llmos.NotFound, "did you mean 'programs'"),
        ("no.such.module:main", llmos.NotFound, "No module named"),
        ("/no/such/file.py:main", llmos.NotFound, "No such file"),
        ("programs:not_a_program", llmos.InvalidArgument, "not an async function"),
        ("__main__:main", llmos.InvalidArgument, "name its file"),
    ],
)
async def test_what_is_not_there_is_said_to_whoever_spawns(system: llmos.System, program: str, kind: type[llmos.Fault], says: str) -> None:
    with pytest.raises(kind, match=says):
        await system.spawn(program)
    assert len(await system.ps()) == 2


async def test_a_module_that_raises_says_what(system: llmos.System, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    for text, says in (
        ("x = 1\n1 / 0\n", "line 2, raised ZeroDivisionError: division by zero"),
        ("async def main(me):\n    return (\n", "line 2, raised SyntaxError: "),
        ("\nimport nosuchmodule\n", "line 2, raised ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("\n\nopen('/no/such')\n", "line 3, raised FileNotFoundError"),
    ):
        broken.write_text(text)
        with pytest.raises(llmos.BadFormat, match=f"{broken}, {says}"):
            await system.spawn(f"{broken}:main")


@pytest.mark.parametrize(
    ("args", "kind", "says"),
    [
        ((1, {1, 2}), llmos.InvalidArgument, "argument 2, a set"),
        ((lambda: 1,), llmos.InvalidArgument, "argument 1, a function"),
        ((2**70,), llmos.InvalidArgument, "argument 1, a int"),
        (("\ud800",), llmos.InvalidArgument, "argument 1, a str"),
        ((b"x" * param.MAX_ARGUMENTS,), llmos.TooLong, str(param.MAX_ARGUMENTS)),
    ],
)
async def test_arguments_that_do_not_cross_are_refused_by_number(
    system: llmos.System, args: tuple[Any, ...], kind: type[llmos.Fault], says: str
) -> None:
    with pytest.raises(kind, match=says):
        await system.spawn("programs:echo", *args)
    assert len(await system.ps()) == 2


async def test_a_value_at_its_bound_and_above(system: llmos.System) -> None:
    head = len(wire.pack_value(b"x" * 70_000, param.MAX_VALUE)) - 70_000
    done = await (await system.spawn("programs:gives", param.MAX_VALUE - head)).wait()
    assert (done.status, len(done.value)) == (0, param.MAX_VALUE - head)
    done = await (await system.spawn("programs:gives", param.MAX_VALUE - head + 1)).wait()
    assert (done.status, done.value) == (1, None)
    assert f"more than the {param.MAX_VALUE}" in (done.error or "")
    done = await (await system.spawn("programs:gives_a_set")).wait()
    assert (done.status, done.value) == (1, None)
    assert "returned a set" in (done.error or "")


@pytest.mark.parametrize(
    ("program", "args", "status", "says"),
    [
        ("fails", (), 1, ["Traceback", "programs.py", "ValueError: on purpose"]),
        ("ends", (3,), 3, ["ended with status 3 before its program returned"]),
        ("ends", (0,), 0, ["ended with status 0"]),
        ("segfaults", (), 139, ["crashed with SIGSEGV", "in segfaults"]),
        ("takes", (1024 * MIB,), 1, ["MemoryError"]),
    ],
)
async def test_a_crash_is_an_exit_status_with_what_is_known(
    system: llmos.System, program: str, args: tuple[Any, ...], status: int, says: list[str]
) -> None:
    child = await system.spawn(f"programs:{program}", *args, memory=512 * MIB)
    done = await child.wait()
    assert done.status == status
    for each in says:
        assert each in (done.error or "")
    assert child.stderr is not None
    if status:
        assert f"{program} (pid {child.pid})" in await child.stderr.read()


async def test_cpu_time_is_bounded(system: llmos.System) -> None:
    done = await (await system.spawn("programs:spins", cpu_seconds=1)).wait()
    assert done.status == 128 + 24
    assert "the 1 s of CPU" in (done.error or "")


async def test_more_than_the_settings_say_takes_a_capability(system: llmos.System) -> None:
    async def asks(me: llmos.Process) -> Any:
        less = (await (await me.spawn("programs:bounds", memory=1024 * MIB)).wait()).value["memory"]
        with pytest.raises(llmos.NotPermitted, match="proc:limits"):
            await me.spawn("programs:bounds", memory=4096 * MIB)
        return less

    done = await (await system.spawn(asks)).wait()
    assert (done.value, done.error) == (1024 * MIB, None)
    assert (await (await system.spawn("programs:bounds", memory=4096 * MIB)).wait()).value["memory"] == 4096 * MIB


@pytest.mark.parametrize("memory", [64 * MIB - 1, (1 << 46) + 1, -1, 0.5, True, "1"])
async def test_bounds_out_of_bounds_are_refused(system: llmos.System, memory: Any) -> None:
    with pytest.raises(llmos.InvalidArgument, match="memory"):
        await system.spawn("programs:echo", memory=memory)


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
async def test_a_kill_reaches_every_descendant(system: llmos.System, signal: str) -> None:
    child = await system.spawn("programs:family")
    assert child.stdout is not None
    family = list(map(int, (await child.stdout.readline()).split()))
    assert len(family) == 4
    assert all(map(alive, family))
    await child.kill(signal)
    if signal == "TERM":  # raised at its next call: it makes none, so the grace goes by
        await child.kill("KILL")
    began = time.monotonic()
    assert await gone(family)
    assert time.monotonic() - began < 2
    assert (await child.wait()).status == 137


async def test_term_is_raised_in_the_call_that_sleeps(system: llmos.System) -> None:
    child = await system.spawn("programs:waits_for_term")
    assert child.stdout is not None
    assert child.stderr is not None
    assert await child.stdout.readline() == "waiting\n"
    while next(each.state for each in await system.ps() if each.pid == child.pid) != "blocked":
        await anyio.sleep(0.01)
    await child.kill("TERM")
    assert (await child.wait()).status == 128 + 15
    assert await child.stderr.read() == "Interrupted\n"


async def test_what_it_leaves_behind_ends_with_it(system: llmos.System) -> None:
    """Also where it ends by itself, and its supervisor's orphans are many."""
    child = await system.spawn("programs:forks_without_end")
    assert child.stdout is not None
    assert await child.stdout.readline() == "begun\n"
    session = {pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _name(pid) == f"llmos-{child.pid}"}
    await child.kill("KILL")
    assert session
    assert await gone(sorted(session))
    await child.wait()
    await anyio.sleep(0.2)
    assert not [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _name(pid) == f"llmos-{child.pid}" and alive(pid)]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def test_stop_holds_its_calls_and_cont_lets_them_go(system: llmos.System) -> None:
    child = await system.spawn("programs:copy")
    assert child.stdin is not None
    await child.kill("STOP")
    await child.stdin.write("text")
    await child.stdin.close()
    with anyio.move_on_after(0.2):
        await child.wait()
        pytest.fail("it went on")
    await child.kill("CONT")
    assert (await child.wait()).value == "text"


async def test_a_program_spawns_and_asks(system: llmos.System) -> None:
    mine, here, there = (await (await system.spawn("programs:spawns")).wait()).value
    assert here == f"here {mine}"
    assert there == [mine]
    assert (await (await system.spawn("programs:asks", "hello")).wait()).value


async def test_more_at_once_than_idle_runners(system: llmos.System) -> None:
    """One idles; the others are forked on demand."""
    children = [await system.spawn("programs:echo", number) for number in range(12)]
    assert [(await child.wait()).value for child in children] == [[number] for number in range(12)]
    assert len(await system.ps()) == 2


async def test_a_spawn_that_is_cancelled_leaves_nothing(system: llmos.System, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\nasync def main(me): pass\n")
    with anyio.move_on_after(0.3):
        await system.spawn(f"{tmp_path}/slow.py:main")
        pytest.fail("it began")
    while len(await system.ps()) > 2:
        await anyio.sleep(0.01)


async def test_secrets_cannot_be_read_by_others(system: llmos.System) -> None:
    """Only socket pairs carry them: no command line and no environment of any process on the way."""
    before = set(os.environ.values())
    told = (await (await system.spawn("programs:knows_its_secrets")).wait()).value
    for what, text in told.items():
        words = set(text.replace("=", "\0").split("\0")) - before
        assert not [word for word in words if len(word) == 64 and set(word) <= set("0123456789abcdef")], what


async def test_a_stranger_cannot_claim_a_process(system: llmos.System, tmp_path: Path) -> None:
    child = await system.spawn("programs:sleeps")
    raw = Raw(system_path(system))
    try:
        raw.send(wire.Claim(wire.PROTOCOL, wire.shape(), b"x" * 32))
        refused = await anyio.to_thread.run_sync(raw.hear)
        assert isinstance(refused, wire.Refused)
        assert "stands for no process" in refused.message
    finally:
        raw.close()
    for call in ("job", "begun"):
        with pytest.raises(llmos.NotPermitted, match="not a process of this client"):
            await system._port.call(child.pid, call)
        with pytest.raises(llmos.NotPermitted, match="does not run in a runner"):
            await system._port.call(system.pid, call)
    await child.kill("KILL")


async def test_only_a_parent_says_what_its_child_runs_and_once(system: llmos.System) -> None:
    child = await system.spawn("programs:sleeps")
    assert child.stdin is not None
    given = {"program": "programs:echo", "stdin": 0, "stdout": 0, "stderr": 0}
    with pytest.raises(llmos.NotPermitted, match="not a child"):
        await system._port.call(system.pid, "run", pid=system.pid, **given)
    with pytest.raises(llmos.BadHandle):
        await system._port.call(system.pid, "run", pid=child.pid, **given)
    given |= {"stdin": child.stdin.pipe, "stdout": child.stdin.pipe + 1, "stderr": child.stdin.pipe + 2}
    with pytest.raises(llmos.AlreadyExists):
        await system._port.call(system.pid, "run", pid=child.pid, **given)
    await child.kill("KILL")


async def test_where_a_function_runs_it_can_be_neither_bounded_nor_detached(system: llmos.System) -> None:
    async def body(me: llmos.Process) -> None: ...

    for options in ({"memory": 512 * MIB}, {"cpu_seconds": 1}, {"detached": True}):
        with pytest.raises(llmos.InvalidArgument, match="name a program"):
            await system.spawn(body, **options)  # type: ignore[arg-type]


async def test_a_system_of_ones_own_has_no_runners(tmp_path: Path) -> None:
    async with llmos.boot(device="dummy", home=tmp_path) as system:
        with pytest.raises(llmos.NotSupported, match="llmos up"):
            await system.spawn("programs:echo", detached=True)
        with pytest.raises(llmos.NotSupported, match="llmos up"):
            await system._call("run", pid=system.pid, program="programs:echo", stdin=0, stdout=0, stderr=0)
        assert (await (await system.spawn("programs:echo", (1, 2))).wait()).value == [(1, 2)]  # as it was: here, and as it is


def system_path(system: llmos.System) -> Path:
    path: Path = system._port.gate.path  # type: ignore[attr-defined]
    return path
