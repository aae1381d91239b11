"""What the kernel itself costs, on the dummy device: no model, no loop, no text.

    python benchmarks/overhead.py [--repeats N] [--steps N] [--json]

Each figure is the median over the calls of one repeat; the table shows the median over the repeats and their spread. Every repeat
starts from a fresh kernel; the collector of garbage is on, as in use. The device's own time is never counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmos.drivers.dummy import DummyDevice
from llmos.kernel.device import GREEDY, Step
from llmos.kernel.kernel import Kernel
from llmos.kernel.process import Class, Limits
from llmos.kernel.signal import Signal

ROOT = Path(__file__).resolve().parent.parent
INIT = 1
RUNNING, BLOCKED, MANY, CROWD = 64, 1_000, 10_000, 200
FEW = 8
"""Running processes of which each has guesses."""
GUESS_COST, WARM = 0.03, 60
"""Of a step of one token, as measured with AMX; and steps until a context repeats itself."""
PROMPT = 256
"""Tokens of a running process before it generates."""
PAUSED = 48
"""Tokens in the open context of a process that waits for a tool."""
LONG = 4_800
"""Tokens in a context for which there is no room."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: a value per repeat."""

    what: str
    unit: str
    values: tuple[float, ...]
    bound: float | None = None
    """What it must stay under, or must be if `exact`."""
    exact: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def holds(self) -> bool | None:
        if self.bound is None:
            return None
        return all(value == self.bound for value in self.values) if self.exact else self.median < self.bound


Sample = dict[str, float]
"""What one repeat of a measurement found, by name."""


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


class Rig:
    """A kernel and its dummy device, driven by hand under a virtual clock."""

    def __init__(self, **device: Any) -> None:
        self.device = DummyDevice(**{"frames": 16_384, "host_frames": 0, "vocabulary": 1_000} | device)
        self.kernel = Kernel()
        self.kernel.attach(self.device.geometry)
        self.now = 0.0
        self._token = 0

    def prompt(self, length: int) -> list[int]:
        """Tokens that no other prompt begins with, so that nothing is shared by accident."""
        self._token += 1
        first, second = divmod(self._token, 1_000)
        return [first, second, *range(length - 2)]

    def open(self, length: int, cls: Class = Class.NORMAL) -> tuple[int, int]:
        """A process with one context of so many tokens, which `settle` computes."""
        pid = self.kernel.spawn(self.now, INIT, name="agent", cls=cls)
        cid = self.kernel.open(self.now, pid, "dummy")
        self.kernel.append(self.now, pid, cid, self.prompt(length))
        return pid, cid

    def generate(self, pid: int, cid: int, tokens: int) -> int:
        return self.kernel.generate(self.now, pid, cid, sampling=GREEDY, max_tokens=tokens)

    def retire(self, step: Step) -> float:
        """Execute a step; returns the seconds that the kernel needed to take its result in."""
        outcome = self.device.execute(step)
        self.now += outcome.seconds
        start = time.perf_counter()
        self.kernel.retire(self.now, "dummy", outcome)
        seconds = time.perf_counter() - start
        self.kernel.drain()
        return seconds

    def plan(self) -> Step:
        step = self.kernel.plan(self.now, "dummy")
        if step is None:
            raise RuntimeError("nothing to run: the benchmark has set up too little work")
        return step

    def settle(self) -> None:
        """Run until nothing is left to do."""
        while (step := self.kernel.plan(self.now, "dummy")) is not None:
            self.retire(step)
        for bid, burst in list(self.kernel.bursts.items()):
            self.kernel.release(self.now, burst.process.pid, bid)

    def running(self, count: int, tokens: int) -> list[tuple[int, int]]:
        """Processes that generate until further notice, past their prefill."""
        made = [self.open(PROMPT) for _ in range(count)]
        self.settle()
        for pid, cid in made:
            self.generate(pid, cid, tokens)
        for _ in range(4):
            self.retire(self.plan())
        return made

    def blocked(self, count: int) -> None:
        """Processes with an open context that wait for a tool."""
        made = [self.open(PAUSED) for _ in range(count)]
        self.settle()
        for pid, _ in made:
            self.kernel.block(self.now, pid, "tool")

    def free(self) -> int:
        return len(self.kernel.schedulers["dummy"].memory.device.free)

    @property
    def copied(self) -> int:
        """Pages copied because of a write, since boot."""
        return self.kernel.statistics().devices[0].copied


def measure_steps(rig: Rig, steps: int, rows: int = RUNNING) -> Sample:
    """Plan and retire full batches."""
    plans, retires = [], []
    for _ in range(steps):
        start = time.perf_counter()
        step = rig.plan()
        plans.append(time.perf_counter() - start)
        if len(step.rows) != rows:
            raise RuntimeError(f"step {step.number} has {len(step.rows)} rows, not {rows}")
        retires.append(rig.retire(step))
    return {
        "plan": statistics.median(plans) * 1e3,
        "plan p95": percentile(plans, 0.95) * 1e3,
        "retire": statistics.median(retires) * 1e3,
        "retire p95": percentile(retires, 0.95) * 1e3,
    }


def blocked_processes(steps: int) -> Sample:
    rig = Rig()
    rig.blocked(BLOCKED)
    rig.running(RUNNING, tokens=steps + 10)
    return measure_steps(rig, steps)


def memory_pressure(steps: int) -> Sample:
    """The same, with a device that holds the running contexts and a quarter of the blocked ones: the rest lies in the host tier."""
    pages = RUNNING * ((PROMPT + steps) // 16 + 2) + BLOCKED * (PAUSED // 16) // 4
    rig = Rig(frames=pages, host_frames=16_384)
    rig.blocked(BLOCKED)
    rig.running(RUNNING, tokens=steps + 10)
    return measure_steps(rig, steps)


def guessing(steps: int, rows: int) -> Sample:
    """On a device that repeats itself, where a token more in a step costs what it does on a CPU."""
    rig = Rig(memory=1, guess_cost=GUESS_COST)
    steps = min(steps, 100)  # quotes are long: a step may bring 16 tokens of each
    rig.running(rows, tokens=16 * (steps + WARM) + 10)
    for _ in range(WARM):
        rig.retire(rig.plan())
    return measure_steps(rig, steps, rows)


def crowd(steps: int) -> Sample:
    """A crowd wants the device and finds no room: the running contexts fill it, and are of a better class."""
    steps = min(steps, 50)  # the room that the running ones are left to grow into is less than one of the crowd needs
    rig = Rig(frames=RUNNING * ((PROMPT + steps) // 16 + 2), host_frames=1_024, vocabulary=LONG)
    model, cid = rig.open(LONG, Class.BATCH)
    rig.settle()
    rig.running(RUNNING, tokens=steps + 10)
    for _ in range(CROWD):
        twin, contexts = rig.kernel.fork(rig.now, INIT, model)
        rig.generate(twin, contexts[cid], 1)
    return measure_steps(rig, steps)


def many_processes(steps: int) -> Sample:
    """A full table: everything that is asked of it, with 64 of its processes running."""
    rig = Rig()
    kernel = rig.kernel
    rig.running(RUNNING, tokens=steps + 20)
    spawns, pids = [], []
    for i in range(MANY - RUNNING - 1):
        start = time.perf_counter()
        pids.append(kernel.spawn(rig.now, INIT, name=f"agent-{i}", limits=Limits(tokens=1_000)))
        spawns.append(time.perf_counter() - start)
    kernel.drain()
    listings = [timed(lambda: kernel.processes(rig.now)) for _ in range(5)]
    found = measure_steps(rig, steps)
    kills = [timed(lambda pid=pid: kernel.kill(rig.now, INIT, pid, Signal.KILL)) for pid in pids]
    kernel.drain()
    if len(kernel.processes(rig.now)) != RUNNING + 1:
        raise RuntimeError("killed children of init are still in the table")
    kernel.check_integrity()
    return {
        "spawn": statistics.median(spawns) * 1e6,
        "ps": statistics.median(listings) * 1e3,
        "kill": statistics.median(kills) * 1e6,
        "plan": found["plan"],
        "retire": found["retire"],
    }


def forks() -> Sample:
    """Fork a context of 1,000 tokens, then write to the twin."""
    rig = Rig()
    pid, cid = rig.open(1_000)
    rig.settle()
    free = rig.free()
    seconds, twins = [], []
    for _ in range(100):
        start = time.perf_counter()
        twins.append(rig.kernel.fork_context(rig.now, pid, cid))
        seconds.append(time.perf_counter() - start)
    at_fork, taken = rig.copied, free - rig.free()
    rig.kernel.append(rig.now, pid, twins[0], [1])
    rig.settle()
    at_write = rig.copied
    rig.kernel.check_integrity()
    return {"fork": statistics.median(seconds) * 1e6, "at fork": at_fork, "taken": taken, "at write": at_write - at_fork}


def kill_in_flight() -> Sample:
    """KILL processes, one after another, while a row of theirs is in the step in flight."""
    rig = Rig()
    memory = rig.kernel.schedulers["dummy"].memory
    seconds, late, lost = [], 0, 0
    for pid, cid in rig.running(RUNNING, tokens=500)[: RUNNING // 2]:
        pages = list(rig.kernel.context(pid, cid).pages)
        mine = rig.kernel.table.get(pid).bursts.copy()
        step = rig.plan()
        if not any(row.burst in mine for row in step.rows):
            raise RuntimeError(f"pid {pid} is not in step {step.number}")
        seconds.append(timed(lambda pid=pid: rig.kernel.kill(rig.now, INIT, pid, Signal.KILL)))
        rig.retire(step)
        lost += sum(page.tables > 0 or page.wires > 0 for page in pages) + len(memory.device.limbo)
        for _ in range(3):
            step = rig.plan()
            late += sum(row.burst in mine for row in step.rows)
            rig.retire(step)
        rig.kernel.check_integrity()
    return {"kill": statistics.median(seconds) * 1e6, "late": late, "lost": lost}


def figures(repeats: int, steps: int) -> list[Figure]:
    """Every measurement, `repeats` times, in turns so that a noisy minute falls on all of them."""
    blocked, pressed, full_guesses, few_guesses, crowded, many, forked, killed = [], [], [], [], [], [], [], []
    for _ in range(repeats):
        blocked.append(blocked_processes(steps))
        pressed.append(memory_pressure(steps))
        full_guesses.append(guessing(steps, RUNNING))
        few_guesses.append(guessing(steps, FEW))
        crowded.append(crowd(steps))
        many.append(many_processes(steps))
        forked.append(forks())
        killed.append(kill_in_flight())

    def figure(what: str, unit: str, samples: list[Sample], key: str, bound: float | None = None, *, exact: bool = False) -> Figure:
        return Figure(what, unit, tuple(sample[key] for sample in samples), bound, exact)

    busy = f"{RUNNING} running, {BLOCKED:,} blocked"
    full = f"{MANY:,} processes"
    return [
        figure(f"plan a step, {busy}", "ms", blocked, "plan", 1.0),
        figure("    95th percentile", "ms", blocked, "plan p95"),
        figure(f"retire a step, {busy}", "ms", blocked, "retire"),
        figure("    95th percentile", "ms", blocked, "retire p95"),
        figure("plan a step, three quarters of the blocked swapped out", "ms", pressed, "plan"),
        figure("    95th percentile", "ms", pressed, "plan p95"),
        figure(f"plan a step, {RUNNING} running on a device that takes guesses", "ms", full_guesses, "plan", 1.0),
        figure(f"plan a step, {FEW} running, each with guesses", "ms", few_guesses, "plan", 1.0),
        figure(f"retire a step, {FEW} running, each with guesses", "ms", few_guesses, "retire"),
        figure(f"plan a step, {RUNNING} running, {CROWD} ready without room", "ms", crowded, "plan", 1.0),
        figure("    95th percentile", "ms", crowded, "plan p95"),
        figure(f"spawn, up to {full}", "us", many, "spawn"),
        figure(f"list {full} (ps)", "ms", many, "ps"),
        figure(f"plan a step, {RUNNING} running of {full}", "ms", many, "plan"),
        figure(f"retire a step, {RUNNING} running of {full}", "ms", many, "retire"),
        figure(f"kill, {full}", "us", many, "kill"),
        figure("fork a context of 1,000 tokens", "us", forked, "fork", 1_000.0),
        figure("    pages copied by 100 forks", "pages", forked, "at fork", 0, exact=True),
        figure("    frames taken by 100 forks", "pages", forked, "taken", 0, exact=True),
        figure("    pages copied by the first write", "pages", forked, "at write", 1, exact=True),
        figure("kill a process in the step in flight", "us", killed, "kill"),
        figure("    rows of the killed planned later", "rows", killed, "late", 0, exact=True),
        figure("    pages of the killed held after the step", "pages", killed, "lost", 0, exact=True),
    ]


def machine() -> dict[str, str]:
    """Where the figures come from."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "machine": f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "commit": commit(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def commit() -> str:
    """The commit of the checkout, with a + if files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "none"


def table(rows: Sequence[Figure], about: dict[str, str], repeats: int) -> str:
    """The figures as text, one a line."""
    width = max(len(row.what) for row in rows)
    lines = [", ".join(f"{key} {value}" for key, value in about.items()) + f", {repeats} repeats", ""]
    lines.append(f"{'what':{width}}  {'median':>9}  {'lowest':>9}  {'highest':>9}  unit   bound")
    for row in rows:
        digits = 0 if row.exact else 3 if row.unit == "ms" else 1
        median, low, high = (f"{value:9.{digits}f}" for value in (row.median, min(row.values), max(row.values)))
        bound = "" if row.bound is None else f"{'=' if row.exact else '<'} {row.bound:g}: {'holds' if row.holds else 'MISSED'}"
        lines.append(f"{row.what:{width}}  {median}  {low}  {high}  {row.unit:5}  {bound}".rstrip())
    return "\n".join(lines)


def show(rows: Sequence[Figure], about: dict[str, str], repeats: int, *, as_json: bool) -> int:
    """Print the figures. Returns the exit status: 1 if one misses its bound."""
    if as_json:
        print(json.dumps({"about": about, "figures": [asdict(row) | {"median": row.median, "holds": row.holds} for row in rows]}, indent=2))
    else:
        print(table(rows, about, repeats))
    return 1 if any(row.holds is False for row in rows) else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="how often everything is measured anew (5)")
    parser.add_argument("--steps", type=int, default=200, help="steps per repeat (200)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    if options.repeats < 1 or not 1 <= options.steps <= 4_000:
        parser.error("take at least 1 repeat, and 1 to 4000 steps")
    about = machine()
    rows = figures(options.repeats, options.steps)
    return show(rows, about, options.repeats, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
