"""Grouping of decode rows: a partition, in table order, that shares only what is common and full, and never for nothing."""

from __future__ import annotations

from hypothesis import example, given, strategies as st

from llmos.drivers.grouping import Group, group_rows

SLOTS = 4


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], list[int]]:
    """Page tables of a random forest of forks: each begins with a part of an earlier one, then goes its own way."""
    made: list[tuple[int, ...]] = []
    frame = 0
    for _ in range(draw(st.integers(1, 12))):
        parent = draw(st.sampled_from(made)) if made and draw(st.booleans()) else ()
        kept = parent[: draw(st.integers(0, len(parent)))]
        fresh = draw(st.integers(1 if len(kept) == 0 else 0, 8))
        made.append(kept + tuple(range(frame, frame + fresh)))
        frame += fresh
    # the last page of a row may be full already, or be the one it writes
    return made, [len(table) - draw(st.integers(0, 1)) for table in made]


def read(groups: list[Group], lengths: list[int]) -> int:
    """Slots read, with padding."""
    return SLOTS * sum(group.shared + len(group.rows) * (max(lengths[row] for row in group.rows) - group.shared) for group in groups)


@given(tables(), st.integers(1, 200))
@example(([(0, 1)] * 5, [2] * 5), 1)
def test_groups(made: tuple[list[tuple[int, ...]], list[int]], cost: int) -> None:
    rows, full = made
    groups = group_rows(rows, full, SLOTS, cost)
    assert sorted(row for group in groups for row in group.rows) == list(range(len(rows)))
    for group in groups:
        assert [rows[row] for row in group.rows] == sorted(rows[row] for row in group.rows)
        shared = rows[group.rows[0]][: group.shared]
        assert len(shared) == group.shared
        for row in group.rows:
            assert rows[row][: group.shared] == shared
            assert group.shared <= full[row]
        if len(group.rows) == 1 and sum(set(rows[row][:1]) == set(rows[group.rows[0]][:1]) for row in range(len(rows))) == 1:
            assert group.shared == 0, "nobody to share with"
    # never worse than all in one group that shares nothing
    alone = SLOTS * len(rows) * max(map(len, rows))
    assert read(groups, [len(table) for table in rows]) + cost * len(groups) <= alone + cost


def test_the_order_does_not_depend_on_the_order_of_the_rows() -> None:
    rows = [(1, 2, 3), (1, 2, 4), (9,), (1, 2, 5, 6), (7, 8)]
    groups = group_rows(rows, [len(row) for row in rows], 16, 8)
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        again = group_rows([rows[index] for index in order], [len(rows[index]) for index in order], 16, 8)
        assert [[rows[row] for row in group.rows] for group in groups] == [[rows[order[row]] for row in group.rows] for group in again]


def test_a_fork_shares_and_a_fork_of_a_fork_shares_more() -> None:
    trunk, branch = tuple(range(100)), tuple(range(100, 200))
    rows = [(*trunk, 300), (*trunk, 301), (*trunk, *branch, 302), (*trunk, *branch, 303)]
    groups = group_rows(rows, [len(row) - 1 for row in rows], 16, 100)
    assert sorted((group.rows, group.shared) for group in groups) == [((0, 1), 100), ((2, 3), 200)]
    dear = group_rows(rows, [len(row) - 1 for row in rows], 16, 1_000_000)
    assert [(group.rows, group.shared) for group in dear] == [((2, 3, 0, 1), 0)]


def test_lengths_are_cut_where_padding_costs_more_than_a_group() -> None:
    rows = [(0,) * 10, (1,) * 10, (2,) * 100, (3,) * 99]
    assert [set(group.rows) for group in group_rows(rows, [0] * 4, 16, 50)] == [{2, 3}, {0, 1}]
    assert [set(group.rows) for group in group_rows(rows, [0] * 4, 16, 100_000)] == [{0, 1, 2, 3}]
