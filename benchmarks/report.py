"""Turns the raw figures of a run into a table (markdown, readable in a terminal) and a chart. Measures nothing.

python benchmarks/report.py benchmarks/results/2026-11-22-1105.json
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from client import spread
from workloads import WORKLOADS, Metric

OURS = "llmos"


def values(record: dict[str, Any] | None, key: str) -> list[float]:
    return [run[key] for run in record["runs"] if run.get(key) is not None] if record else []


def number(value: float) -> str:
    """Three digits that count, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 else "0"


def advantage(ours: list[float], theirs: list[float], metric: Metric) -> float | None:
    """How many times better we are, above 1 we win: the median over the repeats that both ran, since the machine changes meanwhile."""
    pairs = [(other, mine) if metric.lower_is_better else (mine, other) for mine, other in zip(ours, theirs, strict=False)]
    ratios = [above / below for above, below in pairs if below]
    return statistics.median(ratios) if ratios else None


def cell(record: dict[str, Any] | None, metric: Metric, ours: list[float]) -> str:
    found = values(record, metric.key)
    if not found:
        return "failed" if record and record["error"] else "–"
    text = number(statistics.median(found))
    text += f" ±{100 * spread(found):.0f}%" if len(found) > 1 else " (once)"
    ratio = None if found is ours else advantage(ours, found, metric)
    return text if ratio is None else f"{text}, {ratio:.2f}x"


def rows(results: dict[str, Any]) -> list[list[str]]:
    names = list(results["engines"])
    table = [["workload", "figure", *(results["engines"][name]["title"] for name in names)]]
    for key, entry in results["workloads"].items():
        title = f"{key} {WORKLOADS[key].title}"
        for metric in WORKLOADS[key].metrics:
            ours = values(entry["engines"].get(OURS), metric.key)
            cells = []
            for name in names:
                record = entry["engines"].get(name)
                cells.append(cell(record, metric, ours) if name != OURS else cell(record, metric, []))
            table.append([title, metric.label + ("" if metric.lower_is_better else " ↑"), *cells])
            title = ""
    for label, key in (("cold start, s", "cold_s"), ("memory, MiB", "memory_mib")):
        table.append(["", label, *(number(results["engines"][name][key]) for name in names)])
    return table


def align(table: list[list[str]]) -> str:
    """Markdown whose columns stand under each other."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in table]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def heading(results: dict[str, Any]) -> str:
    host = results["machine"]
    engines = [
        f"{entry['title']} ({', '.join(' '.join(pair) for pair in entry['versions'].items())})" for entry in results["engines"].values()
    ]
    others = [cores for entry in results["workloads"].values() for record in entry["engines"].values() for cores in record["others_cores"]]
    lines = [
        f"{results['date'][:10]}, commit {results['commit']}. {host['cpu']}, {host['cores']} cores ({', '.join(host['instructions'])}),",
        f"{host['memory_gib']} GiB, {host['system']}; {host['threads']} compute threads each.",
        "; ".join(engines) + ".",
        "Medians, with half the range of the repeats. 1.50x: llmos is 1.5 times better, at the median of the repeats that both ran "
        "(of an engine that ran once, the first). ↑: more is better. –: not to be had.",
    ]
    if others:
        lines.append(f"Other processes used {statistics.median(others):.2f} cores during a run at the median, {max(others):.2f} at most.")
    changed = [
        f"{key} {name}={value}"
        for key, entry in results["workloads"].items()
        for name, value in entry["sizes"].items()
        if value != getattr(WORKLOADS[key](), name)
    ]
    if changed:
        lines.append(f"Sizes changed: {', '.join(changed)}.")
    return "\n".join(lines)


def draw(results: dict[str, Any], file: Path) -> bool:
    """One panel a workload: its first metric, a bar an engine, whiskers from the least to the most. False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(results["engines"])
    keys = list(results["workloads"])
    columns = min(3, len(keys))
    lines = -(-len(keys) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(4.2 * columns, (0.9 + 0.33 * len(names)) * lines), squeeze=False)
    for axis in axes.flat[len(keys) :]:
        axis.set_visible(False)
    for position, (axis, key) in enumerate(zip(axes.flat, keys, strict=False)):
        metric = WORKLOADS[key].metrics[0]
        for row, name in enumerate(reversed(names)):
            found = values(results["workloads"][key]["engines"].get(name), metric.key)
            if not found:
                continue
            middle = statistics.median(found)
            whiskers = [[middle - min(found)], [max(found) - middle]]
            axis.barh(
                row, middle, xerr=whiskers, color="#d1495b" if name == OURS else "#8d99ae", height=0.7, error_kw={"lw": 1, "capsize": 2}
            )
            axis.annotate(f" {number(middle)}", (max(found), row), va="center", fontsize=8)
        axis.set_yticks(range(len(names)))
        axis.set_yticklabels([results["engines"][name]["title"] if position % columns == 0 else "" for name in reversed(names)], fontsize=8)
        axis.set_title(f"{key} {WORKLOADS[key].title}", fontsize=9, loc="left")
        axis.set_xlabel(f"{metric.label} ({'less' if metric.lower_is_better else 'more'} is better)", fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
        axis.margins(x=0.18)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    pyplot.close(figure)
    return True


def write_report(file: Path) -> str:
    """Writes the table and the chart beside `file`; returns the text for the terminal."""
    results = json.loads(file.read_text())
    picture = file.with_suffix(".png")
    drawn = draw(results, picture)
    table = f"{heading(results)}\n\n{align(rows(results))}\n"
    file.with_suffix(".md").write_text(table + (f"\n![chart]({picture.name})\n" if drawn else ""))
    missing = "" if drawn else "\nno chart: pip install matplotlib"
    return f"{table}\nfigures: {file}{missing}"


if __name__ == "__main__":
    print(write_report(Path(sys.argv[1])))
