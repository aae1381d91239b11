"""Regular expressions of strangers: how large their automata are, and that none holds Python's lock for long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, strategies as st

from llmos.syscalls.pattern import MOST_STATES, MOST_STEPS, can_tell, expression, matches, states


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("", 0),
        ("abc", 3),
        ("a{3}", 3),
        ("a{2,5}b", 6),
        ("a{3,}", 3),
        ("a{,5}", 5),  # text, to rust-regex
        ("(ab){10}", 20),
        ("((ab){10}c){10}", 210),
        ("[01]{1000}", 4000),
        (r"[\w-]{3}", 450),
        (r"\d{4}", 100),
        (r"\p{Greek}", 150),
        (r"\{3}", 3),
        ("[]a]{2}", 8),
        ("[[:alpha:]x]{2}", 8),
        ("(?:[01]*1[01]{1000}){9}x", MOST_STATES + 1),
        ("(((((a{10}){10}){10}){10}){10}){10}", MOST_STATES + 1),
        ("a{999999999}", MOST_STATES + 1),
        ("(" * 50, 0),
    ],
)
def test_how_many_states(pattern: str, size: int) -> None:
    assert states(pattern) == size


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        (r"^\d{4}-\d{2}-\d{2}$", "2026-11-23", "2026-11-2"),
        ("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", "01234567-89ab-cdef-0123-456789abcdef", "x"),
        (r"^[\w.%+-]+@[a-z0-9.-]+\.[a-z]{2,}$", "a.b@c.org", "a@b"),
        (r"^[\w-]{1,100}$", "a-b", "a b"),
        (r"^\p{Lu}", "Ä", "ä"),
        ("^.{1,500}$", "x" * 500, "x" * 501),
    ],
)
def test_what_people_use_is_matched(pattern: str, fits: str, does_not: str) -> None:
    assert matches(pattern, fits)
    assert not matches(pattern, does_not)


@pytest.mark.parametrize("pattern", ["(?=a)b", r"(a)\1", "a(", r"(\w{100}){20}$", "(a{1000}){1000}", "x" * 60_000])
def test_what_cannot_be_told_fits(pattern: str) -> None:
    assert not can_tell(pattern)
    assert matches(pattern, "anything")


def test_long_texts_are_matched_by_small_expressions_only() -> None:
    assert not matches("^a+$", "a" * 100_000 + "b")
    assert matches("^[ab]*a[ab]{1000}$", "a" * (MOST_STEPS // states("^[ab]*a[ab]{1000}$") + 1) + "c"), "that is left to the tool"
    assert not matches("^[ab]*a[ab]{1000}$", "aac")


SLOW = [
    "[01]*1[01]{2000}$",
    "[01]*1[01]{4900}x",
    "(?:[01]*1[01]{10}){400}x",
    "(a|aa|aaa)*(b|bb)*.*c{1000}",
    r"(\w+\s*){10}$",
    "(?i)(ab|cd){4000}$",
]


@pytest.mark.parametrize("pattern", SLOW)
def test_nothing_takes_long(pattern: str) -> None:
    """Seconds, without a bound: 200,000 characters against two thousand states."""
    began = time.thread_time()
    expression(pattern)
    length = MOST_STEPS // states(pattern)
    for text in ("01" * 100_000, "01" * (length // 2), "a" * length, "a " * (length // 2)):
        matches(pattern, text)
    assert time.thread_time() - began < 0.5, "on a machine however busy"


@given(st.text("a(){}[]^\\|*+?,0129wpd{}-:", max_size=40))
def test_any_text_has_a_size(pattern: str) -> None:
    assert 0 <= states(pattern) <= MOST_STATES + 1
    assert states(pattern + "b") >= min(states(pattern), 1)
