"""From a checkpoint to a model in C++: which weight goes where.

q, k and v are one matrix, one after the other; gate and up are one, in turns of 16 outputs, so that both are at hand when
their product is made. Weights that are not bfloat16 are rounded to it. Knows no layout below a block of 16 outputs.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from llmos.kernel.errno import BadFormat

from ..checkpoint import Checkpoint, to_bf16
from ..config import ModelConfig
from .native import Model, Native, Shape

LANES = 16
MAX_HEAD_WIDTH = 256


class Part(IntEnum):
    """A matrix: Part in step.cpp."""

    QUERY_KEY_VALUE = 0
    OUTPUT = 1
    GATE_UP = 2
    DOWN = 3
    HEAD = 4


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


def open_model(native: Native, checkpoint: Checkpoint, page_slots: int, threads: int, *, int8: bool = False) -> Model:
    """The checkpoint's weights in C++, laid out, in bfloat16 or as 8-bit levels. Raises BadFormat if one holds a NaN or an infinity."""
    config = checkpoint.config
    shape = Shape(
        config.layers, config.width, config.heads, config.kv_heads, config.head_width, config.ffn_width,
        config.vocabulary, page_slots, config.tied, config.qk_norm, int8, config.norm_epsilon,
    )  # fmt: skip
    model = native.open(shape, threads)
    try:
        _fill(model, checkpoint)
    except BaseException:
        model.close()
        raise
    return model


def _fill(model: Model, checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    for layer in range(config.layers):
        _layer(model, checkpoint, layer)
    model.set_norm(0, Norm.LAST, floats(checkpoint, "model.norm.weight"))
    embedding = "model.embed_tokens.weight"
    model.set_matrix(0, Part.HEAD, bf16(checkpoint, embedding if config.tied else "lm_head.weight"))
    if not config.tied:
        model.set_embedding(bf16(checkpoint, embedding))


def _layer(model: Model, checkpoint: Checkpoint, layer: int) -> None:
    config, prefix = checkpoint.config, f"model.layers.{layer}."

    def matrix(part: Part, name: str, bias: bool, first: int = 0, stride: int = 1) -> None:
        model.set_matrix(layer, part, bf16(checkpoint, f"{prefix}{name}_proj.weight"), first, stride)
        if bias:
            model.set_bias(layer, part, floats(checkpoint, f"{prefix}{name}_proj.bias"), first, stride)

    queries, keys = config.heads * config.head_width // LANES, config.kv_heads * config.head_width // LANES
    for name, first in (("q", 0), ("k", queries), ("v", queries + keys)):
        matrix(Part.QUERY_KEY_VALUE, f"self_attn.{name}", config.attention_bias, first)
    matrix(Part.OUTPUT, "self_attn.o", config.output_bias)
    matrix(Part.GATE_UP, "mlp.gate", config.mlp_bias, 0, 2)
    matrix(Part.GATE_UP, "mlp.up", config.mlp_bias, 1, 2)
    matrix(Part.DOWN, "mlp.down", config.mlp_bias)
    norms = {Norm.INPUT: "input_layernorm", Norm.POST: "post_attention_layernorm"}
    if config.qk_norm:
        norms |= {Norm.QUERY: "self_attn.q_norm", Norm.KEY: "self_attn.k_norm"}
    for norm, name in norms.items():
        model.set_norm(layer, norm, floats(checkpoint, f"{prefix}{name}.weight"))
    model.set_window(layer, config.windows[layer] or 0)


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
