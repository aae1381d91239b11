"""llmos on a CPU beside every installed peer, with each kind of weights; its functions beside what the machine can do; what became worse.

    python benchmarks/cpu.py                                  # W1 to W6, all variants, three repeats, roofline: an hour and more
    python benchmarks/cpu.py --quick                          # llmos alone on W1, W2 and W6, and the roofline: under three minutes
    python benchmarks/cpu.py --engines llmos,vllm --workloads W1,W4 --repeats 5
    python benchmarks/cpu.py --compare A.json B.json --fail   # exit status 1 if B has a regression

Engines with weights of one kind (bf16, then 8-bit, then 4-bit) run side by side as in run.py; the kinds run one after the other, for not
all engines fit into memory at once. Results go to results/cpu/DATE-COMMIT.json, with a table and a chart, and are compared with the
newest earlier result of the same kind of machine. A peer that is missing is left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from compare import describe, load, newest_before
from cpu_report import write_cpu_report
from peers.catalogue import ROOT, THREADS
from peers.variants import BITS, VARIANTS
from platformdirs import user_cache_path
from progress import Progress, say
from roofline import Roofline, measure
from run import Bench, add_options, chosen, commit, pairs, turns
from workloads import WORKLOADS, make

from llmos.drivers.checkpoint import open_checkpoint
from llmos.services.init.settings import read_settings
from llmos.services.init.store import library

MODEL = "smollm2"
RESULTS = ROOT / "benchmarks" / "results" / "cpu"
QUICK_WORKLOADS = ["W1", "W2", "W6"]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="llmos alone, two repeats of W1, W2 and W6 in their full sizes, and the roofline"
    )
    parser.add_argument("--engines", help=f"of {','.join(VARIANTS)}; default: all but hf_generate; none: only the roofline")
    parser.add_argument("--no-roofline", dest="roofline", action="store_false", help="only the workloads")
    parser.add_argument("--json", action="store_true", help="print the figures instead of the table")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="measure nothing: what is worse in B?")
    parser.add_argument("--fail", action="store_true", help="exit status 1 if there is a regression")
    parser.add_argument("--name", help="of the result files (default: date and commit)")
    add_options(parser)
    parser.set_defaults(out=RESULTS, repeats=None)
    return parser.parse_args(argv)


def engines_of(arguments: argparse.Namespace) -> list[str]:
    if arguments.engines == "none":
        return []
    if arguments.engines:
        return chosen(arguments.engines, list(VARIANTS), "engine")
    if arguments.quick:
        return [name for name, variant in VARIANTS.items() if variant.engine == "llmos"]
    return [name for name in VARIANTS if name != "hf_generate"]


def workloads_of(arguments: argparse.Namespace) -> list[str]:
    if arguments.workloads:
        return chosen(arguments.workloads, list(WORKLOADS), "workload")
    return QUICK_WORKLOADS if arguments.quick else [name for name in WORKLOADS if name != "W5S"]


def free_name(out: Path, quick: bool) -> str:
    """DATE-COMMIT, and a number if that is taken: a result is not written over."""
    stem = f"{datetime.now(UTC):%Y-%m-%d}-{commit().replace(' with changes', '-changed')}{'-quick' if quick else ''}"
    return next(name for number in range(1, 1000) if not (out / f"{(name := stem if number == 1 else f'{stem}-{number}')}.json").exists())


def roofline() -> Roofline:
    model = library(read_settings().home).find(MODEL)
    return measure(user_cache_path("llmos") / "native", THREADS, open_checkpoint(model.path, model.cache).config)


def run(arguments: argparse.Namespace) -> Path:
    """Measures; returns the file of the figures."""
    engines, workloads = engines_of(arguments), workloads_of(arguments)
    repeats = arguments.repeats or (2 if arguments.quick else 3)
    sizes = {name: {key: float(value) for key, value in values.items()} for name, values in pairs(arguments.set).items()}
    for name in workloads:
        make(name, sizes.get(name))
    arguments.name = arguments.name or free_name(arguments.out, arguments.quick)
    bench = Bench(arguments, sizes, pairs(arguments.option))
    try:
        if arguments.roofline:
            bench.results["roofline"] = roofline().as_json()
            bench.save()
        progress = Progress(len(engines) * (1 + len(workloads) * repeats))
        for bits in BITS:
            names = [name for name in engines if VARIANTS[name].bits == bits]
            up = []
            for name in names:
                progress.show(f"{name} starts")
                if bench.start(name):
                    up.append(name)
                    progress.step()
                else:
                    progress.step(1 + len(workloads) * repeats)
            for workload, name, repeat in turns(up, workloads, repeats):
                progress.show(f"{workload} {name}")
                bench.measure(workload, name, repeat)
                progress.step()
            bench.close()
    finally:
        bench.close()
        bench.save()
    return bench.file


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.compare:
        before, after = map(load, arguments.compare)
        text, worse = describe(before, after, everything=True)
        print(text)
        return 1 if worse and arguments.fail else 0
    file = run(arguments)
    results = load(file)
    text = write_cpu_report(file)
    earlier, worse = newest_before(file, results), 0
    if earlier is None:
        text += "\n\nno earlier result of this kind of machine to compare with"
    else:
        compared, worse = describe(earlier, results, everything=False)
        text += f"\n\n{compared}"
    if arguments.json:
        print(json.dumps(results, indent=1))
        say(text)
    else:
        print(text)
    return 1 if worse and arguments.fail else 0


if __name__ == "__main__":
    sys.exit(main())
