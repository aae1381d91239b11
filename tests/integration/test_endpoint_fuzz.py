"""Nonsense by the thousand: nobody who works beside it notices."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import anyio
import pytest

import llmos
from llmos.syscalls import wire
from llmos.syscalls.endpoint import Endpoint

from .raw import Raw, daemon, nothing_of_it_is_left

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


@pytest.fixture
async def endpoint(tmp_path: Path) -> Any:
    async with daemon(tmp_path) as endpoint:
        yield endpoint
        await nothing_of_it_is_left(endpoint, tmp_path)


async def fuzz(endpoint: Endpoint, home: Path, messages: int) -> None:
    """Messages of every degree of nonsense, from clients who come again when they are hung up; another works all the while."""
    chance = random.Random(7)
    sound = [
        wire.encode(wire.Call(1, 2, 8, {"after": 0, "limit": 5}, "0", 1, 3)),
        wire.encode(wire.Call(2, 3, 30, {"context": 1, "messages": [{"role": "user", "content": "x" * 50}]}, "0.1", 2, 3)),
        wire.encode(wire.Credit(1, 5)),
        wire.encode(wire.Cancel(2)),
        wire.encode(wire.Ack(b"12345678")),
        wire.encode(wire.Hello(wire.PROTOCOL, wire.shape(), "fuzz")),
        wire.encode(wire.Ping()),
    ]

    def one() -> bytes:
        kind = chance.random()
        data = bytearray(chance.choice(sound))
        if kind < 0.3:
            return chance.randbytes(chance.randint(0, 64))
        if kind < 0.6:
            for _ in range(chance.randint(1, 3)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        elif kind < 0.7:
            del data[chance.randrange(len(data)) :]
        elif kind < 0.75:
            return b"\x91" * chance.randint(1, 2000)
        return bytes(data)

    def attack() -> None:
        sent = 0
        while sent < messages:
            client = Raw(endpoint.path)
            if chance.random() < 0.9:
                client.hello()
            for _ in range(min(400, messages - sent)):
                sent += 1
                try:
                    client.send(one())
                except ConnectionResetError:
                    break
                while client.socket.poll(0):
                    client.socket.recv()
            client.close()

    stop = anyio.Event()

    async def work() -> None:
        async with llmos.connect(home=home) as system:
            context = await system.open(system="s")
            while not stop.is_set():
                assert (await context.generate(user="x", max_tokens=4, ignore_stop=True)).reason == "length"
                await context.truncate(0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await anyio.to_thread.run_sync(attack)
        stop.set()
    assert endpoint.dropped


async def test_ten_thousand_messages_of_nonsense_hurt_nobody(endpoint: Endpoint, tmp_path: Path) -> None:
    await fuzz(endpoint, tmp_path, 10_000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_a_million_messages_of_nonsense_hurt_nobody(tmp_path: Path) -> None:
    async with daemon(tmp_path, patience=3600) as endpoint:
        await fuzz(endpoint, tmp_path, 1_000_000)
        await nothing_of_it_is_left(endpoint, tmp_path)
