"""The reference device: plain, slow, right. The oracle that every other driver is compared with.

One row after the other, float32, textbook attention over pages gathered one by one: nothing is batched, fused, padded
or shared, so a row's result never depends on the rest of the step. It shares the checkpoint, the rotary frequencies and
the sampler with the fast drivers (each tested against transformers by itself) and none of their arithmetic.
"""

from __future__ import annotations

import hashlib
import time

import torch

from llmos.kernel.device import Geometry, Logprobs, Outcome, Row, Step, Tier
from llmos.kernel.errno import DeviceFailed

from .rope import inverse_frequencies
from .rows import check_rows, hidden_wanted, logprobs_per_row, masked, one_by_one, per_row
from .sampler import sample
from .weights import Checkpoint


class ReferenceDevice:
    """A Device that computes as the papers write it."""

    def __init__(self, checkpoint: Checkpoint, *, name: str, frames: int, host_frames: int = 0, page_slots: int = 16) -> None:
        config = checkpoint.config
        self.config = config
        self._weights = {weight: _float(checkpoint, weight) for weight in checkpoint.names}
        self._frequencies, self._rope_factor = inverse_frequencies(config.rope, config.head_width)
        page = (config.layers, 2, page_slots, config.kv_heads, config.head_width)
        self.pages = {Tier.DEVICE: torch.zeros(frames, *page), Tier.HOST: torch.zeros(host_frames, *page)}
        self._geometry = Geometry(
            name=name,
            vocabulary=config.vocabulary,
            window=config.window,
            page_slots=page_slots,
            device_frames=frames,
            host_frames=host_frames,
            page_bytes=self.pages[Tier.DEVICE][0].nbytes,
            digest=hashlib.sha256(b"reference/1|%d|" % page_slots + checkpoint.digest).digest(),
            batch_invariant=True,
        )

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    def execute(self, step: Step) -> Outcome:
        start = time.perf_counter()
        check_rows(step.rows, self._geometry)
        rows, refused = masked(step.rows, self._geometry)
        tokens: list[int] = []
        logprobs: list[Logprobs | None] = []
        hidden: list[tuple[int, tuple[float, ...]]] = []
        with torch.inference_mode():
            for copy in step.copies:
                if not (0 <= copy.source < len(self.pages[copy.source_tier]) and 0 <= copy.target < len(self.pages[copy.target_tier])):
                    raise DeviceFailed(f"step {step.number}: {copy} names a frame that does not exist")
                self.pages[copy.target_tier][copy.target] = self.pages[copy.source_tier][copy.source]
            for index, row in enumerate(rows):
                states = self.states(row)
                hidden += [(index, tuple(states[place].tolist())) for _, place in hidden_wanted([row])]
                logits = self.head(states)
                if wanted := one_by_one(row):
                    chosen, logs = sample(logits[-len(wanted) :], wanted)
                    tokens += chosen
                    logprobs += logs or [None] * len(wanted)
        found = per_row(rows, tokens), logprobs_per_row(rows, logprobs)
        return Outcome(step.number, *found, time.perf_counter() - start, refused, tuple(hidden))

    def close(self) -> None:
        self._weights, self.pages = {}, {tier: torch.empty(0) for tier in Tier}

    @torch.inference_mode()
    def logits(self, row: Row) -> torch.Tensor:
        """Logits [tokens, vocabulary] of every token of a row; stores its KV."""
        return self.head(self.states(row))

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """Logits [tokens, vocabulary] of hidden states after the last norm [tokens, width]."""
        return self._linear(states, "model.embed_tokens" if self.config.tied else "lm_head")

    @torch.inference_mode()
    def states(self, row: Row) -> torch.Tensor:
        """Hidden states [tokens, width] of every token of a row, after the last norm; stores its KV."""
        config, size = self.config, self._geometry.page_slots
        count, end = len(row.tokens), row.position + len(row.tokens)
        pool = self.pages[Tier.DEVICE]
        x = self._weights["model.embed_tokens.weight"][torch.tensor(row.tokens)]
        positions = torch.arange(row.position, end)
        for layer in range(config.layers):
            prefix = f"model.layers.{layer}."
            h = self._norm(x, prefix + "input_layernorm")
            q = self._linear(h, prefix + "self_attn.q_proj").view(count, config.heads, -1)
            k = self._linear(h, prefix + "self_attn.k_proj").view(count, config.kv_heads, -1)
            v = self._linear(h, prefix + "self_attn.v_proj").view(count, config.kv_heads, -1)
            if config.qk_norm:
                q, k = self._norm(q, prefix + "self_attn.q_norm"), self._norm(k, prefix + "self_attn.k_norm")
            q, k = self._turn(q, positions), self._turn(k, positions)
            if row.store:
                for index, position in enumerate(range(row.position, end)):
                    page = pool[row.frames[position // size], layer]
                    page[0, position % size], page[1, position % size] = k[index], v[index]
            keys = torch.cat([pool[frame, layer, 0] for frame in row.frames])[:end]
            values = torch.cat([pool[frame, layer, 1] for frame in row.frames])[:end]
            x = x + self._linear(self._attend(q, keys, values, positions, config.windows[layer]), prefix + "self_attn.o_proj")
            h = self._norm(x, prefix + "post_attention_layernorm")
            gate, up = self._linear(h, prefix + "mlp.gate_proj"), self._linear(h, prefix + "mlp.up_proj")
            x = x + self._linear(gate * torch.sigmoid(gate) * up, prefix + "mlp.down_proj")
        return self._norm(x, "model.norm")

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        y = x @ self._weights[name + ".weight"].T
        bias = self._weights.get(name + ".bias")
        return y if bias is None else y + bias

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """RMSNorm over the last dimension (Zhang and Sennrich 2019)."""
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.config.norm_epsilon) * self._weights[name + ".weight"]

    def _turn(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Rotary position embedding of x [tokens, heads, w]."""
        angles = positions[:, None, None].float() * self._frequencies
        cos, sin = angles.cos() * self._rope_factor, angles.sin() * self._rope_factor
        first, second = x.chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor, window: int | None) -> torch.Tensor:
        """Softmax attention, head by head. q [tokens, heads, w]; k, v [end, kv heads, w]; result [tokens, heads * w]."""
        at = torch.arange(len(k))
        seen = at[None] <= positions[:, None]
        if window is not None:
            seen &= at[None] > positions[:, None] - window
        heads = []
        for head in range(self.config.heads):
            kv = head * self.config.kv_heads // self.config.heads
            scores = q[:, head] @ k[:, kv].T * self.config.head_width**-0.5
            heads.append(torch.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ v[:, kv])
        return torch.cat(heads, -1)


def _float(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """A weight in float32."""
    tensor = torch.from_numpy(checkpoint.array(name))
    return (tensor.view(torch.bfloat16) if checkpoint.dtype(name) == "bf16" else tensor).float()
