"""A worker as the driver sees it: orders and replies over pipes, time limits, pausing, memory and processor time from /proc.

A worker leads a session of its own, so all processes of its engine are found by the session's number. Between its turns it is
stopped (SIGSTOP), so that no engine's spinning threads take cores from another's measurement. Linux only.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")


class WorkerError(RuntimeError):
    """A worker died, was silent for too long or reported an error. Its log has the rest."""


def members(session: int) -> list[int]:
    """The processes of a session."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            fields = stat(int(entry.name))
            if fields and int(fields[3]) == session:
                found.append(int(entry.name))
    return found


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (the name before it may hold spaces); empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def machine_busy() -> float:
    """Core seconds that this machine has worked for anyone, a hypervisor's theft included."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


class Worker:
    def __init__(self, name: str, interpreter: Path, environment: dict[str, str], peers: Path, options: dict[str, str], log: Path) -> None:
        command = [str(interpreter), str(HERE / "worker.py"), name, "--peers", str(peers), "--options", json.dumps(options)]
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=os.environ | environment,
                cwd=log.parent,
                start_new_session=True,
            )
        self.name, self.log, self.rest = name, log, b""

    def order(self, limit: float, **order: Any) -> dict[str, Any]:
        """Sends one order and waits for its reply; WorkerError if none comes within `limit` seconds or it is an error."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerError(f"{self.name} is gone: see {self.log}") from error
        reply: dict[str, Any] = json.loads(self.line(limit, order["do"]))
        if "error" in reply:
            raise WorkerError(f"{self.name} could not {order['do']}:\n{reply['error']}")
        return reply

    def line(self, limit: float, what: str) -> bytes:
        assert self.process.stdout is not None
        deadline = time.monotonic() + limit
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self.rest:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise WorkerError(f"{self.name} did not {what} within {limit:.0f} s: see {self.log}")
            piece = os.read(descriptor, 65536)
            if not piece:
                raise WorkerError(f"{self.name} ended while it had to {what}: see {self.log}")
            self.rest += piece
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def tell(self, number: signal.Signals) -> None:
        for pid in members(self.process.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def pause(self) -> None:
        self.tell(signal.SIGSTOP)

    def resume(self) -> None:
        self.tell(signal.SIGCONT)

    def memory_mib(self) -> float:
        """Proportional set size of all its processes: shared pages counted once."""
        total = 0
        for pid in members(self.process.pid):
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024

    def peak_mib(self, *, apart: bool) -> float:
        """The most each of its processes had resident (VmHWM), summed: what two of them share counts twice. `apart`: without the worker."""
        total = 0
        for pid in members(self.process.pid):
            if apart and pid == self.process.pid:
                continue
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        return total / 1024

    def busy(self) -> float:
        """Core seconds of all its processes, children that have ended included."""
        fields = [stat(pid) for pid in members(self.process.pid)]
        return sum(sum(map(int, each[11:15])) for each in fields if each) / TICKS

    def close(self) -> None:
        """Asks it to stop, then sees to it that nothing of its session is left."""
        self.resume()
        try:
            self.order(30, do="stop")
            self.process.wait(10)
        except (WorkerError, subprocess.TimeoutExpired):
            pass
        self.tell(signal.SIGKILL)
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
