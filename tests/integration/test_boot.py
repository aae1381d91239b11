"""Boot and shutdown: nothing is left behind, however it ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

import llmos
from llmos.drivers.dummy import DummyDevice
from llmos.kernel.errno import DeviceFailed
from llmos.services.init.boot import attach
from llmos.services.init.catalogue import DummyCatalogue
from llmos.services.init.models import LoadedModel
from llmos.services.init.settings import read_settings

from .conftest import Boot

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


async def sleeps(me: llmos.Process) -> None:
    await anyio.sleep_forever()


async def test_the_end_of_the_block_ends_every_program(boot: Boot) -> None:
    said = []

    async def polite(me: llmos.Process) -> None:
        try:
            await me.stdin.read()
        except llmos.Interrupted:
            said.append("goodbye")

    async with boot() as system:
        child = await system.spawn(polite)
        await system.spawn("chat")
        while next(each.state for each in await system.ps() if each.pid == child.pid) != "blocked":
            await anyio.lowlevel.checkpoint()
    assert said == ["goodbye"]


async def test_what_the_block_raises_comes_out_as_it_is(boot: Boot) -> None:
    async def body() -> None:
        async with boot() as system:
            await system.spawn(sleeps)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await body()


async def test_cancellation_ends_it(boot: Boot) -> None:
    with anyio.move_on_after(0.2) as scope:
        async with boot() as system:
            await system.spawn(sleeps)
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_native_cancellation_ends_it(boot: Boot) -> None:
    ready = asyncio.Event()

    async def run() -> None:
        async with boot() as system:
            await system.spawn(sleeps)
            ready.set()
            await asyncio.sleep(3600)

    task = asyncio.create_task(run())
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_calls_after_the_end_are_refused(boot: Boot) -> None:
    async with boot() as system:
        context = await system.open(system="s")
        child = await system.spawn(sleeps)
    for attempt in (system.ps(), context.append(text="x"), child.wait(), system.spawn(sleeps)):
        with pytest.raises(llmos.ShutDown):
            await attempt
    with pytest.raises(llmos.ShutDown):
        await context.generate(text="x")


async def test_two_systems_at_once(boot: Boot) -> None:
    async with boot() as first, boot() as second:
        await first.spawn(sleeps)
        assert len(await first.ps()) == 3
        assert len(await second.ps()) == 2


async def test_boot_again_and_again(boot: Boot) -> None:
    for _ in range(5):
        async with boot() as system:
            assert await system.tokenize("x", model=None) if (await system.open()).length == 0 else True


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "gpu"}, "device"),
        ({"policy": "lifo"}, "policy"),
        ({"device_memory": 5}, "device_memory"),
        ({"threads": 0}, "threads"),
        ({"seed": -1}, "seed"),
        ({"model": "x" * 200}, "model"),
    ],
)
async def test_bad_settings(boot: Boot, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(llmos.InvalidArgument, match=words):
        async with boot(**settings):
            pass


async def test_an_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(llmos.NotFound, match="llmos pull"):
        async with llmos.boot("smolm2", home=tmp_path, device="cpu"):
            pass


async def test_without_any_model_the_system_runs_and_says_what_to_do(tmp_path: Path) -> None:
    async with llmos.boot(home=tmp_path, device="cpu") as system:
        assert await system.models() == []
        assert len(await system.ps()) == 2
        with pytest.raises(llmos.NotFound, match="llmos pull smollm2"):
            await system.open()


async def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMOS_HOME", str(tmp_path))
    monkeypatch.setenv("LLMOS_DEVICE", "dummy")
    monkeypatch.setenv("LLMOS_MODEL", "from-environment")
    async with llmos.boot() as system:
        assert (await system.open()).model == "from-environment"
    async with llmos.boot("given") as system:
        assert (await system.open()).model == "given"
    monkeypatch.setenv("LLMOS_POLICY", "nonsense")
    with pytest.raises(llmos.InvalidArgument, match="LLMOS_POLICY"):
        async with llmos.boot():
            pass


class Failing(DummyCatalogue):
    """Fails to load as often as it is told to."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__("dummy")
        self.error, self.times = error, times

    def load(self, name: str) -> LoadedModel:
        if self.times:
            self.times -= 1
            raise self.error
        return super().load(name)


@pytest.mark.parametrize(
    ("error", "kind"), [(llmos.BadFormat("bad file"), llmos.BadFormat), (RuntimeError("bug"), DeviceFailed), (MemoryError(), DeviceFailed)]
)
async def test_a_model_that_does_not_load_is_told_and_tried_again(tmp_path: Path, error: Exception, kind: type[llmos.Fault]) -> None:
    settings = read_settings(home=tmp_path, device="dummy")
    async with attach(settings, Failing(error, 2), preload=False) as system:
        for _ in range(2):
            with pytest.raises(kind):
                await system.open()
        assert (await system.open()).model == "dummy"


class Repeating(DummyCatalogue):
    """A model that soon repeats itself, on a device that takes guesses."""

    def load(self, name: str) -> LoadedModel:
        return LoadedModel(DummyDevice(name, vocabulary=self.VOCABULARY, memory=1, guess_cost=0.01), super().load(name).text)


@pytest.mark.parametrize("word", ["off", "on", None])
async def test_speculation_is_on_unless_it_is_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str | None) -> None:
    if word is not None:
        monkeypatch.setenv("LLMOS_SPECULATE", word)
    async with attach(read_settings(home=tmp_path, device="dummy"), Repeating("dummy"), preload=False) as system:
        context = await system.open()
        await context.generate(text="once", max_tokens=120, ignore_stop=True)
        explained = await system.explain(system.pid)
    assert explained.decode_tokens == 120
    assert (explained.guessed_tokens > 0) == (explained.right_tokens > 0) == (word != "off")


async def test_a_broken_invariant_brings_everything_down_and_says_so(boot: Boot, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*args: Any) -> None:
        raise llmos.Panic("two owners of one frame")

    async def body() -> None:
        with pytest.MonkeyPatch.context() as patch:
            async with boot() as system:
                await system.spawn(sleeps)
                await system.spawn("chat")
                patch.setattr("llmos.syscalls.process.view_process", broken)
                await system.ps()

    with pytest.raises(llmos.Panic, match="two owners"):
        await body()
    assert "the system is down" in caplog.text


async def test_a_handlers_bug_harms_nobody_else(boot: Boot, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*args: Any) -> None:
        raise KeyError("oops")

    async with boot() as system:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("llmos.syscalls.process.view_process", broken)
            with pytest.raises(llmos.Fault, match="ps failed inside llmos with KeyError"):
                await system.ps()
        assert len(await system.ps()) == 2
    assert "KeyError: 'oops'" in caplog.text


def environment() -> dict[str, str]:
    """Another interpreter finds llmos where this one does, installed or not."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_import_is_light() -> None:
    code = "import sys, llmos; assert not {'torch', 'pydantic', 'anyio', 'asyncio', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment())


def test_boot_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys, llmos\n"
        "async def main():\n"
        f"    async with llmos.boot(device='dummy', home={str(tmp_path)!r}) as system: await system.open()\n"
        "asyncio.run(main())\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60, env=environment())


def test_ctrl_c(tmp_path: Path) -> None:
    """SIGINT in the middle of a generation: out within the grace, with KeyboardInterrupt and nothing else on stderr."""
    code = (
        "import asyncio, signal, threading, llmos\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job is started with SIGINT ignored
        "async def main():\n"
        f"    async with llmos.boot(device='dummy', home={str(tmp_path)!r}) as system:\n"
        "        await system.spawn('chat')\n"
        "        context = await system.open(system='s')\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "        await context.generate(user='go', ignore_stop=True)\n"
        "try:\n"
        "    asyncio.run(main())\n"
        "except KeyboardInterrupt:\n"
        "    print([t.name for t in threading.enumerate() if t.name.startswith('llmos')])\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, env=environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_public_names() -> None:
    for name in llmos.__all__:
        assert getattr(llmos, name) is not None
    assert set(llmos.__all__) <= set(dir(llmos))
    with pytest.raises(AttributeError, match="no attribute 'bot'"):
        _ = llmos.bot  # type: ignore[attr-defined]
    assert threading.main_thread() is threading.current_thread()
