"""Decode attention on a real GPU against float64: sizes that the interpreter cannot reach, and what only a GPU has."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

pytest.importorskip("torch")

import torch

pytest.importorskip("triton", reason="the extra `gpu` is not installed")

from llmos.drivers.triton.decode_attention import INTERPRETED, HeadShape, Workspace, _attend, decode_attention, prepare
from llmos.drivers.triton.oracle import lay_out, paged_attention
from llmos.drivers.triton.splits import plan_splits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET is set"),
]

TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
LLAMA, QWEN, SMOL, MHA = (32, 8, 128), (16, 8, 128), (9, 3, 64), (12, 12, 80)


class Batch:
    """Random contexts of the given lengths in pages on the GPU, one query and one output row per context."""

    def __init__(self, shape: HeadShape, lengths: Sequence[int], *, shared: int = 0) -> None:
        self.shape, self.lengths, self.layer = shape, list(lengths), 1
        self.device = torch.device("cuda", torch.cuda.current_device())
        draw = torch.Generator(self.device).manual_seed(sum(lengths))
        contexts = []
        for n in lengths:
            k, v = torch.randn(2, n, shape.kv_heads, shape.width, generator=draw, device=self.device).to(shape.dtype).unbind()
            contexts.append((k, v))
        for k, v in contexts[1:]:
            k[: shared * shape.page_slots] = contexts[0][0][: shared * shape.page_slots]
            v[: shared * shape.page_slots] = contexts[0][1][: shared * shape.page_slots]
        self.pool, self.frames = lay_out(contexts, page_slots=shape.page_slots, layers=3, layer=self.layer, shared=shared, spare=3)
        self.query = torch.randn(len(lengths), shape.heads, shape.width, generator=draw, device=self.device).to(shape.dtype)
        self.out = torch.full(self.query.shape, float("nan"), device=self.device)

    def prepare(self, *, window: int | None = None, split_tokens: int | None = None) -> Workspace:
        processors = torch.cuda.get_device_properties(self.device).multi_processor_count
        shape = self.shape
        plan = plan_splits(
            self.lengths, kv_heads=shape.kv_heads, tile=shape.tile, processors=processors, window=window, split_tokens=split_tokens
        )
        return prepare(plan, shape, self.device)

    def attend(self, workspace: Workspace) -> torch.Tensor:
        decode_attention(self.query, self.pool, self.layer, self.frames, workspace, self.out, scale=self.shape.width**-0.5)
        return self.out

    def check(self, out: torch.Tensor, window: int | None = None) -> None:
        scale = self.shape.width**-0.5
        expected = paged_attention(self.query, self.pool, self.layer, self.frames, self.lengths, scale=scale, window=window)
        torch.testing.assert_close(out.double(), expected, rtol=0, atol=TOLERANCE[self.shape.dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("page", [16, 32, 64])
@pytest.mark.parametrize("heads", [LLAMA, QWEN, SMOL, MHA], ids=str)
def test_against_float64(heads: tuple[int, int, int], page: int, dtype: torch.dtype) -> None:
    batch = Batch(HeadShape(*heads, page, dtype), [1, page - 1, page, page + 1, 0, 777, 4097])
    batch.check(batch.attend(batch.prepare()))


@pytest.mark.parametrize("split_tokens", [None, 64, 1000])
def test_one_long_context(split_tokens: int | None) -> None:
    batch = Batch(HeadShape(*LLAMA, 64, torch.bfloat16), [50_001])
    workspace = batch.prepare(split_tokens=split_tokens)
    assert workspace.plan.partials > 16
    batch.check(batch.attend(workspace))


@pytest.mark.parametrize("window", [1, 100, 4096])
def test_sliding_window(window: int) -> None:
    batch = Batch(HeadShape(*QWEN, 32, torch.bfloat16), [9000, 50, 0])
    batch.check(batch.attend(batch.prepare(window=window)), window)


def test_rows_share_pages() -> None:
    batch = Batch(HeadShape(*LLAMA, 64, torch.bfloat16), [3000 + n for n in range(24)], shared=46)
    batch.check(batch.attend(batch.prepare()))


def test_pool_beyond_two_to_the_31_elements() -> None:
    shape = HeadShape(*LLAMA, 64, torch.bfloat16)
    batch = Batch(shape, [600])
    count = 2**31 // batch.pool[0].numel() + 16
    big = torch.full((count, *batch.pool.shape[1:]), float("nan"), dtype=shape.dtype, device=batch.device)
    used = batch.frames[0].long()
    far = torch.arange(count - len(used), count, device=batch.device)
    big[far] = batch.pool[used]
    batch.pool, batch.frames = big, far.to(torch.int32)[None]
    batch.check(batch.attend(batch.prepare()))


def test_fixed_splits_make_a_row_independent_of_its_batch() -> None:
    batch = Batch(HeadShape(*LLAMA, 64, torch.bfloat16), [5000, 1, 333, 2048])
    together = batch.attend(batch.prepare(split_tokens=512)).clone()
    query, frames, lengths = batch.query, batch.frames, batch.lengths
    for row, length in enumerate(lengths):
        batch.query, batch.frames, batch.lengths = query[row : row + 1], frames[row : row + 1], [length]
        batch.out = torch.full_like(together[:1], float("nan"))
        assert torch.equal(batch.attend(batch.prepare(split_tokens=512))[0], together[row])


def test_in_a_cuda_graph() -> None:
    """A captured call follows the page table and the queries that are written into its tensors."""
    batch = Batch(HeadShape(*LLAMA, 64, torch.bfloat16), [2000, 2000])
    workspace = batch.prepare()
    batch.attend(workspace)  # compiles: that is not allowed while capturing
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        batch.attend(workspace)
    batch.frames.copy_(batch.frames.flip(0))
    batch.query.copy_(torch.randn_like(batch.query))
    batch.out.fill_(float("nan"))
    graph.replay()
    batch.check(batch.out)


def test_a_growing_page_table_does_not_compile_again() -> None:
    batch = Batch(HeadShape(*SMOL, 16, torch.bfloat16), [10])
    batch.attend(batch.prepare())
    compiled = sum(len(cache[0]) for cache in _attend.device_caches.values())
    for pages in (2, 16, 17):
        batch.frames = batch.frames[:, :1].repeat(1, pages)
        batch.check(batch.attend(batch.prepare()))
    assert sum(len(cache[0]) for cache in _attend.device_caches.values()) == compiled
