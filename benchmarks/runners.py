"""What a runner costs: the start of a program, its end with all that it has started, and an idle one's memory.

    python benchmarks/runners.py

A daemon with the dummy device in an OS process of its own, and this client. Prints one table, medians over the repeats with the least
and the most. "First line" is the time from spawn() until the program's own first line has run, by the machine's monotonic clock.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio

import llmos
from llmos.services.init.place import daemon_pid

PROGRAMS = """
import os, subprocess, time
async def stamp(me):
    return time.monotonic()
async def family(me):
    children = [subprocess.Popen(["sleep", "1000"]) for _ in range(4)]
    await me.print(*[os.getpid(), *[child.pid for child in children]])
    await me.stdin.read()
"""
PAUSE = 0.3
"""Seconds between two starts, so that the pool is full again."""


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def memory(pid: int, key: str) -> int:
    """KiB of a process that only it has (Private), or its part of what is shared too (Pss)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(key))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def line(label: str, values: list[float], unit: str) -> None:
    print(f"{label:<58} median {statistics.median(values):8.1f} {unit}   {min(values):.1f} to {max(values):.1f}   n {len(values)}")


async def starts(system: llmos.System, program: str, repeats: int, pause: float) -> tuple[list[float], list[float]]:
    """Milliseconds from spawn until the program runs, and until it was waited for."""
    firsts, wholes = [], []
    for _ in range(repeats):
        began = time.monotonic()
        child = await system.spawn(program)
        done = await child.wait()
        wholes.append((time.monotonic() - began) * 1e3)
        firsts.append((done.value - began) * 1e3)
        await anyio.sleep(pause)
    return firsts, wholes


async def kills(system: llmos.System, program: str, repeats: int) -> list[float]:
    """Milliseconds from kill until the last of its five OS processes is gone."""
    found = []
    for _ in range(repeats):
        child = await system.spawn(program)
        if child.stdout is None:
            raise SystemExit("the program has no output")
        pids = list(map(int, (await child.stdout.readline()).split()))
        began = time.monotonic()
        await child.kill("KILL")
        while any(map(alive, pids)):
            await anyio.sleep(0.0005)
        found.append((time.monotonic() - began) * 1e3)
        await child.wait()
        await anyio.sleep(PAUSE)
    return found


async def measure(home: Path, repeats: int) -> None:
    file = home / "measured.py"
    file.write_text(PROGRAMS)
    daemon = daemon_pid(home)
    if daemon is None:
        raise SystemExit("the daemon has ended")
    async with llmos.connect(home=home) as system:
        await anyio.sleep(1)
        server = next(pid for pid in children(daemon) if "llmos-fork" in Path(f"/proc/{pid}/comm").read_text())
        await starts(system, f"{file}:stamp", 3, PAUSE)
        first, whole = await starts(system, f"{file}:stamp", repeats, PAUSE)
        line("spawn to the program's first line, from the warm pool", first, "ms")
        line("spawn to the end of wait, from the warm pool", whole, "ms")
        first, _ = await starts(system, f"{file}:stamp", repeats, 0.0)
        line("spawn to the first line, one after another without a pause", first, "ms")
        line("kill to the last of 5 OS processes gone", await kills(system, f"{file}:family", repeats), "ms")
        await anyio.sleep(1)
        idle = children(server)
        for key in ("Private", "Pss:"):
            line(f"an idle runner, {key.rstrip(':')} memory", [memory(pid, key) / 1024 for pid in idle], "MiB")
            line(f"the fork server, {key.rstrip(':')} memory", [memory(server, key) / 1024], "MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    found = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        place = str(Path(llmos.__file__).parent.parent)
        environment = {**os.environ, "PYTHONPATH": place, "LLMOS_DEVICE": "dummy", "LLMOS_HOME": folder}
        llmos_command = [sys.executable, "-m", "llmos"]
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}")
        subprocess.run([*llmos_command, "up"], env=environment, check=True, stdout=subprocess.DEVNULL)
        try:
            anyio.run(measure, home, found.repeats)
        finally:
            subprocess.run([*llmos_command, "down"], env=environment, check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
