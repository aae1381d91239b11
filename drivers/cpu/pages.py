"""Pages of the native driver as bytes: how many there are, where they lie, and which of them hold no number.

Knows the layout of cache.hpp as far as that takes, and nothing of what reads and writes it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig

Kv = Literal["bf16", "int8"]
"""How a page holds a number. int8: levels, a float32 scale for each key and each value of a head."""
CACHE_LINE = 64
SCALES = 2
"""Of a slot: its key's and its value's."""


def page_bytes(config: ModelConfig, slots: int, kv: Kv) -> int:
    """Bytes of a page of so many slots."""
    return config.layers * config.kv_heads * _part_bytes(config, slots, kv)


def new_frames(count: int, size: int) -> NDArray[np.uint16]:
    """Zeroed frames of `size` bytes, [count, size / 2], from a cache line's begin on: else every row of a tile would lie in two."""
    memory = np.zeros((count * size + CACHE_LINE) // 2, np.uint16)
    skipped = -memory.ctypes.data % CACHE_LINE // 2
    return memory[skipped : skipped + count * size // 2].reshape(count, size // 2)


def damaged(page: NDArray[np.uint16], config: ModelConfig, slots: int, kv: Kv) -> bool:
    """Whether a number of this page is none, or infinite. page: a frame's [size / 2]. Levels are always numbers: scales tell."""
    if kv == "bf16":
        return bool(((page & 0x7F80) == 0x7F80).any())
    parts = page.view(np.float32).reshape(-1, _part_bytes(config, slots, kv) // 4)
    return not bool(np.isfinite(parts[:, : SCALES * slots]).all())


def _part_bytes(config: ModelConfig, slots: int, kv: Kv) -> int:
    """Of one layer and key head."""
    numbers = 2 * slots * config.head_width
    return numbers * 2 if kv == "bf16" else numbers + SCALES * slots * 4
