"""Paged decode attention: one query token per row over the KV in its pages, as Triton functions.

Owns two functions for the GPU and the plain call that launches them. Stage one, `_attend`: one program per item of a split plan and KV
head; it walks the item's tokens tile by tile with a running softmax. Stage two, `_merge`, adds up the partial results of rows that were
cut, and is not launched when none was (Flash-Decoding, Dao et al. 2023). Does not write KV, does not prefill, and trusts the
page table: frame numbers are the kernel's, which checks them.

    pool   [frame][layer][K, V][slot][KV head][component]             one page is one contiguous copy
    tile   TILE slots of one KV head in one page: TILE divides the page, so each tile needs one scalar load of the page table

The query heads of one KV head are the rows of one matrix, padded to the 16 that a tensor core takes, so that KV is read once for all of
them. Slots outside the item's range are never read: what lies there, NaN included, cannot leak.

Offsets of frames and rows are int64: a pool of 4 GiB already passes 2**31 elements. An item may be empty, and then
says so with a weight of log2(0) = -inf; the merge subtracts no -inf from -inf.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from llmos.kernel.errno import InvalidArgument, NotSupported

from .splits import SplitPlan

TILE_BYTES = 16384
"""Most bytes of K in a tile; V has as many."""

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether the functions below run under the interpreter, whose dot multiplies the bit patterns of bfloat16 (as of Triton 3.9): they are
widened first there. The products of two bfloat16 are exact in float32, so the arithmetic is that of a tensor core."""

MERGE_BLOCK = 8
"""Partial results that a merge reads at once."""


# Not specialized: else a page table that grows past 1, or to a multiple of 16, would compile the function again in mid-service.
@triton.jit(do_not_specialize=["layer", "frames_stride"])  # type: ignore[untyped-decorator]  # Triton has no types
def _attend(
    query: tl.tensor,
    pool: tl.tensor,
    frames: tl.tensor,
    work: tl.tensor,
    out: tl.tensor,
    partial_out: tl.tensor,
    partial_weight: tl.tensor,
    layer: tl.tensor,
    scale: tl.tensor,
    query_stride: tl.tensor,
    frames_stride: tl.tensor,
    page_stride: tl.tensor,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PADDED: tl.constexpr,
    PAGE_SLOTS: tl.constexpr,
    TILE: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    GROUP: tl.constexpr = HEADS // KV_HEADS
    SLOT: tl.constexpr = KV_HEADS * WIDTH
    PLANE: tl.constexpr = PAGE_SLOTS * SLOT

    # KV heads run fastest: programs side by side read the same lines of memory.
    head = tl.program_id(0) % KV_HEADS
    item = work + tl.program_id(0) // KV_HEADS * 4
    row = tl.load(item).to(tl.int64)
    begin = tl.load(item + 1)
    end = tl.load(item + 2)
    partial = tl.load(item + 3).to(tl.int64)

    member = tl.arange(0, GROUP_ROWS)
    component = tl.arange(0, WIDTH_PADDED)
    slot = tl.arange(0, TILE)
    inside = component < WIDTH
    heads = head * GROUP + member
    present = (member < GROUP)[:, None] & inside[None, :]
    here = heads[:, None] * WIDTH + component[None, :]
    q = tl.load(query + row * query_stride + here, mask=present, other=0.0).to(pool.dtype.element_ty)
    if WIDEN:
        q = q.to(tl.float32)

    peak = tl.full([GROUP_ROWS], -float("inf"), tl.float32)
    total = tl.full([GROUP_ROWS], 0.0, tl.float32)
    result = tl.full([GROUP_ROWS, WIDTH_PADDED], 0.0, tl.float32)
    keys = pool + layer.to(tl.int64) * (2 * PLANE) + head * WIDTH
    table = frames + row * frames_stride
    # An empty item runs no tile, wherever it begins: so every tile has a live slot, `higher` is finite, and nothing below
    # is -inf minus -inf.
    tiles_from = tl.where(begin < end, begin - begin % TILE, end)
    for start in range(tiles_from, end, TILE):
        frame = tl.load(table + start // PAGE_SLOTS).to(tl.int64)
        tile = keys + frame * page_stride + (start % PAGE_SLOTS) * SLOT
        live = (start + slot >= begin) & (start + slot < end)
        offset = slot[:, None] * SLOT + component[None, :]
        wanted = live[:, None] & inside[None, :]
        k = tl.load(tile + offset, mask=wanted, other=0.0)
        if WIDEN:
            k = k.to(tl.float32)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(live[None, :], scores, -float("inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        faded = tl.exp2(peak - higher)
        weights = tl.exp2(scores - higher[:, None])
        v = tl.load(tile + PLANE + offset, mask=wanted, other=0.0)
        total = total * faded + tl.sum(weights, 1)
        weights = weights.to(v.dtype)
        if WIDEN:
            weights = weights.to(tl.float32)
            v = v.to(tl.float32)
        result = result * faded[:, None] + tl.dot(weights, v, input_precision="ieee")
        peak = higher

    divisor = tl.where(total == 0.0, 1.0, total)
    result = result / divisor[:, None]
    if partial < 0:
        tl.store(out + row * (HEADS * WIDTH) + here, result.to(out.dtype.element_ty), mask=present)
    else:
        tl.store(partial_out + partial * (HEADS * WIDTH) + here, result, mask=present)
        weight = tl.where(total == 0.0, -float("inf"), peak + tl.log2(divisor))
        tl.store(partial_weight + partial * HEADS + heads, weight, mask=member < GROUP)


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def _merge(
    merges: tl.tensor,
    partial_out: tl.tensor,
    partial_weight: tl.tensor,
    out: tl.tensor,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    head = tl.program_id(0) % HEADS
    entry = merges + tl.program_id(0) // HEADS * 3
    row = tl.load(entry).to(tl.int64)
    first = tl.load(entry + 1).to(tl.int64)
    count = tl.load(entry + 2)

    component = tl.arange(0, WIDTH_PADDED)
    inside = component < WIDTH
    peak = tl.full([1], -float("inf"), tl.float32)
    total = tl.full([1], 0.0, tl.float32)
    result = tl.full([WIDTH_PADDED], 0.0, tl.float32)
    for start in range(0, count, BLOCK):
        index = start + tl.arange(0, BLOCK)
        live = index < count
        source = (first + index) * HEADS + head
        weight = tl.load(partial_weight + source, mask=live, other=-float("inf"))
        higher = tl.maximum(peak, tl.max(weight, 0))
        pivot = tl.where(higher == -float("inf"), 0.0, higher)  # all empty so far: -inf minus -inf would be NaN
        faded = tl.exp2(peak - pivot)
        share = tl.exp2(weight - pivot)
        part = tl.load(partial_out + source[:, None] * WIDTH + component[None, :], mask=live[:, None] & inside[None, :], other=0.0)
        result = result * faded + tl.sum(share[:, None] * part, 0)
        total = total * faded + tl.sum(share, 0)
        peak = higher
    result = result / tl.where(total == 0.0, 1.0, total)
    tl.store(out + (row * HEADS + head) * WIDTH + component, result.to(out.dtype.element_ty), mask=inside)


@dataclass(frozen=True, slots=True)
class HeadShape:
    """What the functions are compiled for: constant for a loaded model.

    Raises NotSupported for a shape they cannot run.
    """

    heads: int
    kv_heads: int
    width: int
    """Components of one head, 16 to 256."""
    page_slots: int
    """16, 32 or 64."""
    dtype: torch.dtype
    """Of the pool: bfloat16, float16 or float32."""

    def __post_init__(self) -> None:
        if self.kv_heads < 1 or self.heads < 1 or self.heads % self.kv_heads:
            raise NotSupported(f"{self.heads} query heads over {self.kv_heads} KV heads: the first must be a multiple of the second")
        if not 16 <= self.width <= 256 or self.width % 8:
            raise NotSupported(f"head width {self.width}: it must be a multiple of 8 from 16 to 256; run this model on the CPU device")
        if self.page_slots not in (16, 32, 64):
            raise NotSupported(f"pages of {self.page_slots} slots: load the model with pages of 16, 32 or 64")
        if self.dtype not in (torch.bfloat16, torch.float16, torch.float32):
            raise NotSupported(f"KV in {self.dtype}: load the model with KV in bfloat16, float16 or float32")

    @property
    def width_padded(self) -> int:
        """Tiles have a power of two of components; the rest of them is neither read nor written."""
        return _power_of_two(self.width)

    @property
    def tile(self) -> int:
        """Slots read at once: a page, or less where a tile would pass TILE_BYTES."""
        return min(self.page_slots, max(16, TILE_BYTES // (self.width_padded * self.dtype.itemsize)))

    @property
    def warps(self) -> int:
        """float32 is multiplied without tensor cores, from registers: with 4 warps a tile spills (352 bytes a thread at width 128)."""
        return 8 if self.dtype == torch.float32 else 4

    @property
    def stages(self) -> int:
        """Stages of Triton's software pipeline for 2 to 4 tiles in flight.

        A tile's address hangs on a load from the page table, so that the pipeliner takes two stages per tile: with 3, the customary number,
        there is but one buffer and nothing is read ahead (seen in the compiled code of Triton 3.6 and 3.9).
        """
        tile_bytes = self.tile * self.width_padded * self.dtype.itemsize
        return 1 + 2 * min(4, max(2, 2 * TILE_BYTES // tile_bytes))

    @property
    def attend_constants(self) -> dict[str, int]:
        return {
            "HEADS": self.heads,
            "KV_HEADS": self.kv_heads,
            "GROUP_ROWS": max(16, _power_of_two(self.heads // self.kv_heads)),
            "WIDTH": self.width,
            "WIDTH_PADDED": self.width_padded,
            "PAGE_SLOTS": self.page_slots,
            "TILE": self.tile,
            "WIDEN": INTERPRETED,
        }

    @property
    def merge_constants(self) -> dict[str, int]:
        return {"HEADS": self.heads, "WIDTH": self.width, "WIDTH_PADDED": self.width_padded, "BLOCK": MERGE_BLOCK}


@dataclass(frozen=True, slots=True)
class Workspace:
    """A split plan on the device, and room for its partial results. Made once a step, used by every layer."""

    shape: HeadShape
    plan: SplitPlan
    work: torch.Tensor
    merges: torch.Tensor
    partial_out: torch.Tensor
    """float32 [partials, heads, width], each normalized by its own sum."""
    partial_weight: torch.Tensor
    """float32 [partials, heads]: log2 of the sum of exponentials; -inf for an empty item."""


def prepare(plan: SplitPlan, shape: HeadShape, device: torch.device) -> Workspace:
    """Copy a plan to the device and make room for its partial results."""
    partials = max(plan.partials, 1)  # an empty tensor has no address
    return Workspace(
        shape=shape,
        plan=plan,
        work=torch.from_numpy(plan.work).to(device),
        merges=torch.from_numpy(plan.merges).to(device),
        partial_out=torch.empty(partials, shape.heads, shape.width, dtype=torch.float32, device=device),
        partial_weight=torch.empty(partials, shape.heads, dtype=torch.float32, device=device),
    )


def decode_attention(
    query: torch.Tensor,
    pool: torch.Tensor,
    layer: int,
    frames: torch.Tensor,
    workspace: Workspace,
    out: torch.Tensor,
    *,
    scale: float,
) -> None:
    """Attend with one query token per row over the pages that `frames` names, and write `out`.

    query, out: [rows, heads, width], any float type; each row of query is contiguous, out as a whole.
    pool: [frames, layers, 2, page_slots, KV heads, width] of the shape's dtype, contiguous within a frame.
    frames: int32 [rows, pages], entry i the frame of tokens i * page_slots and up.
    scale: of the scores, usually width ** -0.5.

    Rows of length 0 become zeros. The launches go to the current stream of the current GPU, which must be the tensors'.
    Raises InvalidArgument where the tensors do not fit the workspace's shape and plan.
    """
    shape, plan = workspace.shape, workspace.plan
    _check(query, pool, layer, frames, workspace, out)
    _attend[(len(plan.work) * shape.kv_heads,)](
        query,
        pool,
        frames,
        workspace.work,
        out,
        workspace.partial_out,
        workspace.partial_weight,
        layer,
        scale * math.log2(math.e),  # the running softmax is in base 2, the GPU's own
        query.stride(0),
        frames.stride(0),
        pool.stride(0),
        **shape.attend_constants,
        num_warps=shape.warps,
        num_stages=shape.stages,
        enable_fp_fusion=True,  # said out loud: the default changes in Triton 3.10
    )
    if plan.partials:
        _merge[(len(plan.merges) * shape.heads,)](
            workspace.merges,
            workspace.partial_out,
            workspace.partial_weight,
            out,
            **shape.merge_constants,
            num_warps=shape.warps,
            enable_fp_fusion=True,
        )


def _check(query: torch.Tensor, pool: torch.Tensor, layer: int, frames: torch.Tensor, workspace: Workspace, out: torch.Tensor) -> None:
    shape, plan = workspace.shape, workspace.plan
    rows = (plan.rows, shape.heads, shape.width)
    page = (2, shape.page_slots, shape.kv_heads, shape.width)
    if tuple(query.shape) != rows or query.stride()[1:] != (shape.width, 1):
        raise InvalidArgument(f"query is {tuple(query.shape)}: give {rows}, each row contiguous")
    if tuple(out.shape) != rows or not out.is_contiguous():
        raise InvalidArgument(f"out is {tuple(out.shape)}: give {rows}, contiguous")
    if pool.ndim != 6 or tuple(pool.shape[2:]) != page or pool.dtype != shape.dtype or not pool[:1].is_contiguous():
        raise InvalidArgument(
            f"pool is {tuple(pool.shape)} of {pool.dtype}: give (frames, layers, {page}) of {shape.dtype}, each frame contiguous"
        )
    if not 0 <= layer < pool.shape[1]:
        raise InvalidArgument(f"layer {layer}: the pool has layers 0 to {pool.shape[1] - 1}")
    if frames.dtype != torch.int32 or frames.ndim != 2 or len(frames) != plan.rows or frames.stride(1) != 1:
        raise InvalidArgument(f"frames is {tuple(frames.shape)} of {frames.dtype}: give int32 ({plan.rows}, pages)")
    if frames.shape[1] * shape.page_slots < plan.longest:
        raise InvalidArgument(f"{frames.shape[1]} pages of {shape.page_slots} do not hold the {plan.longest} tokens of the longest row")


def _power_of_two(n: int) -> int:
    """The least power of two that is at least n."""
    return 1 << (n - 1).bit_length()
