"""A client that says what it likes: the tests' own end of the wire."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import zmq

import llmos
from llmos.services.init.catalogue import DummyCatalogue
from llmos.services.init.daemon import listening, locked
from llmos.services.init.settings import read_settings
from llmos.syscalls import wire
from llmos.syscalls.endpoint import Endpoint

SECONDS = 20.0
"""That nothing here takes unless it hangs."""


class Raw:
    """A DEALER without manners. Its methods wait on the socket, not on a loop: run them in a thread."""

    def __init__(self, path: Path) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self.socket.connect(f"ipc://{path}")
        self.pid = 0

    def send(self, data: bytes | wire.FromClient) -> None:
        try:
            self.socket.send(data if isinstance(data, bytes) else wire.encode(data), zmq.NOBLOCK)
        except zmq.Again:
            raise ConnectionResetError from None

    def hear(self, seconds: float = SECONDS) -> wire.FromDaemon:
        """The next message but the daemon's heartbeats."""
        while self.socket.poll(int(seconds * 1000)):
            message = wire.decode_for_client(self.socket.recv())
            if not isinstance(message, wire.Pong):
                return message
        raise TimeoutError("the daemon says nothing")

    def hear_end(self, number: int) -> wire.Result | wire.Failed:
        """The end of a call; what comes before it is passed over."""
        while True:
            message = self.hear()
            if isinstance(message, wire.Result | wire.Failed) and message.id == number:
                return message

    def hello(self) -> wire.Welcome:
        self.send(wire.Hello(wire.PROTOCOL, wire.shape(), "raw"))
        welcome = self.hear()
        assert isinstance(welcome, wire.Welcome), welcome
        self.pid = welcome.pid
        return welcome

    def call(self, number: int, name: str, arguments: dict[str, Any] | None = None, **given: Any) -> None:
        fields = {"pid": self.pid, "path": "0", "sequence": number, "credit": 0, **given}
        self.send(wire.Call(id=number, number=wire.CALLS[name][0], arguments=arguments or {}, **fields))

    def result(self, number: int, name: str, arguments: dict[str, Any] | None = None, **given: Any) -> Any:
        self.call(number, name, arguments, **given)
        end = self.hear_end(number)
        if isinstance(end, wire.Failed):
            raise wire.fault_of(end.errno, end.message)
        return wire.reader(wire.CALLS[name][1])(end.value)

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()


@asynccontextmanager
async def raw(path: Path, *, hello: bool = True) -> AsyncIterator[Raw]:
    client = Raw(path)
    try:
        if hello:
            await anyio.to_thread.run_sync(client.hello)
        yield client
    finally:
        client.close()


@asynccontextmanager
async def daemon(home: Path, *, patience: float = 60, **given: Any) -> AsyncIterator[Endpoint]:
    """A daemon in this OS process."""
    settings = read_settings(home=home, device="dummy", seed=1, runners=0)
    with locked(home) as path:
        async with listening(settings, DummyCatalogue("dummy"), path, **given) as endpoint:
            with anyio.fail_after(patience):
                yield endpoint


def python(code: str, home: Path, **given: Any) -> subprocess.Popen[bytes]:
    """Another OS process that finds this llmos."""
    place = Path(llmos.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(place), "LLMOS_HOME": str(home), "LLMOS_DEVICE": "dummy"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stdin=subprocess.PIPE, **given)


async def until(condition: Any) -> None:
    """Wait until something that cannot be waited on is so."""
    with anyio.fail_after(SECONDS):
        while not condition():
            await anyio.sleep(0.005)


async def nothing_of_it_is_left(endpoint: Endpoint, home: Path) -> None:
    """No session, no process, no connection; and somebody else is served."""
    await until(lambda: not endpoint.sessions and not endpoint._watched and not endpoint._parting)
    async with llmos.connect(home=home) as system:
        assert [process.pid for process in await system.ps()] == [1, system.pid]
        context = await system.open(system="s")
        assert (await context.generate(user="x", max_tokens=3, ignore_stop=True)).reason == "length"
    endpoint._kernel.check_integrity()
