"""The gate: clients over tcp, each with a key that the daemon knows, as so many clients of its socket.

    client ==CURVE==> ROUTER --a line for each connection--> DEALER --> the daemon's socket --> endpoint
                 a key that nobody knows, or none: refused by libzmq's handshake, before a byte of ours is read

The endpoint does not know of it: to it a line is a client of this user. It has the rights of the user, as whoever is let in by ssh.
What a client sends is taken on as it comes and bounded per line; what it does not read is bounded by the endpoint, whose marks go
through to it. A line ends with either of its connections, with its key, and after UNWATCHED_SECONDS of silence.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

from llmos.kernel.errno import Fault, NotPermitted, NotSupported, TryAgain
from llmos.syscalls import param, wire
from llmos.syscalls.door import Door, mark
from llmos.syscalls.peer import descriptor_of, handle_on, shut_down
from llmos.syscalls.session import failed

from . import keys

log = logging.getLogger("llmos.init")

LOOK_SECONDS = 1.0
"""Between two looks at the keys, and at who is silent."""
MOST_HELD = 2 * param.MAX_MESSAGE
"""Bytes of a client that the daemon has not taken yet: one that sends more is hung up."""
_REMEMBERED = 256
_WAITING = 64
"""Messages of a client that libzmq takes in before it must wait."""


@dataclass(slots=True, eq=False)
class _Line:
    """One client."""

    identity: bytes
    key: str
    name: str
    dealer: zmq.asyncio.Socket
    connection: socket.socket
    number: int
    """libzmq's own descriptor of that connection."""
    heard: float
    inbox: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    held: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    daemon: socket.socket | None = None
    """The connection to the endpoint, once it has spoken."""


class Gate:
    """See the module. Lives on the loop that `serve` runs on."""

    def __init__(self, address: str, path: Path, home: Path) -> None:
        self.address, self._path, self._home = address, path, home
        self._lines: dict[bytes, _Line] = {}
        self._watched: dict[int, _Line] = {}
        self._parting: set[socket.socket] = set()
        """Connections of those who were told to go."""
        self._closed = False
        self._ended: deque[bytes] = deque(maxlen=_REMEMBERED)
        """Identities of lines that are over: what they still had under way begins no new one."""

    def open(self) -> None:
        """Listen. Raises NotPermitted if no client may come in, NotFound, BadFormat, NotSupported for an address that cannot be."""
        demand_keys(self._home)
        public, secret = keys.daemon_pair(self._home)
        self._context = zmq.asyncio.Context(io_threads=1)
        self._doorman = AsyncioAuthenticator(self._context)
        self._doorman.start()
        self._doorman.configure_curve_callback("*", self)
        self._router = router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_PUBLICKEY, public)
        router.setsockopt(zmq.CURVE_SECRETKEY, secret)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.MAXMSGSIZE, param.MAX_MESSAGE)
        router.setsockopt(zmq.SNDHWM, 0)  # bounded by the endpoint
        router.setsockopt(zmq.RCVHWM, _WAITING)
        router.setsockopt(zmq.LINGER, 0)
        router.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
        router.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self._door = Door(self._context, router, self._guests, mark() * 2 // 3)  # the rest is for those on this machine
        try:
            router.bind(self.address)
        except zmq.ZMQError as error:
            self.close()
            raise NotSupported(f"cannot listen at {self.address}: {error}") from None
        self.bound = _text(router.last_endpoint)
        """The address, with the port that the system chose for port 0."""
        self._epoll = select.epoll()
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._departed)

    def callback(self, domain: str, key: bytes) -> bool:
        """Asked by the authenticator for each handshake: may this key come in?"""
        return key.decode() in (self._known() or {})

    def _known(self) -> dict[str, str] | None:
        """The names of the keys that may come in; None if that cannot be told."""
        try:
            return {key: name for name, key in keys.clients(self._home).items()}
        except Fault as fault:
            log.error("%s", fault)
            return None

    async def serve(self) -> None:
        """Take messages until cancelled."""
        looking = asyncio.create_task(self._look())
        try:
            while True:
                identity, *frames = await self._router.recv_multipart(copy=False)
                self._take(identity.bytes, frames)
        finally:
            looking.cancel()

    def close(self) -> None:
        """Hang up on everybody. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        for line in list(self._lines.values()):
            self._end(line, "the daemon goes down")
        for connection in list(self._parting):
            self._part(connection)
        if hasattr(self, "_epoll"):
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
        self._doorman.stop()
        self._door.close()
        self._router.close(0)
        self._context.destroy(0)

    # --- a client's messages

    def _take(self, identity: bytes, frames: list[Any]) -> None:
        line = self._lines.get(identity)
        if line is None and identity in self._ended:
            return
        if len(frames) != 1:
            if line is not None:
                self._end(line, "a message is one frame")
            return
        if line is None:
            line = self._begin(identity, frames[0])
            if line is None:
                return
        line.heard = time.monotonic()
        data = frames[0].bytes
        line.held += len(data)
        if line.held > MOST_HELD:
            self._end(line, "it sends faster than the daemon takes")
        else:
            line.inbox.put_nowait(data)

    def _begin(self, identity: bytes, frame: zmq.Frame) -> _Line | None:
        number = descriptor_of(frame)
        connection = handle_on(number)
        if connection is None:
            return None
        try:
            self._demand_admission(identity)
        except Fault as fault:
            self._turn_away(identity, connection, fault)
            return None
        key = str(frame.get("User-Id"))
        name = (self._known() or {}).get(key, "somebody")
        dealer = self._context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.SNDHWM, _WAITING)
        dealer.setsockopt(zmq.RCVHWM, 0)
        dealer.setsockopt(zmq.MAXMSGSIZE, param.MAX_REPLY)
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        dealer.connect(f"ipc://{self._path}")
        line = _Line(identity, key, name, dealer, connection, number, time.monotonic())
        self._lines[identity] = line
        self._watch(line, connection)
        line.tasks = [asyncio.create_task(self._in(line)), asyncio.create_task(self._out(line))]
        log.info("a client came in over the network with the key of %s", line.name)
        return line

    def _demand_admission(self, identity: bytes) -> None:
        """Raises NotPermitted, TryAgain."""
        if not identity.startswith(b"\0"):
            raise NotPermitted("a client has no identity of its own choice")
        if len(self._lines) >= param.MAX_SESSIONS:
            raise TryAgain(f"{len(self._lines)} clients are connected over the network, the most there may be")
        self._door.demand_room()

    def _guests(self) -> set[int]:
        """For the door, on its thread."""
        return {line.number for line in list(self._lines.values())}

    def _turn_away(self, identity: bytes, connection: socket.socket, fault: Fault) -> None:
        """Say why, and hang up."""
        self._ended.append(identity)
        refusal = failed(0, fault)
        message = wire.encode(wire.Refused(wire.PROTOCOL, refusal.errno, refusal.message))
        asyncio.ensure_future(self._router.send_multipart([identity, message])).add_done_callback(_quietly)
        self._parting.add(connection)
        asyncio.get_running_loop().call_later(LOOK_SECONDS, self._part, connection)

    def _part(self, connection: socket.socket) -> None:
        if connection in self._parting:
            self._parting.discard(connection)
            shut_down(connection)

    async def _in(self, line: _Line) -> None:
        while True:
            data = await line.inbox.get()
            await line.dealer.send(data)
            line.held -= len(data)

    async def _out(self, line: _Line) -> None:
        with suppress(zmq.ZMQError):  # its connection has ended
            while True:
                frame = await line.dealer.recv(copy=False)
                if line.daemon is None and (connection := handle_on(descriptor_of(frame))) is not None:
                    line.daemon = connection
                    self._watch(line, connection)
                await self._router.send_multipart([line.identity, frame.bytes])
        self._end(line, "it has gone")

    # --- ends

    def _watch(self, line: _Line, connection: socket.socket) -> None:
        self._epoll.register(connection.fileno(), select.EPOLLRDHUP)
        self._watched[connection.fileno()] = line

    def _departed(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            line = self._watched.get(descriptor)
            if line is not None and line.daemon is not None and line.daemon.fileno() == descriptor:
                self._unwatch(line.daemon)
                asyncio.get_running_loop().call_later(
                    LOOK_SECONDS / 10, self._end, line, "the daemon hung up"
                )  # its last words come before
            elif line is not None:
                self._end(line, "it has gone")

    def _unwatch(self, connection: socket.socket) -> None:
        if self._watched.pop(connection.fileno(), None) is not None:
            self._epoll.unregister(connection.fileno())

    def _end(self, line: _Line, why: str) -> None:
        if self._lines.pop(line.identity, None) is None:
            return
        self._ended.append(line.identity)
        current = asyncio.current_task()
        for task in line.tasks:
            if task is not current:
                task.cancel()
        for connection in (line.connection, line.daemon):
            if connection is not None:
                self._unwatch(connection)
                shut_down(connection)
        line.dealer.close(0)
        log.info("a client over the network, with the key of %s, is gone: %s", line.name, why)

    async def _look(self) -> None:
        """Hang up on those whose key was taken away, or cannot be looked up for long, and on those who are silent."""
        sure = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._door.look()
            known = self._known() if self._lines else {}
            if known is not None:
                sure = time.monotonic()
            for line in list(self._lines.values()):
                if known is not None and line.key not in known:
                    self._end(line, "its key was removed")
                elif time.monotonic() - sure > param.UNWATCHED_SECONDS:
                    self._end(line, "the keys cannot be read")
                elif time.monotonic() - line.heard > param.UNWATCHED_SECONDS:
                    self._end(line, f"nothing was heard of it for {param.UNWATCHED_SECONDS:g} s")


def _quietly(sending: asyncio.Future[Any]) -> None:
    """It has gone already."""
    if not sending.cancelled():
        sending.exception()


def demand_keys(home: Path) -> None:
    """Raises NotPermitted if there is no client that may come in."""
    if not keys.clients(home):
        raise NotPermitted(
            "nobody may come in over the network yet: llmos keys new NAME makes a key for a client; without keys there is no tcp"
        )


def _text(value: Any) -> str:
    return value.rstrip(b"\0").decode() if isinstance(value, bytes) else str(value)
