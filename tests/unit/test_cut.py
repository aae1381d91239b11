"""Cuts: what is kept, what the mark says, and that both ways of cutting agree on how much is missing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from llmos.syscalls.cut import Collected, cut, mark

MARK = re.compile(r"\n\[\.\.\. ([\d,]+) bytes cut \.\.\.\]\n")


@pytest.mark.parametrize("size", [999, 1000, 1001, 100_000])
def test_at_the_bound(size: int) -> None:
    text, missing = cut("x" * size, 1000)
    assert (missing == 0) == (size <= 1000)
    assert len(text) <= 1000
    assert missing + text.count("x") == size


def test_the_mark_says_how_much() -> None:
    assert mark(9_999_000) == "\n[... 9,999,000 bytes cut ...]\n"


@given(st.text(max_size=400), st.integers(100, 300))
def test_text(text: str, most: int) -> None:
    short, missing = cut(text, most)
    assert len(short.encode()) <= most or not missing
    if missing:
        found = MARK.search(short)
        assert found is not None
        head, tail = short[: found.start()], short[found.end() :]
        assert text.startswith(head)
        assert text.endswith(tail)
        assert int(found[1].replace(",", "")) == missing == len(text.encode()) - len(head.encode()) - len(tail.encode())
    else:
        assert short == text


@given(st.lists(st.binary(max_size=200), max_size=10), st.integers(100, 300))
def test_bytes_in_pieces(pieces: list[bytes], most: int) -> None:
    collected, whole = Collected(most), b"".join(pieces)
    for piece in pieces:
        collected.add(piece)
    text, missing = collected.text()
    if len(whole) <= most:
        assert (text, missing) == (whole.decode(errors="replace"), 0)
    else:
        kept = len(whole) - missing
        head, tail = kept - kept // 2, kept // 2
        assert text == whole[:head].decode(errors="replace") + mark(missing) + whole[len(whole) - tail :].decode(errors="replace")


def test_what_is_collected_takes_little_memory() -> None:
    collected = Collected(1000)
    for _ in range(10_000):
        collected.add(b"x" * 1000)
    assert sum(map(len, collected._tail)) + len(collected._head) < 4000
    assert collected.text()[1] > 9_999_000
