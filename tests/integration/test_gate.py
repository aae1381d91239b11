"""Clients over tcp: with a key that the daemon knows, and in no other way."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest
import zmq

import llmos
from llmos.sdk.clientkey import ClientKey, read_key
from llmos.services.init import keys
from llmos.services.init.boot import catalogue_of
from llmos.services.init.daemon import gated, listening, locked
from llmos.services.init.settings import read_settings
from llmos.syscalls import door, param, wire

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]
SECONDS = 20.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def gate(home: Path) -> AsyncIterator[str]:
    """A daemon in this OS process that lets in over tcp; its address."""
    settings = read_settings(home=home, device="dummy", runners=0, listen="tcp://127.0.0.1:0", seed=1)
    with locked(home) as path:
        async with listening(settings, catalogue_of(settings, None), path), gated(settings, path) as address:
            assert address is not None
            yield address


def key_file(home: Path, name: str, key: ClientKey | None = None) -> Path:
    path = home / f"{name}.key"
    path.write_text((keys.new(home, name) if key is None else key).text)
    return path


async def test_a_client_with_a_key_has_all_of_it(tmp_path: Path) -> None:
    key = key_file(tmp_path, "laptop")
    async with gate(tmp_path) as address:
        async with llmos.connect(address, key=key, home=tmp_path) as system:
            child = await system.spawn("summarise", stdin="a text\n" * 50)
            assert await child.stdout.read()
            assert (await child.wait()).status == 0
            await system.files.write("/home/big", "x" * 3_000_000)  # more than a message has
            assert len(await system.files.read("/home/big")) == 3_000_000
            replies = await asyncio.gather(*(system.ps() for _ in range(100)))
            assert all(replies)
            async with llmos.connect(home=tmp_path) as local:
                assert {each.name for each in await local.ps()} >= {"init", "host"}
                process = next(each.pid for each in await local.ps() if each.pid == system.pid)
        async with llmos.connect(home=tmp_path) as local:
            assert process not in [each.pid for each in await local.ps()]


async def test_who_has_no_key_or_another_is_refused_at_once(tmp_path: Path) -> None:
    good = keys.new(tmp_path, "laptop")
    public, secret = (each.decode() for each in zmq.curve_keypair())
    other = zmq.curve_keypair()[0].decode()
    strangers = {"stranger": ClientKey(good.daemon, public, secret), "elsewhere": ClientKey(other, good.public, good.secret)}
    async with gate(tmp_path) as address:
        for name, key in strangers.items():
            with anyio.fail_after(8), pytest.raises(llmos.NotPermitted, match="refused the key"):
                async with llmos.connect(address, key=key_file(tmp_path, name, key)):
                    pass
        with pytest.raises(llmos.InvalidArgument, match="takes a key"):
            llmos.connect(address)
        with pytest.raises(llmos.InvalidArgument, match="a key is for an address"):
            llmos.connect(key=tmp_path / "stranger.key")
        # without CURVE: a plain socket of libzmq, and one that says nothing
        context = zmq.Context()
        plain = context.socket(zmq.DEALER)
        plain.setsockopt(zmq.LINGER, 0)
        plain.connect(address)
        plain.send(wire.encode(wire.Hello(wire.PROTOCOL, wire.shape(), "me")))
        host, _, port = address.removeprefix("tcp://").partition(":")
        with socket.create_connection((host, int(port))) as mute, socket.create_connection((host, int(port))) as rude:
            rude.sendall(os.urandom(100_000))
            assert not await anyio.to_thread.run_sync(plain.poll, 500)
            async with llmos.connect(address, key=key_file(tmp_path, "laptop", good)) as system:
                assert len(await system.ps()) == 2  # init and this one: nobody else came in
            mute.close()
        plain.close()
        context.term()


async def test_a_key_that_is_removed_ends_its_client_and_no_other(tmp_path: Path) -> None:
    files = [key_file(tmp_path, name) for name in ("one", "two")]
    async with gate(tmp_path) as address, llmos.connect(address, key=files[1]) as two:
        async with llmos.connect(address, key=files[0]) as one:
            keys.remove(tmp_path, "one")
            with anyio.fail_after(SECONDS), pytest.raises(llmos.ShutDown):
                await one.sleep(60)
        assert await two.ps()
        with anyio.fail_after(8), pytest.raises(llmos.NotPermitted, match="refused the key"):
            async with llmos.connect(address, key=files[0]):
                pass
        keys.add(tmp_path, "again", read_key(files[0]).public)  # a change holds at once
        async with llmos.connect(address, key=files[0]) as one:
            assert await one.ps()


async def test_keys_that_cannot_be_read_for_a_moment_are_read_again(tmp_path: Path) -> None:
    """Nobody new comes in meanwhile; who is there stays, and a key that is removed later counts."""
    files = [key_file(tmp_path, name) for name in ("one", "two")]
    clients = tmp_path / "keys" / "clients"
    kept = clients.read_bytes()
    async with gate(tmp_path) as address, llmos.connect(address, key=files[0]) as one:
        clients.write_bytes(b"\xff\xfe")
        await anyio.sleep(1.5)
        assert await one.ps()
        with anyio.fail_after(8), pytest.raises(llmos.NotPermitted, match="refused the key"):
            async with llmos.connect(address, key=files[1]):
                pass
        clients.write_bytes(kept)
        async with llmos.connect(address, key=files[1]) as two:
            assert await two.ps()
        keys.remove(tmp_path, "one")
        with anyio.fail_after(SECONDS), pytest.raises(llmos.ShutDown):
            await one.sleep(60)
    clients.write_bytes(b"\xff\xfe")
    with pytest.raises(llmos.BadFormat, match="cannot be read"):
        keys.clients(tmp_path)


async def test_one_too_many_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(param, "MAX_SESSIONS", 1)
    key = key_file(tmp_path, "laptop")
    async with gate(tmp_path) as address, llmos.connect(address, key=key) as system:
        with anyio.fail_after(8), pytest.raises(llmos.TryAgain, match="the most there may be"):
            async with llmos.connect(address, key=key):
                pass
        assert await system.ps()


async def test_many_clients_each_get_their_own(tmp_path: Path) -> None:
    key = key_file(tmp_path, "laptop")
    async with gate(tmp_path) as address, llmos.connect(home=tmp_path) as local:
        async with AsyncExitStack() as stack:
            systems = [
                await stack.enter_async_context(llmos.connect(address, key=key) if number % 4 == 0 else llmos.connect(home=tmp_path))
                for number in range(20)
            ]

            async def one(number: int, system: llmos.System) -> None:
                children = [await system.spawn("chat") for _ in range(5)]
                async with await system.open(system=f"number {number}") as context:
                    for _ in range(20):
                        tokens = await context.tokens()
                        assert f"number {number}" in await system.detokenize(tokens)
                mine = {each.pid for each in await system.ps() if each.parent == system.pid}
                assert mine == {child.pid for child in children}

            async with anyio.create_task_group() as tasks:
                for number, system in enumerate(systems):
                    tasks.start_soon(one, number, system)
            assert len(await local.ps()) == 2 + 20 * 6
        with anyio.fail_after(SECONDS):
            while len(await local.ps()) > 2:
                await anyio.sleep(0.01)


async def test_a_client_that_vanishes_takes_its_processes_along(tmp_path: Path) -> None:
    key = key_file(tmp_path, "laptop")
    code = (
        "import asyncio, sys, llmos\n"
        "async def main():\n"
        "    async with llmos.connect(sys.argv[1], key=sys.argv[2]) as system:\n"
        "        await system.spawn('chat'); print('here', flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    async with gate(tmp_path) as address, llmos.connect(home=tmp_path) as local:
        place = str(Path(llmos.__file__).parent.parent)
        client = subprocess.Popen(
            [sys.executable, "-c", code, address, str(key)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": place}
        )
        with client:
            assert client.stdout is not None
            assert await anyio.to_thread.run_sync(client.stdout.readline) == b"here\n"
            assert "chat" in [each.name for each in await local.ps()]
            client.kill()
        with anyio.fail_after(SECONDS):
            while "chat" in [each.name for each in await local.ps()]:
                await anyio.sleep(0.01)


async def test_a_silent_client_is_hung_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(param, "UNWATCHED_SECONDS", 1.0)
    monkeypatch.setattr(param, "HEARTBEAT_SECONDS", 60.0)
    key = key_file(tmp_path, "laptop")
    async with gate(tmp_path) as address, llmos.connect(address, key=key) as system:
        with anyio.fail_after(SECONDS), pytest.raises(llmos.ShutDown):
            await system.sleep(30)


async def test_nobody_there(tmp_path: Path) -> None:
    key = key_file(tmp_path, "laptop")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for address, fault in (
        (f"tcp://127.0.0.1:{port}", llmos.NotFound),
        ("tcp://127.0.0.1", llmos.InvalidArgument),
        ("tcp://127.0.0.1:99999", llmos.InvalidArgument),
        ("udp://127.0.0.1:80", llmos.InvalidArgument),
    ):
        with pytest.raises(fault):
            async with llmos.connect(address, key=key):
                pass


@pytest.mark.parametrize("text", ["", "daemon = 1\n", 'daemon = "x"\npublic = "y"\nsecret = "z"\n', "\xff", "a" * 5_000])
def test_what_is_no_key_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.key").write_bytes(text.encode("latin-1"))
    with pytest.raises(llmos.BadFormat) as refused:
        read_key(tmp_path / "bad.key")
    assert '"z"' not in str(refused.value)
    with pytest.raises(llmos.NotFound):
        read_key(tmp_path / "none.key")


def test_keys_are_kept(tmp_path: Path) -> None:
    first = keys.new(tmp_path, "a")
    assert keys.new(tmp_path, "b").daemon == first.daemon
    assert set(keys.clients(tmp_path)) == {"a", "b"}
    for file in ("daemon", "clients"):
        assert stat.S_IMODE((tmp_path / "keys" / file).stat().st_mode) == 0o600
    assert first.secret not in (tmp_path / "keys" / "clients").read_text()
    assert "secret" not in repr(first)
    for name, public, fault in (("a", first.public, llmos.AlreadyExists), ("c", first.public, llmos.AlreadyExists),
                                ("c", "short", llmos.InvalidArgument), ("../c", first.public, llmos.InvalidArgument)):  # fmt: skip
        with pytest.raises(fault):
            keys.add(tmp_path, name, public)
    with pytest.raises(llmos.NotFound, match="there are a, b"):
        keys.remove(tmp_path, "c")


def llmos_command(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    place = str(Path(llmos.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": place, "LLMOS_HOME": str(home), "LLMOS_DEVICE": "dummy"}
    return subprocess.run([sys.executable, "-m", "llmos", *words], env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_commands(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    refused = llmos_command(tmp_path, "up", "--listen", address)
    assert refused.returncode == 1
    assert "llmos keys new NAME" in refused.stderr
    assert llmos_command(tmp_path, "keys").returncode == 0
    made = llmos_command(tmp_path, "keys", "new", "desk")
    assert made.returncode == 0
    (tmp_path / "desk.key").write_text(made.stdout)
    assert read_key(tmp_path / "desk.key").public == keys.clients(tmp_path)["desk"]
    assert llmos_command(tmp_path, "keys", "remove", "desk").returncode == 0
    file = str(tmp_path / "laptop.key")
    assert llmos_command(tmp_path, "keys", "new", "laptop", "--out", file).returncode == 0
    assert stat.S_IMODE((tmp_path / "laptop.key").stat().st_mode) == 0o600
    again = llmos_command(tmp_path, "keys", "new", "other", "--out", file)
    assert again.returncode == 1
    assert "is there already" in again.stderr  # and nobody was let in for it
    listed = json.loads(llmos_command(tmp_path, "keys", "list", "--json").stdout)
    assert list(listed["clients"]) == ["laptop"]
    for words in (("new",), ("add", "x"), ("list", "x"), ("remove",)):
        assert "it is: llmos keys" in llmos_command(tmp_path, "keys", *words).stderr
    up = llmos_command(tmp_path, "up", "--listen", address)
    assert up.returncode == 0, up.stderr
    try:
        assert address in up.stdout
        with llmos.sync.connect(address, key=tmp_path / "laptop.key") as system:
            assert system.ps()
        shell = [
            "--connect",
            address,
            "--key",
            str(tmp_path / "laptop.key"),
            "-c",
            "echo far > /home/x; ask hello > /dev/null; cat /home/x",
        ]
        ran = llmos_command(tmp_path / "elsewhere", "sh", *shell)
        assert (ran.returncode, ran.stdout) == (0, "far\n"), ran.stderr
        assert llmos_command(tmp_path, "sh", "--connect", address, "-c", "ps").returncode == 2
    finally:
        assert llmos_command(tmp_path, "down").returncode == 0
    assert llmos_command(tmp_path, "keys", "remove", "laptop").stdout == "laptop is let in no more\n"
    assert llmos_command(tmp_path, "up", "--listen", "tcp://x").returncode == 2


async def test_who_is_silent_is_shut_out_and_a_client_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HELLO_SECONDS", 0.1)
    key = key_file(tmp_path, "laptop")
    async with gate(tmp_path) as address, llmos.connect(address, key=key, home=tmp_path) as system:
        host, port = address.removeprefix("tcp://").rsplit(":", 1)
        with anyio.fail_after(4.5):  # libzmq itself would wait five seconds for a greeting
            async with await anyio.connect_tcp(host, int(port)) as silent:
                async for piece in silent:  # the greeting; then its end
                    assert piece
        assert await system.ps()
