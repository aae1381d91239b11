"""Attention of one step over paged KV on a CPU: every index and mask made once, used in every layer.

Owns the plan of a step: which slots the new keys and values go to, which pages each row reads, what it may not see.
New KV is written before anything is read, so a row reads its own tokens from its pages like all others, and a row
that does not store (its KV is there already) reads what was stored. A sliding window leaves out the pages before it.

A row of one token (a decode) is batched with others of similar length (grouping.py). Its context has up to three parts,
each a batched product of its own, under one softmax:

    page     0 1 2 3 | 4 5 6 7 8 | 9 10
             shared  | snapshot  | recent
    shared   pages that the rows of the group have in common: read once, one product for all their queries
    snapshot full pages of each row, gathered at an earlier step (snapshots.py)
    recent   the pages since, gathered now, padded to the longest row

    queries  [kv heads, rows, group, w]    the query heads of one kv head are rows of one product: K is never repeated
    keys     [kv heads, rows, T, w]        shared: [kv heads, S, w]
    scores   [kv heads, rows, group, S + T]

A row of several tokens (a chunk of a prompt) attends by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from llmos.kernel.device import Row

from .config import ModelConfig
from .frames import Frames
from .grouping import group_rows
from .snapshots import Snapshot, Snapshots

SNAPSHOT_NUMBERS = 400_000
"""Keys (as numbers) of one layer from which on a snapshot pays: below, gathering them costs less than one more product."""
RECENT_TOKENS = 64
"""Full pages of this many tokens may be gathered at each step before a new snapshot is taken."""
GROUP_NUMBERS = 200_000
"""What one more group costs in dispatch, in keys (as numbers) of one layer that could be read instead."""

Place: TypeAlias = slice | torch.Tensor
"""Where rows' tokens are in the step."""


@dataclass(slots=True)
class _Group:
    """Decode rows that attend in one batched product."""

    place: Place
    rows: int
    shared: Snapshot | torch.Tensor | None
    """Pages all rows share: kept, or the index to gather them by."""
    snapshot: Snapshot | None
    recent: torch.Tensor
    """Gather index."""
    mask: torch.Tensor
    """[1, rows, 1, tokens of snapshot and recent]: 0 where seen, -inf where not."""


@dataclass(slots=True)
class _Chunk:
    """Several consecutive tokens of one row."""

    place: slice
    pages: torch.Tensor | None
    """Gather index; None: the row begins at position 0, so the step's own keys are all there are."""
    mask: torch.Tensor | None
    """[tokens, T]; None: causal."""


class StepAttention:
    """The `attend` function of one step. Call it once per layer, in order."""

    def __init__(self, rows: Sequence[Row], frames: Frames, snapshots: Snapshots, config: ModelConfig) -> None:
        self._frames = frames
        self._snapshots = snapshots
        self._config = config
        self._scale = config.head_width**-0.5
        self._offsets = [0]
        for row in rows:
            self._offsets.append(self._offsets[-1] + len(row.tokens))
        self._slots, self._stored = self._targets(rows)
        snapshots.begin()
        longest = max(row.position + len(row.tokens) for row in rows)
        plans: dict[int | None, tuple[list[_Group], list[_Chunk]]] = {}
        self._plans = []
        for window in config.windows:
            window = None if window is None or window >= longest else window
            if window not in plans:
                plans[window] = (self._groups(rows, window), self._chunks(rows, window))
            self._plans.append(plans[window])

    def __call__(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        if self._stored is not None:
            stored = self._stored
            self._frames.write(layer, self._slots, keys.index_select(0, stored), values.index_select(0, stored))
        elif len(self._slots):
            self._frames.write(layer, self._slots, keys, values)
        groups, chunks = self._plans[layer]
        if len(groups) == 1 and groups[0].rows == len(queries) and isinstance(groups[0].place, slice):
            return self._decode(layer, groups[0], queries)
        result = torch.empty(len(queries), self._config.heads * self._config.head_width, dtype=queries.dtype)
        for group in groups:
            result[group.place] = self._decode(layer, group, queries[group.place])
        for chunk in chunks:
            result[chunk.place] = self._prefill(layer, chunk, queries[chunk.place], keys[chunk.place], values[chunk.place])
        return result

    def _decode(self, layer: int, group: _Group, queries: torch.Tensor) -> torch.Tensor:
        """[rows, heads * w] for queries [rows, heads, w]."""
        heads, each, width, rows = self._config.kv_heads, self._config.heads // self._config.kv_heads, self._config.head_width, group.rows
        queries = (queries * self._scale).view(rows, heads, each, width).transpose(0, 1).reshape(heads * rows, each, width)
        parts = [self._frames.gather(layer, group.recent).view(2, heads * rows, -1, width)]
        if group.snapshot is not None:
            parts.insert(0, self._snapshots.read(group.snapshot, layer).view(2, heads * rows, -1, width))
        scores = [torch.bmm(queries, part[0].transpose(1, 2)).view(heads, rows, each, -1) for part in parts]
        shared = None
        if group.shared is not None:
            if isinstance(group.shared, Snapshot):
                shared = self._snapshots.read(group.shared, layer)
            else:
                shared = self._frames.gather(layer, group.shared)
            before = torch.bmm(queries.view(heads, rows * each, width), shared[0].transpose(1, 2))
            scores.insert(0, before.view(heads, rows, each, -1))
        joined = torch.cat(scores, -1) if len(scores) > 1 else scores[0]
        joined[..., -group.mask.shape[-1] :].add_(group.mask)
        weights = torch.split_with_sizes(torch.softmax(joined, -1), [part.shape[-1] for part in scores], -1)
        mixed = torch.bmm(weights[-1].reshape(heads * rows, each, -1), parts[-1][1])
        if group.snapshot is not None:
            mixed += torch.bmm(weights[-2].reshape(heads * rows, each, -1), parts[0][1])
        if shared is not None:
            mixed.view(heads, rows * each, width).add_(torch.bmm(weights[0].reshape(heads, rows * each, -1), shared[1]))
        return mixed.view(heads, rows, each, width).transpose(0, 1).reshape(rows, heads * each * width)

    def _prefill(self, layer: int, chunk: _Chunk, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """[tokens, heads * w] for queries [tokens, heads, w]."""
        if chunk.pages is None:
            keys, values = keys.transpose(0, 1), values.transpose(0, 1)
        else:
            keys, values = self._frames.gather(layer, chunk.pages)
        mixed = F.scaled_dot_product_attention(
            queries.transpose(0, 1).unsqueeze(0),
            keys.unsqueeze(0),
            values.unsqueeze(0),
            attn_mask=chunk.mask,
            is_causal=chunk.mask is None,
            enable_gqa=True,
        )
        return mixed[0].transpose(0, 1).reshape(len(queries), -1)

    def _targets(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Slots to write, and the tokens to write there (None: all, in order). Tells the frames."""
        slots: list[int] = []
        stored: list[int] = []
        size = self._frames.slots
        for row, start in zip(rows, self._offsets, strict=False):
            if row.store:
                end = row.position + len(row.tokens)
                slots += [row.frames[at // size] * size + at % size for at in range(row.position, end)]
                stored += range(start, start + len(row.tokens))
        self._frames.touch(sorted({slot // size for slot in slots}))
        everything = len(stored) == self._offsets[-1]
        return torch.tensor(slots, dtype=torch.int64), None if everything or not stored else torch.tensor(stored)

    def _groups(self, rows: Sequence[Row], window: int | None) -> list[_Group]:
        size = self._frames.slots
        decodes = [index for index, row in enumerate(rows) if len(row.tokens) == 1]
        positions = [rows[index].position for index in decodes]
        first = [0 if window is None else max(0, at + 1 - window) // size for at in positions]
        tables = [rows[index].frames[skip : at // size + 1] for index, skip, at in zip(decodes, first, positions, strict=True)]
        # Leading pages that a row sees whole now and later; under a window that cuts in, none is surely so.
        full = [at // size if window is None else 0 for at in positions]
        groups = []
        for group in group_rows(tables, full, size, max(1, GROUP_NUMBERS // (self._config.kv_heads * self._config.head_width))):
            members = group.rows
            own = [tables[row][group.shared :] for row in members]
            snapshot = self._snapshot([table[: full[row] - group.shared] for table, row in zip(own, members, strict=True)])
            held = [0] * len(members) if snapshot is None else snapshot.pages.tolist()
            recent = [table[pages:] for table, pages in zip(own, held, strict=True)]
            index = np.zeros((len(recent), max(map(len, recent))), dtype=np.int64)
            for row, pages in enumerate(recent):
                index[row, : len(pages)] = pages
            at = np.array([positions[row] for row in members])[:, None]
            begin = np.array([(first[row] + group.shared + pages) * size for row, pages in zip(members, held, strict=True)])
            columns = begin[:, None] + np.arange(index.shape[1] * size)
            seen = columns <= at
            if window is not None:
                seen &= columns > at - window
            if snapshot is not None:
                whole = np.arange(snapshot.tables.shape[1] * size) < snapshot.pages[:, None] * size
                seen = np.concatenate((whole, seen), 1)
            groups.append(
                _Group(
                    place=_place([self._offsets[decodes[row]] for row in members]),
                    rows=len(members),
                    shared=self._shared(tables[members[0]][: group.shared]),
                    snapshot=snapshot,
                    recent=self._frames.gather_index(torch.from_numpy(index)),
                    mask=_mask(seen, self._frames.device.dtype)[None, :, None, :],
                )
            )
        return groups

    def _snapshot(self, tables: list[tuple[int, ...]]) -> Snapshot | None:
        """Of these full pages of each row, if it pays."""
        size = self._frames.slots
        longest = max(map(len, tables))
        if not longest or longest * size * len(tables) * self._config.kv_heads * self._config.head_width < SNAPSHOT_NUMBERS:
            return None
        return self._snapshots.find(tables, max(1, RECENT_TOKENS // size)) or self._snapshots.take(tables)

    def _shared(self, pages: tuple[int, ...]) -> Snapshot | torch.Tensor | None:
        if not pages:
            return None
        kept = self._snapshots.find([pages], 0) or self._snapshots.take([pages])
        return self._frames.gather_index(torch.tensor(pages)) if kept is None else kept

    def _chunks(self, rows: Sequence[Row], window: int | None) -> list[_Chunk]:
        size = self._frames.slots
        chunks = []
        for row, (start, end) in zip(rows, pairwise(self._offsets), strict=True):
            count = end - start
            if count == 1:
                continue
            if row.position == 0 and row.store and (window is None or window >= count):
                chunks.append(_Chunk(slice(start, end), None, None))
                continue
            first = 0 if window is None else max(0, row.position + 1 - window) // size
            pages = torch.tensor(row.frames[first : (row.position + count - 1) // size + 1])
            at = np.arange(first * size, (first + len(pages)) * size)[None]
            positions = np.arange(row.position, row.position + count)[:, None]
            seen = at <= positions
            if window is not None:
                seen &= at > positions - window
            chunks.append(_Chunk(slice(start, end), self._frames.gather_index(pages), _mask(seen, self._frames.device.dtype)))
        return chunks


def _place(tokens: list[int]) -> Place:
    """A slice where one will do."""
    ordered = tokens == list(range(tokens[0], tokens[0] + len(tokens)))
    return slice(tokens[0], tokens[0] + len(tokens)) if ordered else torch.tensor(tokens)


def _mask(seen: NDArray[np.bool_], dtype: torch.dtype) -> torch.Tensor:
    """0 where seen, -inf where not."""
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(torch.from_numpy(~seen), float("-inf"))
