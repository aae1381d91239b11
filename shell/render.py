"""Draws tables: ps, jobs, models, explain. Readable without colour; colour only repeats what words say.

Takes the data as it came from the system and gives back a drawing, which styled_text and plain_text turn into text.
Names come from anyone, so they are shown with control characters made visible and never read as markup.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from .terminal import ALL_VISIBLE

if TYPE_CHECKING:
    from llmos import Explanation, ProcessInfo

    from .jobs import Job

PLAIN_WIDTH = 10_000
"""Columns of text that goes into a file or pipe: nothing is cut."""

BAR = 30
"""Columns of the longest bar in explain."""

STATE_STYLES = {"running": "green", "ready": "cyan", "stopped": "yellow", "zombie": "red"}


def styled_text(drawing: RenderableType) -> str:
    """For the terminal: in its width, in colour unless NO_COLOR or a dumb terminal says otherwise (rich reads both)."""
    out = io.StringIO()
    columns, lines = shutil.get_terminal_size()
    Console(file=out, force_terminal=True, width=columns, height=lines, highlight=False).print(drawing)
    return out.getvalue()


def plain_text(drawing: RenderableType) -> str:
    """For a file or a pipe: no colour, nothing cut, no blanks at the ends of lines."""
    out = io.StringIO()
    Console(file=out, force_terminal=False, color_system=None, width=PLAIN_WIDTH, highlight=False).print(drawing)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def plain(text: str, style: str = "") -> Text:
    """Text of any origin in one line of a table."""
    return Text(text.translate(ALL_VISIBLE), style=style)


def seconds(value: float) -> str:
    """A duration as people read it: 0.3s, 42s, 3m07s, 2h05m."""
    if value < 10:
        return f"{value:.1f}s"
    whole = int(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def size(count: int) -> str:
    """Bytes in binary units: 512 B, 88.2 MiB."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{count} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def table(*columns: str) -> Table:
    """An empty table. A column named `<NAME` is flush left, `>NAME` flush right, for numbers."""
    drawing = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        justify: JustifyMethod = "right" if column[0] == ">" else "left"
        drawing.add_column(column[1:], justify=justify, no_wrap=True, overflow="ellipsis", min_width=len(column) - 1)
    return drawing


def class_name(process: ProcessInfo) -> str:
    """interactive, normal, batch or idle."""
    return process.cls.name.lower()


def processes_json(processes: Sequence[ProcessInfo]) -> str:
    """What `ps --json` writes: a list with an object for each process."""
    return json.dumps([asdict(each) | {"cls": class_name(each)} for each in processes])


def processes_table(processes: Sequence[ProcessInfo]) -> Table:
    """What `ps` shows."""
    drawing = table(">PID", ">PARENT", "<STATE", "<CLASS", ">NICE", ">TOKENS", ">DEV", ">HOST", ">TIME", "<NAME")
    for each in processes:
        state = f"{each.state}:{each.waiting_for}" if each.waiting_for else each.state
        if each.status is not None:
            state = f"{state}({each.status})"
        drawing.add_row(
            str(each.pid),
            str(each.parent),
            plain(state, STATE_STYLES.get(each.state, "")),
            class_name(each),
            str(each.nice),
            f"{each.tokens:,}",
            str(each.device_pages),
            str(each.host_pages),
            seconds(each.wall),
            plain(each.name),
        )
    return drawing


def tree_table(branches: Sequence[tuple[str, ProcessInfo]]) -> Table:
    """What `tree` shows: the lines of the tree lead to the names."""
    drawing = table(">PID", "<NAME", "<STATE", "<CLASS", ">NICE", ">TOKENS", ">TIME")
    for lead, each in branches:
        state = f"{each.state}:{each.waiting_for}" if each.waiting_for else each.state
        if each.status is not None:
            state = f"{state}({each.status})"
        drawing.add_row(
            str(each.pid),
            Text(lead) + plain(each.name),
            plain(state, STATE_STYLES.get(each.state, "")),
            class_name(each),
            str(each.nice),
            f"{each.tokens:,}",
            seconds(each.wall),
        )
    return drawing


def explanation_table(explanation: Explanation) -> RenderableType:
    """What `explain` shows: a line for each activity that took any time, with its part of the whole, then why the process waited."""
    wall = explanation.wall
    head = Text.assemble((f"pid {explanation.pid} ", "bold"), plain(explanation.name, "bold"), f": {precise(wall)} in all")
    where = table("<WHERE", ">TIME", ">PART", "<")
    for activity, spent in explanation.seconds.items():
        if round(spent, 3) == 0:
            continue
        part = spent / wall if wall > 0 else 0.0
        where.add_row(plain(activity), precise(spent), f"{part:.0%}", "█" * round(part * BAR))
    parts: list[RenderableType] = [head, "", where]
    if any(round(spent, 3) > 0 for spent in explanation.causes.values()):
        why = table("<WHY IT WAITED", ">TIME")
        for cause, spent in explanation.causes.items():
            if round(spent, 3) > 0:
                why.add_row(plain(cause), precise(spent))
        parts += ["", why]
    read, cached, written = explanation.prefill_tokens, explanation.cached_tokens, explanation.decode_tokens
    counts = f"tokens: {read:,} read, {cached:,} found in the cache, {written:,} written"
    if explanation.guessed_tokens:
        counts += f", {explanation.right_tokens:,} of them guessed before ({explanation.guessed_tokens:,} guesses)"
    if explanation.cost:
        counts += f"; spent: {explanation.cost:.6g}"
    parts += ["", f"{counts}; bursts: {explanation.bursts:,}; preemptions: {explanation.preemptions:,}"]
    return Group(*parts)


def explanation_json(explanation: Explanation) -> str:
    """What `explain --json` writes."""
    return json.dumps(asdict(explanation))


def precise(value: float) -> str:
    """Seconds with three digits after the point, since parts of them are added up here."""
    return f"{value:.3f}s"


def jobs_table(jobs: Sequence[tuple[Job, str, str]]) -> Table:
    """What `jobs` shows: of each job the mark (+ for the one that fg takes, - for the one before) and the state."""
    drawing = table("<JOB", "<STATE", ">PID", "<COMMAND")
    for job, mark, state in jobs:
        style = {"Running": "green", "Stopped": "yellow", "Done": ""}.get(state, "red")
        drawing.add_row(f"[{job.number}]{mark}", plain(state, style), str(job.pids[0]) if job.pids else "", plain(job.text))
    return drawing


def models_table(rows: Sequence[dict[str, Any]]) -> Table:
    """What `models` shows, from what stored_models in store.py collects."""
    drawing = table("<NAME", "<TAG", ">SIZE", "<LICENCE", "<STATE", "<SOURCE")
    for row in rows:
        state = next((each for each in ("damaged", "loaded", "default") if row[each]), "")
        remote = row["kind"] == "remote"
        shown = plain(" ".join(filter(None, ("remote" if remote else "", state))), "red" if row["damaged"] else "green")
        bytes_ = "" if remote else size(row["size"])
        drawing.add_row(plain(row["name"]), plain(row["tag"]), bytes_, plain(row["licence"]), shown, plain(row["source"]))
    return drawing
