"""Snapshots: dense copies of full pages, in the order in which a batch of rows attends to them.

Gathering every page of every row again for each token would read the KV three times where once is enough. A page that
is full does not change while its row decodes, so what was gathered at one step serves the next ones; only the pages
filled since are gathered at each step (attention.py). When these become many, or the rows change, a new snapshot is taken.

A snapshot is used only while no frame of it has been written since it was taken (`Frames.written`), so it never needs to be
told of anything: a frame that is freed and given to another context was written by it. Invariant: a snapshot that is
found equals what gathering its frames now would give. Owns memory beside the frames, at most its budget. Knows
nothing of rows or positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from .frames import Frames

KEPT_STEPS = 4
"""Steps after which an unused snapshot is dropped."""


@dataclass(slots=True, eq=False)
class Snapshot:
    """Full pages of some rows, each row padded to the longest with whatever frame 0 holds."""

    tables: NDArray[np.int64]
    """[rows, pages], -1 where a row has no page."""
    pages: NDArray[np.int64]
    """[rows]: how many pages each has."""
    frames: NDArray[np.int64]
    """Every frame in it, once."""
    index: torch.Tensor
    taken: int
    """`Frames.clock` when it was planned."""
    used: int
    layers: list[torch.Tensor | None] = field(default_factory=list)


class Snapshots:
    """The snapshots of one device."""

    def __init__(self, frames: Frames, layers: int, budget: int) -> None:
        self._frames = frames
        self._layers = layers
        self._budget = budget
        self._kept: list[Snapshot] = []
        self._step = 0

    def begin(self) -> None:
        """A step begins: drop what has not been used lately."""
        self._step += 1
        self._kept = [snapshot for snapshot in self._kept if snapshot.used >= self._step - KEPT_STEPS]

    def find(self, tables: Sequence[Sequence[int]], behind: int) -> Snapshot | None:
        """A valid snapshot that holds, of each row's full pages, all but the last few: at most `behind`."""
        counts = np.array([len(table) for table in tables])
        padded = _padded(tables, -2)
        for snapshot in self._kept:
            held = snapshot.tables.shape[1]
            if (
                len(snapshot.tables) == len(tables)
                and held <= padded.shape[1]
                and bool((snapshot.pages <= counts).all())
                and int((counts - snapshot.pages).max()) <= behind
                and bool(((snapshot.tables == padded[:, :held]) | (snapshot.tables < 0)).all())
                and int(self._frames.written[snapshot.frames].max()) <= snapshot.taken
            ):
                snapshot.used = self._step
                return snapshot
        return None

    def take(self, tables: Sequence[Sequence[int]]) -> Snapshot | None:
        """A new snapshot of these pages, gathered layer by layer as they are read; None if there is no memory for it."""
        padded = _padded(tables, -1)
        size = padded.size * self._frames.page_bytes
        while self._kept and size + sum(snapshot.tables.size for snapshot in self._kept) * self._frames.page_bytes > self._budget:
            oldest = min(self._kept, key=lambda snapshot: snapshot.used)
            if oldest.used == self._step:
                return None
            self._kept.remove(oldest)
        if size > self._budget:
            return None
        index = self._frames.gather_index(torch.from_numpy(np.maximum(padded, 0)))
        pages = np.array([len(table) for table in tables])
        snapshot = Snapshot(padded, pages, np.unique(padded[padded >= 0]), index, self._frames.clock, self._step, [None] * self._layers)
        self._kept.append(snapshot)
        return snapshot

    def read(self, snapshot: Snapshot, layer: int) -> torch.Tensor:
        """[2, kv heads, rows * tokens, head width] of one layer."""
        pages = snapshot.layers[layer]
        if pages is None:
            pages = snapshot.layers[layer] = self._frames.gather(layer, snapshot.index)
        return pages

    def free(self) -> None:
        """Give the memory back."""
        self._kept = []


def _padded(tables: Sequence[Sequence[int]], blank: int) -> NDArray[np.int64]:
    """[rows, pages of the longest]."""
    padded = np.full((len(tables), max(map(len, tables))), blank, dtype=np.int64)
    for row, table in enumerate(tables):
        padded[row, : len(table)] = table
    return padded
