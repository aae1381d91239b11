"""Rotary position embedding: the angle by which each pair of a head is turned at each position.

Owns the table of cosines and sines of one model, grown as longer contexts appear. Row p of the table depends on p
alone, never on how the context was computed, so that pages can be shared, swapped and recomputed.

Halves are rotated against each other (Hugging Face's layout), not neighbours:

    out[i]          = x[i] * cos(p f_i) - x[i + w/2] * sin(p f_i)          0 <= i < w/2,  w = head width
    out[i + w/2]    = x[i + w/2] * cos(p f_i) + x[i] * sin(p f_i)

Su et al. 2021 (RoPE); Chen et al. 2023 (linear); bloc97 2023 (dynamic NTK); Peng et al. 2023 (YaRN); Llama 3.1.
Knows nothing of tokens or pages.
"""

from __future__ import annotations

import math

import torch

from llmos.kernel.errno import NotSupported

from .config import Rope


def inverse_frequencies(rope: Rope, head_width: int) -> tuple[torch.Tensor, float]:
    """Radians per position of each pair, float32 [head_width / 2], and the factor on cosine and sine.

    "dynamic" is plain within the window, and no context is longer than that.
    """
    exponents = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
    plain = 1.0 / (rope.theta**exponents)
    if rope.kind in ("default", "dynamic"):
        return plain, 1.0
    if rope.kind == "linear":
        return plain / rope.factor, 1.0
    if rope.kind == "llama3":
        return _llama3(plain, rope), 1.0
    if rope.kind == "yarn":
        return _yarn(plain, rope, head_width)
    raise NotSupported(f"RoPE scaling {rope.kind!r} is not supported; llmos reads default, linear, dynamic, llama3 and yarn")


def _llama3(plain: torch.Tensor, rope: Rope) -> torch.Tensor:
    """Long waves are stretched by the factor, short ones left alone, those between blended."""
    wavelength = 2 * math.pi / plain
    stretched = torch.where(wavelength > rope.original_window / rope.low_freq_factor, plain / rope.factor, plain)
    blend = (rope.original_window / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    between = (wavelength >= rope.original_window / rope.high_freq_factor) & (wavelength <= rope.original_window / rope.low_freq_factor)
    return torch.where(between, (1 - blend) * stretched / rope.factor + blend * stretched, stretched)


def _yarn(plain: torch.Tensor, rope: Rope, head_width: int) -> tuple[torch.Tensor, float]:
    """Pairs that turn often in the original window keep their speed, slow ones are stretched, a ramp lies between."""

    def pair_that_turns(times: float) -> float:
        return head_width * math.log(rope.original_window / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = max(math.floor(pair_that_turns(rope.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(rope.beta_slow)), head_width - 1)
    ramp = (torch.arange(head_width // 2, dtype=torch.float32) - low) / ((high - low) or 0.001)
    keep = 1 - ramp.clamp(0, 1)
    return plain / rope.factor * (1 - keep) + plain * keep, rope.attention_factor


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
