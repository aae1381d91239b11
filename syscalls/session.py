"""Sessions: what the daemon knows of one client, and where the answers to its calls go.

    kernel pushes -> Answer: while there is credit, a Part at once; else into one waiting Part, sent when credit comes, or the end
    sent bytes -> a Mark after each MARK_BYTES -> the client reads it -> Ack: that much it has read

A session owns processes: its host and all that were spawned below it in this session. A nonce in a mark cannot be guessed, so
nobody can say to have read what he has not. Everything here belongs to the kernel's thread. Knows no socket: it is given
a function that sends.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llmos.kernel.errno import Fault, TooLong

from . import param, wire
from .abi import Request
from .call import REFUSED
from .results import Forked, Piece, Spawned

log = logging.getLogger("llmos.syscalls")

_NAMES = {number: name for name, (number, _) in wire.CALLS.items()}

OVERHEAD = 128
"""Bytes that a message takes beside its own."""


@dataclass(slots=True, eq=False)
class Session:
    """One client that has said hello."""

    identity: bytes
    host: int
    peer: int
    """The client's pid in the machine's own system; 0 if that cannot be known."""
    send_raw: Callable[[bytes, bytes], None]
    """(identity, message): queues it for the socket."""
    adopted: Callable[[int, Session], None]
    """Told of every process that becomes this session's."""
    connection: socket.socket
    """Another handle on the client's connection: to end it with."""
    number: int
    """libzmq's own descriptor of that connection."""
    pidfd: int
    heard: float
    """When it said something last."""
    pids: set[int] = field(default_factory=set)
    """Its live processes, which end with it. One that is detached is taken out of here (Endpoint.lend)."""
    calls: dict[int, Answer] = field(default_factory=dict)
    garbage: int = 0
    sent: int = 0
    read: int = 0
    marks: deque[tuple[bytes, int]] = field(default_factory=deque)
    marked: int = 0
    over: bool = False
    runner: bool = False
    """Its host is a process that runs in a runner, and ends as that is seen to end."""

    @property
    def unread(self) -> int:
        """Bytes sent that the client has not said to have read; what came after the last mark counts too."""
        return self.sent - self.read

    def send(self, message: wire.FromDaemon) -> None:
        self.post(wire.encode(message))

    def post(self, data: bytes) -> None:
        if self.over:
            return
        self.sent += len(data) + OVERHEAD
        self.send_raw(self.identity, data)
        if self.sent - self.marked >= param.MARK_BYTES:
            self.marked = self.sent
            nonce = os.urandom(8)
            self.marks.append((nonce, self.sent))
            self.send_raw(self.identity, wire.encode(wire.Mark(nonce)))

    def acknowledge(self, nonce: bytes) -> bool:
        """The client has read up to a mark. False if there is no such mark."""
        if all(nonce != each for each, _ in self.marks):
            return False
        while self.marks:
            known, self.read = self.marks.popleft()
            if known == nonce:
                break
        return True


class Answer:
    """The sink of one call. The end of a call is always sent; pieces only on credit."""

    __slots__ = ("_credit", "_id", "_name", "_session", "_waiting", "request")

    def __init__(self, session: Session, call: wire.Call, name: str) -> None:
        self._session, self._id, self._name, self._credit = session, call.id, name, call.credit
        self._waiting: list[Piece] = []
        self.request = Request(call.pid, name, call.arguments, call.path, call.sequence, self)

    def push(self, piece: Piece) -> None:
        if self._session.over:
            return
        self._waiting.append(piece)
        if self._credit:
            self._flush()

    def allow(self, count: int) -> None:
        """The client has read so many pieces."""
        self._credit = min(self._credit + count, param.MAX_CREDIT)
        if self._waiting:
            self._flush()

    def _flush(self) -> None:
        """Send what waits, as one piece."""
        waiting, self._waiting = self._waiting, []
        self._credit = max(0, self._credit - 1)
        self._session.send(wire.Part(self._id, waiting[0] if len(waiting) == 1 else _merged(waiting)))

    def finish(self, result: Any) -> None:
        session = self._session
        session.calls.pop(self._id, None)
        if isinstance(result, Spawned):
            session.adopted(result.pid, session)
        elif isinstance(result, Forked):
            session.adopted(result.streams.pid, session)
        if session.over:
            return
        try:
            data = wire.encode(wire.Result(self._id, result))
        except (TypeError, ValueError, OverflowError):
            log.exception("the result of %s does not cross the wire: this is a bug in llmos", self._name)
            self.fail(Fault(f"the result of {self._name} does not cross the wire: this is a bug in llmos; its traceback is in the log"))
            return
        if len(data) > param.MAX_REPLY:
            self.fail(
                TooLong(f"the result of {self._name} takes {len(data)} bytes; one message has {param.MAX_REPLY} at most: ask for less")
            )
            return
        if self._waiting:
            self._flush()
        session.post(data)

    def fail(self, fault: Fault) -> None:
        self._session.calls.pop(self._id, None)
        if self._session.over:
            return
        if self._waiting:
            self._flush()
        self._session.send(failed(self._id, fault))


def laid_to(session: Session, call: wire.Call) -> tuple[Request, None, dict[str, int]]:
    """What `Trap.refuse` is to write down of a call that never reaches it: as one of the client's own process, whoever it said it was."""
    request = Answer(session, call, _NAMES.get(call.number, f"number {call.number}")).request
    request.pid = session.host
    return request, None, {f"pid:{call.pid}": REFUSED}


def failed(call: int, fault: Fault) -> wire.Failed:
    """A fault as a message."""
    message = str(fault.args[0]) if fault.args else type(fault).__name__
    return wire.Failed(call, fault.errno, message.encode(errors="backslashreplace").decode())


def _merged(pieces: list[Piece]) -> Piece:
    return Piece(
        "".join([piece.text for piece in pieces]),
        tuple([token for piece in pieces for token in piece.tokens]),
        tuple([each for piece in pieces for each in piece.logprobs]),
    )
