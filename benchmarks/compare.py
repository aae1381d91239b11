"""Two results of cpu.py, number by number: what became worse by more than it moves anyway.

A ratio says how many times worse the later number is. It counts if it is beyond the bound: the spreads of both added (half the range of
the repeats over the median), but never less than LEAST, or ONCE where one of the two was measured a single time; and on top of it what
other processes may have cost. Only our own rows can be regressions: a peer that moves says how much the
machine did. Functions are compared by their share of the ceilings that were measured beside them. Measures nothing.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client import spread
from report import align, number, values
from roofline import Roofline
from workloads import WORKLOADS

LEAST, ONCE = 0.10, 0.25
"""On a shared machine runs move by 10 to 25 per cent (README.md)."""
BUSY = 0.25
"""Cores: above it spreads say too little."""
OURS = "llmos"


@dataclass(frozen=True, slots=True)
class Change:
    """One number before and after. `worse` above 1: by that factor; `bound`: how far above 1 is still noise."""

    what: str
    before: float
    after: float
    worse: float
    bound: float
    ours: bool

    @property
    def verdict(self) -> str:
        if self.worse > 1 + self.bound:
            return "REGRESSION" if self.ours else "slower"
        if self.worse < 1 / (1 + self.bound):
            return "better" if self.ours else "faster"
        return ""


def change(
    what: str, before: Sequence[float], after: Sequence[float], *, ours: bool, lower_is_better: bool, others: float = 0.0
) -> Change | None:
    """None if there is nothing to compare. `others`: how much slower others may have made it."""
    if not before or not after:
        return None
    old, new = statistics.median(before), statistics.median(after)
    if old <= 0 or new <= 0:
        return None
    once = len(before) == 1 or len(after) == 1
    bound = max(ONCE if once else LEAST, spread(before) + spread(after)) + others
    return Change(what, old, new, new / old if lower_is_better else old / new, bound, ours)


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Of all that both have at the same sizes."""
    found = [*_workloads(before, after), *_engines(before, after), *_functions(before, after)]
    return [each for each in found if each is not None]


def taken(results: dict[str, Any], *others_cores: float) -> float:
    """How much slower a run can become where others use so many cores: 1 of 2 leaves half, 1.0 slower."""
    cores: int = results["machine"]["cores"]
    return cores / max(cores - max(others_cores), 0.1) - 1.0


def _ours(results: dict[str, Any], name: str) -> bool:
    return bool(results["engines"][name]["engine"] == OURS)


def _workloads(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Change | None]:
    for key, later in after["workloads"].items():
        earlier = before["workloads"].get(key)
        if earlier is None or earlier["sizes"] != later["sizes"]:
            continue
        for name, record in later["engines"].items():
            if name not in earlier["engines"] or name not in after["engines"]:
                continue
            for metric in WORKLOADS[key].metrics:
                old, new = values(earlier["engines"][name], metric.key), values(record, metric.key)
                what = f"{name}: {key} {metric.label}"
                others = taken(after, *(statistics.median(each["others_cores"] or [0.0]) for each in (earlier["engines"][name], record)))
                yield change(what, old, new, ours=_ours(after, name), lower_is_better=metric.lower_is_better, others=others)


def _engines(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Change | None]:
    # How much an engine held depends on what it was given to do.
    same = {key: entry["sizes"] for key, entry in before["workloads"].items()} == {
        key: entry["sizes"] for key, entry in after["workloads"].items()
    }
    for name, later in after["engines"].items():
        earlier = before["engines"].get(name)
        for label, key in (("cold start, s", "cold_s"), *((("peak memory, MiB", "peak_mib"),) if same else ())):
            if earlier is not None:
                yield change(f"{name}: {label}", [earlier[key]], [later[key]], ours=_ours(after, name), lower_is_better=True)


def _functions(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Change | None]:
    if not (before.get("roofline") and after.get("roofline")):
        return
    old, new = (Roofline.from_json(results["roofline"]) for results in (before, after))
    if (old.isa, old.threads) != (new.isa, new.threads):
        return
    earlier = {point.name: point for point in old.points}
    for point in new.points:
        if point.name in earlier:
            shares = earlier[point.name].fractions, point.fractions
            others = taken(after, old.others_cores, new.others_cores)
            yield change(f"{point.name}: share of the ceiling", *shares, ours=True, lower_is_better=False, others=others)


def regressions(found: Sequence[Change]) -> list[Change]:
    return [each for each in found if each.verdict == "REGRESSION"]


def table(found: Sequence[Change]) -> str:
    """The worst first."""
    rows = [["what", "before", "after", "times worse", "noise up to", ""]]
    for each in sorted(found, key=lambda each: -each.worse / (1 + each.bound)):
        rows.append([each.what, number(each.before), number(each.after), f"{each.worse:.2f}", f"{1 + each.bound:.2f}", each.verdict])
    return align(rows)


def describe(before: dict[str, Any], after: dict[str, Any], *, everything: bool) -> tuple[str, int]:
    """The table (of what is beyond its bound, unless `everything`) with a line above and below; and how many regressions there are."""
    found = changes(before, after)
    beyond = [each for each in found if each.verdict]
    shown = found if everything else beyond
    names = [f"{results['commit']} of {results['date'][:10]}" for results in (before, after)]
    lines = [f"{names[1]} against {names[0]}: {len(found)} numbers that both have, {len(beyond)} beyond their noise."]
    if machine(before) != machine(after):
        lines.append("These are two kinds of machine: the ratios say little about the code.")
    if (most := max(map(busiest, (before, after)))) > BUSY:
        lines.append(f"Others used {most:.1f} cores in one of them at the median: measure again on a quiet machine before believing this.")
    if shown:
        lines += ["", table(shown)]
    worse = len(regressions(found))
    lines += ["", f"{worse} REGRESSION{'S' if worse != 1 else ''}" if worse else "no regression"]
    return "\n".join(lines), worse


def busiest(results: dict[str, Any]) -> float:
    """Cores that others used at the median of all runs."""
    records = [record for entry in results["workloads"].values() for record in entry["engines"].values()]
    used = [cores for record in records for cores in record["others_cores"]]
    return statistics.median(used) if used else 0.0


def machine(results: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two results comparable."""
    host = results["machine"]
    return host["cpu"], host["cores"], host["threads"], tuple(host["instructions"])


def load(file: Path) -> dict[str, Any]:
    """A result of cpu.py; SystemExit says what is wrong with another file."""
    try:
        found = json.loads(file.read_text())
        if not isinstance(found, dict) or not {"machine", "commit", "date", "engines", "workloads"} <= set(found):
            raise ValueError("it lacks what a result has")
        if not all("engine" in entry for entry in found["engines"].values()):
            raise ValueError("its engines do not say what they are")
    except (OSError, ValueError) as error:
        raise SystemExit(f"{file} is no result of benchmarks/cpu.py: {error}") from None
    return found


def newest_before(file: Path, results: dict[str, Any]) -> dict[str, Any] | None:
    """The newest earlier result of the same kind of machine in the same folder; None if there is none."""
    others = [load(other) for other in file.parent.glob("*.json") if other != file]
    earlier = [other for other in others if machine(other) == machine(results) and other["date"] < results["date"]]
    return max(earlier, key=lambda other: str(other["date"]), default=None)
