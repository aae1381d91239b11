"""The decoder of the Llama family in torch: its weights, and everything between token ids and logits but attention.

Owns the weights of one model in one dtype, fused for speed: q, k and v are one matrix. What the
families differ in (biases, QK-norm, tied embedding) is read from the config; there is no code per family.
All tokens of a step go through as one matrix [tokens, width], whichever row they belong to; only the `attend`
function that the caller passes knows rows and pages. Knows nothing of frames, steps or sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from llmos.kernel.errno import BadFormat

from .config import ModelConfig
from .linear import Linear, packable
from .rope import RopeTable, rotate
from .weights import Checkpoint

Attend: TypeAlias = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, queries [tokens, heads, w], keys [tokens, kv heads, w], values [tokens, kv heads, w]) -> [tokens, heads * w]."""


@dataclass(slots=True)
class Layer:
    """The weights of one layer."""

    input_norm: torch.Tensor
    query_key_value: Linear
    query_key_norm: torch.Tensor | None
    """[heads + kv heads, head width]: the norm of the queries, then that of the keys."""
    output: Linear
    post_norm: torch.Tensor
    gate: Linear
    up: Linear
    down: Linear


class Decoder:
    """One model, ready to run."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        self.config: ModelConfig = checkpoint.config
        self.dtype = dtype
        self.packed = packable(dtype)
        config = self.config
        self.rope = RopeTable(config.rope, config.head_width, config.window, dtype)
        self.embedding = load(checkpoint, "model.embed_tokens.weight", dtype)
        self.layers = [self._layer(checkpoint, f"model.layers.{index}.") for index in range(config.layers)]
        self.norm = load(checkpoint, "model.norm.weight", torch.float32)
        head = self.embedding if config.tied else load(checkpoint, "lm_head.weight", dtype)
        self.head = Linear(head, None, packed=self.packed)

    def _layer(self, checkpoint: Checkpoint, prefix: str) -> Layer:
        config = self.config

        def linear(bias: bool, *names: str, silu: bool = False) -> Linear:
            weights = [load(checkpoint, f"{prefix}{name}_proj.weight", self.dtype) for name in names]
            biases = [load(checkpoint, f"{prefix}{name}_proj.bias", self.dtype) for name in names] if bias else []
            return Linear(torch.cat(weights), torch.cat(biases) if bias else None, packed=self.packed, silu=silu)

        def norm(name: str) -> torch.Tensor:
            return load(checkpoint, f"{prefix}{name}.weight", torch.float32)

        query_key_norm = None
        if config.qk_norm:
            queries, keys = norm("self_attn.q_norm"), norm("self_attn.k_norm")
            query_key_norm = torch.cat((queries.expand(config.heads, -1), keys.expand(config.kv_heads, -1)))
        return Layer(
            input_norm=norm("input_layernorm"),
            query_key_value=linear(config.attention_bias, "self_attn.q", "self_attn.k", "self_attn.v"),
            query_key_norm=query_key_norm,
            output=linear(config.output_bias, "self_attn.o"),
            post_norm=norm("post_attention_layernorm"),
            gate=linear(config.mlp_bias, "mlp.gate", silu=True),
            up=linear(config.mlp_bias, "mlp.up"),
            down=linear(config.mlp_bias, "mlp.down"),
        )

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor, longest: int, attend: Attend) -> torch.Tensor:
        """Hidden states [tokens, width] before the last norm. tokens, positions: int64 [tokens]; `longest` > every position."""
        config = self.config
        heads, keys_end, width, epsilon = config.heads, config.heads + config.kv_heads, config.head_width, config.norm_epsilon
        cos, sin = self.rope.upto(longest)
        cos, sin = cos.index_select(0, positions).unsqueeze(1), sin.index_select(0, positions).unsqueeze(1)
        x = self.embedding.index_select(0, tokens)
        for index, layer in enumerate(self.layers):
            fused = layer.query_key_value(rms_norm(x, layer.input_norm, epsilon))
            fused = fused.view(-1, keys_end + config.kv_heads, width)
            turned = fused[:, :keys_end]
            if layer.query_key_norm is not None:
                turned = rms_norm(turned, layer.query_key_norm, epsilon)
            turned = rotate(turned, cos, sin)
            mixed = attend(index, turned[:, :heads], turned[:, heads:], fused[:, keys_end:])
            x.add_(layer.output(mixed))
            normed = rms_norm(x, layer.post_norm, epsilon)
            x.add_(layer.down(layer.gate(normed).mul_(layer.up(normed))))
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, vocabulary] of hidden states [rows, width]."""
        return self.head(self.last(hidden))

    def last(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [..., width] after the last norm."""
        return rms_norm(hidden, self.norm, self.config.norm_epsilon)

    def free(self) -> None:
        """Give the weights' memory back."""
        self.embedding = self.norm = torch.empty(0)
        self.layers = []
        self.head = Linear(self.embedding, None, packed=False)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension, computed in float32 (Zhang and Sennrich 2019).

    torch's own takes twice as long on a CPU: it is made of more passes over x.
    """
    wide = x.float()
    length: torch.Tensor = torch.linalg.vector_norm(wide, 2, -1, True)
    inverse = length.square_().mul_(1 / x.shape[-1]).add_(epsilon).rsqrt_()
    return (wide * inverse).mul_(weight).to(x.dtype)


def load(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> torch.Tensor:
    """A weight of a checkpoint in `dtype`. Raises BadFormat if it holds a NaN or an infinity."""
    tensor = torch.from_numpy(checkpoint.array(name))
    if checkpoint.dtype(name) == "bf16":
        tensor = tensor.view(torch.bfloat16)
    tensor = tensor.to(dtype, copy=True)
    if not bool(torch.isfinite(tensor.sum(dtype=torch.float32))) and not bool(torch.isfinite(tensor).all()):
        raise BadFormat(f"the weight {name} holds numbers that are not finite: the file is damaged, pull it again")
    return tensor
