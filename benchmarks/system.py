"""The whole system on the default model, beside nobody: how soon it speaks, what it costs while it does nothing, what it computes once.

    python benchmarks/system.py [--repeats N] [--json]

The first token of `llmsh -c` counts from the start of its process to the first byte it prints. Idleness is processor time of a
process that has booted, answered, and waits. W6 (one prompt of 1,024 tokens, 16 continuations) and W3 (32 requests with 1,024 tokens
in common and 64 own) are run with short answers: what is counted is tokens of prompts that the device has computed. One a request is
computed again where all of a prompt is there already, for its logits. Peak memory (VmHWM) is that of a process that loads a model, answers
a question and ends, with the pages of that question.
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
from llmos.services.init.settings import read_settings
from llmos.services.init.store import library

QUESTION = "ask What is the capital of France?"
PEAK = """
import sys, llmos
with llmos.sync.boot(model=sys.argv[1]) as system, system.open() as context:
    context.generate(user="What is the capital of France?", max_tokens=16)
"""
MOST_SECONDS = {"bf16": 1.5, "int8": 1.2}
"""To a first token, by kind of weights."""
MOST_MEMORY = {"bf16": 512.0, "int8": 358.4}
"""MiB, with the few pages of one answer."""
IDLE_SECONDS = 10.0
ANSWER = 4
"""Tokens of an answer where only its prompt matters."""


def models() -> dict[str, str]:
    """Of each kind of weights a tag of the default model, made if it is not there: it takes no room."""
    store = library(read_settings().home)
    made = {weights: store.quantize("smollm2", weights) for weights in MOST_MEMORY}
    return {weights: f"{one.name}:{one.tag}" for weights, one in made.items()}


def first_token(model: str) -> float:
    """Seconds from the start of `llmsh -c` to its first byte."""
    begin = time.perf_counter()
    code = "import sys; from llmos.shell.main import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--embedded", "--model", model, "-c", QUESTION], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    first = process.stdout.read(1)
    seconds = time.perf_counter() - begin
    process.stdout.read()
    if process.wait() or not first:
        raise RuntimeError(f"llmsh ended with status {process.returncode}; is the default model there? `llmos pull smollm2` fetches it")
    return seconds


def peak(model: str) -> float:
    """MiB of a process that has answered a question, at its peak."""
    lines = subprocess.run(
        [sys.executable, "-c", f"{PEAK}\nprint(open('/proc/self/status').read())", model],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


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
    tags = models()
    starts = {name: tuple(first_token(name) for _ in range(repeats)) for name in ("smollm2", *tags.values())}
    peaks = {name: tuple(peak(name) for _ in range(repeats)) for name in tags.values()}
    samples = [asyncio.run(sample(seed)) for seed in range(repeats)]
    fanout, shared = Fork(), SharedPrefix()
    return [
        Figure("llmsh -c, first token after the start of its process", "s", starts["smollm2"], 5),
        *(Figure(f"    {weights}", "s", starts[name], MOST_SECONDS[weights]) for weights, name in tags.items()),
        *(Figure(f"peak memory of a first answer, {weights}", "MiB", peaks[name], MOST_MEMORY[weights]) for weights, name in tags.items()),
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
