"""The processes as the tree they are: who started whom, and what each did itself.

Children stand below their parent, by pid. A process whose parent is not in the list is a root. Draws no tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmos import ProcessInfo

MOST_DEPTH = 64
"""Levels that are drawn; deeper ones stand at the last."""


def children_of(processes: Sequence[ProcessInfo]) -> dict[int, list[ProcessInfo]]:
    """By the pid of the parent; roots under 0."""
    there = {each.pid for each in processes}
    found: dict[int, list[ProcessInfo]] = {}
    for each in sorted(processes, key=lambda process: process.pid):
        parent = each.parent if each.parent in there and each.parent != each.pid else 0
        found.setdefault(parent, []).append(each)
    return found


def branches(processes: Sequence[ProcessInfo]) -> list[tuple[str, ProcessInfo]]:
    """Every process with the lines of the tree that lead to it, from the root down."""
    below = children_of(processes)
    found: list[tuple[str, ProcessInfo]] = []
    waiting = [("", "", each, 0) for each in reversed(below.get(0, []))]
    while waiting:
        lead, here, process, depth = waiting.pop()
        found.append((lead + here, process))
        inner = lead + {"": "", "├─ ": "│  ", "└─ ": "   "}[here] if depth < MOST_DEPTH else lead
        children = below.get(process.pid, [])
        for each in reversed(children):
            waiting.append((inner, "└─ " if each is children[-1] else "├─ ", each, depth + 1))
    return found
