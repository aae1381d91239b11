"""The link: the gate of a port over a socket to the daemon.

    port --take--> Call, Cancel --> daemon --> Part, Result, Failed, Ended --> the slots of the port, in the order they come
                         reader takes pieces --> Credit          Mark --> Ack          each few seconds: Ping --> Pong

Everything happens on the caller's loop. Invariant: every call that was taken ends: with its answer, or, when the daemon is gone,
hangs up or is silent for too long, with ShutDown. A lost link stays lost: there is nothing to go on with in another daemon.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import socket
import struct
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

from llmos.syscalls import wire
from llmos.syscalls.abi import (
    Fault,
    IntegrityError,
    InvalidArgument,
    NotFound,
    NotPermitted,
    NotSupported,
    Request,
    ShutDown,
    TimedOut,
    param,
)
from llmos.syscalls.peer import descriptor_of, handle_on, peer_of, shut_down

from .port import MAX_PIECES, Notice, Port, Stream

if TYPE_CHECKING:
    from .clientkey import ClientKey

HELLO_SECONDS = 10.0
"""How long a daemon has to answer the first message."""
SILENCE_SECONDS = 60.0
"""Without a word of the daemon, after which it is taken for dead. Its thread never computes for long."""
TURN = 256
"""Messages that are taken in one turn of the loop."""
_LAST_WORDS_SECONDS = 0.05
"""From the end of a connection until libzmq has surely read what came before it."""
_REFUSALS = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_DISCONNECTED
)
_TOP_UP = MAX_PIECES // 4
"""Pieces of a stream read, after which the daemon is told."""


class Link:
    """See the module. Made on the caller's loop."""

    def __init__(self, path: Path | str, loop: asyncio.AbstractEventLoop, key: ClientKey | None = None) -> None:
        """`path` is the daemon's socket; or, with a key, its address, such as tcp://HOST:PORT."""
        self.path, self._loop, self._key = path, loop, key
        self.port: Port | None = None
        self.ended: Callable[[int], None] = _ignore
        """Called for every process of this client that has died."""
        self.lost: Callable[[ShutDown], None] = _ignore
        """Called once, when there is nobody there any more."""
        self._welcome: asyncio.Future[wire.Welcome] = loop.create_future()
        self._over: asyncio.Future[str] = loop.create_future()
        """Why the link has ended."""
        self._calls: dict[int, tuple[Request, wire.Reader]] = {}
        self._ids: dict[Request, int] = {}
        self._last = 0
        self._heard = loop.time()
        self._connection: socket.socket | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._closed = self._leaving = self._watching = False
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)  # bounded by credit, and by what is asked for
        self._socket.setsockopt(zmq.MAXMSGSIZE, param.MAX_REPLY)
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)  # another daemon at this path knows nothing of our processes
        self._monitor: zmq.Socket[Any] | None = None
        if key is not None:
            self._socket.setsockopt(zmq.CURVE_SERVERKEY, key.daemon.encode())
            self._socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())
            self._socket.setsockopt(zmq.HANDSHAKE_IVL, int(HELLO_SECONDS * 1000))
            self._monitor = self._socket.get_monitor_socket(_REFUSALS)
        self._descriptor = self._socket.fileno()
        self._epoll = select.epoll()

    # --- coming and going

    async def open(self, name: str, secret: bytes | None = None) -> wire.Welcome:
        """Say hello; as a runner, with the secret of its process.

        Raises NotFound if nobody is there, NotPermitted, NotSupported for another version, TimedOut.
        """
        if self._monitor is None:
            _probe(Path(self.path))
        else:
            await _probe_address(str(self.path))
            self._loop.add_reader(self._monitor.fileno(), self._refused)
            self._refused()  # its descriptor tells of what comes once its events have been asked for
        self._loop.add_reader(self._descriptor, self._drain)
        self._loop.add_reader(self._epoll.fileno(), self._departed)
        self._socket.connect(f"ipc://{self.path}" if self._monitor is None else str(self.path))
        hello = wire.Hello(wire.PROTOCOL, wire.shape(), name)
        self._send(hello if secret is None else wire.Claim(wire.PROTOCOL, wire.shape(), secret))
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                welcome = await self._welcome
        except TimeoutError:
            raise TimedOut(f"the daemon at {self.path} did not answer within {HELLO_SECONDS:g} s; see llmos logs") from None
        self._ping()
        return welcome

    async def bye(self, seconds: float) -> None:
        """End the session and wait until the daemon has ended all that is left of it."""
        if self._over.done():
            return
        self._leaving = True
        self._send(wire.Bye())
        await asyncio.wait([self._over], timeout=seconds)

    def close(self) -> None:
        """Give up the socket. What was not sent is lost."""
        if self._closed:
            return
        self._closed = True
        if self._beat is not None:
            self._beat.cancel()
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        if self._connection is not None:
            shut_down(self._connection)
        if self._monitor is not None:
            self._loop.remove_reader(self._monitor.fileno())
            self._socket.disable_monitor()
            self._monitor.close(0)
        self._socket.close(0)
        self._context.term()
        for future in (self._welcome, self._over):
            future.cancel()

    # --- going out

    def take(self, items: Iterable[tuple[Request, bool]]) -> None:
        """The gate: requests to enter, or with True to cancel."""
        refused = False
        for request, cancel in items:
            if cancel:
                if (number := self._ids.get(request)) is not None:
                    self._send(wire.Cancel(number))
                continue
            try:
                self._call(request)
            except Fault as fault:
                request.sink.fail(fault)
                refused = True
        if refused and self.port is not None:
            self.port.deliver()

    def _call(self, request: Request) -> None:
        known = wire.CALLS.get(request.name)
        if known is None:
            raise NotSupported(f"no system call {request.name[:64]!r} in this version")
        number, kind = known
        self._last += 1
        stream = request.sink if isinstance(request.sink, Stream) else None
        credit = 0 if stream is None else MAX_PIECES
        data = wire.encode(wire.Call(self._last, request.pid, number, request.arguments, request.path, request.sequence, credit))
        if stream is not None:
            stream.taken = partial(self._taken, self._last, [0])
        self._calls[self._last] = (request, wire.reader(kind))
        self._ids[request] = self._last
        self._put(data)

    def _taken(self, call: int, count: list[int]) -> None:
        """The reader of a stream has taken a piece."""
        count[0] += 1
        if count[0] >= _TOP_UP and call in self._calls:
            self._send(wire.Credit(call, count[0]))
            count[0] = 0

    def _send(self, message: wire.FromClient) -> None:
        self._put(wire.encode(message))

    def _put(self, data: bytes) -> None:
        if self._closed or self._over.done():
            return
        try:
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.Again:  # the connection has ended, as is about to be told
            return
        if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:  # its descriptor tells of a change once: sending may have taken that
            self._loop.call_soon(self._drain)

    def _ping(self) -> None:
        if self._closed or self._over.done():
            return
        now = self._loop.time()
        if self._beat is not None and now - self._beat.when() > param.HEARTBEAT_SECONDS:
            self._heard = now  # it was our own loop that was busy
        if now - self._heard > SILENCE_SECONDS:
            self._lose(f"was silent for {SILENCE_SECONDS:g} s")
            return
        self._send(wire.Ping())
        self._beat = self._loop.call_later(param.HEARTBEAT_SECONDS, self._ping)

    # --- coming in

    def _drain(self) -> None:
        if self._closed:
            return
        try:
            for _ in range(TURN):
                self._hear(self._socket.recv(zmq.NOBLOCK) if self._connection is not None else self._first())
                if self._closed:
                    return
            self._loop.call_soon(self._drain)
        except zmq.Again:
            pass
        except wire.Malformed as malformed:
            self._lose(f"said what makes no sense: {malformed.args[0]}")
        if self.port is not None:
            self.port.deliver()

    def _first(self) -> bytes:
        """The first message: it says who is there, and by what connection."""
        frame = self._socket.recv(zmq.NOBLOCK, copy=False)
        self._connection = handle_on(descriptor_of(frame))
        if self._connection is None:
            self._lose("is gone")
            return frame.bytes
        if self._key is None and (user := peer_of(frame).user) != os.getuid():  # with a key it has proved who it is
            self._refuse(NotPermitted(f"the daemon at {self.path} belongs to another user, with the uid {user}"))
        self._epoll.register(self._connection.fileno(), select.EPOLLRDHUP)
        self._watching = True
        return frame.bytes

    def _hear(self, data: bytes) -> None:
        message = wire.decode_for_client(data)
        self._heard = self._loop.time()
        if isinstance(message, wire.Part):
            if (call := self._calls.get(message.id)) is not None:
                call[0].sink.push(message.piece)
        elif isinstance(message, wire.Result):
            if (call := self._forget(message.id)) is not None:
                self._finish(call[0], call[1], message)
        elif isinstance(message, wire.Failed):
            if (call := self._forget(message.id)) is not None:
                call[0].sink.fail(wire.fault_of(message.errno, message.message))
        elif isinstance(message, wire.Ended):
            if self.port is not None:
                self.port.queue(Notice(partial(self.ended, message.pid)), None, None)
        elif isinstance(message, wire.Mark):
            self._send(wire.Ack(message.nonce))
        elif isinstance(message, wire.Welcome):
            if not self._welcome.done():
                self._welcome.set_result(message)
        elif isinstance(message, wire.Refused):
            self._refuse(wire.fault_of(message.errno, message.message))
        elif isinstance(message, wire.Hangup):
            self._lose(f"hung up: {message.message}")

    def _finish(self, request: Request, read: wire.Reader, message: wire.Result) -> None:
        try:
            result = read(message.value)
        except (ValueError, TypeError) as error:
            request.sink.fail(IntegrityError(f"{request.name}: the daemon's result is not what it should be: {error}"))
        else:
            request.sink.finish(result)

    def _forget(self, number: int) -> tuple[Request, wire.Reader] | None:
        call = self._calls.pop(number, None)
        if call is not None:
            self._ids.pop(call[0], None)
        return call

    def _refuse(self, fault: Fault) -> None:
        if not self._welcome.done():
            self._welcome.set_exception(fault)

    def _refused(self) -> None:
        """The handshake over the network failed, or the connection ended before it was done."""
        assert self._monitor is not None
        while int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            (event,) = struct.unpack_from("=H", self._monitor.recv_multipart()[0])  # zmq_socket_monitor: 16 bits of event, 32 of value
            if self._connection is not None:
                continue
            if event != zmq.EVENT_DISCONNECTED:
                words = "the key file may be another daemon's, or the client no more in its llmos keys list"
                self._refuse(NotPermitted(f"the daemon at {self.path} refused the key: {words}"))
            self._lose("hung up before it said a word: it may be on its way down")

    def _departed(self) -> None:
        """The connection has ended: what was said before that is heard as soon as libzmq has read it."""
        self._unwatch()
        self._loop.call_later(_LAST_WORDS_SECONDS, self._gone)

    def _gone(self) -> None:
        self._drain()
        self._lose("is gone")

    def _unwatch(self) -> None:
        """It would go on telling."""
        if self._watching and self._connection is not None:
            self._watching = False
            self._epoll.unregister(self._connection.fileno())

    def _lose(self, how: str) -> None:
        """The end of the link: every call ends with it."""
        if self._closed or self._over.done():
            return
        self._unwatch()
        self._over.set_result(how)
        gone = ShutDown(
            f"the connection to the daemon at {self.path} is closed; connect again"
            if self._leaving
            else f"the daemon at {self.path} {how}; see llmos status, llmos logs"
        )
        self._refuse(gone)
        if self.port is not None:
            self.port.deliver()
        self.lost(gone)


def _probe(path: Path) -> None:
    """Raises NotFound unless somebody listens: libzmq would wait for him, and say nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(HELLO_SECONDS)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NotFound(f"no daemon listens at {path}; start one with: llmos up") from None
        except OSError as error:
            raise NotPermitted(f"the socket {path} cannot be used: {error.strerror or error}") from None


async def _probe_address(address: str) -> None:
    """Raises NotFound unless somebody listens at tcp://HOST:PORT, InvalidArgument for what is no such address."""
    found = re.fullmatch(r"tcp://(\[[0-9a-fA-F:.]+\]|[^:/\[\]\s]+):(\d{1,5})", address)
    if found is None or not 0 < int(found[2]) < 65536:
        raise InvalidArgument(f"{address[:200]!r} is no address: it is tcp://HOST:PORT")
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            _, writer = await asyncio.open_connection(found[1].strip("[]"), int(found[2]))
        writer.close()
    except TimeoutError:
        raise TimedOut(f"{address} did not answer within {HELLO_SECONDS:g} s") from None
    except OSError as error:
        raise NotFound(f"no daemon listens at {address} ({error.strerror or error}); start one with: llmos up --listen {address}") from None


def _ignore(argument: object) -> None:
    pass
