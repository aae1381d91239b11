"""What the socket costs: calls to a daemon in an OS process of its own, while its device is idle and while it computes.

    python benchmarks/wire.py                     dummy device: the price of the way, without the price of the arithmetic
    python benchmarks/wire.py --device cpu        the default model

Prints one table: the latency of one call at a time (median, 95th percentile), calls a second with 64 under way, the time from the
start of a process to the first byte of `llmsh -c 'ask ...'`, and the decode rate with and without 2,000 calls a second beside it, with a
thread on each core and with one core left.
Then, on a daemon of its own with the dummy device: a call over tcp with a key and over the socket, in turns; and calls while CLIENTS
clients with EACH processes each are there.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import zmq

import llmos
from llmos.services.init.place import daemon_pid, home_of

STREAMS = 4
"""Generations that run beside the calls."""
UNDER_WAY = 64
CLIENTS, EACH = 200, 5
TURNS = 5
"""How often the socket and tcp take turns."""
PAIRS, PIECE = 9, 2.0
"""How often decoding alone and decoding beside calls are alternated, and the seconds of each."""


async def latencies(call: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Seconds of calls one after another, sorted."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        await call()
        found.append(time.perf_counter() - began)
    return sorted(found)


async def rate(call: Callable[[], Awaitable[object]], count: int) -> float:
    """Calls a second with many under way."""
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            await call()

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(UNDER_WAY):
            tasks.start_soon(caller)
    return count / (time.perf_counter() - began)


def line(label: str, times: list[float]) -> None:
    middle, high = statistics.median(times), times[int(len(times) * 0.95)]
    print(f"{label:<44} median {middle * 1e6:7.0f} us   95% {high * 1e6:7.0f} us   n {len(times)}")


STREAMING = """
import anyio, llmos, sys
async def main():
    async with llmos.connect(home=sys.argv[1]) as system:
        contexts = [await system.open(system="You count.") for _ in range(int(sys.argv[2]))]
        generations = [context.generate(user="go on", max_tokens=7000, ignore_stop=True) for context in contexts]
        async for _ in generations[-1].pieces():
            break
        for generation in generations[:-1]:
            async for _ in generation.pieces():
                print("running", flush=True)
                await anyio.sleep_forever()
anyio.run(main)
"""


@asynccontextmanager
async def streaming(home: Path) -> AsyncIterator[None]:
    """Generations of another client, in an OS process of its own."""
    command = [sys.executable, "-c", STREAMING, str(home), str(STREAMS + 1)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        if client.stdout is None or not await anyio.to_thread.run_sync(client.stdout.readline):
            raise SystemExit("the other client failed")
        try:
            yield
        finally:
            client.kill()


async def speed(system: llmos.System, body: Callable[[], Awaitable[None]]) -> float:
    """Tokens a second that are decoded beside a body, until that ends."""

    async def tokens() -> int:
        return sum(device.decode_tokens for device in (await system.statistics()).kernel.devices)

    before, began = await tokens(), time.perf_counter()
    await body()
    return (await tokens() - before) / (time.perf_counter() - began)


def cpu_seconds(pid: int) -> float:
    """That a process has used, in all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(home: Path, pid: int, count: int) -> None:
    async with llmos.connect(home=home) as system:
        context = await system.open(system="s")

        async def info() -> None:
            await system.context(context.handle)

        await latencies(info, 200)
        line("one call, device idle", await latencies(info, count))
        daemon, own = cpu_seconds(pid), time.process_time()
        print(f"{f'calls a second, {UNDER_WAY} under way, device idle':<44} {await rate(info, count * 4):14.0f} /s")
        daemon, own = ((used / (count * 4) * 1e6) for used in (cpu_seconds(pid) - daemon, time.process_time() - own))
        print(f"{'CPU time of each of these calls':<44} daemon {daemon:7.0f} us   client {own:6.0f} us")
        async with streaming(home):
            line("one call, device computing", await latencies(info, count))
            await decoding(system, info, f"decode, {STREAMS} streams")


async def measure_decoding(home: Path, label: str) -> None:
    async with llmos.connect(home=home) as system:
        context = await system.open(system="s")

        async def info() -> None:
            await system.context(context.handle)

        async with streaming(home):
            await decoding(system, info, label)


async def decoding(system: llmos.System, call: Callable[[], Awaitable[object]], label: str) -> None:
    """The rate of decoding alone and beside calls, in turns."""

    async def paced() -> None:
        """2,000 calls a second, in bursts of a hundredth of a second."""
        began = time.perf_counter()
        for burst in range(1, int(PIECE * 100) + 1):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(call)
            await anyio.sleep(max(0.0, began + burst / 100 - time.perf_counter()))

    async def nothing() -> None:
        await anyio.sleep(PIECE)

    pairs = []
    for number in range(PAIRS):  # alone first, then beside first, so that neither has the warmer or the quieter half
        first, second = (nothing, paced) if number % 2 == 0 else (paced, nothing)
        found = [await speed(system, first), await speed(system, second)]
        pairs.append(found if number % 2 == 0 else found[::-1])
    losses = sorted(beside / alone - 1 for alone, beside in pairs)
    middle = [statistics.median(column) for column in zip(*pairs, strict=True)]
    print(f"{label:<44} median {middle[0]:7.0f} tokens/s   n {PAIRS} of {PIECE:.0f} s")
    print(f"{'the same with 2,000 calls a second beside':<44} median {middle[1]:7.0f} tokens/s", end="")
    print(f"   {statistics.median(losses):+.1%} of its pair, from {losses[0]:+.1%} to {losses[-1]:+.1%}")


CROWD = """
import anyio, llmos, sys
from contextlib import AsyncExitStack
async def main():
    async with AsyncExitStack() as stack:
        for _ in range(int(sys.argv[2])):
            system = await stack.enter_async_context(llmos.connect(home=sys.argv[1]))
            for _ in range(int(sys.argv[3])):
                await system.spawn("chat")
        print("there", flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def measure_more(home: Path, pid: int, address: str, key: Path, count: int) -> None:
    """Over tcp, and beside a crowd."""
    async with llmos.connect(home=home) as near, llmos.connect(address, key=key) as far:
        times: dict[str, list[float]] = {"socket": [], "tcp": []}
        for _ in range(TURNS):
            for name, system in (("socket", near), ("tcp", far)):
                times[name] += await latencies(system.clock, count // TURNS)
        for name, label in (("socket", "one call over the socket, dummy device"), ("tcp", "the same over tcp, with a key")):
            line(label, sorted(times[name]))
        before, parts = resident(pid), 4
        command = [sys.executable, "-c", CROWD, str(home), str(CLIENTS // parts), str(EACH)]
        began = time.perf_counter()
        crowd = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(parts)]
        try:
            for each in crowd:
                if each.stdout is None or not await anyio.to_thread.run_sync(each.stdout.readline):
                    raise SystemExit("a crowd failed")
            took = time.perf_counter() - began
            there = len(await near.ps())
            grown = (resident(pid) - before) >> 20
            print(f"{CLIENTS} clients of {parts} OS processes, {there} processes: there after {took:.1f} s, daemon +{grown} MiB")
            line("one call beside them", await latencies(near.clock, count))
            line("ps beside them", await latencies(near.ps, 50))
        finally:
            for each in crowd:
                each.kill()
                each.wait()
        began = time.perf_counter()
        while len(await near.ps()) > 3:  # init and the two that measure
            await anyio.sleep(0.01)
        print(f"all of their processes gone {time.perf_counter() - began:.2f} s after the clients were killed")


def more(environment: dict[str, str], count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        own = {**environment, "LLMOS_HOME": folder, "LLMOS_DEVICE": "dummy"}
        llmos_command = [sys.executable, "-m", "llmos"]
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        key = home / "bench.key"
        key.write_text(subprocess.run([*llmos_command, "keys", "new", "bench"], env=own, check=True, capture_output=True, text=True).stdout)
        subprocess.run([*llmos_command, "up", "--listen", address], env=own, check=True, stdout=subprocess.DEVNULL)
        try:
            anyio.run(measure_more, home, daemon_pid(home), address, key, count)
        finally:
            subprocess.run([*llmos_command, "down"], env=own, check=True, stdout=subprocess.DEVNULL)


def first_byte(environment: dict[str, str]) -> float:
    """Seconds from the start of llmsh to the first byte of a reply."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "llmos.shell.main", "-c", "ask hello"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as shell:
        if shell.stdout is None or not os.read(shell.stdout.fileno(), 1):
            raise SystemExit("llmsh said nothing")
        took = time.perf_counter() - began
        shell.kill()
    return took


@contextmanager
def daemon(environment: dict[str, str], home: Path | None) -> Iterator[tuple[Path, int]]:
    """One of its own; its home, and its pid."""
    subprocess.run([sys.executable, "-m", "llmos", "up"], env=environment, check=True, stdout=subprocess.DEVNULL)
    try:
        place = home or home_of(None)
        if (pid := daemon_pid(place)) is None:
            raise SystemExit("the daemon has gone")
        yield place, pid
    finally:
        subprocess.run([sys.executable, "-m", "llmos", "down"], env=environment, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "dummy"), default="dummy")
    parser.add_argument("--count", type=int, default=2000, help="calls of each latency")
    found = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) if found.device == "dummy" else None
        source = str(Path(llmos.__file__).parent.parent)
        environment = {**os.environ, "PYTHONPATH": source, "LLMOS_DEVICE": found.device}
        if home is not None:
            environment["LLMOS_HOME"] = str(home)
        machine = f"{platform.machine()}, {cores} CPUs, load {os.getloadavg()[0]:.1f}"
        print(f"{machine}, Python {platform.python_version()}, zmq {zmq.zmq_version()}, device {found.device}")
        with daemon(environment, home) as (place, pid):
            anyio.run(measure, place, pid, found.count)
            times = sorted(first_byte(environment) for _ in range(7))
            label = "llmsh -c ask: start to first byte of the reply"
            print(f"{label:<44} median {times[3]:.3f} s   best {times[0]:.3f} s   worst {times[-1]:.3f} s")
        if found.device == "cpu" and cores > 1:  # a core is left for what is no arithmetic
            with daemon({**environment, "LLMOS_THREADS": str(cores - 1)}, home) as (place, _):
                anyio.run(measure_decoding, place, f"decode with LLMOS_THREADS={cores - 1}")
        more(environment, found.count)


if __name__ == "__main__":
    main()
