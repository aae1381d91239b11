"""The native driver's attention over pages, against float64, on every instruction set that this machine has."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from native import ISAS, Bits, Cache, Functions, Sight, at, attend, functions, in_levels, rounded, wide

from llmos.drivers.cpu.compiler import Isa
from llmos.drivers.cpu.pages import Kv
from llmos.drivers.weights import to_bf16

LAYERS, LAYER, KV_HEADS, HEADS = 2, 1, 2, 6
LONGEST = 420
"""Slots of a context: four segments of 128, the last one begun."""


@pytest.fixture(params=ISAS)
def native(request: pytest.FixtureRequest) -> Functions:
    isa: Isa = request.param
    return functions(isa)


@pytest.fixture(params=["bf16", "int8"])
def kv(request: pytest.FixtureRequest) -> Kv:
    found: Kv = request.param
    return found


class Pages:
    """Keys and values of some contexts in pages, and plainly."""

    def __init__(
        self, native: Functions, kv: Kv, width: int, slots: int = 16, contexts: int = 1, length: int = LONGEST, seed: int = 0
    ) -> None:
        self.native, self.kv, self.width, self.slots = native, kv, width, slots
        random = np.random.default_rng(seed)
        each = -(-length // slots)
        size = slots * width if kv == "bf16" else slots * (width + 4) // 2
        self.memory = np.full((each * contexts, LAYERS * KV_HEADS * 2 * size), 0x7FC0, np.uint16)
        """Frames that nobody has used hold what is no number: neither as bfloat16, nor, two of it, as a scale."""
        self.cache = Cache(at(self.memory), LAYERS, KV_HEADS, width, slots, kv == "int8")
        self.frames = random.permutation(each * contexts).reshape(contexts, each).tolist()
        self.keys = random.normal(0, 2, (contexts, length, KV_HEADS, width)).astype(np.float32)
        self.values = random.normal(0, 1, (contexts, length, KV_HEADS, width)).astype(np.float32)
        for context in range(contexts):
            self.fill(context, range(length))

    def fill(self, context: int, positions: Sequence[int]) -> None:
        for position in positions:
            for head in range(KV_HEADS):
                page, slot = divmod(position, self.slots)
                key, value = self.keys[context, position, head], self.values[context, position, head]
                self.native.write(self.cache, self.frames[context][page], slot, LAYER, head, key, value)

    def queries(self, tokens: int, seed: int = 5) -> Bits:
        return to_bf16((np.random.default_rng(seed).normal(0, 1, (tokens, HEADS, self.width)) * self.width**-0.5).astype(np.float32))

    def expected(self, context: int, queries: Bits, position: int, window: int) -> np.ndarray:
        share = HEADS // KV_HEADS
        held = rounded if self.kv == "bf16" else in_levels
        keys, values = (np.repeat(held(array[context]), share, 1) for array in (self.keys, self.values))
        end = position + len(queries)
        return attend(wide(queries).astype(np.float64), keys[:end], values[:end], range(position, end), window)


def near(got: Bits, expected: np.ndarray) -> None:
    """Weights and the result are rounded to 8 bits; values are about 1."""
    assert np.isfinite(wide(got)).all()
    error = np.abs(wide(got) - expected)
    assert error.max() < 0.012, f"{error.max():.4f} at {np.unravel_index(error.argmax(), error.shape)}"
    assert np.sqrt((error**2).mean()) < 0.0022


@pytest.mark.parametrize("width", [16, 32, 48, 64, 80, 112, 128, 256])
def test_decodes(native: Functions, kv: Kv, width: int) -> None:
    """One token at positions on both sides of every border of pages and segments."""
    pages = Pages(native, kv, width)
    for position in (0, 1, 14, 15, 16, 17, 63, 64, 127, 128, 129, 143, 255, 256, 257, 383, 384, 419):
        queries = pages.queries(1, position)
        got = native.attention(pages.cache, [Sight(1, position, pages.frames[0])], queries, LAYER, 0)
        near(got, pages.expected(0, queries, position, 0))


@pytest.mark.parametrize(("width", "slots"), [(16, 16), (48, 64), (64, 16), (64, 128), (80, 32), (256, 16)])
def test_chunks(native: Functions, kv: Kv, width: int, slots: int) -> None:
    pages = Pages(native, kv, width, slots)
    for position, count in ((0, 2), (0, 129), (1, 16), (100, 57), (127, 2), (250, 17), (256, 164)):
        queries = pages.queries(count, position)
        got = native.attention(pages.cache, [Sight(count, position, pages.frames[0])], queries, LAYER, 0)
        near(got, pages.expected(0, queries, position, 0))


@pytest.mark.parametrize("window", [1, 2, 16, 17, 100, 128, 129, 300, 10_000])
def test_windows(native: Functions, kv: Kv, window: int) -> None:
    pages = Pages(native, kv, 32)
    for position, count in ((0, 1), (5, 1), (127, 1), (128, 1), (300, 1), (419, 1), (0, 140), (120, 20), (390, 30)):
        queries = pages.queries(count, position)
        got = native.attention(pages.cache, [Sight(count, position, pages.frames[0])], queries, LAYER, window)
        near(got, pages.expected(0, queries, position, window))


@pytest.mark.parametrize("width", [16, 48, 64])
@pytest.mark.parametrize("window", [0, 40, 200])
def test_a_row_is_the_same_bits_in_any_company(native: Functions, kv: Kv, window: int, width: int) -> None:
    """Twins of one context, strangers, decodes, chunks and what was cut from them, with 1, 2 and 3 threads."""
    pages = Pages(native, kv, width, contexts=3)
    first, second, third = pages.frames
    forked = [*first[:17], *third[17:]]  # the first 272 slots are the first context's: two segments are shared
    rows = [
        Sight(1, 300, first), Sight(1, 301, forked), Sight(1, 419, forked), Sight(1, 260, second), Sight(30, 290, third),
        Sight(1, 300, first), Sight(130, 0, second), Sight(1, 3, first), Sight(2, 255, first), Sight(1, 256, forked),
    ]  # fmt: skip
    queries = pages.queries(sum(row.count for row in rows))
    starts = np.cumsum([0, *(row.count for row in rows)])
    queries[starts[5]] = queries[starts[0]]  # the same row twice
    alone = []
    for row, start in zip(rows, starts, strict=False):
        parts = [
            native.attention(pages.cache, [Sight(1, row.position + token, row.frames)], queries[start + token, None].copy(), LAYER, window)
            for token in range(row.count)
        ]
        alone.append(np.concatenate(parts))
    assert np.array_equal(alone[0], alone[5])
    random = np.random.default_rng(window)
    for threads in (1, 2, 3):
        for _ in range(6):
            order = random.permutation(len(rows))[: random.integers(1, len(rows) + 1)]
            given = np.concatenate([queries[starts[index] : starts[index + 1]] for index in order])
            got = native.attention(pages.cache, [rows[index] for index in order], given, LAYER, window, threads)
            assert np.array_equal(got, np.concatenate([alone[index] for index in order]))


def test_sharp_and_huge_scores(native: Functions, kv: Kv) -> None:
    """One key wins by far in another segment than the query's; all scores equal; scores beyond what exp can hold."""
    pages = Pages(native, kv, 32)
    pages.keys[0, 70, :] *= 40
    pages.fill(0, range(64, LONGEST))
    queries = pages.queries(1)
    got = native.attention(pages.cache, [Sight(1, 400, pages.frames[0])], queries, LAYER, 0)
    near(got, pages.expected(0, queries, 400, 0))
    zero = np.zeros_like(queries)
    near(native.attention(pages.cache, [Sight(1, 400, pages.frames[0])], zero, LAYER, 0), pages.expected(0, zero, 400, 0))
    huge = to_bf16(wide(queries) * np.float32(1e6))
    near(native.attention(pages.cache, [Sight(1, 400, pages.frames[0])], huge, LAYER, 0), pages.expected(0, huge, 400, 0))


def test_a_frame_forgets_who_had_it_before(native: Functions, kv: Kv) -> None:
    """Slots behind the last token of a page hold what is no number until a page's first slot is written."""
    pages = Pages(native, kv, 16)
    pages.memory[pages.frames[0][6]] = 0xFFFF
    pages.fill(0, range(96, 99))
    queries = pages.queries(3)
    got = native.attention(pages.cache, [Sight(3, 96, pages.frames[0])], queries, LAYER, 0)
    near(got, pages.expected(0, queries, 96, 0))
    got = native.attention(pages.cache, [Sight(1, 98, pages.frames[0])], queries[2:].copy(), LAYER, 0)
    near(got, pages.expected(0, queries[2:], 98, 0))


@pytest.mark.parametrize("count", [1, 5])
def test_a_query_that_is_no_number_gives_none(native: Functions, kv: Kv, count: int) -> None:
    """Never what an earlier step left in memory: the driver refuses logits only if they are no numbers."""
    pages = Pages(native, kv, 32)
    for position in (*range(33), 126, 127, 128, 200, 300):
        queries = pages.queries(count)
        native.attention(pages.cache, [Sight(count, position, pages.frames[0])], queries, LAYER, 0)
        queries[:] = 0x7FC0
        got = native.attention(pages.cache, [Sight(count, position, pages.frames[0])], queries, LAYER, 0)
        assert not np.isfinite(wide(got)).any(), f"at {position}"


def test_a_key_or_value_that_is_no_number_gives_none(native: Functions, kv: Kv) -> None:
    """A damaged page must not look like a token that nobody attends to."""
    wrong = [np.nan] if kv == "bf16" else [np.nan, np.inf, -np.inf]  # what becomes of an infinite score depends on its sign
    for position, none in itertools.product((5, 40, 200), wrong):
        for what in ("keys", "values"):
            for place in (0, position // 2, position):
                pages = Pages(native, kv, 32, length=position + 1)
                getattr(pages, what)[0, place, 0] = none
                pages.fill(0, range(place // 16 * 16, position + 1))
                got = native.attention(pages.cache, [Sight(1, position, pages.frames[0])], pages.queries(1), LAYER, 0)
                numbers = int(np.isfinite(wide(got)[0, : HEADS // KV_HEADS]).sum())
                assert not numbers, f"{numbers} numbers though {what} of {place} are none, at {position}"


@pytest.mark.parametrize(("width", "slots"), [(16, 16), (48, 32), (64, 16), (80, 128), (256, 16)])
def test_levels_and_scales_lie_where_pages_say(native: Functions, width: int, slots: int) -> None:
    """Every byte of a page, against what numpy makes of the same keys and values."""
    length = slots + 3
    pages = Pages(native, "int8", width, slots, length=length)
    pages.keys[0, 1, 0] = 0  # of nothing but zeros
    pages.values[0, 2, 1] *= 1e-38
    pages.keys[0, 2, 1] *= 1e30
    pages.fill(0, range(length))
    size = 2 * slots * (width + 4)
    for page, filled in enumerate((slots, 3)):
        parts = pages.memory[pages.frames[0][page]].view(np.uint8).reshape(LAYERS, KV_HEADS, size)[LAYER]
        for head, part in enumerate(parts):
            numbers = np.zeros((2, slots, width), np.float32)
            for which, array in enumerate((pages.keys, pages.values)):
                numbers[which, :filled] = array[0, page * slots :][:filled, head]
            scales = part[: 8 * slots].view(np.float32).reshape(2, slots)
            assert np.allclose(scales, np.abs(numbers).max(-1) / 127, rtol=1e-6, atol=0)
            levels = part[8 * slots :].view(np.int8)
            keys = levels[: slots * width].reshape(width // 2, slots, 2).transpose(1, 0, 2).reshape(slots, width)
            values = levels[slots * width :].reshape(slots // 2, width, 2).transpose(0, 2, 1).reshape(slots, width)
            for got, scale, expected in zip((keys, values), scales, numbers, strict=True):
                normal = scale > 1e-35
                assert not got[~normal].any()
                assert np.abs(got).max() == 127
                assert (np.abs(got[normal] * scale[normal, None] - expected[normal]) <= scale[normal, None] * 0.5001).all()
