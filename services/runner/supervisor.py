"""The supervisor: the OS process above one program. It waits for a job, forks the program, tells how that ended, and leaves nothing.

    idle --order--> fork --> passes on what the program prints --> the program ends, or "no more" --> kill all below --> told --> gone

    daemon -> supervisor                                    supervisor -> daemon
    {"socket", "secret", "pid", "memory", "cpu_seconds"}    R{"os": pid of this process}      once, as soon as it is there
    1 or 2: send more of stdout, stderr                     1 or 2, and what was printed      one of each until more is asked for
    the end of the socket: kill it                          X{"status", "tail", "killed", "memory"}      the last word

A message is one packet. Invariants: when this process is gone by itself, so is everything that was below it; a program whose
supervisor is killed is killed by the machine, and what is left of it falls to the fork server. The daemon's end closes the
socket, and so ends all its runners. Knows no system call and nothing of the program but how to begin it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import signal
import socket
import sys
from collections import deque
from typing import Any, NoReturn, TextIO

from llmos.sdk import runner

from .descendants import call_oneself, die_with, end_all, inherit_orphans, reap

PIECE = 32_768
"""Bytes of output in one message."""
TAIL = 16_384
"""Bytes of the end of stderr that are told with a crash."""
END_SECONDS = 10.0
"""How long what is killed has to be gone."""
OPEN_FILES = 1_024
OUT, ERR = 1, 2


def main(control: socket.socket) -> NoReturn:
    """Be a supervisor, in a process that was just forked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    os.setpgid(0, 0)
    inherit_orphans()
    call_oneself("llmos-supervise")
    try:
        control.send(b"R" + json.dumps({"os": os.getpid()}).encode())
        order = control.recv(1 << 16)
    except OSError:  # the daemon is gone
        os._exit(0)
    if order:
        Supervisor(control, json.loads(order)).supervise()
    os._exit(0)


class Supervisor:
    """One program under way."""

    def __init__(self, control: socket.socket, order: dict[str, Any]) -> None:
        self._control = control
        self._tail: deque[bytes] = deque()
        self._ended: dict[str, Any] | None = None
        self._news = signal_pipe()
        self._pipes: dict[int, int] = {}
        self._credit = {OUT, ERR}
        ends = {number: os.pipe() for number in (OUT, ERR)}
        above = os.getpid()
        self._program = os.fork()
        if not self._program:
            control.close()
            _begin(order, above, ends[OUT][1], ends[ERR][1])
        for number, (read, write) in ends.items():
            os.close(write)
            os.set_blocking(read, False)
            self._pipes[number] = read

    def supervise(self) -> None:
        killed = self._watch()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        gone = end_all(END_SECONDS, self._note)
        for number in list(self._pipes):
            while self._pass_on(number):
                pass
        last = {"killed": killed, "tail": b"".join(self._tail)[-TAIL:].decode(errors="replace"), "all": gone}
        self._send(b"X" + json.dumps({**last, **(self._ended or {})}).encode())

    def _watch(self) -> bool:
        """Until the program has ended: False; or until it is to: True."""
        while True:
            reading = [self._control.fileno(), self._news, *(pipe for number, pipe in self._pipes.items() if number in self._credit)]
            ready = set(select.select(reading, [], [])[0])
            if self._news in ready:
                os.read(self._news, 4096)
                self._reap()
                if self._ended is not None:
                    return False
            if self._control.fileno() in ready and not self._obey():
                return True
            for number, pipe in list(self._pipes.items()):
                if pipe in ready:
                    self._credit.discard(number)
                    if not self._pass_on(number):
                        self._credit.add(number)

    def _obey(self) -> bool:
        """Take a message. False if there will be no more."""
        try:
            message = self._control.recv(64)
        except OSError:
            return False
        self._credit.update(each for each in message if each in (OUT, ERR))
        return bool(message)

    def _pass_on(self, number: int) -> bool:
        """A piece of output. False if there is none."""
        if number not in self._pipes:
            return False
        try:
            data = os.read(self._pipes[number], PIECE)
        except BlockingIOError:
            return False
        if not data:
            os.close(self._pipes.pop(number))
            return False
        if number == ERR:
            self._tail.append(data)
            while sum(map(len, self._tail)) - len(self._tail[0]) >= TAIL:
                self._tail.popleft()
        self._send(bytes((number,)) + data)
        return True

    def _send(self, data: bytes) -> None:
        try:
            self._control.send(data)
        except OSError:  # nobody listens any more; the end of the socket says the rest
            pass

    def _reap(self) -> None:
        """Take note of who has ended: the program, or an orphan of it, which would stay a zombie."""
        reap(self._note)

    def _note(self, pid: int, status: int, cpu: float, memory: int) -> None:
        if pid == self._program:
            self._ended = {"status": status, "cpu": cpu, "memory": memory}


def signal_pipe() -> int:
    """A descriptor that becomes readable with every SIGCHLD, which this unblocks."""
    read, write = os.pipe()
    for each in (read, write):
        os.set_blocking(each, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    return read


def _begin(order: dict[str, Any], above: int, out: int, err: int) -> NoReturn:
    """The program's own OS process: set its bounds, then run it."""
    status = 1
    try:
        die_with(above)
        os.setsid()
        call_oneself(f"llmos-{order['pid']}")
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (out, OUT), (err, ERR)):
            os.dup2(source, target)
        os.closerange(3, max(null, out, err, above_all()) + 1)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0, closefd=False), _lines(OUT), _lines(ERR)
        _bound(order["memory"], order["cpu_seconds"])
        faulthandler.enable()
        status = runner.main(order["socket"], bytes.fromhex(order["secret"]))
    except BaseException as error:  # noqa: BLE001 - the last that can be said of it; nothing of the supervisor may run here
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        try:
            sys.stdout.flush()
        finally:
            os._exit(status)


def _lines(descriptor: int) -> TextIO:
    """A stream of lines; the one before may believe in a file, with a position."""
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def above_all() -> int:
    """The highest descriptor that is open."""
    return max(map(int, os.listdir("/proc/self/fd")))


def _bound(memory: int | None, cpu_seconds: int | None) -> None:
    """Limits of this OS process, and of each that it starts. A dump of its memory helps nobody and takes seconds.

    RLIMIT_DATA counts what a process has that it may write to and shares with nobody; RLIMIT_AS would count address space too, of
    which numerical libraries reserve many times what they use.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, most) if most != resource.RLIM_INFINITY else OPEN_FILES, most))
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    if cpu_seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    with open("/proc/self/oom_score_adj", "w") as file:  # rather this than the daemon, when the machine runs out of memory
        file.write("500")
