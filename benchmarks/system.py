"""The whole system on the default model, beside nobody: how soon it speaks, what it costs while it does nothing, what it computes once.

    python benchmarks/system.py [--repeats N] [--json]

The first token of `llmsh -c` counts from the start of its process to the first byte it prints. Idleness is processor time of a
process that has booted, answered, and waits. W6 (one prompt of 1,024 tokens, 16 continuations) and W3 (32 requests with 1,024 tokens
in common and 64 own) are run with short answers: what is counted is tokens of prompts that the device has computed. One a request is
computed again where all of a prompt is there already, for its logits.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import time

from overhead import Figure, Sample, machine, show
from workloads import Fork, SharedPrefix

import llmos

QUESTION = "ask What is the capital of France?"
IDLE_SECONDS = 10.0
ANSWER = 4
"""Tokens of an answer where only its prompt matters."""


def first_token() -> float:
    """Seconds from the start of `llmsh -c` to its first byte."""
    begin = time.perf_counter()
    code = "import sys; from llmos.shell.main import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", code, "-c", QUESTION], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    first = process.stdout.read(1)
    seconds = time.perf_counter() - begin
    process.stdout.read()
    if process.wait() or not first:
        raise RuntimeError(f"llmsh ended with status {process.returncode}; is the default model there? `llmos pull smollm2` fetches it")
    return seconds


async def computed(system: llmos.System) -> int:
    """Tokens of prompts that all devices have computed so far."""
    return sum(device.prefill_tokens for device in (await system.statistics()).kernel.devices)


def prompt(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(1_000, 40_000) for _ in range(length)]


async def continuations(system: llmos.System, rng: random.Random) -> int:
    """Tokens computed for W6's shape: the prompt is one context, forked."""
    shape, before = Fork(), await computed(system)
    async with await system.open() as context:
        await context.append(tokens=prompt(rng, shape.prompt))
        forks = [await context.fork() for _ in range(shape.copies)]
        generations = [fork.generate(max_tokens=ANSWER, temperature=1.0, ignore_stop=True) for fork in forks]
        await asyncio.gather(*generations)
        for fork in forks:
            await fork.close()
    return await computed(system) - before


async def common_prefix(system: llmos.System, rng: random.Random) -> int:
    """Tokens computed for W3's shape: every process opens a context of its own and gives it the whole prompt."""
    shape, before = SharedPrefix(), await computed(system)
    common = prompt(rng, shape.prefix)

    async def one(me: llmos.Process, own: list[int]) -> None:
        context = await me.open()
        await context.generate(tokens=common + own, max_tokens=ANSWER, temperature=0.0, ignore_stop=True)

    children = [await system.spawn(one, prompt(rng, shape.own)) for _ in range(shape.requests)]
    for child in children:
        await child.wait()
    return await computed(system) - before


async def sample(seed: int) -> Sample:
    rng = random.Random(seed)
    async with llmos.boot() as system:
        async with await system.open() as context:
            await context.generate(user="Hello", max_tokens=16)
        begin, own = time.perf_counter(), time.process_time()
        await asyncio.sleep(IDLE_SECONDS)
        idle = (time.process_time() - own) / (time.perf_counter() - begin)
        return {"idle": 100 * idle, "W6": await continuations(system, rng), "W3": await common_prefix(system, rng)}


def figures(repeats: int) -> list[Figure]:
    starts = tuple(first_token() for _ in range(repeats))
    samples = [asyncio.run(sample(seed)) for seed in range(repeats)]
    fanout, shared = Fork(), SharedPrefix()
    return [
        Figure("llmsh -c, first token after the start of its process", "s", starts, 5),
        Figure("idle, booted and with a model", "% of a core", tuple(one["idle"] for one in samples), 1),
        Figure(
            f"W6, prompt tokens computed ({fanout.prompt:,} in common, {fanout.copies} continuations)",
            "tokens",
            tuple(one["W6"] for one in samples),
            fanout.prompt + fanout.copies + 1,
        ),
        Figure(
            f"W3, prompt tokens computed ({shared.prefix:,} in common, {shared.requests} times {shared.own} own)",
            "tokens",
            tuple(one["W3"] for one in samples),
            shared.prefix + shared.requests * (shared.own + 1) + 1,
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="how often everything is measured anew (3)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("take at least 1 repeat")
    return show(figures(options.repeats), machine(), options.repeats, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
