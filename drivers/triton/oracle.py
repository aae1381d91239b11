"""The plain form of paged attention: torch, float64, one row at a time.

Owns what "right" means for the Triton functions; the interpreter tests, the GPU tests and the benchmark compare with it.
`lay_out` is the one place outside the Triton functions that knows how a pool's bytes lie:

    pool[frame][layer][0 = K, 1 = V][slot][KV head][component]         token t of a context: frame frames[t // page_slots],
                                                                       slot t % page_slots
Not fast, and not used to serve.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def lay_out(
    contexts: Sequence[tuple[torch.Tensor, torch.Tensor]],
    *,
    page_slots: int,
    layers: int,
    layer: int,
    shared: int = 0,
    spare: int = 0,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the K and V of each context, both [tokens, KV heads, width], into one layer of a new pool.

    Returns (pool [frames, layers, 2, page_slots, KV heads, width], frames int32 [contexts, most pages]). Frames are dealt
    in random order and `spare` of them belong to nobody. The first `shared` pages of every context lie in the frames of
    context 0, whose tokens there the caller has made equal. Whatever no token was written to is NaN, so that a read of it
    shows; unused entries of the page table name a frame that does not exist.
    """
    first = contexts[0][0]
    heads, width = first.shape[1:]
    pages = [-(-len(k) // page_slots) for k, _ in contexts]
    private = [n - min(shared, n) if row else n for row, n in enumerate(pages)]
    total = sum(private) + spare
    pool = torch.full((total, layers, 2, page_slots, heads, width), float("nan"), dtype=first.dtype, device=first.device)
    dealt = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
    frames = torch.full((len(contexts), max([*pages, 1])), total + 1_000_000, dtype=torch.int32)
    for row, (k, v) in enumerate(contexts):
        own = [dealt.pop() for _ in range(private[row])]
        table = frames[0, : pages[row] - private[row]].tolist() + own
        frames[row, : len(table)] = torch.tensor(table, dtype=torch.int32)
        for page, frame in enumerate(table):
            start = page * page_slots
            used = min(page_slots, len(k) - start)
            pool[frame, layer, 0, :used] = k[start : start + used]
            pool[frame, layer, 1, :used] = v[start : start + used]
    return pool, frames.to(first.device)


def gather(pool: torch.Tensor, layer: int, frames: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V of one context, each [length, KV heads, width], copied out of its pages. `frames` is one row of the table."""
    page_slots = pool.shape[3]
    used = frames[: -(-length // page_slots)].long()
    pages = pool[used, layer]
    return pages[:, 0].flatten(0, 1)[:length], pages[:, 1].flatten(0, 1)[:length]


def paged_attention(
    query: torch.Tensor,
    pool: torch.Tensor,
    layer: int,
    frames: torch.Tensor,
    lengths: Sequence[int],
    *,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """softmax(scale * q k^T) v of one query token per row, in float64.

    query [rows, heads, width]; heads is n times the pool's KV heads, and query heads g*n .. g*n+n-1 read KV head g. The
    query of a row is its last token: it sees tokens max(0, length - window) .. length - 1. A row of length 0 is padding:
    zeros. Returns float64 [rows, heads, width].
    """
    rows, heads, width = query.shape
    out = torch.zeros(rows, heads, width, dtype=torch.float64, device=query.device)
    group = heads // pool.shape[4]
    for row, length in enumerate(lengths):
        if length == 0:
            continue
        k, v = gather(pool, layer, frames[row], length)
        seen = slice(max(0, length - window) if window is not None else 0, length)
        k = k[seen].double().repeat_interleave(group, dim=1)
        v = v[seen].double().repeat_interleave(group, dim=1)
        scores = torch.einsum("hd,thd->ht", query[row].double(), k) * scale
        out[row] = torch.einsum("ht,thd->hd", scores.softmax(dim=-1), v)
    return out
