"""One engine in an OS process of its own: takes orders as JSON lines on stdin, answers each with one JSON line.

The workload runs here, beside the engine's client side, so that the driver is in nobody's way while time is taken. Standard output
belongs to the protocol: whatever engines print goes to standard error. Orders: start, answer, warm, run, stop.

    {"do": "run", "workload": "W2", "sizes": {"requests": 8}, "seed": "W2:0"}
    {"figures": {"wall_s": 9.7, ...}}            or {"error": "..."}
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.metadata
import json
import os
import platform
import random
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

START = time.perf_counter()

from client import prompt, request, warm_up  # noqa: E402  the clock starts before anything is imported
from peers.catalogue import Peer  # noqa: E402
from peers.variants import VARIANTS  # noqa: E402
from workloads import make  # noqa: E402


def versions(peer: Peer) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in peer.packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


async def carry_out(order: dict[str, Any], engine: Any, peer: Peer) -> dict[str, Any]:
    match order["do"]:
        case "start":
            await engine.start()
            await request(engine, prompt(random.Random(1), 32), 1, time.perf_counter())
            return {"cold_s": time.perf_counter() - START, "versions": versions(peer) | engine.versions()}
        case "answer":
            return {"text": await engine.answer(order["question"])}
        case "warm":
            await warm_up(engine, random.Random(7))
            return {}
        case "run":
            workload = make(order["workload"], order.get("sizes"))
            await engine.prepare(workload)
            rng = random.Random(order["seed"])
            await request(engine, prompt(random.Random(f"nudge {order['seed']}"), 64), 8, time.perf_counter())  # it may have slept
            return {"figures": await workload.run(engine, rng)}
        case "stop":
            await engine.stop()
            return {}
        case other:
            return {"error": f"no order '{other}'"}


async def serve(peer: Peer, engine: Any, replies: TextIO) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        try:
            reply = await carry_out(order, engine, peer)
        except Exception:  # noqa: BLE001  whatever an engine raises is reported to the driver, which decides
            reply = {"error": traceback.format_exc()}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        if order["do"] == "stop":
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=VARIANTS)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--options", type=json.loads, default={})
    arguments = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    variant = VARIANTS[arguments.engine]
    peer = variant.peer
    adapter = getattr(importlib.import_module(peer.module), peer.adapter)
    asyncio.run(serve(peer, adapter(arguments.peers, {**variant.options, **arguments.options}), replies))
    os._exit(0)  # engines leave threads behind that would keep the process


if __name__ == "__main__":
    main()
