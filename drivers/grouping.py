"""Which decode rows attend together: pure arithmetic on page tables, planned once per step.

A batched product needs rows of one length, so shorter ones are padded: lengths are cut into groups where padding would
cost more than another group. Rows whose page tables begin with the same frames (forks, a common prompt) may read these
pages once for all of them. Costs are counted in slots read for one row in one layer. Rows come out in an order that
follows from their page tables alone, the same at every step of a batch. Knows nothing of tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that attend in one batched product."""

    rows: tuple[int, ...]
    """Indices into the page tables given, ordered by table."""
    shared: int
    """Leading pages that all of them have in common and that are read once. 0: each reads its own."""


@dataclass(frozen=True, slots=True)
class _Tables:
    """What grouping is about."""

    tables: Sequence[Sequence[int]]
    full: Sequence[int]
    slots: int
    cost: int


def group_rows(tables: Sequence[Sequence[int]], full: Sequence[int], slots: int, cost: int) -> list[Group]:
    """Partition rows into groups.

    tables: per row the frames it attends to. full: per row how many of its leading pages are full of tokens it may
    see (only these can be shared, as they need no mask). slots: tokens in a page. cost: of one more group, in slots.
    """
    given = _Tables(tables, full, slots, cost)
    _, groups, alone = _families(given, sorted(range(len(tables)), key=lambda row: tuple(tables[row])))
    return groups + _by_length(given, alone, 0)[1]


def _families(given: _Tables, rows: list[int]) -> tuple[int, list[Group], list[int]]:
    """A good way to share for rows in table order: its cost, groups that share, rows that do not.

    The rows are cut where neighbours have least in common, and each part does its best by itself: forks of forks share
    the longer prefix of their branch. Then either all rows share what all have in common, or only those do that share
    nothing within their part, or nobody.
    """
    tables, slots = given.tables, given.slots
    common = [_common(tables[a], tables[b], min(given.full[a], given.full[b])) for a, b in pairwise(rows)]
    if not any(common):
        return sum(len(tables[row]) for row in rows) * slots, [], rows
    least = min(common)
    cuts = [0, *(index + 1 for index, shared in enumerate(common) if shared == least), len(rows)]
    cost, groups, alone = 0, list[Group](), list[int]()
    for part in (rows[start:end] for start, end in pairwise(cuts)):
        if len(part) == 1 or part == rows:
            alone += part
        else:
            apart, sharing, others = _families(given, part)
            cost, groups, alone = cost + apart, groups + sharing, alone + others
    alone.sort(key=rows.index)
    cost = sum(len(tables[row]) for row in alone) * slots + sum(_cost(given, group) for group in groups)
    if least:
        together, family = _by_length(given, rows, least)
        joined, cousins = _by_length(given, alone, least)
        joined += sum(_cost(given, group) for group in groups)
        if together < min(cost, joined):
            return together, family, []
        if joined < cost:
            return joined, groups + cousins, []
    return cost, groups, alone


def _cost(given: _Tables, group: Group) -> int:
    """Slots that a group reads, and the group itself."""
    longest = max(len(given.tables[row]) for row in group.rows)
    return given.cost + (group.shared + len(group.rows) * (longest - group.shared)) * given.slots


def _common(first: Sequence[int], second: Sequence[int], limit: int) -> int:
    """Length of the common prefix, at most `limit`."""
    if first[:limit] == second[:limit]:
        return min(limit, len(first))
    return next(index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)


def _by_length(given: _Tables, rows: list[int], shared: int) -> tuple[int, list[Group]]:
    """Cut rows into runs of similar length, so that padding plus groups cost least: a shortest path over sorted lengths.

    Returns the cost and the groups. Each group reads the shared pages once.
    """
    if not rows:
        return 0, []
    ordered = sorted(rows, key=lambda row: -len(given.tables[row]))
    lengths = [len(given.tables[row]) - shared for row in ordered]
    starts = [index for index in range(len(rows)) if index == 0 or lengths[index] != lengths[index - 1]] + [len(rows)]
    fixed = given.cost + shared * given.slots
    best: list[tuple[int, int]] = [(0, 0)]  # per number of runs of equal length: least cost so far, where its last group starts
    for end in range(1, len(starts)):
        best.append(
            min(
                (best[begin][0] + (starts[end] - starts[begin]) * lengths[starts[begin]] * given.slots + fixed, begin)
                for begin in range(end)
            )
        )
    groups: list[Group] = []
    end = len(starts) - 1
    while end > 0:
        begin = best[end][1]
        groups.append(Group(tuple(sorted(ordered[starts[begin] : starts[end]], key=rows.index)), shared))
        end = begin
    return best[-1][0], groups[::-1]
