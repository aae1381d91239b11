"""Weights by their canonical (Hugging Face) names, wherever they come from: what a driver gets to see of a model's files.

Invariant: a checkpoint has exactly the weights its config needs, each with the shape the config gives it; there is nothing
else to check. Knows no file format. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmos.kernel.errno import BadFormat, NotSupported

from .config import ModelConfig, weight_shapes

Dtype = Literal["f32", "f16", "bf16"]
NUMPY: dict[Dtype, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype("<u2")}
_DTYPES: dict[str, Dtype] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


@dataclass(frozen=True, slots=True)
class Blocks:
    """A weight as its file has it: in blocks of a few bits a number."""

    kind: int
    """A ggml type: 2 (Q4_0), 3 (Q4_1) or 8 (Q8_0)."""
    load: Callable[[], NDArray[np.uint8]]
    """Bytes [outputs, bytes of a row]."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight: what it is, and how to get it."""

    dtype: Dtype
    shape: tuple[int, ...]
    load: Callable[[], NDArray[Any]]
    blocks: Blocks | None = None
    """The same numbers before they were rounded to `dtype`."""


class Checkpoint:
    """All weights of one model. `array` may be called from any thread."""

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Weight], digest: Callable[[], bytes], maps: Sequence[NDArray[np.uint8]] = ()
    ) -> None:
        self.config = config
        self._weights = dict(weights)
        self._maps = tuple(maps)
        self._find_digest = digest
        self._digest = b""

    @property
    def digest(self) -> bytes:
        """32 bytes that name the config and every weight as it will be used. Reads all weights unless a cache knows it."""
        if not self._digest:
            self._digest = self._find_digest()
        return self._digest

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names, in order of use."""
        return tuple(self._weights)

    @property
    def nbytes(self) -> int:
        return sum(math.prod(weight.shape) * NUMPY[weight.dtype].itemsize for weight in self._weights.values())

    def dtype(self, name: str) -> Dtype:
        return self._weights[name].dtype

    def array(self, name: str) -> NDArray[Any]:
        """The weight as float32, float16, or uint16 that hold bfloat16 bits. Writing to it changes no file."""
        return self._weights[name].load()

    def blocks(self, name: str) -> Blocks | None:
        """The weight in the blocks of its file, where it has such."""
        return self._weights[name].blocks

    def forget(self) -> None:
        """Give the memory of mapped files back to the system: what is used again is read again. What was written to arrays is lost."""
        for mapped in self._maps:
            if isinstance(mapped.base, mmap.mmap):
                mapped.base.madvise(mmap.MADV_DONTNEED)


def described(weights: Mapping[str, Weight]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What each weight is: the type its bytes have, its shape."""
    return {name: (f"ggml {weight.blocks.kind}" if weight.blocks else weight.dtype, weight.shape) for name, weight in weights.items()}


def begun_digest(config: ModelConfig, weights: Mapping[str, tuple[str, tuple[int, ...]]]) -> Any:
    """A hash that has seen the config and what the weights are; their bytes, in order, complete it."""
    what = {"config": asdict(config), "weights": list(weights.items())}
    return hashlib.sha256(b"llmos weights 1\0" + json.dumps(what, sort_keys=True).encode() + b"\0")


def digest_of(config: ModelConfig, weights: Mapping[str, Weight]) -> bytes:
    hasher = begun_digest(config, described(weights))
    for weight in weights.values():
        array = weight.blocks.load() if weight.blocks else weight.load()
        hasher.update(np.ascontiguousarray(array).view(np.uint8).data)
    return bytes(hasher.digest())


def to_bf16(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round finite float32 to the nearest bfloat16, ties to even."""
    bits = numbers.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def checked_weights(config: ModelConfig, found: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[Dtype, tuple[int, ...]]]:
    """Exactly the weights the config needs, or an error that names the first that does not fit."""
    needed = weight_shapes(config)
    checked: dict[str, tuple[Dtype, tuple[int, ...]]] = {}
    for name, shape in needed.items():
        if name not in found:
            raise BadFormat(f"the weight {name} is missing: the files do not match their config.json; fetch the model again")
        dtype, have = found[name]
        if have != shape:
            raise BadFormat(f"the weight {name} has the shape {have}, its config says {shape}; fetch the model again")
        if dtype not in _DTYPES:
            raise NotSupported(f"the weight {name} has the dtype {dtype}; {', '.join(_DTYPES)} work: pull another form of this model")
        checked[name] = (_DTYPES[dtype], shape)
    for name in found:
        # Old Llama files hold rotary frequencies, which follow from the config; tied models may repeat the embedding.
        if name not in needed and not name.endswith("rotary_emb.inv_freq") and not (config.tied and name == "lm_head.weight"):
            raise BadFormat(
                f"there is a weight {name[:80]!r} that a {config.family} of this shape does not have; it would run wrongly without it"
            )
    return checked
