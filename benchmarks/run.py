"""Runs the workloads on llmos and on every peer that is installed, side by side, and writes one table, one chart and the raw figures.

    python benchmarks/run.py                                             # all installed engines, W1 to W6, three repeats
    python benchmarks/run.py --engines llmos,vllm --workloads W2,W4 --repeats 5
    python benchmarks/run.py --quick                                     # small sizes, one repeat: does everything work?
    python benchmarks/run.py --workloads W5S --set W5S.window=30 --option vllm.eager=1

Every engine starts once, in a process of its own, answers one question, and is warmed up. Then engines take turns inside every
workload of every repeat, each time in another order, all others stopped meanwhile. Same repeat, same prompts. Figures are written
after every run, so a run that is cut short keeps what it has.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peers.catalogue import ROOT, THREADS, home
from peers.variants import VARIANTS
from process import Worker, WorkerError, machine_busy
from progress import say
from report import write_report
from workloads import WORKLOADS, make

QUESTIONS = (("What is the capital of France?", "Paris"), ("What is 2 + 2?", "4"), ("What is the capital of Japan?", "Tokyo"))
"""bf16 must know the first. With 8-bit activations some answers of so small a model go either way (llama.cpp's Q4_1 and llmos' w8a8
begin the first in French): weights that lose something must know one, and how many they knew stands in the table."""
START_LIMIT = 900.0
"""Seconds for an engine to come up: vLLM compiles, one to two minutes on a quiet machine."""
QUICK: dict[str, dict[str, float]] = {
    "W1": {"prompt": 32, "output": 16},
    "W2": {"requests": 4, "prompt": 32, "output": 16},
    "W3": {"requests": 4, "prefix": 128, "own": 16, "output": 8},
    "W4": {"agents": 3, "system": 64, "own": 16, "turns": 3, "output": 8, "tool": 0.1, "result": 16},
    "W5": {"background": 2, "background_prompt": 64, "background_output": 64, "interactive": 3, "prompt": 16, "output": 8, "after": 0.2},
    "W5S": {"background": 2, "background_prompt": 64, "background_output": 32, "prompt": 16, "output": 8, "settle": 1, "window": 5},
    "W6": {"copies": 4, "prompt": 128, "output": 8},
}


def machine() -> dict[str, Any]:
    """What a reader needs to place the numbers; no name of the machine."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in cpu.splitlines() if line.startswith("model name")), platform.machine())
    flags = set(next((line.partition(":")[2].split() for line in cpu.splitlines() if line.startswith("flags")), []))
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "instructions": [flag for flag in known if flag in flags],
        "system": f"{platform.system()} {platform.release()}",
        "threads": THREADS,
    }


def commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False).stdout.strip()

    changed = "" if not git("status", "--porcelain", "--untracked-files=no") else " with changes"
    return (git("rev-parse", "--short=12", "HEAD") or "none") + changed


def pairs(texts: list[str], separator: str = ".") -> dict[str, dict[str, str]]:
    """["W2.requests=8"] as {"W2": {"requests": "8"}}."""
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        name, dot, key = path.partition(separator)
        if not (equals and dot and name and key):
            raise SystemExit(f"'{text}' is not of the form NAME.KEY=VALUE")
        found.setdefault(name, {})[key] = value
    return found


def chosen(text: str | None, known: list[str], what: str) -> list[str]:
    names = text.split(",") if text else known
    for name in names:
        if name not in known:
            raise SystemExit(f"no {what} '{name}': there are {', '.join(known)}")
    return names


class Bench:
    """One side-by-side run: the workers that are up and the results so far."""

    def __init__(self, arguments: argparse.Namespace, sizes: dict[str, dict[str, float]], options: dict[str, dict[str, str]]) -> None:
        self.peers: Path = arguments.peers
        self.limit: float = arguments.limit
        self.patience: float = arguments.patience
        self.options, self.sizes = options, sizes
        self.file: Path = arguments.out / f"{arguments.name}.json"
        self.logs = self.file.parent / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.workers: dict[str, Worker] = {}
        self.results: dict[str, Any] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "commit": commit(),
            "engines": {},
            "absent": {},
            "workloads": {},
        }

    def start(self, name: str) -> bool:
        """Starts an engine, asks it the question, warms it up, and stops it until its first turn."""
        variant = VARIANTS[name]
        peer, interpreter = variant.peer, variant.interpreter(self.peers)
        if variant.gap or interpreter is None:
            return self.absent(name, variant.gap or f"not installed (benchmarks/peers/install.sh {variant.engine})")
        options = self.options.get(name, {})
        worker = Worker(name, interpreter, dict(peer.environment(self.peers)), self.peers, options, (self.logs / f"{name}.log").resolve())
        try:
            started = worker.order(START_LIMIT, do="start")
            answers = [worker.order(self.limit, do="answer", question=question)["text"].strip() for question, _ in QUESTIONS]
            known = [word in answer for answer, (_, word) in zip(answers, QUESTIONS, strict=True)]
            if not (known[0] if variant.bits == "bf16" else any(known)):
                raise WorkerError(f"{name} was asked '{QUESTIONS[0][0]}' and said '{answers[0]}': not measured")
            worker.order(self.limit, do="warm")
        except WorkerError as error:
            worker.close()
            return self.absent(name, str(error))
        worker.pause()
        self.workers[name] = worker
        entry: dict[str, Any] = {
            "title": variant.title,
            "engine": variant.engine,
            "bits": variant.bits,
            "weights": variant.weights,
            "kv": variant.kv,
        }
        entry |= {
            "options": options,
            "answers": answers,
            "known": sum(known),
            "cold_s": round(started["cold_s"], 2),
            "versions": started["versions"],
        }
        self.results["engines"].setdefault(name, entry | {"memory_mib": 0.0, "peak_mib": 0.0})
        say(f"{name}: up in {started['cold_s']:.1f} s, says: {answers[0]!r}")
        return True

    def absent(self, name: str, reason: str) -> bool:
        """Notes that an engine cannot be measured; False."""
        say(f"{name}: {reason}" if not reason.startswith(name) else reason)
        if name not in self.results["engines"]:
            self.results["absent"][name] = reason.strip().splitlines()[-1]
        return False

    def measure(self, workload: str, name: str, repeat: int) -> None:
        """One run of one workload on one engine; an engine that fails is started anew for its next turn."""
        entry = self.results["workloads"].setdefault(workload, {"sizes": asdict(make(workload, self.sizes.get(workload))), "engines": {}})
        record = entry["engines"].setdefault(name, {"runs": [], "others_cores": [], "error": None})
        if record["error"] or (record["runs"] and max(record["seconds"]) > self.patience):
            return
        if name not in self.workers and not self.start(name):
            record["error"] = "did not start again"
            return
        worker = self.workers[name]
        worker.resume()
        begin, busy, own = time.monotonic(), machine_busy(), worker.busy()
        try:
            reply = worker.order(self.limit, do="run", workload=workload, sizes=self.sizes.get(workload), seed=f"{workload}:{repeat}")
        except WorkerError as error:
            say(str(error))
            record["error"] = str(error).strip().splitlines()[-1]
            self.workers.pop(name).close()
            return
        seconds = time.monotonic() - begin
        others = max(0.0, machine_busy() - busy - (worker.busy() - own)) / seconds
        engine, peak = self.results["engines"][name], worker.peak_mib(apart=VARIANTS[name].peer.apart)
        engine["memory_mib"] = max(engine["memory_mib"], round(worker.memory_mib()))
        engine["peak_mib"] = max(engine["peak_mib"], round(peak))
        worker.pause()
        record["runs"].append(reply["figures"])
        record.setdefault("seconds", []).append(round(seconds, 2))
        record["others_cores"].append(round(others, 2))
        metric = WORKLOADS[workload].metrics[0]
        value = reply["figures"][metric.key]
        say(f"{workload} {repeat + 1} {name:12} {metric.label} {value:.3f}  ({seconds:.0f} s, others used {others:.1f} cores)")
        self.save()

    def save(self) -> None:
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.results, indent=1))
        partial.replace(self.file)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()


def turns(engines: Sequence[str], workloads: Sequence[str], repeats: int) -> Iterator[tuple[str, str, int]]:
    """(workload, engine, repeat): engines take turns within every workload of every repeat, in another order each time."""
    for repeat in range(repeats):
        turn = repeat % max(1, len(engines))
        for workload in workloads:
            for name in (*engines[turn:], *engines[:turn]):
                yield workload, name, repeat


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every driver of a `Bench` takes, but for its own `--name` of the result files."""
    parser.add_argument("--workloads", help=f"of {','.join(WORKLOADS)}; default: all but W5S, which takes minutes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--peers", type=Path, default=home(), help="where install.sh put the peers")
    parser.add_argument("--set", action="append", default=[], metavar="W2.requests=8", help="a size of a workload")
    parser.add_argument("--option", action="append", default=[], metavar="vllm.eager=1", help="an option of an adapter")
    parser.add_argument("--patience", type=float, default=100.0, help="a run that took longer, in seconds, is not repeated")
    parser.add_argument("--limit", type=float, default=600.0, help="a run that takes longer, in seconds, has failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", help=f"of {','.join(VARIANTS)}; default: the installed ones in bf16")
    add_options(parser)
    parser.add_argument("--name", default=datetime.now(UTC).strftime("%Y-%m-%d-%H%M"), help="of the result files")
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat")
    arguments = parser.parse_args()

    plain = [name for name, variant in VARIANTS.items() if variant.bits == "bf16"]
    engines = chosen(arguments.engines, list(VARIANTS), "engine") if arguments.engines else plain
    workloads = chosen(arguments.workloads, list(WORKLOADS), "workload")
    if arguments.workloads is None and not arguments.quick:
        workloads.remove("W5S")
    sizes: dict[str, dict[str, float]] = {name: dict(values) for name, values in QUICK.items()} if arguments.quick else {}
    for name, values in pairs(arguments.set).items():
        sizes.setdefault(name, {}).update({key: float(value) for key, value in values.items()})
    for name in workloads:
        make(name, sizes.get(name))

    bench = Bench(arguments, sizes, pairs(arguments.option))
    try:
        up = [name for name in engines if bench.start(name)]
        for turn in turns(up, workloads, 1 if arguments.quick else arguments.repeats):
            bench.measure(*turn)
    finally:
        bench.close()
        if bench.file.exists():
            print(write_report(bench.file))


if __name__ == "__main__":
    main()
