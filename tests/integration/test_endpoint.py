"""What clients may do to a daemon, and that nobody else notices."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import anyio
import msgpack
import pytest
import zmq

import llmos
from llmos.services.init.catalogue import DummyCatalogue
from llmos.services.init.daemon import listening, locked
from llmos.services.init.settings import read_settings
from llmos.syscalls import param, wire
from llmos.syscalls.endpoint import Endpoint

from .raw import Raw, daemon, nothing_of_it_is_left, python, raw, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


async def hear(client: Raw) -> wire.FromDaemon:
    return await anyio.to_thread.run_sync(client.hear)


async def result(client: Raw, number: int, name: str, arguments: dict[str, Any] | None = None) -> Any:
    return await anyio.to_thread.run_sync(client.result, number, name, arguments)


@pytest.fixture
async def endpoint(tmp_path: Path) -> Any:
    async with daemon(tmp_path) as endpoint:
        yield endpoint
        await nothing_of_it_is_left(endpoint, tmp_path)


CLIENT = """
import anyio, llmos, sys
async def sleeps(me): await anyio.sleep_forever()
async def talks(me):
    context = await me.open(system="s")
    await context.generate(user="go", max_tokens=8000, ignore_stop=True)
async def parent(me):
    await me.spawn(sleeps)
async def main():
    async with llmos.connect() as system:
        for program in (sleeps, talks): await system.spawn(program)
        await (await system.spawn(parent)).wait()  # leaves an orphan behind
        print("ready", flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_client_that_is_killed_takes_its_processes_along_and_no_others(endpoint: Endpoint, tmp_path: Path, number: int) -> None:
    async with llmos.connect(home=tmp_path) as system:
        context = await system.open(system="s")
        other = context.generate(user="x", max_tokens=500, ignore_stop=True)
        with python(CLIENT, tmp_path) as client:
            assert client.stdout is not None
            assert await anyio.to_thread.run_sync(client.stdout.readline) == b"ready\n"
            assert len(await system.ps()) == 6  # init, we, the client, two children and the orphan
            client.send_signal(number)
            client.wait()
        await until(lambda: len(endpoint.sessions) == 1)
        assert [process.pid for process in await system.ps()] == [1, system.pid]
        assert len((await other).tokens) == 500


async def test_a_daemon_that_is_gone_ends_every_call_and_every_program(tmp_path: Path) -> None:
    code = "import sys; from llmos.shell.command import main; sys.exit(main(['up', '--foreground']))"
    with python(code, tmp_path, stderr=-1) as process:
        assert process.stderr is not None
        assert b"listens" in await anyio.to_thread.run_sync(process.stderr.readline)
        ended = anyio.Event()

        async def waits(me: llmos.Process) -> None:
            try:
                await me.stdin.read()
            finally:
                ended.set()

        with anyio.fail_after(20):
            async with llmos.connect(home=tmp_path) as system:
                child = await system.spawn(waits)
                process.kill()
                with pytest.raises(llmos.ShutDown, match="is gone"):
                    await child.wait()
                await ended.wait()
                with pytest.raises(llmos.ShutDown, match="is gone"):
                    await system.ps()
        with pytest.raises(llmos.NotFound, match="llmos up"):
            async with llmos.connect(home=tmp_path):
                pass


async def test_a_kernel_that_fails_is_told_to_everybody(tmp_path: Path) -> None:
    def fail() -> None:
        raise llmos.Panic("on purpose")

    failed = threading.Event()
    settings = read_settings(home=tmp_path, device="dummy")
    raised: list[BaseException] = []

    async def serve(path: Path, ready: Any) -> None:
        try:
            async with listening(settings, DummyCatalogue("dummy"), path, failed=failed.set) as endpoint:
                ready.thread = endpoint._turns
                ready.set()
                await until(failed.is_set)
        except llmos.Panic as panic:
            raised.append(panic)

    with locked(tmp_path) as path:
        async with anyio.create_task_group() as tasks:
            ready: Any = asyncio.Event()
            tasks.start_soon(serve, path, ready)
            await ready.wait()
            async with llmos.connect(home=tmp_path) as system:
                child = await system.spawn("chat")
                ready.thread.post(fail)
                with pytest.raises(llmos.ShutDown, match="is gone; see llmos status, llmos logs"):
                    await child.wait()
    assert [str(panic) for panic in raised] == ["on purpose"]


async def test_what_was_left_says_so(endpoint: Endpoint, tmp_path: Path) -> None:
    async with llmos.connect(home=tmp_path) as system:
        pass
    with pytest.raises(llmos.ShutDown, match="is closed; connect again"):
        await system.ps()


async def test_nobody_calls_as_a_process_of_somebody_else(endpoint: Endpoint) -> None:
    async with raw(endpoint.path) as first, raw(endpoint.path) as second:
        child = await result(first, 1, "spawn", {"name": "child"})
        for pid in (1, first.pid, child.pid):
            with pytest.raises(llmos.NotPermitted, match="not a process of this client"):
                await anyio.to_thread.run_sync(lambda pid=pid: second.result(5, "exit", {"status": 0}, pid=pid))
        with pytest.raises(llmos.NoSuchProcess):
            await anyio.to_thread.run_sync(lambda: second.result(6, "exit", {"status": 0}, pid=999))
        assert (await anyio.to_thread.run_sync(lambda: first.result(2, "models", pid=child.pid))).models


async def test_another_version_is_refused(endpoint: Endpoint) -> None:
    for hello in (wire.Hello(wire.PROTOCOL + 1, wire.shape(), "x"), wire.Hello(wire.PROTOCOL, "0" * 16, "x")):
        async with raw(endpoint.path, hello=False) as client:
            client.send(hello)
            refused = await hear(client)
            assert isinstance(refused, wire.Refused)
            assert "llmos down; llmos up" in refused.message


async def test_a_call_before_hello_is_refused_and_a_stranger_who_goes_on_is_shut_out(endpoint: Endpoint) -> None:
    async with raw(endpoint.path, hello=False) as client:
        client.call(7, "ps")
        answer = await hear(client)
        assert isinstance(answer, wire.Failed)
        assert (answer.id, wire.fault_of(answer.errno, answer.message).code) == (7, "EPERM")
        before = endpoint.dropped
        for _ in range(param.MAX_STRANGE):
            client.send(b"nonsense")
        await until(lambda: endpoint.dropped >= before + param.MAX_STRANGE - 1)
        client.send(wire.Hello(wire.PROTOCOL, wire.shape(), "late"))
        with pytest.raises(TimeoutError):
            await anyio.to_thread.run_sync(lambda: [client.hear(0.2) for _ in range(20)])


async def test_an_identity_of_ones_own_choice_is_refused(endpoint: Endpoint) -> None:
    client = Raw(endpoint.path)
    client.close()
    client.context = zmq.Context()
    client.socket = client.context.socket(zmq.DEALER)
    client.socket.setsockopt(zmq.ROUTING_ID, b"me")
    client.socket.connect(f"ipc://{endpoint.path}")
    client.send(wire.Hello(wire.PROTOCOL, wire.shape(), "x"))
    assert isinstance(await hear(client), wire.Refused)
    client.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91" * 1_000_000,
        b"\xdd\xff\xff\xff\xff" * 1000,
        msgpack.packb([99]),
        msgpack.packb([2, 1]),
        wire.encode(wire.Hello(wire.PROTOCOL, wire.shape(), "again")),
        wire.encode(wire.Ack(b"guessed!")),
        wire.encode(wire.Pong()),
    ],
    ids=lambda data: f"{data[:9].hex()}-{len(data)}",
)
async def test_nonsense_is_counted_and_too_much_of_it_hung_up(endpoint: Endpoint, data: bytes) -> None:
    async with raw(endpoint.path) as client:
        for _ in range(param.MAX_GARBAGE):
            client.send(data)
        assert (await result(client, 5, "models")).models  # a hundred times is forgiven
        client.send(data)
        while not isinstance(message := await hear(client), wire.Hangup):
            assert isinstance(message, wire.Failed)
        assert "made no sense" in message.message


async def test_wrong_arguments_are_answered(endpoint: Endpoint) -> None:
    async with raw(endpoint.path) as client:
        for number, call in enumerate(
            (
                wire.Call(0, client.pid, 999, {}, "0", 0, 0),
                wire.Call(1, client.pid, 8, {"after": "x"}, "0", 0, 0),
                wire.Call(2, client.pid, 8, {"after": -1}, "0", 0, 0),
                wire.Call(3, client.pid, 8, {"wrong": 1}, "0", 0, 0),
                wire.Call(4, client.pid, 30, {"context": 2**52, "text": "x"}, "0", 0, 4096),
                wire.Call(5, client.pid, 41, {"pipe": 1, "most": 1 << 40}, "0", 0, 0),
            )
        ):
            client.send(call)
            end = await anyio.to_thread.run_sync(client.hear_end, number)
            assert isinstance(end, wire.Failed)
            assert end.errno
        client.send(msgpack.packb([2, 9, "pid", 8, {}, "0", 0, 0]))
        assert isinstance(await anyio.to_thread.run_sync(client.hear_end, 9), wire.Failed)


async def test_an_id_that_is_under_way_is_not_used_twice(endpoint: Endpoint) -> None:
    async with raw(endpoint.path) as client:
        await result(client, 1, "spawn", {"name": "child"})
        client.call(2, "wait")
        client.call(2, "wait")
        end = await anyio.to_thread.run_sync(client.hear_end, 2)
        assert isinstance(end, wire.Failed)
        assert "under way" in end.message


async def test_calls_under_way_are_bounded(endpoint: Endpoint) -> None:
    async with raw(endpoint.path) as client:
        await result(client, 0, "spawn", {"name": "child"})
        for number in range(1, param.MAX_CALLS + 2):
            client.call(number, "wait")
        end = await anyio.to_thread.run_sync(client.hear_end, param.MAX_CALLS + 1)
        assert isinstance(end, wire.Failed)
        assert wire.fault_of(end.errno, "").code == "EAGAIN"


async def test_a_message_that_is_too_long_ends_its_connection_only(tmp_path: Path) -> None:
    async with daemon(tmp_path, silence=2.0) as endpoint:
        async with raw(endpoint.path) as client:
            client.send(b"x" * (param.MAX_MESSAGE + 1))
            async with raw(endpoint.path) as other:
                assert (await result(other, 1, "models")).models
            await until(lambda: not endpoint.sessions)
        await nothing_of_it_is_left(endpoint, tmp_path)


async def test_a_message_of_many_frames_is_nonsense(endpoint: Endpoint) -> None:
    async with raw(endpoint.path) as client:
        client.socket.send_multipart([wire.encode(wire.Ping())] * 1000)
        assert (await result(client, 1, "models")).models
        assert endpoint.dropped == 1


async def test_pieces_come_on_credit_and_the_end_without(endpoint: Endpoint) -> None:
    async with raw(endpoint.path) as client:
        context = (await result(client, 1, "open", {"model": None})).context
        client.call(2, "generate", {"context": context, "text": "x", "max_tokens": 50, "ignore_stop": True}, credit=3)
        heard: list[Any] = []
        while not heard or not isinstance(heard[-1], wire.Result):
            heard.append(await hear(client))
        pieces = [each.piece for each in heard[:-1]]
        assert 1 <= len(pieces) <= 4  # three, and the rest as one
        assert [token for piece in pieces for token in piece.tokens] == list(wire.reader(llmos.Reply)(heard[-1].value).tokens)
        client.call(3, "generate", {"context": context, "text": "x", "max_tokens": 50, "ignore_stop": True}, credit=0)
        client.send(wire.Credit(3, 1))
        client.send(wire.Credit(999, 1))
        assert isinstance(await anyio.to_thread.run_sync(client.hear_end, 3), wire.Result)


async def test_a_reader_that_is_slow_gets_every_token(endpoint: Endpoint, tmp_path: Path) -> None:
    async with llmos.connect(home=tmp_path) as system:
        context = await system.open(system="s")
        generation = context.generate(user="x", max_tokens=2000, ignore_stop=True)
        tokens = []
        async for token in generation.tokens():
            tokens.append(token)
            if len(tokens) < 300:
                await anyio.sleep(0.001)
        assert tuple(tokens) == (await generation).tokens


async def test_a_client_that_does_not_read_is_pushed_back_and_then_hung_up(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(param, "PUSHBACK_BYTES", 3 << 20)
    monkeypatch.setattr(param, "MAX_UNREAD", 7 << 20)
    async with raw(endpoint.path) as client:
        text = "x" * 1_000_000
        await until(lambda: len(endpoint.sessions) == 1)  # the welcome is sent just before, on the kernel's thread
        (session,) = endpoint.sessions.values()
        client.call(1, "tokenize", {"text": text, "model": None})  # four bytes an answer for one of the question
        await until(lambda: session.sent > 4_000_000)
        client.call(2, "tokenize", {"text": text, "model": None})
        assert isinstance(await anyio.to_thread.run_sync(client.hear_end, 1), wire.Result)
        end = await anyio.to_thread.run_sync(client.hear_end, 2)
        assert isinstance(end, wire.Failed)
        assert "read them before" in end.message
    monkeypatch.setattr(param, "PUSHBACK_BYTES", 4 << 20)
    async with raw(endpoint.path) as client:
        for number in range(1, 5):
            client.call(number, "tokenize", {"text": text, "model": None})
        await until(lambda: not endpoint.sessions)
    async with raw(endpoint.path) as client:
        for number in range(1, 20):  # one that reads, and says so, may have as much as it likes
            assert len((await result(client, number, "tokenize", {"text": text, "model": None})).tokens) == 1_000_000
            while (message := await hear(client)).__class__ is not wire.Mark:
                pass
            assert isinstance(message, wire.Mark)
            client.send(wire.Ack(message.nonce))


async def test_silence_is_an_end(tmp_path: Path) -> None:
    async with daemon(tmp_path, silence=0.3) as endpoint:
        async with raw(endpoint.path) as client:
            assert isinstance(message := await hear(client), wire.Hangup)
            assert "nothing was heard" in message.message
        await nothing_of_it_is_left(endpoint, tmp_path)


async def test_a_client_whose_process_is_killed_is_told(endpoint: Endpoint, tmp_path: Path) -> None:
    async with llmos.connect(home=tmp_path) as first, llmos.connect(home=tmp_path) as second:
        child = await second.spawn("chat")
        await first.kill(second.pid, "KILL")
        with pytest.raises(llmos.ShutDown, match="was killed"):
            await child.wait()
        assert [process.pid for process in await first.ps()] == [1, first.pid]


async def test_what_is_no_zeromq_is_let_go(endpoint: Endpoint) -> None:
    chance = random.Random(1)
    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as wild:
            wild.connect(str(endpoint.path))
            try:
                wild.sendall(chance.randbytes(chance.randint(0, 4096)))
            except OSError:
                pass


async def test_many_clients(endpoint: Endpoint, tmp_path: Path) -> None:
    async def program(me: llmos.Process, n: int) -> int:
        context = await me.open(system="s")
        await context.generate(user=str(n), max_tokens=2, ignore_stop=True)
        return n

    async def one(n: int) -> None:
        async with llmos.connect(home=tmp_path) as system:
            children = [await system.spawn(program, n) for _ in range(5)]
            assert [(await child.wait()).value for child in children] == [n] * 5

    async with anyio.create_task_group() as tasks:
        for n in range(40):
            tasks.start_soon(one, n)


async def test_the_socket_is_for_nobody_else(endpoint: Endpoint) -> None:
    assert os.stat(endpoint.path).st_mode & 0o777 == 0o600
    assert os.stat(endpoint.path.parent).st_mode & 0o777 == 0o700
