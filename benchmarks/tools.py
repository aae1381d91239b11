"""What a call of a tool costs: of a function in the same program, through a daemon, of an MCP server, of a command in a sandbox.

    python benchmarks/tools.py [--calls 300]

Each tool does next to nothing, so that what is left is ours: the check of the arguments on another thread, two sleeps and two wakes
in the kernel, and two trips over the socket where there is a daemon. Then 100 calls at once. Prints one table.
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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import llmos
from llmos.services.init.catalogue import DummyCatalogue
from llmos.services.init.daemon import listening, locked
from llmos.services.init.settings import read_settings

ROOT = Path(__file__).resolve().parents[1]


async def nothing(a: int) -> int:
    return a


def threaded(a: int) -> int:
    return a


@asynccontextmanager
async def daemon(home: Path) -> AsyncIterator[llmos.System]:
    settings = read_settings(home=home, device="dummy")
    with locked(home) as path:
        async with listening(settings, DummyCatalogue(settings.model), path), llmos.connect(home=home) as system:
            yield system


async def measure(system: llmos.System, name: str, calls: int) -> list[float]:
    """Seconds of each call, one after the other."""
    times = []
    for number in range(calls + 20):
        began = time.perf_counter()
        result = await system.call_tool(name, a=number) if name != "command" else await system.call_tool(name)
        times.append(time.perf_counter() - began)
        if result.is_error:
            raise SystemExit(f"{name}: {result.text}")
    return sorted(times[20:])


def line(what: str, times: list[float]) -> None:
    median, high = statistics.median(times), times[int(len(times) * 0.95)]
    print(f"| {what} | {len(times)} | {median * 1e6:,.0f} | {high * 1e6:,.0f} |")


async def run(calls: int) -> None:
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| call | calls | median us | 95% us |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        server = [sys.executable, str(ROOT / "tests/support/mcp_server.py")]
        (home / "tools.toml").write_text(f'[mcp.bad]\ncommand = {server!r}\n[command.command]\nargv = ["true"]\n')
        for where, system_of in (("embedded", lambda: llmos.boot(device="dummy", home=home)), ("daemon", lambda: daemon(home))):
            async with system_of() as system, system.offer(nothing, threaded):
                line(f"{where}: async function", await measure(system, "nothing", calls))
                line(f"{where}: function in a thread", await measure(system, "threaded", calls))
                began = time.perf_counter()
                await asyncio.gather(*(system.call_tool("nothing", a=number) for number in range(100)))
                line(f"{where}: each of 100 at once", [(time.perf_counter() - began) / 100])
                if where == "embedded":
                    while not {"bad.pid", "command"} <= {tool.name for tool in await system.tools()}:
                        await asyncio.sleep(0.05)
                    times = []
                    for _ in range(calls // 3):
                        began = time.perf_counter()
                        await system.call_tool("bad.pid")
                        times.append(time.perf_counter() - began)
                    line("embedded: MCP server over stdio", sorted(times))
                    line("embedded: command in a sandbox", await measure(system, "command", max(20, calls // 10)))


def main() -> None:
    parser = argparse.ArgumentParser(description="What a call of a tool costs.")
    parser.add_argument("--calls", type=int, default=300)
    asyncio.run(run(parser.parse_args().calls))


if __name__ == "__main__":
    main()
