"""The one table of cpu.py, and its roofline: like for like first, then the best of each. Measures nothing."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from peers.variants import BITS
from report import OURS, advantage, align, cell, heading, number, values
from roofline import Roofline, draw
from workloads import WORKLOADS, Metric

HELD = (("cold start, s", "cold_s"), ("peak, MiB", "peak_mib"))


def columns(results: dict[str, Any]) -> list[tuple[str, Metric]]:
    """Each workload's first figure, and of one stream the first token's time too."""
    found = []
    for key in results["workloads"]:
        found += [(key, metric) for metric in WORKLOADS[key].metrics[: 2 if key == "W1" else 1]]
    return found


def record(results: dict[str, Any], key: str, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = results["workloads"][key]["engines"].get(name)
    return found


def rows(results: dict[str, Any]) -> list[list[str]]:
    """A header, then a block for each kind of weights: ratios are to llmos with weights of the same kind; last the best of each."""
    figures = columns(results)
    titles = [f"{key} {metric.label}{'' if metric.lower_is_better else ' ↑'}" for key, metric in figures]
    table = [["engine", "weights", "KV", "knows", *titles, *(label for label, _ in HELD)]]
    for bits in BITS:
        names = [name for name, entry in results["engines"].items() if entry["bits"] == bits]
        if not names:
            continue
        table.append([f"**{bits}**"] + [""] * (len(table[0]) - 1))
        ours = next((name for name in names if results["engines"][name]["engine"] == OURS), None)
        for name in names:
            entry = results["engines"][name]
            line = [entry["title"].partition(",")[0], entry["weights"], entry["kv"], f"{entry['known']} of {len(entry['answers'])}"]
            for key, metric in figures:
                mine = values(record(results, key, ours), metric.key) if ours not in (None, name) else []
                line.append(cell(record(results, key, name), metric, mine))
            table.append([*line, *(number(entry[key]) for _, key in HELD)])
    return table + best(results, figures)


def best(results: dict[str, Any], figures: list[tuple[str, Metric]]) -> list[list[str]]:
    """A line an engine: in each column the best of its weights, which are named, and how llmos' best compares."""
    engines: dict[str, list[str]] = {}
    for name, entry in results["engines"].items():
        engines.setdefault(entry["engine"], []).append(name)
    if all(len(names) == 1 for names in engines.values()):
        return []
    table = [["**best of each**"] + [""] * (3 + len(figures) + len(HELD))]
    ours = {(key, metric): chosen(results, engines.get(OURS, []), key, metric) for key, metric in figures}
    for names in engines.values():
        line = [results["engines"][names[0]]["title"].partition(",")[0], "", "", ""]
        for key, metric in figures:
            name = chosen(results, names, key, metric)
            if name is None:
                line.append("–")
                continue
            found = values(record(results, key, name), metric.key)
            text = f"{number(statistics.median(found))} ({results['engines'][name]['weights']})"
            mine = ours[key, metric]
            against = values(record(results, key, mine), metric.key) if mine not in (None, name) else []
            ratio = advantage(against, found, metric)
            line.append(text if ratio is None else f"{text}, {ratio:.2f}x")
        table.append([*line, *(number(min(results["engines"][name][key] for name in names)) for _, key in HELD)])
    return table


def chosen(results: dict[str, Any], names: list[str], key: str, metric: Metric) -> str | None:
    """Of these variants the one with the best median; None if none has the figure."""
    medians = {name: statistics.median(found) for name in names if (found := values(record(results, key, name), metric.key))}
    if not medians:
        return None
    return min(medians, key=lambda name: medians[name] if metric.lower_is_better else -medians[name])


def roofline_text(roofline: Roofline) -> str:
    """Ceilings and a table of functions."""
    ceilings = roofline.ceilings
    table = [["function", "weights", "size", "µs", "GB/s", "GFLOP/s", "at most", "of it"]]
    for point in roofline.points:
        time = f"{number(point.second * 1e6)} ±{100 * point.spread:.0f}%"
        numbers = [number(value) for value in (point.gigabytes, point.gigaflops, point.at_most)]
        table.append([point.function, point.format, point.size, time, *numbers, f"{100 * statistics.median(point.fractions):.0f}%"])
    ridges = [peak / ceilings.read for peak in (ceilings.bf16, ceilings.int8)]
    lines = [
        f"Native functions alone ({roofline.isa}, {roofline.threads} threads), a call. Highest ceilings: memory {ceilings.read:.1f} GB/s, "
        f"products {ceilings.bf16:,.0f} GFLOP/s in bf16,",
        f'{ceilings.int8:,.0f} in int8: below {ridges[0]:.0f} operations a byte (int8: {ridges[1]:.0f}) memory limits. "At most" is by the '
        "ceilings measured just before and after a",
        f"function. Other processes used {roofline.others_cores:.2f} cores meanwhile.",
    ]
    return "\n".join(lines) + "\n\n" + align(table)


def report_text(results: dict[str, Any]) -> str:
    """All there is, as markdown."""
    first = {entry["engine"]: name for name, entry in reversed(results["engines"].items())}
    once = {
        name: entry | {"title": entry["title"].partition(",")[0]} for name, entry in results["engines"].items() if name in first.values()
    }
    parts = [heading(results | {"engines": once})]
    if results["engines"]:
        parts[0] += (
            "\nRatios: to llmos with weights of the same kind. Engines of one kind took turns, one kind after the other. Cold start:\n"
            "from the process' start to a first token, once; files may be in the page cache. Peak: VmHWM of the engine's processes, summed."
        )
        parts.append(align(rows(results)))
    if results["absent"]:
        parts.append("\n".join(["Not measured:", ""] + [f"- {name}: {reason}" for name, reason in results["absent"].items()]))
    if results.get("roofline"):
        parts.append(roofline_text(Roofline.from_json(results["roofline"])))
    return "\n\n".join(parts) + "\n"


def write_cpu_report(file: Path) -> str:
    """Writes the table and the chart beside `file`; returns the text for the terminal."""
    results = json.loads(file.read_text())
    text, picture, missing = report_text(results), file.with_suffix(".png"), ""
    page = text
    if results.get("roofline"):
        if draw(Roofline.from_json(results["roofline"]), picture):
            page += f"\n![roofline]({picture.name})\n"
        else:
            missing = "\nno chart: pip install matplotlib"
    file.with_suffix(".md").write_text(page)
    return f"{text}\nfigures: {file}{missing}"
