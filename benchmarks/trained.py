"""A small Llama, trained here in a minute: weights that were bf16 from the beginning, to measure what fewer bits cost.

A file that comes in 4 bits cannot show what 4 bits lose. This model's tokens are bytes; its text is the reference of the Python
language that comes with every CPython (`pydoc_data.topics`), of which no paragraph is in both parts. Training is AdamW on float32
weights with products in bfloat16; the weights are rounded to bfloat16 once, at the end. The seed is fixed, so two runs on one
machine give the same model unless threads add in another order. Writes no file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pydoc_data.topics import topics

import numpy as np
import torch
import torch.nn.functional as F

from llmos.drivers.config import ModelConfig, Rope, weight_shapes
from llmos.drivers.frequencies import inverse_frequencies
from llmos.drivers.weights import Checkpoint, Weight, digest_of, to_bf16

BYTES = 256
HELD_OUT = 0.05
SEED = 1


@dataclass(frozen=True, slots=True)
class Training:
    """How long, and how large a model."""

    steps: int = 240
    batch: int = 8
    """Stretches of `window` bytes in a step."""
    layers: int = 4
    width: int = 256
    ffn_width: int = 768
    heads: int = 4
    kv_heads: int = 2
    window: int = 256
    rate: float = 4e-3

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(
            family="llama", layers=self.layers, width=self.width, heads=self.heads, kv_heads=self.kv_heads,
            head_width=self.width // self.heads, ffn_width=self.ffn_width, vocabulary=BYTES, window=self.window, norm_epsilon=1e-5,
            rope=Rope(1e4), tied=True, attention_bias=False, output_bias=False, mlp_bias=False, qk_norm=False,
            windows=(None,) * self.layers,
        )  # fmt: skip


QUICK = Training(steps=30, batch=4, layers=2, width=64, ffn_width=96, window=128)


def texts() -> tuple[bytes, bytes]:
    """What is learned, and what is held out: whole paragraphs, each once."""
    paragraphs = list(dict.fromkeys("\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")))
    kept = round(len(paragraphs) * (1 - HELD_OUT))
    learned, held_out = ("\n\n".join(part).encode() for part in (paragraphs[:kept], paragraphs[kept:]))
    return learned, held_out


def train(how: Training, text: bytes) -> Checkpoint:
    """A model of bytes that has read the text, `how.steps` times `how.batch` stretches of it, its weights in bfloat16."""
    config, generator = how.config, torch.Generator().manual_seed(SEED)
    weights = {
        name: torch.ones(shape) if "norm" in name else torch.randn(shape, generator=generator) * shape[-1] ** -0.5
        for name, shape in weight_shapes(config).items()
    }
    for weight in weights.values():
        weight.requires_grad_()
    data = torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int64))
    optimizer = torch.optim.AdamW(weights.values(), lr=how.rate, betas=(0.9, 0.95), weight_decay=0.1)
    warm = max(1, how.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / how.steps)))
    )
    for _ in range(how.steps):
        starts = torch.randint(len(data) - how.window, (how.batch, 1), generator=generator)
        stretch = data[starts + torch.arange(how.window + 1)]
        with torch.autocast("cpu", torch.bfloat16):
            scores = logits(config, weights, stretch[:, :-1])
        loss = F.cross_entropy(scores.float().flatten(0, 1), stretch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        schedule.step()
    return in_bf16(config, weights)


def logits(config: ModelConfig, weights: Mapping[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """[batch, tokens, vocabulary] of tokens [batch, tokens]: the decoder of drivers/decoder.py in what torch can differentiate."""
    batch, count = tokens.shape
    frequencies, _ = inverse_frequencies(config.rope, config.head_width)
    angles = torch.arange(count)[:, None] * torch.from_numpy(frequencies)
    cosines, sines = angles.cos(), angles.sin()
    x = F.embedding(tokens, weights["model.embed_tokens.weight"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, (config.width,), weights[f"{name}.weight"], config.norm_epsilon)

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(batch, count, -1, config.head_width).transpose(1, 2)

    def turned(x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat((a * cosines - b * sines, b * cosines + a * sines), -1)

    for layer in range(config.layers):
        attention, mlp = f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."
        h = norm(x, f"model.layers.{layer}.input_layernorm")
        q, k, v = (heads(F.linear(h, weights[f"{attention}{part}_proj.weight"])) for part in "qkv")
        mixed = F.scaled_dot_product_attention(turned(q), turned(k), v.float(), is_causal=True, enable_gqa=True)
        x = x + F.linear(mixed.transpose(1, 2).flatten(2), weights[f"{attention}o_proj.weight"])
        h = norm(x, f"model.layers.{layer}.post_attention_layernorm")
        gate, up = (F.linear(h, weights[f"{mlp}{part}_proj.weight"]) for part in ("gate", "up"))
        x = x + F.linear(F.silu(gate) * up, weights[f"{mlp}down_proj.weight"])
    return F.linear(norm(x, "model.norm"), weights["model.embed_tokens.weight"])


def in_bf16(config: ModelConfig, weights: Mapping[str, torch.Tensor]) -> Checkpoint:
    """The weights as a checkpoint of bfloat16 in memory."""
    bits = {name: to_bf16(np.ascontiguousarray(weight.detach().numpy())) for name, weight in weights.items()}
    found = {name: Weight("bf16", array.shape, lambda array=array: array) for name, array in bits.items()}  # type: ignore[misc]
    return Checkpoint(config, found, lambda: digest_of(config, found))
