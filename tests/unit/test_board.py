"""What top shows and does, and the tree: rates, order, keys, and every size of screen."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, strategies as st

from llmos.kernel.process import Class
from llmos.kernel.view import DeviceStatistics, ProcessView, Statistics
from llmos.shell.board import COLUMNS, HELP, Board, Order, count, fitted
from llmos.shell.family import branches
from llmos.syscalls.results import SystemStatistics

DEVICE = DeviceStatistics("cpu", *[0] * (len(dataclasses.fields(DeviceStatistics)) - 1))
NOW = SystemStatistics(61.0, 5, 0, 1, Statistics(3, 1, 9, (dataclasses.replace(DEVICE, device_total=100, device_free=60),)))


def process(pid: int, parent: int = 1, tokens: int = 0, **more: object) -> ProcessView:
    known = {
        "state": "running",
        "waiting_for": "",
        "cls": Class.NORMAL,
        "nice": 0,
        "wall": 10.0,
        "status": None,
        "name": f"p{pid}",
        "started": float(pid),
        "own_tokens": tokens,
    }
    return ProcessView(
        pid=pid,
        parent=parent,
        user="me",
        tokens=tokens,
        device_pages=3,
        host_pages=1,
        **(known | more),  # type: ignore[arg-type]
    )


def board(*processes: ProcessView) -> Board:
    made = Board()
    made.take(list(processes), NOW, 100.0)
    return made


def text(lines: list[list[tuple[str, str]]]) -> list[str]:
    return ["".join(piece for _, piece in line) for line in lines]


def test_rates_are_of_the_time_between_two_looks() -> None:
    made = board(process(1, 0, 100, own_tokens=0), process(2, 1, 100))
    assert {row.process.pid: row.rate for row in made.rows} == {1: 0.0, 2: 10.0}  # of its ten seconds
    made.take([process(1, 0, 160, own_tokens=0), process(2, 1, 160), process(3, 1, 0, wall=0.0)], NOW, 102.0)
    assert {row.process.pid: row.rate for row in made.rows} == {1: 0.0, 2: 30.0, 3: 0.0}
    assert {row.process.pid: row.share for row in made.rows} == {1: 0.0, 2: 1.0, 3: 0.0}
    made.take(
        [process(1, 0, 165), process(2, 1, 5, started=101.5, wall=0.5)], NOW, 102.0
    )  # a pid that was given again, and no time between
    assert all(row.rate >= 0 for row in made.rows)


def test_the_order_follows_the_keys() -> None:
    made = board(process(2, tokens=10), process(3, tokens=500), process(4, tokens=90))
    assert [row.process.pid for row in made.ordered()] == [3, 4, 2]
    made.press("r")
    assert [row.process.pid for row in made.ordered()] == [2, 4, 3]
    seen = set()
    for _ in range(len(COLUMNS) + 1):
        made.press(">")
        seen.add(made.order)
        assert len(made.ordered()) == 3
    assert seen == set(range(len(COLUMNS) + 1))
    made.press("<")
    assert made.order in seen


def test_keys_ask_and_order() -> None:
    made = board(process(2, tokens=9), process(3, tokens=5), process(4, tokens=1))
    made.lines(80, 24)
    for key in ("down", "down", "down", "up"):
        assert made.press(key) is None
    assert made.press("k") is None
    assert "signal for 3 [TERM]: _" in text(made.lines(80, 24))[-1]
    assert made.press("enter") == Order("kill", 3, "TERM")
    for key in ("k", "K", "x", "backspace", "I", "L", "L"):
        assert made.press(key) is None
    assert made.press("c-m") == Order("kill", 3, "KILL")
    for key in ("n", "-", "5"):
        made.press(key)
    assert made.press("enter") == Order("nice", 3, "-5")
    made.press("n")
    assert made.press("enter") is None
    made.press("k")
    assert made.press("escape") is None
    assert made.press("k") is None
    assert made.press("c-c") == Order("leave")
    made.press("escape")
    assert made.press("?") is None
    assert made.help
    made.press("x")
    assert not made.help
    made.press(" ")
    assert made.held
    assert made.press("q") == Order("leave")


def test_what_is_typed_is_bounded_and_no_key_is_an_error() -> None:
    made = board(process(2))
    made.press("k")
    for _ in range(100):
        made.press("x")
    assert made.press("enter") == Order("kill", 2, "x" * 8)
    empty = board()
    for key in ("k", "n", "up", "end", "enter", "é", "f5", "<", "r", "?", "?"):
        assert empty.press(key) is None
    assert empty.lines(80, 24)


def test_the_chosen_process_stays_chosen_and_in_sight() -> None:
    made = board(*(process(pid, tokens=pid) for pid in range(2, 102)))
    made.lines(80, 10)
    made.press("end")
    shown = text(made.lines(80, 10))
    assert any(line.startswith("    2 ") for line in shown)
    made.take([process(pid, tokens=1000 - pid) for pid in range(2, 102)], NOW, 101.0)
    assert any(line.startswith("    2 ") for line in text(made.lines(80, 10)))
    made.take([process(50)], NOW, 102.0)  # the others have ended
    made.press("k")
    assert made.press("enter") == Order("kill", 50, "TERM")


names = st.text(max_size=40)


@given(st.integers(1, 220), st.integers(1, 60), st.lists(names, max_size=30), st.sampled_from(["", "?", "k", "end"]))
def test_it_fits_every_screen(width: int, height: int, called: list[str], key: str) -> None:
    made = board(*(process(pid, tokens=10**pid, name=name, wall=10.0**pid) for pid, name in enumerate(called, 2)))
    if key:
        made.press(key)
    for lines in (made.lines(width, height), made.lines(width, height)):
        assert len(lines) == height
        assert all(len(line) <= width for line in text(lines))
        assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for line in text(lines) for c in line)


def test_a_small_screen_has_names_and_a_wide_one_users() -> None:
    made = board(process(2, name="summarise", state="blocked", waiting_for="approval"))
    narrow, wide = (text(made.lines(width, 24)) for width in (80, 120))
    assert any("summarise" in line and "blocked:appr…" in line for line in narrow)
    assert "USER" not in "".join(narrow)
    assert "USER" in "".join(wide)
    assert "pages 40 of 100" in wide[1]
    assert any("summarise" in line for line in made.plain(120))
    made.press("?")
    assert all(any(what in line for line in text(made.lines(120, 24))) for _, what in HELP)


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (99_999, "99999"), (100_000, "100k"), (123_456_789, "123M"), (10**13, "10000G")])
def test_numbers_take_six_columns(value: int, shown: str) -> None:
    assert count(value) == shown
    assert len(shown) <= 6


def test_text_that_is_cut_says_so() -> None:
    assert (fitted("abcdef", 6), fitted("abcdef", 5), fitted("abcdef", 1), fitted("abcdef", 0)) == ("abcdef", "abcd…", "a", "")


def test_the_tree() -> None:
    family = [process(1, 0), process(2, 1), process(5, 2), process(3, 1), process(4, 2), process(9, 77)]
    assert [(lead, each.pid) for lead, each in branches(family)] == [
        ("", 1),
        ("├─ ", 2),
        ("│  ├─ ", 4),
        ("│  └─ ", 5),
        ("└─ ", 3),
        ("", 9),
    ]


def test_a_tree_as_deep_as_it_likes() -> None:
    family = [process(pid, pid - 1) for pid in range(1, 3000)]
    drawn = branches(family)
    assert len(drawn) == len(family)
    assert max(len(lead) for lead, _ in drawn) < 300
