"""Rotary position embedding: the angle by which each pair of a head is turned at each position.

Owns the table of cosines and sines of one model, grown as longer contexts appear. Row p of the table depends on p
alone, never on how the context was computed, so that pages can be shared, swapped and recomputed.

Halves are rotated against each other (Hugging Face's layout), not neighbours:

    out[i]          = x[i] * cos(p f_i) - x[i + w/2] * sin(p f_i)          0 <= i < w/2,  w = head width
    out[i + w/2]    = x[i + w/2] * cos(p f_i) + x[i] * sin(p f_i)

The frequencies are those of frequencies.py. Knows nothing of tokens or pages.
"""

from __future__ import annotations

import torch

from . import frequencies
from .config import Rope


def inverse_frequencies(rope: Rope, head_width: int) -> tuple[torch.Tensor, float]:
    """Radians per position of each pair, float32 [head_width / 2], and the factor on cosine and sine."""
    found, factor = frequencies.inverse_frequencies(rope, head_width)
    return torch.from_numpy(found), factor


class RopeTable:
    """Cosines and sines of positions 0, 1, ... of one model."""

    def __init__(self, rope: Rope, head_width: int, window: int, dtype: torch.dtype = torch.float32) -> None:
        self.window = window
        self.dtype = dtype
        self._frequencies, self._factor = inverse_frequencies(rope, head_width)
        self._cos = self._sin = torch.empty(0, head_width, dtype=dtype)

    def upto(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(cos, sin), each [at least `length`, head width]; sin carries the sign of the rotation: minus in its first half."""
        if len(self._cos) < length:
            grown = min(max(1024, 1 << (length - 1).bit_length()), max(self.window, length))
            self._cos, self._sin = self._rows(grown)
        return self._cos, self._sin

    def _rows(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        angles = torch.arange(count, dtype=torch.float32)[:, None] * self._frequencies
        cos, sin = angles.cos() * self._factor, angles.sin() * self._factor
        return torch.cat((cos, cos), -1).to(self.dtype), torch.cat((-sin, sin), -1).to(self.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn x [..., head width] by its position's angle; cos and sin (signed, from `RopeTable`) broadcast against it."""
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)
