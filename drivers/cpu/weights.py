"""From a checkpoint to a model in C++: which weight goes where.

q, k and v are one matrix, one after the other; gate and up are one, in turns of 16 outputs, so that both are at hand when
their product is made. Each matrix is held in one form: as the file has it where that is blocks of 4 or 8 bits, in bfloat16
(to which other numbers are rounded), or as the caller asks. Knows no layout below a block of 16 outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llmos.kernel.errno import BadFormat

from ..config import ModelConfig
from ..weights import Blocks, Checkpoint, to_bf16
from .native import Model, Native, Shape

LANES = 16
MAX_HEAD_WIDTH = 256
Weights = Literal["", "bf16", "int8", "int4", "w8a8", "w4a8"]
"""How to hold the matrices. "": as the file has them. int8: 8-bit integers, a scale for each output, times activations of
16 bits, a scale for each token (levels.hpp). int4: 4-bit groups of 32, 8-bit ones of the head (blocks.hpp), the file's own where it
has such. w8a8: int8 with activations of 8 bits, which lose much. w4a8: int4
with such, but in groups of 32 with a scale each (grouped.hpp)."""


class Part(IntEnum):
    """A matrix: Part in step.cpp."""

    QUERY_KEY_VALUE = 0
    OUTPUT = 1
    GATE_UP = 2
    DOWN = 3
    HEAD = 4


class Form(IntEnum):
    """How a matrix is held: Form in matrix.hpp."""

    PAIRS = 0
    LEVELS = 1
    FOURS = 2
    EIGHTS = 3
    WIDE_LEVELS = 4
    NARROW_FOURS = 5
    NARROW_EIGHTS = 6


KINDS = {2: Form.FOURS, 3: Form.FOURS, 8: Form.EIGHTS}
"""Types of ggml whose blocks are used as they are (Q4_0, Q4_1, Q8_0), and the form that takes them."""


NAMES = {
    Form.PAIRS: "bf16", Form.LEVELS: "w8a8", Form.FOURS: "4-bit", Form.EIGHTS: "8-bit", Form.WIDE_LEVELS: "int8",
    Form.NARROW_FOURS: "w4a8", Form.NARROW_EIGHTS: "8-bit in w4a8",
}  # fmt: skip


class Norm(IntEnum):
    """A norm's weight: Norm in step.cpp."""

    INPUT = 0
    POST = 1
    QUERY = 2
    KEY = 3
    LAST = 4


def unsuitable(config: ModelConfig, page_slots: int, segment: int) -> str:
    """Why the native functions cannot take this model; empty if they can. segment: their attention's, in slots."""
    if config.head_width % LANES or config.head_width > MAX_HEAD_WIDTH:
        return f"its heads are {config.head_width} wide; multiples of {LANES} up to {MAX_HEAD_WIDTH} work"
    if page_slots % LANES or segment % page_slots:
        return f"its pages have {page_slots} slots; multiples of {LANES} that divide {segment} work"
    return ""


def open_model(
    native: Native, checkpoint: Checkpoint, page_slots: int, threads: int, weights: Weights = "", *, kv_int8: bool = False
) -> Model:
    """The checkpoint's weights in C++, laid out; kv_int8: pages in levels. Raises BadFormat if a weight holds a NaN or an infinity."""
    config = checkpoint.config
    shape = Shape(
        config.layers, config.width, config.heads, config.kv_heads, config.head_width, config.ffn_width,
        config.vocabulary, page_slots, config.tied, config.qk_norm, kv_int8, config.norm_epsilon,
    )  # fmt: skip
    model = native.open(shape, threads)
    try:
        _Filling(model, checkpoint, weights).run()
    except BaseException:
        model.close()
        raise
    return model


@dataclass(frozen=True, slots=True)
class Place:
    """Where outputs of a weight go: to blocks of 16 from `first` on, every `stride`-th."""

    name: str
    first: int = 0
    stride: int = 1


class _Filling:
    """A checkpoint on its way into a model."""

    def __init__(self, model: Model, checkpoint: Checkpoint, weights: Weights) -> None:
        self._model, self._checkpoint, self._weights = model, checkpoint, weights

    def run(self) -> None:
        checkpoint, config = self._checkpoint, self._checkpoint.config
        for layer in range(config.layers):
            self._layer(layer)
        self._model.set_norm(0, Norm.LAST, floats(checkpoint, "model.norm.weight"))
        embedding = "model.embed_tokens"
        self._matrix(0, Part.HEAD, False, Place(embedding if config.tied else "lm_head"))
        if not config.tied:
            self._model.set_embedding(bf16(checkpoint, f"{embedding}.weight"))
        checkpoint.forget()

    def _layer(self, layer: int) -> None:
        config, prefix = self._checkpoint.config, f"model.layers.{layer}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        keys, values = config.heads * config.head_width // LANES, (config.heads + config.kv_heads) * config.head_width // LANES
        inputs = (Place(attention + "q_proj"), Place(attention + "k_proj", keys), Place(attention + "v_proj", values))
        self._matrix(layer, Part.QUERY_KEY_VALUE, config.attention_bias, *inputs)
        self._matrix(layer, Part.OUTPUT, config.output_bias, Place(attention + "o_proj"))
        self._matrix(layer, Part.GATE_UP, config.mlp_bias, Place(mlp + "gate_proj", 0, 2), Place(mlp + "up_proj", 1, 2))
        self._matrix(layer, Part.DOWN, config.mlp_bias, Place(mlp + "down_proj"))
        norms = {Norm.INPUT: "input_layernorm", Norm.POST: "post_attention_layernorm"}
        if config.qk_norm:
            norms |= {Norm.QUERY: "self_attn.q_norm", Norm.KEY: "self_attn.k_norm"}
        for norm, name in norms.items():
            self._model.set_norm(layer, norm, floats(self._checkpoint, f"{prefix}{name}.weight"))
        self._model.set_window(layer, config.windows[layer] or 0)
        self._checkpoint.forget()

    def _matrix(self, layer: int, part: Part, bias: bool, *places: Place) -> None:
        """A matrix of one or more weights that lie together, in one form."""
        model, checkpoint = self._model, self._checkpoint
        own = [checkpoint.blocks(f"{place.name}.weight") for place in places]
        model.hold(layer, part, form_of(own, self._weights, part))
        for place, block in zip(places, own, strict=True):
            if block is not None and block.kind in KINDS:
                model.set_blocks(layer, part, block.kind, block.load(), place.first, place.stride)
            else:
                model.set_matrix(layer, part, bf16(checkpoint, f"{place.name}.weight"), place.first, place.stride)
            if bias:
                model.set_bias(layer, part, floats(checkpoint, f"{place.name}.bias"), place.first, place.stride)


def form_of(blocks: Sequence[Blocks | None], weights: Weights, part: Part) -> Form:
    """The form of a matrix whose weights the file has as these blocks (None: as numbers)."""
    forms = {None if block is None else KINDS.get(block.kind) for block in blocks}
    own = forms.pop() if len(forms) == 1 else None
    if weights in ("int4", "w4a8"):
        fours = part is not Part.HEAD or own is Form.FOURS
        if weights == "int4":
            return Form.FOURS if fours else Form.EIGHTS
        return Form.NARROW_FOURS if fours else Form.NARROW_EIGHTS
    if weights == "" and own is not None:
        return own
    return {"int8": Form.WIDE_LEVELS, "w8a8": Form.LEVELS}.get(weights, Form.PAIRS)


def bf16(checkpoint: Checkpoint, name: str) -> NDArray[np.uint16]:
    """A weight as bfloat16 bits."""
    array = checkpoint.array(name)
    if checkpoint.dtype(name) == "bf16":
        return array
    if not np.isfinite(array).all():  # rounding would make some NaNs zero
        raise BadFormat(f"the weight {name} holds numbers that are not finite: the file is damaged, pull it again")
    return to_bf16(array.astype(np.float32))


def floats(checkpoint: Checkpoint, name: str) -> NDArray[np.float32]:
    """A weight as float32."""
    array = checkpoint.array(name)
    if checkpoint.dtype(name) == "bf16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(array, dtype=np.float32)
