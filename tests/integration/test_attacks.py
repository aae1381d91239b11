"""Attacks on a daemon from where it is weakest: from below it, and from very many at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

import llmos
from llmos.services.init.catalogue import DummyCatalogue
from llmos.services.init.daemon import listening, locked
from llmos.services.init.settings import read_settings
from llmos.syscalls.peer import is_below

from .raw import daemon, python

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]

HELLO = """
import llmos
try:
    with llmos.sync.connect(name="below") as system:
        print("came in")
except llmos.Fault as fault:
    print(type(fault).__name__, fault)
"""


async def said(code: str, home: Path) -> str:
    with python(code, home) as process:
        out, _ = await anyio.to_thread.run_sync(process.communicate)
        return out.decode()


async def test_what_a_daemon_started_cannot_connect_to_it(tmp_path: Path) -> None:
    async with daemon(tmp_path, above=os.getpid()) as endpoint:
        assert (await said(HELLO, tmp_path)).startswith("NotPermitted")
        below = f"import subprocess, sys; print(subprocess.run([sys.executable, '-c', {HELLO!r}], capture_output=True, text=True).stdout)"
        assert "was started by the daemon" in await said(below, tmp_path)
        assert not endpoint.sessions
        async with llmos.connect(home=tmp_path) as system:  # it is not below itself
            assert len(await system.ps()) == 2


async def test_whoever_is_not_below_it_comes_in(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        async with daemon(tmp_path, above=other.pid):
            assert await said(HELLO, tmp_path) == "came in\n"
        assert is_below(other.pid, os.getpid())
        assert not is_below(os.getpid(), other.pid)
        other.communicate(b"\n")
    assert is_below(other.pid, other.pid), "of one that has ended nobody can tell"
    assert not is_below(0, os.getpid())


async def test_a_program_in_a_runner_has_its_own_rights_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOS_HOME", str(tmp_path))
    settings = read_settings(home=tmp_path, device="dummy", seed=1, runners=1)
    with locked(tmp_path) as path:
        async with listening(settings, DummyCatalogue("dummy"), path, above=os.getpid()), llmos.connect(home=tmp_path) as system:
            with anyio.fail_after(30):
                value = (await (await system.spawn("programs:connects")).wait()).value
    assert value.startswith("NotPermitted: ")
    assert value.endswith("own calls work: True")
