"""Time the torch CPU driver by itself: step time by rows and context, prefill, and where the time goes.

    python benchmarks/device.py --model DIR_OR_GGUF [--cache DIR] [--threads 2] [--clock wall]

Prints one table. "linear" is the step without attention, "attention" the attention of all layers alone, both measured
by themselves, so they need not add up to the step. On a machine that others use, `--clock cpu` with one thread counts
CPU seconds of that thread instead of wall time: comparable between runs, though not what a user waits.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from llmos.drivers.attention import StepAttention
from llmos.drivers.checkpoint import open_checkpoint
from llmos.drivers.torch_cpu import TorchDevice
from llmos.kernel.device import GREEDY, Row, Sampling, Step


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    name: str
    rows: int
    context: int
    """Tokens already in each context."""
    tokens: int = 1
    """Tokens computed per row."""
    shared: int = 0
    """Leading tokens whose frames all rows share."""
    sampling: Sampling = GREEDY


CASES = (
    Case("decode", 1, 256),
    Case("decode", 1, 2048),
    Case("decode", 8, 256),
    Case("decode", 16, 700),
    Case("decode", 32, 256),
    Case("decode", 32, 384),
    Case("decode, temperature 1", 32, 256, sampling=Sampling(temperature=1.0)),
    Case("decode, top-k 40, top-p 0.9", 32, 256, sampling=Sampling(temperature=0.8, top_k=40, top_p=0.9)),
    Case("decode, fork of 1024", 16, 1040, shared=1024),
    Case("decode, fork of 512", 16, 800, shared=512),
    Case("decode, fork of 1024", 32, 1120, shared=1024),
    Case("prefill", 1, 0, tokens=512),
    Case("prefill", 2, 0, tokens=256),
    Case("prefill after 512", 1, 512, tokens=512),
    Case("prefill after 1024", 8, 1024, tokens=64, shared=1024),
)


class Bench:
    """A device with room for the largest case, and rows over pages that hold noise."""

    def __init__(self, device: TorchDevice, clock: Callable[[], float], repeats: int) -> None:
        self.device, self.clock, self.repeats = device, clock, repeats
        with torch.inference_mode():
            device.frames.device.normal_(0, 0.5)
        self.random = random.Random(0)

    def steps(self, case: Case, count: int) -> list[tuple[Row, ...]]:
        """The rows of `count` consecutive steps of a case."""
        slots = self.device.geometry.page_slots
        free = list(range(self.device.geometry.device_frames))
        self.random.shuffle(free)
        last = case.context + case.tokens * (count if case.tokens == 1 else 1)
        prefix = [free.pop() for _ in range(case.shared // slots)]
        tables = [tuple(prefix + [free.pop() for _ in range(-(-last // slots) - len(prefix))]) for _ in range(case.rows)]
        steps = []
        for step in range(count):
            position = case.context + (step if case.tokens == 1 else 0)
            pages = -(-(position + case.tokens) // slots)
            rows = [
                Row(index, tuple(self.random.choices(range(100, 1000), k=case.tokens)), position, table[:pages], True, case.sampling)
                for index, table in enumerate(tables)
            ]
            steps.append(tuple(rows))
        return steps

    def median(self, calls: list[Callable[[], object]]) -> tuple[float, float, float]:
        """Seconds of the calls after the first two: median, least, greatest."""
        times = []
        for call in calls:
            start = self.clock()
            call()
            times.append(self.clock() - start)
        times = times[2:]
        return statistics.median(times), min(times), max(times)

    def whole(self, case: Case) -> tuple[float, float, float]:
        steps = self.steps(case, self.repeats + 2)
        return self.median([lambda rows=rows: self.device.execute(Step(0, rows)) for rows in steps])  # type: ignore[misc]

    def linear(self, case: Case) -> float:
        """The forward and the sampler without attention."""
        decoder, count = self.device.decoder, case.rows * case.tokens
        tokens, positions = torch.full((count,), 200), torch.full((count,), case.context)

        def call() -> None:
            with torch.inference_mode():
                hidden = decoder.forward(tokens, positions, case.context + 1, lambda layer, q, k, v: q.reshape(count, -1))
                decoder.logits(hidden[: case.rows])

        return self.median([call] * (self.repeats + 2))[0]

    def attention(self, case: Case) -> float:
        config, frames = self.device.decoder.config, self.device.frames
        count, dtype = case.rows * case.tokens, self.device.decoder.dtype
        q = torch.randn(count, config.heads, config.head_width).to(dtype)
        k = torch.randn(count, config.kv_heads, config.head_width).to(dtype)

        def call(rows: tuple[Row, ...]) -> None:
            with torch.inference_mode():
                attend = StepAttention(rows, frames, self.device.snapshots, config)
                for layer in range(config.layers):
                    attend(layer, q, k, k)

        return self.median([lambda rows=rows: call(rows) for rows in self.steps(case, self.repeats + 2)])[0]  # type: ignore[misc]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file, or a directory of safetensors")
    parser.add_argument("--cache", type=Path, help="folder for derived weights of a GGUF file")
    parser.add_argument("--threads", type=int, help="threads (default: torch's; 1 with --clock cpu)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--slots", type=int, default=16, help="tokens in a page")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument("--repeats", type=int, default=15, help="steps measured per line")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    checkpoint = open_checkpoint(args.model, args.cache)
    threads = args.threads or (1 if args.clock == "cpu" else None)
    frames = 32 * 1200 // args.slots
    device = TorchDevice(checkpoint, name=args.model.stem, frames=frames, page_slots=args.slots, dtype=args.dtype, threads=threads)
    bench = Bench(device, time.thread_time if args.clock == "cpu" else time.perf_counter, args.repeats)
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, clock {args.clock}"
    )
    print(device.describe())
    print(
        f"{'case':30} {'rows':>4} {'context':>7} {'tokens':>6} {'ms':>8} {'least':>8} {'most':>8} "
        f"{'linear':>8} {'attention':>9} {'tokens/s':>9}"
    )
    for case in CASES:
        if args.only not in case.name:
            continue
        median, least, most = bench.whole(case)
        linear, attention = bench.linear(case), bench.attention(case)
        numbers = "".join(f"{seconds * 1e3:10.1f}" for seconds in (median, least, most, linear, attention))
        rate = case.rows * case.tokens / median
        print(f"{case.name:28}{case.rows:10}{case.context:10}{case.tokens:10}{numbers}{rate:10.0f}", flush=True)
    device.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
