"""Runners, on the daemon's side: which processes run in one, how each is started, and how it ended.

    run --> an idle supervisor, or one more --order--> the program claims its process --> begun --> its own calls
    its process ends in the kernel --> no more orders: the supervisor kills all that is below it --> its last word --> gone
    its OS process ends first      --> the supervisor's last word --> exit in the kernel, with what is known of why

On the kernel's thread, which never waits: sockets are non-blocking, the fork server is started elsewhere. A supervisor can be sent
an order before it has been forked, so that a pool that is empty only makes a start slower. Invariant: a process that was given to a
runner is alive in the kernel only while its supervisor has not said its last word.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from llmos.kernel.errno import AlreadyExists, Fault, NotPermitted, TryAgain
from llmos.kernel.kernel import Kernel
from llmos.syscalls import param
from llmos.syscalls.abi import Job, Run
from llmos.syscalls.endpoint import Endpoint
from llmos.syscalls.trap import Trap

from .forkserver import ForkServer
from .output import Output, Spool
from .settings import Settings
from .thread import KernelThread

log = logging.getLogger("llmos.init")

INIT = 1
NOT_FOUND, KILLED = 127, 128 + signal.SIGKILL
CLAIM_SECONDS = 30.0
"""How long a runner has to claim its process."""
LAST_WORD_SECONDS = 12.0
"""How long a supervisor has to kill what is below it and say so; it gives up before."""
END_SECONDS = 0.1
"""From the end of a connection until an OS process that has not ended by itself is ended."""
REFILL_SECONDS = 0.1
"""From a start to the fork of the next idle runner: the start comes first."""
PATIENCE_SECONDS = 5.0
"""The same after one that idled was lost: what killed it may kill the next."""
TAIL_IN_REASON = 4_096


@dataclass(slots=True, eq=False)
class Runner:
    """A supervisor, and from its order on the process that is its program's."""

    control: socket.socket
    os_pid: int = 0
    """The supervisor's; 0 until it has said so."""
    pid: int = 0
    """The process; 0 while it is idle."""
    job: Job | None = None
    claimed: bool = False
    """Its program's OS process has connected, and asked what to run."""
    begun: bool = False
    fault: Fault | None = None
    stopped: str = ""
    """Why it is to end, if that is known before it has."""
    cpu_seconds: int | None = None
    memory: int | None = None
    outputs: dict[int, Output] = field(default_factory=dict)
    spool: Spool | None = None

    @property
    def log(self) -> str | None:
        return None if self.spool is None else str(self.spool.path)


class Runners:
    """See the module. Belongs to the kernel's thread, but for `close`."""

    def __init__(self, trap: Trap, thread: KernelThread, settings: Settings) -> None:
        self._trap, self._thread, self._settings = trap, thread, settings
        self._kernel: Kernel = trap.core.kernel
        self.endpoint: Endpoint | None = None
        self._all: dict[int, Runner] = {}
        """Live process -> its runner."""
        self._idle: deque[Runner] = deque()
        self._ending: set[Runner] = set()
        """Those whose process has ended, until the last word."""
        self._server = ForkServer(thread, self._hopeless)
        self._closed = self._refilling = False

    # --- the system calls

    def start(self, parent: int, args: Run) -> Runner:
        """See syscalls/runner.py."""
        kernel, now = self._kernel, self._trap.core.clock()
        if args.pid in self._all:
            raise AlreadyExists(f"pid {args.pid} runs a program already; spawn another process")
        if self.endpoint is None or self._closed:
            raise TryAgain("the system is going up or down; try again")
        if len(self._all) >= param.MAX_RUNNERS:
            raise TryAgain(f"{len(self._all)} programs run in runners, the most there may be; wait for one to end")
        for name, most in (("memory", self._settings.runner_memory), ("cpu_seconds", self._settings.runner_cpu_seconds)):
            asked = getattr(args, name)
            if asked is not None and most is not None and asked > most:
                kernel.demand(parent, "proc:limits")
        runner = self._taken()
        runner.pid = args.pid
        runner.memory = self._settings.runner_memory if args.memory is None else args.memory
        runner.cpu_seconds = self._settings.runner_cpu_seconds if args.cpu_seconds is None else args.cpu_seconds
        name = kernel.table.get(args.pid).name
        runner.job = Job(
            args.kind, args.program, args.arguments, args.stdin, args.stdout, args.stderr, name, parent, args.model, args.folder,
            args.path, args.folders,
        )  # fmt: skip
        self._all[args.pid] = runner
        for number, pipe in ((1, args.stdout), (2, args.stderr)):
            kernel.pipe_give(now, args.pid, INIT, pipe, write=True)
            runner.outputs[number] = Output(self._trap, self._thread, pipe, partial(self._more, runner, number))
        if args.detached:
            runner.spool = self._spooled(parent, name, args)
        secret = self.endpoint.lend(args.pid, detached=args.detached)
        order = {
            "socket": str(self.endpoint.path), "secret": secret.hex(), "pid": args.pid,
            "memory": runner.memory, "cpu_seconds": runner.cpu_seconds,
        }  # fmt: skip
        self._send(runner, json.dumps(order).encode())
        self._thread.after(CLAIM_SECONDS, lambda: self._demand_claim(runner))
        return runner

    def job(self, pid: int) -> Job:
        """See syscalls/runner.py."""
        runner = self._all.get(pid)
        if runner is None or runner.job is None:
            raise NotPermitted(f"pid {pid} does not run in a runner")
        runner.claimed = True
        return runner.job

    def begun(self, pid: int, fault: Fault | None) -> None:
        """See syscalls/runner.py."""
        runner = self._all.get(pid)
        if runner is None or runner.begun or runner.fault is not None:
            raise NotPermitted(f"pid {pid} does not run in a runner, or has begun already")
        if fault is None:
            runner.begun = True
        else:
            runner.fault = fault
            self._kernel.exit(self._trap.core.clock(), pid, NOT_FOUND, str(fault.args[0]))
        self._trap.wake(("runner", pid))

    def _spooled(self, parent: int, name: str, args: Run) -> Spool | None:
        """The file for what nobody but the spawner, who may be gone soon, would read."""
        kernel, now = self._kernel, self._trap.core.clock()
        held = kernel.table.get(parent).readers
        pipes = [pipe for pipe in dict.fromkeys((args.stdout, args.stderr)) if pipe in held]
        if not pipes:
            return None
        for pipe in pipes:
            kernel.pipe_give(now, parent, INIT, pipe, read=True)
            kernel.pipe_close(now, parent, pipe, read=True)
        folder = self._trap.core.disk.output(kernel.table.get(args.pid).user)
        return Spool(self._trap, self._thread, folder, f"{args.pid}-{name}", pipes)

    # --- what others tell

    def died(self, pid: int) -> None:
        """The kernel says that a process has ended: nothing of it may be left."""
        runner = self._all.pop(pid, None)
        if runner is not None:
            self._trap.wake(("runner", pid))
            if runner.control.fileno() < 0:  # the last was heard of it before this was known
                return
            self._ending.add(runner)
            self._shut(runner)
            self._thread.after(LAST_WORD_SECONDS, lambda: self._give_up(runner))

    def left(self, pid: int, why: str) -> None:
        """The connection of a runner has ended: because its OS process has, as its supervisor will say; or it is to."""
        runner = self._all.get(pid)
        if runner is not None:
            self._thread.after(END_SECONDS, lambda: self._stop(runner, why))

    def _stop(self, runner: Runner, why: str) -> None:
        if self._all.get(runner.pid) is runner:
            runner.stopped = runner.stopped or why
            self._shut(runner)

    def _shut(self, runner: Runner) -> None:
        """No more orders."""
        try:
            runner.control.shutdown(socket.SHUT_WR)
        except OSError:  # it has closed its side
            pass

    def _demand_claim(self, runner: Runner) -> None:
        if self._all.get(runner.pid) is runner and not runner.claimed:
            self._stop(runner, f"its runner did not connect within {CLAIM_SECONDS:g} s")

    def _give_up(self, runner: Runner) -> None:
        if runner in self._ending:
            log.warning("the runner of process %d (supervisor %d) does not end; it is left to itself", runner.pid, runner.os_pid)
            self._gone(runner)

    # --- supervisors

    def _taken(self) -> Runner:
        """A supervisor for a program: one that idles, or a new one."""
        runner = self._idle.popleft() if self._idle else self._new()
        self._refill_soon()
        return runner

    def _refill_soon(self, seconds: float = REFILL_SECONDS) -> None:
        if not self._refilling:
            self._refilling = True
            self._thread.after(seconds, self.refill)

    def refill(self) -> None:
        """Have as many idle runners as the settings say."""
        self._refilling = False
        while not self._closed and len(self._idle) < self._settings.runners:
            self._idle.append(self._new())

    def _new(self) -> Runner:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.setblocking(False)
        runner = Runner(mine)
        self._thread.listen(mine.fileno(), lambda: self._hear(runner))
        self._server.fork(theirs)
        return runner

    def _hopeless(self, why: str) -> None:
        """There is no fork server, and so no supervisor for those who wait for one: their sockets are closed."""
        for runner in self._all.values():
            if not runner.os_pid:
                runner.stopped = runner.stopped or why

    # --- what supervisors say

    def _send(self, runner: Runner, data: bytes) -> None:
        try:
            runner.control.send(data)
        except OSError:  # it is gone, as its socket is about to tell
            pass

    def _more(self, runner: Runner, number: int) -> None:
        self._send(runner, bytes((number,)))

    def _hear(self, runner: Runner) -> None:
        while True:
            try:
                data = runner.control.recv(1 << 17)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._gone(runner)
                return
            if data[0] in runner.outputs:
                runner.outputs[data[0]].write(data[1:])
            elif data[:1] == b"R":
                runner.os_pid = int(json.loads(data[1:])["os"])
            elif data[:1] == b"X":
                self._last_word(runner, json.loads(data[1:]))

    def _last_word(self, runner: Runner, word: dict[str, Any]) -> None:
        if not word["all"]:
            log.warning("something that process %d started cannot be killed", runner.pid)
        if runner.pid in self._all:
            status, reason = _ending(word, runner)
            self._end(runner, status, reason)

    def _end(self, runner: Runner, status: int, reason: str) -> None:
        """Its OS process has ended, and its process in the kernel has not yet."""
        process = self._kernel.table.all.get(runner.pid)
        if process is None or not process.live:  # it has ended in this very breath
            return
        if status:
            first = reason.splitlines()[0] if reason else f"status {status}"
            runner.outputs[2].write(f"{process.name} (pid {runner.pid}): {first}\n".encode())
        self._kernel.exit(self._trap.core.clock(), runner.pid, status, reason)

    def _gone(self, runner: Runner) -> None:
        """The supervisor's socket is closed: nothing more will be heard of it."""
        if runner.control.fileno() < 0:
            return
        self._thread.deafen(runner.control.fileno())
        runner.control.close()
        if runner in self._idle:
            self._idle.remove(runner)
            self._refill_soon(PATIENCE_SECONDS)
        if self._all.get(runner.pid) is runner:
            self._end(runner, KILLED, runner.stopped or "its supervisor was killed, and it with that")
        self._ending.discard(runner)
        for output in runner.outputs.values():
            output.close()

    # --- the end

    @property
    def busy(self) -> int:
        """Runners that have a program, or are being cleared away."""
        return len(self._all) + len(self._ending)

    def statistics(self) -> dict[str, int]:
        """OS pids, for benchmarks and tests: process -> its supervisor; idle ones by a negative number."""
        found = {str(pid): runner.os_pid for pid, runner in self._all.items()}
        return found | {f"idle {number}": runner.os_pid for number, runner in enumerate(self._idle)}

    def shut(self) -> None:
        """No more runners; every supervisor sees the end of its socket."""
        self._closed = True
        for runner in [*self._all.values(), *self._idle, *self._ending]:
            self._thread.deafen(runner.control.fileno())
            runner.control.close()
        self._server.shut()

    def join(self, seconds: float) -> None:
        """Until the fork server, and with it all runners, has ended. On another thread, after `shut`."""
        self._server.join(seconds)


def _ending(word: dict[str, Any], runner: Runner) -> tuple[int, str]:
    """Exit status and reason, of what a supervisor says of an OS process that ended before its process did."""
    status, tail = word.get("status"), str(word["tail"]).strip()[-TAIL_IN_REASON:]
    if status is None:
        return KILLED, "it could not be killed"
    if os.WIFEXITED(status):
        code = os.WEXITSTATUS(status)
        said = f"its OS process ended with status {code} before its program returned"
    else:
        number = os.WTERMSIG(status)
        code, said = 128 + number, _killed_by(number, word, runner)
    return code, f"{said}\n{tail}" if tail and code else said


def _killed_by(number: int, word: dict[str, Any], runner: Runner) -> str:
    spent = runner.cpu_seconds is not None and word["cpu"] >= runner.cpu_seconds  # who ignores SIGXCPU is killed a second later
    if number == signal.SIGXCPU or (number == signal.SIGKILL and spent):
        return f"used up the {runner.cpu_seconds} s of CPU that it was given: spawn it with more, or raise LLMOS_RUNNER_CPU_SECONDS"
    if number == signal.SIGKILL and word["killed"]:
        return f"killed: {runner.stopped or 'its process has ended'}"
    if number == signal.SIGKILL:
        return "killed from outside (SIGKILL): by a person, or by the machine, which ran out of memory"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"crashed with {name}"
