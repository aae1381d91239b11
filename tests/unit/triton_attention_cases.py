"""Decode attention under Triton's interpreter against float64. test_triton_attention.py runs this file in a process of its own.

Every pool is NaN wherever no token was written, and unused page-table entries name frames that do not exist: a read of either shows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest
import torch

from llmos.drivers.triton.decode_attention import INTERPRETED, HeadShape, decode_attention, prepare
from llmos.drivers.triton.oracle import lay_out, paged_attention
from llmos.drivers.triton.splits import SplitPlan, plan_splits

TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
CPU = torch.device("cpu")


def test_the_interpreter_runs() -> None:
    assert INTERPRETED


class Batch:
    """Random contexts of the given lengths in pages, and one query per context."""

    def __init__(self, shape: HeadShape, lengths: Sequence[int], *, seed: int = 0, shared: int = 0, spread: float = 1.0) -> None:
        draw = torch.Generator().manual_seed(seed)
        contexts = []
        for n in lengths:
            k, v = torch.randn(2, n, shape.kv_heads, shape.width, generator=draw).mul(spread).to(shape.dtype).unbind()
            contexts.append((k, v))
        common = shared * shape.page_slots
        for k, v in contexts[1:]:
            k[:common] = contexts[0][0][: min(common, len(k))]
            v[:common] = contexts[0][1][: min(common, len(v))]
        self.shape, self.lengths, self.layer = shape, lengths, 1
        self.pool, self.frames = lay_out(
            contexts, page_slots=shape.page_slots, layers=2, layer=self.layer, shared=shared, spare=2, seed=seed
        )
        self.query = torch.randn(len(lengths), shape.heads, shape.width, generator=draw).mul(spread).to(shape.dtype)
        self.scale = shape.width**-0.5

    def plan(self, *, window: int | None = None, split_tokens: int | None = None, processors: int = 4) -> SplitPlan:
        return plan_splits(
            self.lengths,
            kv_heads=self.shape.kv_heads,
            tile=self.shape.tile,
            processors=processors,
            window=window,
            split_tokens=split_tokens,
        )

    def attend(self, plan: SplitPlan) -> torch.Tensor:
        out = torch.full(self.query.shape, float("nan"))
        workspace = prepare(plan, self.shape, CPU)
        workspace.partial_out.fill_(float("nan"))
        workspace.partial_weight.fill_(float("nan"))
        decode_attention(self.query, self.pool, self.layer, self.frames, workspace, out, scale=self.scale)
        return out

    def check(self, plan: SplitPlan, window: int | None = None) -> None:
        expected = paged_attention(self.query, self.pool, self.layer, self.frames, self.lengths, scale=self.scale, window=window)
        assert not expected.isnan().any()
        torch.testing.assert_close(self.attend(plan).double(), expected, rtol=0, atol=TOLERANCE[self.shape.dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("page", [16, 32, 64])
def test_lengths_about_a_page(page: int, dtype: torch.dtype) -> None:
    batch = Batch(HeadShape(2, 1, 64, page, dtype), [1, page - 1, page, page + 1, 0, 2 * page + 5], seed=page)
    batch.check(batch.plan(split_tokens=page))


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (8, 2), (8, 1), (20, 1)])
def test_query_heads_per_kv_head(heads: int, kv_heads: int) -> None:
    batch = Batch(HeadShape(heads, kv_heads, 32, 16, torch.float32), [37, 70], seed=heads)
    batch.check(batch.plan(split_tokens=32))


@pytest.mark.parametrize("width", [16, 64, 80, 96, 128, 256])
def test_head_widths(width: int) -> None:
    batch = Batch(HeadShape(3, 1, width, 32, torch.float32), [33, 5], seed=width)
    batch.check(batch.plan(split_tokens=16))


@pytest.mark.parametrize("split_tokens", [None, 64, 500])
def test_long_context_in_many_splits(split_tokens: int | None) -> None:
    """1,500 tokens: whole, in more partial results than the merge reads at once, and in three."""
    batch = Batch(HeadShape(4, 1, 64, 64, torch.bfloat16), [1500, 3], seed=1)
    plan = batch.plan(split_tokens=split_tokens, processors=1 if split_tokens is None else 132)
    assert len(plan.merges) == (0 if split_tokens is None else 1)
    batch.check(plan)


@pytest.mark.parametrize("window", [1, 16, 40, 1000])
@pytest.mark.parametrize("split_tokens", [None, 16])
def test_sliding_window(window: int, split_tokens: int | None) -> None:
    batch = Batch(HeadShape(2, 1, 32, 16, torch.float32), [100, 16, 17, 0], seed=window)
    batch.check(batch.plan(window=window, split_tokens=split_tokens), window=window)


def test_rows_share_pages() -> None:
    batch = Batch(HeadShape(4, 2, 32, 16, torch.float16), [53, 80, 33], shared=2)
    assert (batch.frames[:, :2] == batch.frames[0, :2]).all()
    batch.check(batch.plan(split_tokens=32))


@pytest.mark.parametrize("seed", range(6))
def test_random_batches(seed: int) -> None:
    draw = random.Random(seed)
    kv_heads = draw.choice([1, 2])
    dtype = draw.choice(list(TOLERANCE))
    shape = HeadShape(kv_heads * draw.choice([1, 3, 4]), kv_heads, draw.choice([16, 32, 48]), draw.choice([16, 32, 64]), dtype)
    batch = Batch(shape, [draw.choice([0, 1, *draw.sample(range(120), 3)]) for _ in range(draw.randrange(2, 5))], seed=seed)
    window = draw.choice([None, draw.randrange(1, 100)])
    batch.check(batch.plan(window=window, split_tokens=draw.choice([None, 16, 50])), window)


def test_large_scores_do_not_overflow() -> None:
    """Scores of some tens of thousands: one token takes all the weight."""
    batch = Batch(HeadShape(2, 1, 64, 16, torch.float32), [40, 50], spread=100.0)
    expected = paged_attention(batch.query, batch.pool, batch.layer, batch.frames, batch.lengths, scale=batch.scale)
    torch.testing.assert_close(batch.attend(batch.plan(split_tokens=16)).double(), expected, rtol=1e-5, atol=1e-3)


def test_empty_splits_weigh_nothing() -> None:
    """Items without a token beside items with some, and a row that has only empty ones: zeros, no NaN."""
    batch = Batch(HeadShape(2, 1, 32, 16, torch.float32), [40, 0])
    work = [[0, 0, 32, 1], [0, 32, 40, 3], [0, 40, 40, 0], [0, 16, 16, 2], [1, 0, 0, 4], [1, 0, 0, 5]]
    merges = [[0, 0, 4], [1, 4, 2]]
    batch.check(SplitPlan(numpy.array(work, numpy.int32), numpy.array(merges, numpy.int32), partials=6, rows=2, longest=40))


def test_result_of_a_row_depends_on_itself_only_where_splits_do() -> None:
    """With a fixed size of splits a row is cut, summed and merged alike, whoever else is in the batch: equal bit for bit."""
    shape = HeadShape(6, 2, 32, 16, torch.bfloat16)
    batch = Batch(shape, [100, 37, 64])
    together = batch.attend(batch.plan(split_tokens=32))
    for row, length in enumerate(batch.lengths):
        batch.lengths = [length]
        alone = torch.full((1, 6, 32), float("nan"))
        workspace = prepare(batch.plan(split_tokens=32), shape, CPU)
        query, frames = batch.query[row : row + 1], batch.frames[row : row + 1]
        decode_attention(query, batch.pool, batch.layer, frames, workspace, alone, scale=batch.scale)
        assert torch.equal(alone[0], together[row])


def test_query_may_be_a_view_of_a_projection() -> None:
    batch = Batch(HeadShape(4, 2, 32, 16, torch.float32), [20, 30])
    joined = torch.full((2, 8, 32), float("nan"))
    joined[:, :4] = batch.query
    batch.query = joined[:, :4]
    batch.check(batch.plan())


def test_frames_beyond_two_to_the_31_elements(tmp_path: Path) -> None:
    """A pool of 4 GiB in a file with holes: only the pages that are written take room."""
    shape = HeadShape(2, 1, 16, 16, torch.float16)
    batch = Batch(shape, [20])
    page, stride = batch.pool[0].numel(), 1 << 30
    flat = torch.from_file(str(tmp_path / "pool"), shared=True, size=2 * stride + page, dtype=shape.dtype)
    far = flat.as_strided((3, *batch.pool.shape[1:]), (stride, *batch.pool.stride()[1:]))
    far[2] = batch.pool[batch.frames[0, 0]]
    far[1] = batch.pool[batch.frames[0, 1]]
    expected = paged_attention(batch.query, batch.pool, 1, batch.frames, [20], scale=batch.scale)
    batch.pool, batch.frames = far, torch.tensor([[2, 1]], dtype=torch.int32)
    torch.testing.assert_close(batch.attend(batch.plan()).double(), expected, rtol=0, atol=1e-3)
