"""What guesses bring and cost: decode tokens/s of the default model with speculation and without, in turns.

    python benchmarks/speculation.py [--repeats N] [--tokens N] [--model NAME] [--only CASE] [--json]

Kernel and device, driven by hand on one thread. Every reply is given twice, and must be the same tokens. A rate counts from when the
prompts are computed, to the given number of tokens, past any stop. The table shows medians of the rates, and of the ratios of
neighbours with their spread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from overhead import commit

from llmos.kernel.device import Sampling
from llmos.kernel.kernel import Kernel
from llmos.kernel.param import Params
from llmos.kernel.view import DeviceStatistics
from llmos.services.init.models import LoadedModel
from llmos.services.init.settings import read_settings
from llmos.services.init.store import StoreCatalogue

INIT = 1
MEMORY = 256 << 20
"""Bytes of each tier: little is generated."""
PASSAGE = (
    "The harbour of the old town lies behind two long walls of grey stone. In summer the boats leave before dawn and come back when the "
    "market opens, their decks full of silver fish and green crabs. The oldest of the captains, a woman named Marta Lindqvist, has "
    "written down every catch since the year 1974. Her books fill eleven shelves in the library, between the maps and the letters of "
    "the mayors. A student from the university once counted the herring in them and found that the best year was 1983, when the water "
    "was cold until June. Since then the numbers have fallen slowly, and the fleet with them. Only nine boats are left today, and four "
    "of them carry tourists to the lighthouse instead of nets. Marta still goes out every Thursday, alone, with a thermos of coffee and "
    "a small radio that she never turns on."
)


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked for, by how many at once."""

    name: str
    user: str
    temperature: float = 0.0
    streams: int = 1


CASES = (
    Case("quote 150 words, greedy", f"Repeat the following text exactly:\n\n{PASSAGE}"),
    Case("the same, temperature 0.7", f"Repeat the following text exactly:\n\n{PASSAGE}", 0.7),
    Case("the same, 8 at once", f"Repeat the following text exactly:\n\n{PASSAGE}", streams=8),
    Case("question, greedy", "Why is the sky blue, and why is it red in the evening?"),
    Case("question, temperature 1", "Why is the sky blue, and why is it red in the evening?", 1.0),
    Case("question, 8 at once, temperature 1", "Why is the sky blue, and why is it red in the evening?", 1.0, 8),
)


@dataclass(slots=True)
class Figure:
    """A case: a value per repeat."""

    case: Case
    without: list[float] = field(default_factory=list)
    """Tokens/s of all streams."""
    guessing: list[float] = field(default_factory=list)
    guessed: int = 0
    right: int = 0
    tokens: int = 0
    same: bool = True

    @property
    def ratios(self) -> list[float]:
        return [fast / slow for fast, slow in zip(self.guessing, self.without, strict=True)]


def run(made: LoadedModel, case: Case, seed: int, most: int, speculate: bool) -> tuple[float, list[list[int]], DeviceStatistics]:
    """Tokens/s of a case once all prompts are computed, what was said, and the device's counters. On a new kernel: no page is found."""
    device, name = made.device, made.device.geometry.name
    kernel = Kernel(Params(speculate=speculate))
    kernel.attach(device.geometry)
    tokens, bursts = made.text.encode(f"<|im_start|>user\n{case.user}<|im_end|>\n<|im_start|>assistant\n"), []
    for stream in range(case.streams):
        pid = kernel.spawn(0.0, INIT, name="stream")
        how = Sampling(temperature=case.temperature, seed=seed + stream)
        bid = kernel.generate(0.0, pid, kernel.open(0.0, pid, name), tokens=tokens, max_tokens=most, sampling=how)
        bursts.append(kernel.burst(pid, bid))
    began, before = 0.0, 0
    while not all(burst.done for burst in bursts):
        if not began and all(burst.output for burst in bursts):
            began, before = time.perf_counter(), sum(len(burst.output) for burst in bursts)
        step = kernel.plan(0.0, name)
        assert step is not None
        kernel.retire(0.0, name, device.execute(step))
        kernel.drain()
    seconds = time.perf_counter() - began
    return (most * case.streams - before) / seconds, [burst.output for burst in bursts], kernel.device_statistics()[0]


def measure(options: argparse.Namespace) -> list[Figure]:
    figures = [Figure(case) for case in CASES if options.only in case.name]
    catalogue = StoreCatalogue(read_settings(device_memory=MEMORY, host_memory=0))
    made = catalogue.load(catalogue.resolve(options.model))
    try:
        for repeat in range(options.repeats):
            for figure in figures:
                said = []
                for speculate in (False, True) if repeat % 2 else (True, False):
                    found, outputs, counters = run(made, figure.case, 1000 * repeat, options.tokens, speculate)
                    (figure.guessing if speculate else figure.without).append(found)
                    figure.guessed += counters.guessed_tokens
                    figure.right += counters.right_tokens
                    said.append(outputs)
                figure.tokens += options.tokens * figure.case.streams
                figure.same &= said[0] == said[1]
    finally:
        made.device.close()
    return figures


def table(figures: Sequence[Figure], about: str) -> str:
    lines = [about, "", f"{'':36} {'without':>8} {'with':>8} {'ratio':>6} {'spread':>13} {'guessed':>8} {'right':>6}  tokens"]
    lines.append(f"{'':36} {'tokens/s':>8} {'tokens/s':>8} {'':6} {'':13} {'of all':>8} {'':6}")
    for figure in figures:
        ratios = sorted(figure.ratios)
        without, guessing = statistics.median(figure.without), statistics.median(figure.guessing)
        spread, right = f"{ratios[0]:.2f} to {ratios[-1]:.2f}", f"{figure.right / figure.guessed:.0%}" if figure.guessed else "-"
        lines.append(
            f"{figure.case.name:36} {without:8.1f} {guessing:8.1f} {statistics.median(ratios):6.2f} {spread:>13} "
            f"{figure.guessed / figure.tokens:8.0%} {right:>6}  {'same' if figure.same else 'DIFFER'}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="how often every case is measured (7)")
    parser.add_argument("--tokens", type=int, default=160, help="tokens of each reply (160)")
    parser.add_argument("--model", help="the model (the default one)")
    parser.add_argument("--only", default="", help="only cases whose name holds this")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    if options.repeats < 1 or options.tokens < 2:
        parser.error("take at least 1 repeat of 2 tokens")
    info = Path("/proc/cpuinfo")
    models = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    about = (
        f"machine {models[0] if models else platform.machine()}, {os.cpu_count()} cores, commit {commit()}, load {os.getloadavg()[0]:.1f}"
    )
    about += f", {options.repeats} repeats of {options.tokens} tokens"
    figures = measure(options)
    print(json.dumps({"about": about, "figures": [asdict(one) for one in figures]}, indent=2) if options.json else table(figures, about))
    return 0 if all(figure.same for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
