"""Attacks on a daemon from where it is weakest: from below it, and from very many at once."""

from __future__ import annotations

import os
import resource
import socket
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


CROWD = """
import resource, socket, sys
path, count = sys.argv[1], int(sys.argv[2])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
greeting = b"\\xff" + bytes(8) + b"\\x7f\\x03\\x00NULL" + bytes(16) + bytes(32)  # of ZMTP 3.0, without what must come next
crowd = []
for number in range(count):
    each = socket.socket(socket.AF_UNIX)
    each.connect(path)
    try:
        each.sendall((b"", b"\\xff", greeting)[number % 3])
    except (BrokenPipeError, ConnectionResetError):
        pass  # not let in
    crowd.append(each)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_connections_that_say_nothing_or_half_of_it_leave_others_served(tmp_path: Path, count: int) -> None:
    """A third says nothing, a third a byte, a third greets and goes silent; meanwhile somebody works."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        async with daemon(tmp_path, patience=120.0) as endpoint:
            words = [sys.executable, "-c", CROWD, str(endpoint.path), str(count)]
            with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
                assert crowd.stdout is not None
                assert await anyio.to_thread.run_sync(crowd.stdout.readline) == b"ready\n"
                with anyio.fail_after(20):
                    async with llmos.connect(home=tmp_path) as system:
                        context = await system.open(system="s")
                        assert (await context.generate(user="x", max_tokens=3, ignore_stop=True)).reason == "length"
                        assert len(endpoint.sessions) == 1
                crowd.communicate()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_an_http_request_makes_nobody_a_client(tmp_path: Path) -> None:
    request = b"POST /?call=kill HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\nContent-Length: 2\r\n\r\n{}" * 20

    def ask(path: Path) -> bytes:
        heard = b""
        with socket.socket(socket.AF_UNIX) as page:
            page.settimeout(1)
            page.connect(str(path))
            try:
                page.sendall(request)
                while piece := page.recv(4096):
                    heard += piece
            except (ConnectionError, TimeoutError):  # let go, or not answered
                pass
        return heard

    async with daemon(tmp_path) as endpoint:
        heard = await anyio.to_thread.run_sync(ask, endpoint.path)
        assert b"HTTP" not in heard
        assert len(heard) < 100, "the greeting of ZeroMQ, and no more"
        assert not endpoint.sessions
        async with llmos.connect(home=tmp_path) as system:
            assert len(await system.ps()) == 2
