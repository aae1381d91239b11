"""Frame storage of one torch device: the KV bytes of both tiers and the copies between them.

Owns two tensors; a frame number is an index into one of them. Every byte of a fresh frame is zero, and a byte is
written only by a row's KV or by a page copy, so that a masked slot never holds a NaN.

    device  [layers, 2, kv heads, frames, slots, head width]    2: keys, values
    host    [frames, layers, 2, kv heads, slots, head width]    one page is contiguous

The device tier is ordered for attention: in one layer, the pages of all rows are gathered by one index_select into
[2, kv heads, rows, tokens, head width], which a batched matrix product takes as it is. Memory is touched, and so
taken from the machine, only when a frame is first used. Knows nothing of contexts, and never chooses a frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from llmos.kernel.device import Copy, Tier
from llmos.kernel.errno import DeviceFailed

from .config import ModelConfig

LAYOUT = "torch/1: device [layers, kv, heads, frames, slots, width]"
"""Changes whenever the bytes of a page change their order: part of every page key."""


class Frames:
    """The device and host tier of one model."""

    def __init__(self, config: ModelConfig, *, frames: int, host_frames: int, page_slots: int, dtype: torch.dtype) -> None:
        layers, heads, width = config.layers, config.kv_heads, config.head_width
        self.slots = page_slots
        self.count = {Tier.DEVICE: frames, Tier.HOST: host_frames}
        self.device = untouched_zeros((layers, 2, heads, frames, page_slots, width), dtype)
        self.host = untouched_zeros((host_frames, layers, 2, heads, page_slots, width), dtype)
        self.page_bytes = layers * 2 * heads * page_slots * width * dtype.itemsize
        self.clock = 0
        self.written = np.zeros(frames, dtype=np.int64)
        """Per device frame, the clock when it was last written."""
        # one layer as rows: of pages for gathering, of slots for writing
        self._pages = [layer.view(2 * heads * frames, page_slots * width) for layer in self.device]
        self._slots = [layer.view(2, heads, frames * page_slots, width) for layer in self.device]
        self._heads = torch.arange(2 * heads)[:, None] * frames

    def page(self, tier: Tier, frame: int) -> torch.Tensor:
        """The page in a frame, [layers, 2, kv heads, slots, head width]: a view."""
        return self.device[:, :, :, frame] if tier is Tier.DEVICE else self.host[frame]

    def copy(self, copies: Iterable[Copy]) -> None:
        """Carry out page copies in order. Raises DeviceFailed for a frame that does not exist."""
        for copy in copies:
            for tier, frame in ((copy.source_tier, copy.source), (copy.target_tier, copy.target)):
                if not 0 <= frame < self.count[tier]:
                    raise DeviceFailed(f"copy names {tier.value} frame {frame}, but the tier has {self.count[tier]} frames")
            if copy.target_tier is Tier.DEVICE:
                self.touch([copy.target])
            self.page(copy.target_tier, copy.target).copy_(self.page(copy.source_tier, copy.source))

    def touch(self, frames: Sequence[int]) -> None:
        """Note that device frames are about to be written: whatever was read from them before is old."""
        self.clock += 1
        self.written[frames] = self.clock

    def gather_index(self, frames: torch.Tensor) -> torch.Tensor:
        """The index that makes `gather` return the pages of `frames` (any shape), for every layer."""
        return (self._heads + frames.reshape(1, -1)).reshape(-1)

    def gather(self, layer: int, index: torch.Tensor) -> torch.Tensor:
        """Pages of one layer, [2, kv heads, tokens, head width], tokens in the order of the index's frames."""
        pages = torch.index_select(self._pages[layer], 0, index)
        return pages.view(2, self.device.shape[2], -1, self.device.shape[5])

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store keys and values [tokens, kv heads, head width] at `slots` (frame * page slots + offset); `touch` comes first."""
        both = self._slots[layer]
        both[0].index_copy_(1, slots, keys.transpose(0, 1))
        both[1].index_copy_(1, slots, values.transpose(0, 1))

    def scrub(self, frames: Sequence[int]) -> None:
        """Zero those of the device frames that hold a NaN or an infinity, so that no later page inherits it."""
        for frame in frames:
            page = self.page(Tier.DEVICE, frame)
            if not bool(torch.isfinite(page).all()):
                self.touch([frame])
                page.zero_()

    def free(self) -> None:
        """Give the memory back."""
        self.device = self.host = torch.empty(0)
        self._pages, self._slots = [], []


def untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros that the machine backs with memory when they are first written. torch.zeros writes them all: seconds, for gigabytes."""
    plain = np.zeros(shape, dtype=np.dtype(f"u{dtype.itemsize}"))
    return torch.from_numpy(plain).view(dtype)
