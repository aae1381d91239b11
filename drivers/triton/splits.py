"""Divides the attention of a decode batch into pieces of like size, so that every processor of a GPU has work.

One program attends over one *item*: a range of one row's tokens, for one KV head. A row is cut when its tokens are many
against the whole batch's divided by the programs that can run at once; then each of its items leaves a partial result and a second
function merges them. A row that stays whole writes its output itself, and a plan without cut rows needs no second launch:

    lengths 9000, 700, 0      items   row 0 [0, 3008)  row 0 [3008, 6016)  row 0 [6016, 9000)  row 1 [0, 700)  row 2 [0, 0)
                              partial       0                 1                    2               whole (-1)     whole (-1)
                              merges  row 0: partials 0..2

Invariant: the items of a row cover exactly the tokens that its query sees, each once; cuts fall on tiles. A row of length 0 (padding)
is one empty item, which writes zeros. Pure numbers: no tensors, no Triton.

How a row is cut depends on the batch, so the last bits of its result do too, unless `split_tokens` is given: then
only the row's own length matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy
import numpy.typing

from llmos.kernel.errno import InvalidArgument

Table: TypeAlias = numpy.typing.NDArray[numpy.int32]

LEAST_SPLIT = 256
"""Tokens. A shorter piece takes less time to read than a second launch to start (estimate; not yet measured)."""

RESIDENT = 2
"""Programs of the attention function that run at once on one processor (from its shared memory, see resources.py)."""


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """Who attends over what, for one batch and one attention window. The same for every layer."""

    work: Table
    """int32 [items, 4]: row, first token, one past the last, partial result to write or -1 for the output itself."""
    merges: Table
    """int32 [cut rows, 3]: row, its first partial, how many it has."""
    partials: int
    """Partial results in all."""
    rows: int
    longest: int
    """Tokens of the longest row: what the page table must cover."""


def plan_splits(
    lengths: Sequence[int],
    *,
    kv_heads: int,
    tile: int,
    processors: int,
    window: int | None = None,
    split_tokens: int | None = None,
) -> SplitPlan:
    """Plan one decode batch.

    lengths: tokens of each row's context, its query's own included; 0 for padding. tile: tokens that the function reads at once.
    processors: streaming multiprocessors of the GPU. window: tokens that a query sees, itself included; None for all.
    split_tokens: about how many tokens an item has; None lets the batch decide.
    Raises InvalidArgument for a length below 0 or any other number below 1.
    """
    length = numpy.asarray(lengths, dtype=numpy.int64)
    if length.ndim != 1 or not len(length):
        raise InvalidArgument("a decode batch needs at least one row: give one length per row")
    if length.min() < 0:
        raise InvalidArgument(f"length {length.min()} of row {length.argmin()} is negative: give 0 for a padding row")
    for name, value in (
        ("kv_heads", kv_heads),
        ("tile", tile),
        ("processors", processors),
        ("window", window),
        ("split_tokens", split_tokens),
    ):
        if value is not None and value < 1:
            raise InvalidArgument(f"{name} is {value}: give at least 1")

    begin = numpy.maximum(length - window, 0) if window is not None else numpy.zeros_like(length)
    span = length - begin
    # Rounding down keeps the items within the programs that run at once: one too many would cost a whole second round.
    if split_tokens is None:
        pieces = numpy.minimum(span // LEAST_SPLIT, span * (processors * RESIDENT) // max(1, int(span.sum()) * kv_heads))
    else:
        pieces = span // split_tokens
    first = begin // tile
    tiles = -(-length // tile) - first
    pieces = numpy.clip(pieces, 1, numpy.maximum(tiles, 1))

    row = numpy.repeat(numpy.arange(len(length)), pieces)
    before = numpy.cumsum(pieces) - pieces
    piece = numpy.arange(len(row)) - before[row]
    start = numpy.maximum(begin[row], (first[row] + piece * tiles[row] // pieces[row]) * tile)
    stop = numpy.minimum(length[row], (first[row] + (piece + 1) * tiles[row] // pieces[row]) * tile)

    cut = pieces > 1
    offset = numpy.cumsum(pieces * cut) - pieces * cut
    partial = numpy.where(cut[row], offset[row] + piece, -1)
    work = numpy.stack([row, start, stop, partial], axis=1)
    work = work[numpy.argsort(start - stop, kind="stable")]  # the longest first, so that none is left to run alone at the end
    merges = numpy.stack([numpy.flatnonzero(cut), offset[cut], pieces[cut]], axis=1)
    return SplitPlan(
        work=work.astype(numpy.int32),
        merges=merges.astype(numpy.int32),
        partials=int((pieces * cut).sum()),
        rows=len(length),
        longest=int(length.max()),
    )
