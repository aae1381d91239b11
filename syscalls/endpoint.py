"""The endpoint: the daemon's socket, on the kernel's thread, and the sessions of those who speak to it.

    frame -> identity -> session -> wire.decode -> trap.enter / cancel / credit          in a breath of the kernel's thread
    Answer -> outbox -> flush -> router                                                 after it
    the client's process or its connection ends -> hang up: KILL to all that is the session's
    a runner claims its process with its secret -> a session of that process; how it ends is told by who supervises the runner

Invariants: who has not said hello has no process and gets no call through; a session makes calls as its own processes only;
what a client sends ends in an answer to it, a count, or the end of its session, and in nothing for others. A call may cost this
thread what the same call costs an embedded program, and no more: messages are bounded, and taken in turns.

ZeroMQ's descriptor says that something has changed, once, and not that there is something: after every read and every send
its events are asked for again. An identity that libzmq gives (it begins with a zero byte) is one connection and no other.
A ROUTER cannot drop a peer: that is done by shutting down the connection under it, of which each session holds a handle.
"""

from __future__ import annotations

import logging
import os
import select
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import zmq

from llmos.kernel.errno import Fault, InvalidArgument, NotPermitted, TryAgain
from llmos.kernel.signal import Signal

from . import param, wire
from .admission import demand_admission
from .peer import Peer, handle_on, peer_of, pidfd_of, shut_down
from .router import Turns, bound, sent
from .session import Answer, Session, failed, laid_to
from .strangers import Strangers
from .table import NUMBERS
from .trap import Trap

log = logging.getLogger("llmos.syscalls")

INIT = 1
TURN = 64
"""Messages that are taken in one breath."""
_PARTING_SECONDS = 1.0
"""From the last word to a client that is hung up until its connection is shut down."""


class Endpoint:
    """See the module. Made anywhere; all else happens on the kernel's thread."""

    def __init__(
        self, trap: Trap, turns: Turns, path: Path, *, model: str, silence: float = param.SILENCE_SECONDS,
        left: Callable[[int, str], None] = lambda pid, why: None, above: int = 0,
    ) -> None:  # fmt: skip
        self._trap, self._turns, self.path, self._model, self._silence, self._above = trap, turns, path, model, silence, above
        self._kernel, self._clock = trap.core.kernel, trap.core.clock
        self._left = left
        """Told when the session of a runner ends: its process, and why."""
        self.sessions: dict[bytes, Session] = {}
        self.own = {INIT}  # processes of the system's own
        self._owners: dict[int, Session] = {}
        """Live pid -> who makes calls as it."""
        self._sponsors: dict[int, Session] = {}
        """Live pid of a runner -> with whose end it ends too; of detached ones there is none."""
        self.strangers = Strangers()
        self._watched: dict[int, Session] = {}
        """Descriptor -> whose end it tells."""
        self._parting: set[Session] = set()
        self._outbox: deque[tuple[bytes, bytes]] = deque()
        self._skipping = False
        self._open = False
        self.dropped = 0
        """Messages without sense, and from nobody."""

    # --- opening and closing

    def open(self) -> None:
        """Bind and listen. Raises NotSupported for a path that cannot be."""
        self._context, self._router, self.door = bound(self.path, TURN, self._guests)
        self._epoll = select.epoll()
        self._open = True
        self._turns.listen(self._router.fileno(), self.drain)
        self._turns.listen(self._epoll.fileno(), self._departed)
        self._turns.after(self._beat, self._listen_for_silence)

    @property
    def _beat(self) -> float:
        return min(param.HEARTBEAT_SECONDS, self._silence / 2)

    def close(self, why: str, *, broken: bool = False) -> None:
        """Hang up on everybody, and close. With `broken` the kernel is left alone: its thread is no more, and this is another."""
        if not self._open:
            return
        for session in list(self.sessions.values()):
            if broken:
                self._parting.add(session)  # the client sees its connection end
            else:
                self._end(session, why)
        self.flush()
        self._open = False
        self._turns.deafen(self._router.fileno())
        self._turns.deafen(self._epoll.fileno())
        self.door.close()
        self._router.close()
        self._context.term()
        for session in list(self._parting):
            self._drop(session)
        self._epoll.close()

    # --- in: always in a breath

    def drain(self) -> None:
        """Take what has come, a bounded number of messages; if there is more, it is the next breath's."""
        if not self._open:
            return
        try:
            for _ in range(TURN):
                if self._skipping:
                    self._router.recv(zmq.NOBLOCK)
                    self._skipping = bool(self._router.getsockopt(zmq.RCVMORE))
                else:
                    self._take(self._router.recv(zmq.NOBLOCK))
        except zmq.Again:
            return
        self._turns.after(0.0, self.drain)

    def _take(self, identity: bytes) -> None:
        """The rest of a message whose first frame, the identity, was read. Frames of one message come together."""
        if not self._router.getsockopt(zmq.RCVMORE):
            return
        session = self.sessions.get(identity)
        frame = self._router.recv(zmq.NOBLOCK, copy=False) if session is None else None
        data = self._router.recv(zmq.NOBLOCK) if frame is None else frame.bytes
        self._skipping = bool(self._router.getsockopt(zmq.RCVMORE))
        if session is None and self.strangers.spent(identity):
            self.dropped += 1
            return
        try:
            if self._skipping:
                raise wire.Malformed("a message is one frame")
            message = wire.decode_for_daemon(data)
        except wire.Malformed as malformed:
            self._reject(identity, session, malformed)
            return
        if session is None:
            if frame is not None:
                self._strange(identity, frame, message)
        else:
            session.heard = self._clock()
            self._obey(session, message)

    def _reject(self, identity: bytes, session: Session | None, malformed: wire.Malformed) -> None:
        """Something without sense: answered where one can tell what to, and counted."""
        self.dropped += 1
        if malformed.call is not None:
            self._outbox.append((identity, wire.encode(failed(malformed.call, InvalidArgument(str(malformed.args[0]))))))
        if session is None:
            self.strangers.heard(identity)
            return
        session.garbage += 1
        if session.garbage > param.MAX_GARBAGE:
            self.hang_up(session, f"{session.garbage} messages made no sense, the last because: {malformed.args[0]}")

    def _obey(self, session: Session, message: wire.FromClient) -> None:
        """A message of a client that has said hello."""
        if isinstance(message, wire.Call):
            self._call(session, message)
        elif isinstance(message, wire.Credit):
            answer = session.calls.get(message.id)
            if answer is not None:  # it may have ended by now
                answer.allow(message.count)
        elif isinstance(message, wire.Cancel):
            answer = session.calls.get(message.id)
            if answer is not None:
                self._trap.cancel(answer.request)
        elif isinstance(message, wire.Ping):
            session.send(wire.Pong())
        elif isinstance(message, wire.Bye):
            self.hang_up(session, "goodbye")
        elif not (isinstance(message, wire.Ack) and session.acknowledge(message.nonce)):
            self._reject(session.identity, session, wire.Malformed("a second hello, or a mark that was never set"))

    def _call(self, session: Session, call: wire.Call) -> None:
        row = NUMBERS.get(call.number)
        try:
            if call.id in session.calls:
                raise wire.Malformed(f"call {call.id} is under way already: every call has an id of its own", call.id)
            if row is None:
                raise InvalidArgument(f"no system call has the number {call.number}")
            if len(session.calls) >= param.MAX_CALLS:
                raise TryAgain(f"this client has {len(session.calls)} calls under way already; wait for some of them")
            if session.unread > param.PUSHBACK_BYTES:
                raise TryAgain(f"{session.unread} bytes of answers have not been read yet; read them before you ask for more")
            self._demand_own(session, call.pid)
        except wire.Malformed as malformed:
            self._reject(session.identity, session, malformed)
        except Fault as fault:
            self._trap.refuse(*laid_to(session, call), fault)
        else:
            answer = Answer(session, call, row.name)
            session.calls[call.id] = answer
            self._trap.enter(answer.request)

    def _demand_own(self, session: Session, pid: int) -> None:
        """Raises NotPermitted for a live process of somebody else's. Of one that is gone the trap tells."""
        if self._owners.get(pid) is not session:
            process = self._kernel.table.all.get(pid)
            if process is not None and process.live:
                raise NotPermitted(f"pid {pid} is not a process of this client: calls are made as one's own")

    # --- who comes

    def _strange(self, identity: bytes, frame: zmq.Frame, message: wire.FromClient) -> None:
        """A message of one who is not known yet."""
        if not isinstance(message, wire.Hello | wire.Claim):
            if isinstance(message, wire.Call):
                self._outbox.append((identity, wire.encode(failed(message.id, NotPermitted("say hello first")))))
            self.dropped += 1
            self.strangers.heard(identity)
            return
        try:
            self._welcome(identity, peer_of(frame), message)
        except Fault as fault:
            refusal = failed(0, fault)
            self._outbox.append((identity, wire.encode(wire.Refused(wire.PROTOCOL, refusal.errno, refusal.message))))
            self.strangers.heard(identity)

    def _welcome(self, identity: bytes, peer: Peer, hello: wire.Hello | wire.Claim) -> None:
        demand_admission(identity, peer, hello, len(self.sessions), self._above)
        now = self._clock()
        runner = isinstance(hello, wire.Claim)
        if isinstance(hello, wire.Claim):
            host, name = self.strangers.claimed(hello.secret), "runner"
        else:
            self.door.demand_room()
            name = hello.name if hello.name and hello.name.isprintable() else "host"
            host = self._kernel.spawn(now, INIT, name=name, capabilities=frozenset({"*"}))
        connection = handle_on(peer.descriptor)
        if connection is None or not self._reaches(identity, wire.Welcome(host, os.getpid(), self._model, self._clients() + (not runner))):
            if connection is not None:
                connection.close()
            if not runner:  # how a runner ends is told by who supervises it
                self._kernel.kill(now, INIT, host, Signal.KILL)
            return
        pidfd = pidfd_of(peer.pid)
        session = Session(identity, host, peer.pid, self._queue, self._adopt, connection, peer.descriptor, pidfd, now, runner=runner)
        self.sessions[identity] = session
        self.strangers.welcomed(identity)
        if runner:
            self._owners[host] = session
        else:
            self._adopt(host, session)
        self._watch(session, connection.fileno(), select.EPOLLRDHUP)
        if session.pidfd >= 0:
            self._watch(session, session.pidfd, select.EPOLLIN)
        who = "the runner of process" if runner else "client"
        log.info("%s %d (%s, process %d) is here: %d clients", who, host, name, peer.pid, self._clients())

    def _clients(self) -> int:
        """Sessions that are no runners."""
        return sum(not session.runner for session in self.sessions.values())

    def _guests(self) -> set[int]:
        """For the door, on its thread."""
        return {session.number for session in list(self.sessions.values())}

    @property
    def deserted(self) -> bool:
        """No client, and no process but the system's own."""
        return not self.sessions and not self._kernel.table.all.keys() - self.own

    def lend(self, pid: int, *, detached: bool) -> bytes:
        """A process is to be a runner's, who claims it with this secret. Unless detached it still ends with the session it is from."""
        session = self._owners.get(pid)
        if session is not None and detached:
            session.pids.discard(pid)
        elif session is not None:
            self._sponsors[pid] = session
        return self.strangers.expect(pid)

    def _reaches(self, identity: bytes, message: wire.FromDaemon) -> bool:
        """Send at once. True says that a handle made just before is on this connection, and not on the next one of that number.

        libzmq tells this thread that a connection has ended before it closes its descriptor, and asking for the events takes in
        all that was told: if the identity can still be sent to after that, the descriptor was still this connection's.
        """
        self._router.getsockopt(zmq.EVENTS)
        return sent(self._router, identity, wire.encode(message))

    def _watch(self, session: Session, descriptor: int, events: int) -> None:
        self._epoll.register(descriptor, events)
        self._watched[descriptor] = session

    def _adopt(self, pid: int, session: Session) -> None:
        session.pids.add(pid)
        self._owners[pid] = session

    # --- who goes

    def died(self, pid: int) -> None:
        """The kernel says that a process has ended."""
        session, sponsor = self._owners.pop(pid, None), self._sponsors.pop(pid, None)
        self.strangers.forget(pid)
        if sponsor is not None:
            sponsor.pids.discard(pid)
        if session is None:
            return
        session.pids.discard(pid)
        if pid == session.host:
            self.hang_up(session, f"pid {pid} has ended" if session.runner else f"the client's own process, pid {pid}, was killed")
        else:
            session.send(wire.Ended(pid))

    def _departed(self) -> None:
        """Processes or connections of clients have ended."""
        if not self._open:  # closed in the same turn of the loop
            return
        for descriptor, _ in self._epoll.poll(0):
            session = self._watched.get(descriptor)
            if session is not None:
                self.hang_up(session, "the client has gone")
                self._drop(session)

    def _lost(self, identity: bytes) -> None:
        session = self.sessions.get(identity)
        if session is not None:
            self.hang_up(session, "the connection has ended, as after a message that is too long")
            self._drop(session)

    def _listen_for_silence(self) -> None:
        if not self._open:
            return
        now = self._clock()
        for session in list(self.sessions.values()):
            limit = self._silence if session.pidfd >= 0 else min(self._silence, param.UNWATCHED_SECONDS)
            if now - session.heard > limit:
                self.hang_up(session, f"nothing was heard of the client for {limit:g} s")
            else:
                session.send(wire.Pong())  # fails, and so tells, if its connection is no more
        self.door.look()
        self._turns.after(self._beat, self._listen_for_silence)

    def hang_up(self, session: Session, why: str) -> None:
        """The end of a session: all its processes are killed. The client is told, and after a moment its connection is shut down."""
        if not session.over:
            self._end(session, why)
            self._turns.after(_PARTING_SECONDS, lambda: self._drop(session))

    def _end(self, session: Session, why: str) -> None:
        self.sessions.pop(session.identity, None)
        session.send(wire.Hangup(why))
        session.over = True
        self._parting.add(session)
        session.calls.clear()
        now = self._clock()
        for pid in sorted(session.pids, reverse=True):  # children before their parents: nobody is adopted only to be killed
            if self._owners.get(pid) is session:
                del self._owners[pid]
            process = self._kernel.table.all.get(pid)
            if process is not None and process.live:
                self._kernel.kill(now, INIT, pid, Signal.KILL)
        session.pids.clear()
        who = "the runner of process" if session.runner else "client"
        log.info("%s %d is gone: %s; %d clients", who, session.host, why, self._clients())
        if session.runner and self._owners.pop(session.host, None) is session:
            self._left(session.host, why)

    def _drop(self, session: Session) -> None:
        """Shut the connection down, which frees what waits in it, and watch it no more."""
        if session not in self._parting:
            return
        self._parting.discard(session)
        for descriptor in [each for each, watched in self._watched.items() if watched is session]:
            self._epoll.unregister(descriptor)
            del self._watched[descriptor]
        if session.pidfd >= 0:
            os.close(session.pidfd)
        shut_down(session.connection)

    # --- out

    def _queue(self, identity: bytes, data: bytes) -> None:
        self._outbox.append((identity, data))
        session = self.sessions.get(identity)
        if session is not None and session.unread > param.MAX_UNREAD:
            self.hang_up(session, f"{session.unread} bytes of answers were not read")

    def flush(self) -> None:
        """The end of a breath: what was said in it leaves."""
        if not self._open or not self._outbox:
            return
        while self._outbox:
            identity, data = self._outbox.popleft()
            if not sent(self._router, identity, data) and identity in self.sessions:
                self._turns.after(0.0, partial(self._lost, identity))  # libzmq has dropped it: our handle keeps the connection from telling
        if int(self._router.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._turns.after(0.0, self.drain)
