"""What llmos costs between agents and an endpoint elsewhere: 64 agents through llmos, and the same requests sent to it directly.

    python benchmarks/remote.py [--agents 64] [--rate 20] [--turns 3] [--tokens 60] [--rounds 5]

The endpoint is tests/support/endpoint.py in an OS process of its own: it streams each reply at a fixed number of tokens a second,
as many replies at once as are asked for. Directly means httpx, a task for each agent, each event parsed as JSON: with one client for
all, as most programs do it, and with one for each, as llmos does. All send the same messages in the same turns: a conversation that
grows. They take turns, so that a busy minute of the machine hits all; what is compared are medians. Prints one table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx

import llmos
from llmos.services.library import Remote, Remotes

ENDPOINT = Path(__file__).resolve().parents[1] / "tests" / "support" / "endpoint.py"
QUESTION = "Tell me more about that, please. "


class Times:
    """Of one round: seconds of all, of first tokens, and of the processor in this OS process."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self._began, self._spent = time.perf_counter(), time.process_time()
        self.seconds = self.processor = 0.0

    def end(self) -> None:
        self.seconds, self.processor = time.perf_counter() - self._began, time.process_time() - self._spent


async def directly(url: str, found: argparse.Namespace, *, each: bool) -> Times:
    """One client for all agents, or one for `each`."""
    certificates = httpx.create_ssl_context(trust_env=False)

    def client() -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=found.agents, max_keepalive_connections=found.agents)
        return httpx.AsyncClient(base_url=url, limits=limits, timeout=60.0, trust_env=False, verify=certificates)

    async with AsyncExitStack() as stack:
        shared = await stack.enter_async_context(client())
        clients = [await stack.enter_async_context(client()) if each else shared for _ in range(found.agents)]
        times = Times()

        async def agent(number: int) -> None:
            messages = [{"role": "system", "content": f"You are agent {number}."}]
            for _ in range(found.turns):
                messages.append({"role": "user", "content": QUESTION})
                began, text = time.perf_counter(), ""
                body = {"model": "m", "messages": messages, "stream": True, "temperature": 0.0, "max_tokens": found.tokens}
                async with clients[number].stream("POST", "chat/completions", json=body) as response:
                    async for line in response.aiter_lines():
                        if line.startswith("data: {") and (choices := json.loads(line[6:])["choices"]):
                            if not text:
                                times.first.append(time.perf_counter() - began)
                            text += choices[0]["delta"].get("content", "")
                assert len(text.split()) == found.tokens
                messages.append({"role": "assistant", "content": text})

        async with anyio.create_task_group() as tasks:
            for number in range(found.agents):
                tasks.start_soon(agent, number)
        times.end()
    return times


async def through(system: llmos.System, found: argparse.Namespace) -> Times:
    times = Times()

    async def agent(me: llmos.Process) -> None:
        context = await me.open(model="far", system=f"You are agent {me.pid}.")
        for _ in range(found.turns):
            began, text = time.perf_counter(), ""
            async for piece in context.generate(user=QUESTION, max_tokens=found.tokens):
                if not text:
                    times.first.append(time.perf_counter() - began)
                text += piece
            assert len(text.split()) == found.tokens

    for child in [await system.spawn(agent) for _ in range(found.agents)]:
        assert (await child.wait()).status == 0
    times.end()
    return times


async def measure(url: str, home: Path, found: argparse.Namespace) -> None:
    Remotes(home).add(Remote("far", url, "m", slots=found.agents))
    async with llmos.boot(home=home, device="dummy", preload=False) as system:
        ways: dict[str, Callable[[argparse.Namespace], Awaitable[Times]]] = {
            "directly, one client": lambda found: directly(url, found, each=False),
            "directly, a client each": lambda found: directly(url, found, each=True),
            "llmos": lambda found: through(system, found),
        }
        rounds: dict[str, list[Times]] = {way: [] for way in ways}
        for way in ways.values():  # once for what only the first time costs
            await way(argparse.Namespace(agents=2, turns=1, tokens=2))
        order = list(ways)
        for _ in range(found.rounds):
            for way in order:
                rounds[way].append(await ways[way](found))
            order.append(order.pop(0))
    print(f"{'':<24} {'seconds':>8} {'least':>8} {'most':>8} {'first token':>12} {'processor':>10}")
    for way, times in rounds.items():
        seconds = [each.seconds for each in times]
        first = statistics.median(value for each in times for value in each.first)
        spent = statistics.median(each.processor for each in times)
        print(f"{way:<24} {statistics.median(seconds):8.3f} {min(seconds):8.3f} {max(seconds):8.3f} {first * 1e3:9.1f} ms {spent:8.2f} s")
    ours, *direct = (statistics.median(each.seconds for each in rounds[way]) for way in reversed(ways))
    ideal = found.turns * (found.tokens - 1) / found.rate
    print(f"llmos / the better of the two: {ours / min(direct):.4f}; at this rate no client can take less than {ideal:.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", type=int, default=64)
    parser.add_argument("--rate", type=float, default=20.0, help="tokens a second of each reply")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    found = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, httpx {httpx.__version__}"
    print(f"{machine}, commit {commit or '?'}")
    print(f"{found.agents} agents x {found.turns} turns x {found.tokens} tokens at {found.rate:g} a second each, {found.rounds} rounds")
    command = [sys.executable, str(ENDPOINT), "--rate", str(found.rate), "--tokens", str(found.tokens)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as home,
    ):
        if server.stdout is None or server.stdin is None:
            raise SystemExit("the endpoint did not start")
        port = int(server.stdout.readline())
        anyio.run(measure, f"http://127.0.0.1:{port}/v1", Path(home), found)
        server.stdin.close()


if __name__ == "__main__":
    main()
