"""What the audit log costs: the kernel's thread for each call, a round trip, the log's own thread, and a verification.

    python benchmarks/audit.py [--calls 20000] [--repeats 7]

With and without the log by turns, on the dummy device, in a folder of its own; medians over the repeats, and the spread between the
quartiles. `enter` is one `clock` through the trap, driven by hand: what it takes more with the log is what the kernel's thread pays.
Aim: under 10 us.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import llmos
from llmos.kernel.errno import Fault
from llmos.kernel.kernel import Kernel
from llmos.services.audit.log import Log
from llmos.services.audit.read import verify
from llmos.services.init.catalogue import DummyCatalogue
from llmos.services.init.models import LoadedModels
from llmos.services.init.thread import KernelThread
from llmos.syscalls.abi import Piece, Request
from llmos.syscalls.audit import Entry
from llmos.syscalls.core import Core
from llmos.syscalls.disk.disk import Disk
from llmos.syscalls.trap import Trap

AIM = 10e-6


class Sink:
    def push(self, piece: Piece) -> None:
        pass

    def finish(self, result: Any) -> None:
        pass

    def fail(self, fault: Fault) -> None:
        raise fault


def entering(home: Path, folder: Path | None, calls: int) -> float:
    """Seconds of one call through the trap. In batches with pauses, so that the log's own thread has time of its own."""
    kernel, clock = Kernel(), time.monotonic
    models = LoadedModels(DummyCatalogue("dummy"), kernel, KernelThread(), clock)
    log = None if folder is None else Log(folder)
    disk = Disk(home, 1 << 30)
    trap = Trap(Core(kernel, clock, models, 1, clock(), disk, audit=log), lambda work, back: None, lambda pid: None)
    host = kernel.spawn(clock(), 1, name="host", capabilities=frozenset({"*"}))
    number, sink, times = count(), Sink(), []
    for _ in range(calls // 500):
        requests = [Request(host, "clock", {}, "0", next(number), sink) for _ in range(500)]
        began = time.thread_time()  # of this thread alone: what others do on the machine is not ours
        for request in requests:
            trap.enter(request)
            trap.settle()
        times.append((time.thread_time() - began) / 500)
        if log is not None:
            time.sleep(0.08)  # what a batch takes on the other thread must not be counted here
    if log is not None:
        log.close()
    disk.close()
    return statistics.median(times)


async def round_trip(home: Path, audit: Any, calls: int) -> float:
    """Seconds of one call of a program, at the median."""
    times = []
    async with llmos.boot(device="dummy", home=home, audit=audit) as system:
        for _ in range(calls // 10):
            began = time.perf_counter()
            await system.clock()
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def writing(folder: Path, calls: int) -> tuple[float, float, float]:
    """Seconds of one entry on the log's own thread, bytes of a line, and seconds of verifying one."""
    log = Log(folder)
    began = time.perf_counter()
    for _ in range(calls):
        log.put(Entry(time.time(), 7, "worker", "root", "clock", None, {"pipe:new": 0}, "", 1e-5))
    log.close()
    seconds = (time.perf_counter() - began) / calls
    size = sum(path.stat().st_size for path in folder.glob("*.jsonl")) / calls
    began = time.perf_counter()
    lines = verify(folder).lines
    return seconds, size, (time.perf_counter() - began) / lines


def spread(values: list[float]) -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{statistics.median(values) * 1e6:8.1f} {low * 1e6:8.1f} {high * 1e6:8.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in ("enter without", "enter with", "trip without", "trip with", "write", "verify")}
    size = 0.0
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        for number in range(options.repeats):
            found["enter without"].append(entering(home, None, options.calls))
            found["enter with"].append(entering(home, home / f"enter{number}", options.calls))
            found["trip without"].append(asyncio.run(round_trip(home / "without", None, options.calls)))
            found["trip with"].append(asyncio.run(round_trip(home / "with", "on", options.calls)))
            written, size, verified = writing(home / f"write{number}", options.calls)
            found["write"].append(written)
            found["verify"].append(verified)
    print(f"llmos {llmos.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"microseconds a call {'':14} {'median':>8} {'25%':>8} {'75%':>8}")
    for name, values in found.items():
        print(f"{name:34} {spread(values)}")
    cost = statistics.median(found["enter with"]) - statistics.median(found["enter without"])
    print(f"the log costs the kernel's thread {cost * 1e6:.1f} us a call (aim: under 10), the disk {size:.0f} bytes")
    return 0 if cost < AIM else 1


if __name__ == "__main__":
    sys.exit(main())
