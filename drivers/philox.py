"""Philox4x32-10: random numbers from a key and a counter, with no state between them.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The random number of a sampled
token is a function of (seed, position) only, so a replay, a restored checkpoint, a recomputed page or another batch
draws the same one. Checked against the known answers of the Random123 library. Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MULTIPLY_0 = np.uint64(0xD2511F53)
_MULTIPLY_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = np.uint64(0x9E3779B9)
_WEYL_1 = np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10

Words = NDArray[np.uint64]
"""32-bit words, kept in 64 bits so that products do not overflow."""


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, Words, Words, Words]:
    """Four random 32-bit words for each counter (4 words) and key (2 words); all arrays of one shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        first, second = _MULTIPLY_0 * c0, _MULTIPLY_1 * c2
        c0, c1, c2, c3 = (second >> _HALF) ^ c1 ^ k0, second & _LOW, (first >> _HALF) ^ c3 ^ k1, first & _LOW
        k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
    return c0, c1, c2, c3


def uniform(seeds: Sequence[int], positions: Sequence[int]) -> NDArray[np.float64]:
    """One number in [0, 1) with 53 random bits for each (seed, position). Key: the seed. Counter: (position, 0, 0)."""
    seed, position = np.asarray(seeds, dtype=np.uint64), np.asarray(positions, dtype=np.uint64)
    zero = np.zeros_like(seed)
    a, b, _, _ = philox((position & _LOW, position >> _HALF, zero, zero), (seed & _LOW, seed >> _HALF))
    mantissa = ((a << _HALF) | b) >> np.uint64(11)
    return mantissa.astype(np.float64) * 2.0**-53
