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


def group_rows(tables: Sequence[Sequence[int]], full: Sequence[int], slots: int, cost: int) -> list[Group]:
    """Partition rows into groups.

    tables: per row the frames it attends to. full: per row how many of its leading pages are full of tokens it may
    see (only these can be shared, as they need no mask). slots: tokens in a page. cost: of one more group, in slots.
    """
    groups: list[Group] = []
    alone: list[int] = []
    order = sorted(range(len(tables)), key=lambda row: tuple(tables[row]))
    for rows, shared in _families(tables, full, slots, cost, order)[1]:
        if shared:
            groups += _by_length(tables, slots, cost, rows, shared)
        else:
            alone += rows
    return groups + _by_length(tables, slots, cost, alone, 0)


def _common(first: Sequence[int], second: Sequence[int], limit: int) -> int:
    """Length of the common prefix, at most `limit`."""
    for index in range(min(limit, len(first), len(second))):
        if first[index] != second[index]:
            return index
    return min(limit, len(first), len(second))


def _families(
    tables: Sequence[Sequence[int]], full: Sequence[int], slots: int, cost: int, rows: list[int]
) -> tuple[int, list[tuple[list[int], int]]]:
    """The best way to share for rows in table order: slots saved, and the (rows, shared pages) of each family.

    Either all rows share what all have in common, or the rows are cut where neighbours have least in common and each
    part does its best by itself: forks of forks share the longer prefix of their branch if that saves more.
    """
    if len(rows) < 2:
        return 0, [(rows, 0)]
    common = [_common(tables[a], tables[b], min(full[a], full[b])) for a, b in pairwise(rows)]
    least = min(common)
    whole = (len(rows) - 1) * least * slots - cost
    parts: list[tuple[list[int], int]] = []
    apart, start = 0, 0
    if max(common) > least or least == 0:
        cuts = [index + 1 for index, shared in enumerate(common) if shared == least]
        for end in [*cuts, len(rows)]:
            saved, families = _families(tables, full, slots, cost, rows[start:end])
            apart, parts, start = apart + saved, parts + families, end
    if whole > apart:
        return whole, [(rows, least)]
    return apart, parts or [(rows, 0)]


def _by_length(tables: Sequence[Sequence[int]], slots: int, cost: int, rows: list[int], shared: int) -> list[Group]:
    """Cut rows into runs of similar length, so that padding plus groups cost least (a shortest path over sorted lengths)."""
    if not rows:
        return []
    order, rows = rows, sorted(rows, key=lambda row: -len(tables[row]))
    lengths = [len(tables[row]) - shared for row in rows]
    starts = [index for index in range(len(rows)) if index == 0 or lengths[index] != lengths[index - 1]] + [len(rows)]
    best: list[tuple[int, int]] = [(0, 0)]  # per number of runs of equal length: least cost so far, where its last group starts
    again = shared * slots  # a second group of one family reads the shared pages again
    for end in range(1, len(starts)):
        best.append(
            min(
                (best[begin][0] + (starts[end] - starts[begin]) * lengths[starts[begin]] * slots + cost + again, begin)
                for begin in range(end)
            )
        )
    groups: list[Group] = []
    end = len(starts) - 1
    while end > 0:
        begin = best[end][1]
        groups.append(Group(tuple(sorted(rows[starts[begin] : starts[end]], key=order.index)), shared))
        end = begin
    return groups[::-1]
