"""MCP servers, real ones of the official SDK, over stdio and streamable HTTP: what they give, and what becomes of it when they are bad."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

import llmos
from llmos.sdk.tool import Asked
from llmos.services.init.catalogue import DummyCatalogue
from llmos.services.init.daemon import listening, locked
from llmos.services.init.settings import read_settings
from llmos.services.tools import server as servers
from llmos.services.tools.config import Server
from llmos.services.tools.server import Gone, connected
from llmos.services.tools.stdio import LAST_LINES, LINE, LOGGED_LINES, MAX_LINE, MAX_UNASKED
from llmos.syscalls.abi import param

from .conftest import Boot

pytestmark = pytest.mark.anyio

SCRIPT = str(Path(__file__).parents[1] / "support/mcp_server.py")
LONG = 30.0


def stdio_server(*how: str, **settings: Any) -> Server:
    return Server(command=[sys.executable, SCRIPT, *how], **settings)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@asynccontextmanager
async def http_server(port: int, *how: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, SCRIPT, f"port={port}", *how, stderr=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                await asyncio.sleep(0.02)
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@pytest.fixture(params=["stdio", "http"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    if request.param == "stdio":
        yield stdio_server()
    else:
        port = free_port()
        async with http_server(port):
            yield Server(url=f"http://127.0.0.1:{port}/mcp")


def asked(most: int = 1_000, **arguments: Any) -> Asked:
    return Asked(json.dumps(arguments), most, LONG)


async def test_a_server_over_both_transports(server: Server, tmp_path: Path) -> None:
    """What it lists, what it answers, and all that is no plain text: one connection, since a server takes a second to start."""
    with anyio.fail_after(LONG):
        async with connected("bad", server) as connection:
            tools = {tool.name: tool for tool in await connection.tools()}
            assert set(tools) == {f"bad.{name}" for name in ("add", "sleep", "die", "fail", "much", "picture", "pid")}
            assert tools["bad.add"].description == "Add two numbers."
            assert tools["bad.add"].schema["required"] == ["a", "b"]
            assert (await tools["bad.add"].run(asked(a=1, b=2))).text == "3"
            failed = await connection.call("fail", asked())
            assert failed.is_error
            picture = await connection.call("picture", asked())
            assert picture.text == "[image, image/png, 1,005 bytes: not shown]"
            assert (await connection.call("nosuch", asked())).is_error
            await cancelled_is_told(connection, tmp_path)
            much = await connection.call("much", asked(size=900_000))
            assert (len(much.text) <= 1_000, much.missing + much.text.count("x")) == (True, 900_000)


async def cancelled_is_told(connection: servers.Connection, folder: Path) -> None:
    """The server hears that nobody waits any more."""
    mark = folder / "mark"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: connection.call("sleep", asked(seconds=100, mark=str(mark))))
        while not Path(f"{mark}.begun").exists():
            await asyncio.sleep(0.01)
        tasks.cancel_scope.cancel()
    while not Path(f"{mark}.cancelled").exists():
        await asyncio.sleep(0.01)
    assert (await connection.call("add", asked(a=1, b=2))).text == "3"


async def test_a_server_that_sends_ten_megabytes_and_then_dies_in_a_call() -> None:
    async with connected("bad", stdio_server()) as connection:
        much = await connection.call("much", asked(size=10_000_000))
        assert (len(much.text) <= 1_000, much.missing + much.text.count("x")) == (True, 10_000_000)
        said = await connection.call("die", asked())
        assert said.is_error
        assert "the MCP server bad did not answer" in said.text
        await connection.news.wait()
        assert connection.lost
        assert (await connection.call("add", asked(a=1, b=2))).is_error


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_many_thousand_tools_are_a_thousand(caplog: pytest.LogCaptureFixture, count: int) -> None:
    async with connected("bad", stdio_server(f"many={count}")) as connection:
        tools = await connection.tools()
        assert len(tools) == param.MAX_TOOLS
        assert f"{count - param.MAX_TOOLS} of its tools are left out" in caplog.text


async def test_a_server_that_does_not_start_in_time() -> None:
    with pytest.raises(Gone, match=r"did not answer within 0.5 s"):
        async with connected("bad", stdio_server("slow=60", start_seconds=0.5)):
            pass


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(Gone, match="No such file"):
        async with connected("bad", Server(command=["/nowhere/server"])):
            pass


@pytest.mark.parametrize("how", ["endless=1", pytest.param("garbage=1000", marks=pytest.mark.soak)])
async def test_a_server_that_says_what_makes_no_sense(how: str) -> None:
    with anyio.fail_after(LONG), pytest.raises(Gone, match=f"{MAX_LINE:,} bytes|made no sense"):
        async with connected("bad", stdio_server(how, start_seconds=10.0)) as connection:
            await connection.tools()


async def test_some_lines_of_garbage_are_forgiven_and_only_wanted_tools_taken() -> None:
    async with connected("bad", stdio_server("garbage=20", tools=["add", "nosuch"])) as connection:
        assert [tool.name for tool in await connection.tools()] == ["bad.add"]
        assert (await connection.call("add", asked(a=1, b=2))).text == "3"


# --- what no SDK would say

RUDE = Server(command=[sys.executable, str(Path(__file__).parents[1] / "support/rude_mcp.py")])


@pytest.mark.parametrize("how", ["wrong", "wrong-content", "no-result"])
async def test_an_answer_that_is_no_message_fails_its_call_at_once(how: str) -> None:
    async with connected("rude", RUDE) as connection:
        with anyio.fail_after(5):
            said = await connection.call("be", asked(how=how))
        assert said.is_error
        assert "did not answer" in said.text
        assert (await connection.call("be", asked(how="well"))).text == "well done"


@pytest.mark.parametrize("how", ["notify", "changed"])
@pytest.mark.parametrize("times", [5_000, pytest.param(200_000, marks=pytest.mark.soak)])
async def test_a_flood_of_notifications_leaves_others_their_turn(how: str, times: int) -> None:
    async with connected("rude", RUDE) as connection:
        longest, over = 0.0, anyio.Event()

        async def others() -> None:
            nonlocal longest
            while not over.is_set():
                begun = anyio.current_time()
                await anyio.sleep(0.001)
                longest = max(longest, anyio.current_time() - begun)

        begun = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(others)
            assert (await connection.call("be", asked(how=how, times=times))).text == f"{how} done"
            over.set()
        assert anyio.current_time() - begun > times / MAX_UNASKED * 0.008, "whoever says too much is read slowly"
        assert longest < 0.5


@pytest.mark.parametrize(("how", "times"), [("shout", 100_000), ("shout-on", 20_000)])
async def test_of_what_a_server_says_on_stderr_the_beginning_and_the_end_are_logged(
    caplog: pytest.LogCaptureFixture, how: str, times: int
) -> None:
    caplog.set_level("INFO", "llmos.tools")
    async with connected("rude", RUDE) as connection:
        assert (await connection.call("be", asked(how=how, times=times))).text == f"{how} done"
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) <= LOGGED_LINES + LAST_LINES + 2
    assert all(len(line) <= LINE + 100 for line in lines)
    if how == "shout":
        assert "line 0 " in lines[0]
        assert f"line {times - 1} " in lines[-1]
        assert any("lines more" in line for line in lines)


# --- HTTP that leads elsewhere


class Elsewhere(BaseHTTPRequestHandler):
    """Answers every request as its server says; counts those to /secret."""

    secrets = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "secret" in self.path or self.server.server_port == getattr(self.server, "inner", None):
            type(self).secrets += 1
        how = getattr(self.server, "how", "redirect")
        if how == "redirect":
            self.send_response(307)
            self.send_header("Location", getattr(self.server, "target", ""))
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif how == "gzip":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b" " * 65536)
            except OSError:
                pass

    do_GET = do_DELETE = do_POST  # noqa: N815

    def log_message(self, *words: object) -> None:
        pass


@pytest.mark.parametrize("how", ["redirect", "gzip", "endless"])
async def test_http_goes_nowhere_else_and_takes_no_more_than_it_should(how: str) -> None:
    inner = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    inner.inner = inner.server_port  # type: ignore[attr-defined]
    outer = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    outer.how, outer.target = how, f"http://127.0.0.1:{inner.server_port}/secret"  # type: ignore[attr-defined]
    Elsewhere.secrets = 0
    threads = [threading.Thread(target=each.serve_forever, kwargs={"poll_interval": 0.01}) for each in (inner, outer)]
    for thread in threads:
        thread.start()
    try:
        with anyio.fail_after(LONG), pytest.raises(Exception):  # noqa: B017 - the SDK's own, of several kinds
            async with connected("bad", Server(url=f"http://127.0.0.1:{outer.server_port}/mcp", start_seconds=10.0)) as connection:
                await connection.tools()
        assert Elsewhere.secrets == 0
    finally:
        for each in (inner, outer):
            await anyio.to_thread.run_sync(each.shutdown)
            each.server_close()
        for thread in threads:
            thread.join()


# --- in a system


def write(home: Path, text: str) -> None:
    (home / "tools.toml").write_text(text)


async def until(system: llmos.System, name: str, *, there: bool = True) -> None:
    while (name in [tool.name for tool in await system.tools()]) != there:
        await asyncio.sleep(0.02)


async def test_a_server_of_tools_toml_dies_and_comes_back(
    boot: Boot, transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    """Its tools are offered to all, go when it goes, and are back after a while, of another process."""
    if transport == "boot" and "not soak" in pytestconfig.getoption("markexpr"):
        pytest.skip("the same process `tools` as in a daemon; both are run by make soak")
    monkeypatch.setattr(servers, "FIRST_SECONDS", 0.05)
    argv = json.dumps([sys.executable, SCRIPT, f"log={tmp_path / 'starts'}"])
    write(tmp_path, f'[mcp.bad]\ncommand = {argv}\n[command.hello]\nargv = ["echo", "hello {{who}}"]\nsandbox = false\n')

    async def program(me: llmos.Process) -> str:
        return (await me.call_tool("bad.pid")).text

    async with boot() as system:
        with anyio.fail_after(LONG):
            await until(system, "bad.add")
            assert (await system.call_tool("hello", who="you")).text == "hello you\n"
            with pytest.raises(llmos.InvalidArgument, match="a: 'x' is not of type 'integer'"):
                await system.call_tool("bad.add", a="x", b=1)
            child = await system.spawn(program, tools=["bad.pid"])
            first = int((await child.wait()).value)
            assert (await system.call_tool("bad.die")).is_error
            while True:
                try:
                    second = int((await system.call_tool("bad.pid")).text)
                    break
                except (llmos.NotFound, ValueError):
                    await asyncio.sleep(0.02)
            assert second != first
    assert [int(line) for line in (tmp_path / "starts").read_text().split()] == [first, second]
    for pid in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_an_http_server_restarts(boot: Boot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "FIRST_SECONDS", 0.05)
    port = free_port()
    write(tmp_path, f'[mcp.web]\nurl = "http://127.0.0.1:{port}/mcp"\n')
    async with boot() as system:
        with anyio.fail_after(LONG):
            for _ in range(2):
                async with http_server(port):
                    await until(system, "web.add")
                    assert (await system.call_tool("web.add", a=1, b=2)).text == "3"
                assert (await system.call_tool("web.add", a=1, b=2)).is_error
                await until(system, "web.add", there=False)


async def test_a_tools_toml_that_is_wrong_is_refused(boot: Boot, tmp_path: Path) -> None:
    write(tmp_path, '[mcp.a]\nurl = "http://x/mcp"\n\n[command.b]\nargz = ["x"]\n')
    with pytest.raises(llmos.BadFormat, match=r"tools.toml, line 5: there is no key 'argz' in \[command.b\]; did you mean 'argv'"):
        async with boot():
            pass


async def test_the_process_of_tools_is_like_any_other(boot: Boot, tmp_path: Path) -> None:
    write(tmp_path, '[command.hello]\nargv = ["echo", "x"]\nsandbox = false\n')
    async with boot() as system:
        with anyio.fail_after(LONG):
            await until(system, "hello")
            (view,) = [view for view in await system.ps() if view.name == "tools"]
            await system.kill(view.pid, "KILL")
            await until(system, "hello", there=False)


async def test_a_daemon_with_tools_is_deserted_all_the_same(tmp_path: Path) -> None:
    write(tmp_path, '[command.hello]\nargv = ["echo", "x"]\nsandbox = false\n')
    settings = read_settings(home=tmp_path, device="dummy")
    with locked(tmp_path) as path, anyio.fail_after(LONG):
        async with listening(settings, DummyCatalogue(settings.model), path, preload=False) as endpoint:
            assert endpoint.deserted
            async with llmos.connect(home=tmp_path) as system:
                await until(system, "hello")
                assert not endpoint.deserted
            while not endpoint.deserted:
                await asyncio.sleep(0.01)
