"""Rotary frequencies: how far each pair of a head turns from one position to the next, under every kind of scaling.

Su et al. 2021 (RoPE); Chen et al. 2023 (linear); bloc97 2023 (dynamic NTK); Peng et al. 2023 (YaRN); Llama 3.1.
Knows nothing of tokens or pages.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from llmos.kernel.errno import NotSupported

from .config import Rope

Floats = NDArray[np.float32]


def inverse_frequencies(rope: Rope, head_width: int) -> tuple[Floats, float]:
    """Radians per position of each pair, float32 [head_width / 2], and the factor on cosine and sine.

    "dynamic" is plain within the window, and no context is longer than that.
    """
    exponents = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    powers = (np.float64(rope.theta) ** exponents.astype(np.float64)).astype(np.float32)  # a last bit off is 0.0005 rad at position 4,096
    plain = np.float32(1.0) / powers
    if rope.kind in ("default", "dynamic"):
        return plain, 1.0
    if rope.kind == "linear":
        return plain / np.float32(rope.factor), 1.0
    if rope.kind == "llama3":
        return _llama3(plain, rope), 1.0
    if rope.kind == "yarn":
        return _yarn(plain, rope, head_width)
    raise NotSupported(f"RoPE scaling {rope.kind!r} is not supported; llmos reads default, linear, dynamic, llama3 and yarn")


def _llama3(plain: Floats, rope: Rope) -> Floats:
    """Long waves are stretched by the factor, short ones left alone, those between blended."""
    wavelength = np.float32(2 * math.pi) / plain
    stretched = np.where(wavelength > rope.original_window / rope.low_freq_factor, plain / rope.factor, plain)
    blend = (rope.original_window / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    between = (wavelength >= rope.original_window / rope.high_freq_factor) & (wavelength <= rope.original_window / rope.low_freq_factor)
    return np.where(between, (1 - blend) * stretched / rope.factor + blend * stretched, stretched)


def _yarn(plain: Floats, rope: Rope, head_width: int) -> tuple[Floats, float]:
    """Pairs that turn often in the original window keep their speed, slow ones are stretched, a ramp lies between."""

    def pair_that_turns(times: float) -> float:
        return head_width * math.log(rope.original_window / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = max(math.floor(pair_that_turns(rope.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(rope.beta_slow)), head_width - 1)
    ramp = (np.arange(head_width // 2, dtype=np.float32) - low) / ((high - low) or 0.001)
    keep = 1 - ramp.clip(0, 1)
    return (plain / rope.factor * (1 - keep) + plain * keep).astype(np.float32), rope.attention_factor
