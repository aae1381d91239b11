"""Where the wall time of a workload goes: the parts of a step, and all that is not a step, beside the least that each could take.

    python benchmarks/breakdown.py [--engine llmos-int8] [--workloads W2,W3] [--repeats N] [--json]

llmos runs here, in this process, as the workloads drive it. The native driver says how long each part of its steps took, on the thread
that waits for the others; "outside" is the wall less all parts: kernel, Python, the client, and where a workload has tools, their
sleep. The least is a roofline for every step (Williams, Waterman and Patterson 2009): weights and visible pages are read once at the
memory's best rate, or its products done at the best rate of registers, whichever takes longer; both rates are measured here, before
and after every run. What reads no weights and multiplies nothing has none; a sliding window is not
counted. Of several repeats the one with the median wall is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from overhead import machine
from peers.catalogue import THREADS
from peers.llmos import Llmos
from peers.variants import VARIANTS, Variant
from platformdirs import user_cache_path
from progress import Progress
from roofline import Bench, Ceilings, matrices
from workloads import WORKLOADS

from llmos.drivers.checkpoint import open_checkpoint
from llmos.drivers.config import ModelConfig
from llmos.drivers.cpu.device import NativeDevice
from llmos.drivers.cpu.native import PARTS
from llmos.kernel.device import Outcome, Step
from llmos.services.init.settings import read_settings
from llmos.services.init.store import library

FORMAT = {"bf16": "bf16", "int8": "int8", "Q4_1": "4-bit groups"}
"""The roofline's name of a variant's weights."""
BYTES = {"bf16": 2.0, "int8": 1.0, "4-bit groups": 20 / 32}
"""Of a weight, in memory."""
OUTSIDE = "outside"


@dataclass
class Demand:
    """What the steps of a run had to read and to multiply, by part, as (bytes, operations) of every step."""

    steps: int = 0
    tokens: int = 0
    work: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {part: [] for part in PARTS})

    def add(self, step: Step, device: NativeDevice, config: ModelConfig, format: str) -> None:
        tokens = sum(len(row.tokens) for row in step.rows)
        wanted = sum(1 + row.guesses for row in step.rows if row.sampling is not None)
        self.steps += 1
        self.tokens += tokens
        for name, (out, inputs) in matrices(config).items():
            rows, weights = (wanted, out * inputs) if name == "head" else (tokens, config.layers * out * inputs)
            if rows:
                self.work[name].append((weights * BYTES[format], 2.0 * rows * weights))
        slots = device.geometry.page_slots
        pages = {frame for row in step.rows for frame in row.frames[: (row.position + len(row.tokens) - 1) // slots + 1]}
        seen = sum(row.position + token + 1 for row in step.rows for token in range(len(row.tokens)))
        operations = 4.0 * config.layers * config.heads * config.head_width * seen
        self.work["attention"].append((len(pages) * device.geometry.page_bytes, operations))

    def least(self, part: str, ceilings: Ceilings, format: str) -> float:
        """Seconds of a part if it ran at a ceiling in every step."""
        peak = ceilings.at(math.inf, "bf16" if part == "attention" else format)
        return sum(max(size / ceilings.read, operations / peak) for size, operations in self.work[part]) / 1e9


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a workload: seconds of each part, and the least of each."""

    workload: str
    wall: float
    spent: dict[str, float]
    least: dict[str, float]
    steps: int
    tokens: int
    ceilings: Ceilings


class Watch:
    """Notes what every step asks of the native device that runs one model, and which device that is."""

    def __init__(self, config: ModelConfig, format: str) -> None:
        self.config, self.format, self.demand = config, format, Demand()
        self.device: NativeDevice | None = None

    def __enter__(self) -> Self:
        self._execute = execute = NativeDevice.execute

        def watched(device: NativeDevice, step: Step) -> Outcome:
            self.device = device
            self.demand.add(step, device, self.config, self.format)
            return execute(device, step)

        NativeDevice.execute = watched  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        NativeDevice.execute = self._execute  # type: ignore[method-assign]

    async def run(self, engine: Llmos, workload: str, seed: int, bench: Bench) -> Run:
        if self.device is None:
            raise RuntimeError("nothing ran on the native driver, which alone keeps laps: is there a C++ compiler?")
        self.demand, before, ceilings = Demand(), self.device.laps(), bench.ceilings()
        begin = time.perf_counter()
        await WORKLOADS[workload]().run(engine, random.Random(seed))
        wall = time.perf_counter() - begin
        ceilings = ceilings.with_(bench.ceilings())
        spent = {part: seconds - before[part] for part, seconds in self.device.laps().items()}
        least = {part: self.demand.least(part, ceilings, self.format) for part in PARTS}
        return Run(workload, wall, spent | {OUTSIDE: wall - sum(spent.values())}, least, self.demand.steps, self.demand.tokens, ceilings)


async def measure(variant: Variant, workloads: Sequence[str], repeats: int) -> list[Run]:
    """Of each workload the run with the median wall."""
    engine = Llmos(Path(), dict(variant.options))
    await engine.start()  # which makes these weights if they are not there
    model = library(read_settings().home).find(variant.options["model"])
    config = open_checkpoint(model.path, model.cache).config
    bench, progress = Bench(user_cache_path("llmos") / "native", THREADS), Progress(len(workloads) * repeats)
    shown = []
    try:
        with Watch(config, FORMAT[variant.weights]) as watch:
            await engine.answer("Hello")
            for workload in workloads:
                runs = []
                for repeat in range(repeats):
                    progress.show(workload)
                    runs.append(await watch.run(engine, workload, repeat, bench))
                    progress.step()
                shown.append(sorted(runs, key=lambda run: run.wall)[repeats // 2])
    finally:
        await engine.stop()
    return shown


def table(run: Run) -> str:
    ceilings = run.ceilings
    lines = [
        f"{run.workload}: {run.wall:.2f} s, {run.steps:,} steps of {run.tokens / max(1, run.steps):.1f} tokens; "
        f"memory {ceilings.read:.1f} GB/s, products {ceilings.bf16:,.0f} GFLOP/s in bf16, {ceilings.int8:,.0f} in int8",
        f"    {'part':10} {'s':>8} {'of wall':>8} {'least, s':>9} {'reached':>8}",
    ]
    for part, seconds in run.spent.items():
        least = run.least.get(part, 0.0)
        reached = f" {least:9.2f} {least / seconds:8.0%}" if least and seconds else ""
        lines.append(f"    {part:10} {seconds:8.2f} {seconds / run.wall:8.0%}{reached}")
    least = sum(run.least.values())
    lines.append(f"    {'all':10} {run.wall:8.2f} {1:8.0%} {least:9.2f} {least / run.wall:8.0%}")
    return "\n".join(lines)


def main() -> int:
    own = [name for name, variant in VARIANTS.items() if variant.engine == "llmos"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=own, default=own[0], help=f"llmos with which weights ({own[0]}: bf16)")
    parser.add_argument("--workloads", default="W1,W2,W3,W4,W6", help="which, with commas between them (W1,W2,W3,W4,W6)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each runs (3)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    workloads = options.workloads.split(",")
    if options.repeats < 1:
        parser.error("take at least 1 repeat")
    if unknown := [name for name in workloads if name not in WORKLOADS]:
        parser.error(f"there is no workload {', '.join(unknown)}: take of {', '.join(WORKLOADS)}")
    about = machine()
    runs = asyncio.run(measure(VARIANTS[options.engine], workloads, options.repeats))
    if options.json:
        print(json.dumps({"about": about, "engine": options.engine, "runs": [asdict(run) for run in runs]}, indent=2))
    else:
        print(", ".join(f"{key} {value}" for key, value in about.items()) + f", {options.engine}, {options.repeats} repeats\n")
        print("\n\n".join(table(run) for run in runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
