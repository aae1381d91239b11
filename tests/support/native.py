"""The native driver for tests: its functions one by one, small models of any shape, and the same decoder in float64.

`decoder` rounds to bfloat16 exactly where the native functions do and computes all else in float64, so that what is left
between the two is float32's rounding.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from platformdirs import user_cache_path

from llmos.drivers.config import ModelConfig, Rope, weight_shapes
from llmos.drivers.cpu.compiler import Compiled, Isa, compile_native, cpu_flags, supported
from llmos.drivers.cpu.device import NativeDevice
from llmos.drivers.cpu.native import Native
from llmos.drivers.cpu.weights import Form
from llmos.drivers.frequencies import inverse_frequencies
from llmos.drivers.weights import Checkpoint, Weight, to_bf16
from llmos.kernel.device import Sampling
from llmos.kernel.errno import NotSupported

ISAS: list[Isa] = supported(cpu_flags())
"""What this processor has, best first: tests run with each."""
SEGMENT = 128
CACHE = user_cache_path("llmos") / "native"
Floats = NDArray[np.float32]
Bits = NDArray[np.uint16]


def wide(bits: Bits) -> Floats:
    """bfloat16 bits as numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(numbers: NDArray[Any]) -> NDArray[np.float64]:
    """To the nearest bfloat16, as the driver does: from float32."""
    return wide(to_bf16(np.ascontiguousarray(numbers, np.float32))).astype(np.float64)


@cache
def compiled(isa: Isa | None = None, *extra: str) -> Compiled:
    """The driver and functions.cpp, compiled once for all tests and runs. Skips where this machine cannot."""
    try:
        made = compile_native(CACHE, isa, source="functions.cpp", extra=extra)
        Native(made.path)
    except NotSupported as error:
        if any(lack in str(error) for lack in ("no C++ compiler", "this processor has no", "does not let")):
            pytest.skip(str(error))
        raise
    return made


class Cache(ctypes.Structure):
    """Cache in cache.hpp."""

    _fields_ = [("data", ctypes.c_void_p), *((name, ctypes.c_int) for name in ("layers", "kv_heads", "width", "slots", "in_levels"))]


class AttentionIn(ctypes.Structure):
    """AttentionIn in functions.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("rows", "queries", "out")),
        ("cache", Cache),
        *((name, ctypes.c_int32) for name in ("count", "tokens", "heads", "window", "layer", "threads")),
    ]


class Choice(ctypes.Structure):
    """Choice in sampler.hpp."""

    _fields_ = [
        *((name, ctypes.c_float) for name in ("temperature", "top_p", "min_p", "penalty")),
        *((name, ctypes.c_int32) for name in ("top_k", "logprobs")),
        ("history", ctypes.c_void_p),
        ("history_size", ctypes.c_int32),
        ("uniform", ctypes.c_double),
    ]


ROW = np.dtype([("first", "<i4"), ("count", "<i4"), ("position", "<i4"), ("frames", "<u8"), ("store", "?")], align=True)


@dataclass(frozen=True)
class Sight:
    """A row to attend: its tokens are [first, first + count) of the step, at `position` of a context in these frames."""

    count: int
    position: int
    frames: Sequence[int]


class Functions:
    """functions.cpp."""

    def __init__(self, isa: Isa, *extra: str) -> None:
        self.isa = isa
        self.library = ctypes.CDLL(str(compiled(isa, *extra).path))
        self.library.llmos_likeliest.restype = ctypes.c_double
        sizes = [self.library.llmos_sizes(index) for index in range(3)]
        assert sizes == [ctypes.sizeof(AttentionIn), ROW.itemsize, ctypes.sizeof(Choice)]

    def stretches(self, threads: int, chunks: int, loops: int = 1, *, waits: bool = False) -> tuple[list[int], bool]:
        """How often each chunk of a pool's stretches ran. waits: the first chunk waits for all others; False if in vain."""
        runs = np.zeros(chunks, np.int32)
        helped = self.library.llmos_stretches(threads, chunks, loops, int(waits), at(runs))
        return [int(count) for count in runs], bool(helped)

    def product(
        self, w: NDArray[Any], x: Bits, bias: Floats, threads: int = 1, form: Form = Form.PAIRS, kind: int = 0
    ) -> tuple[Floats, bool]:
        """y [rows, out], and whether all weights are finite. w: bf16 bits [out, in], or bytes of blocks of a ggml type (kind)."""
        y = np.full((len(x), len(w)), np.nan, np.float32)
        finite = self.library.llmos_product(threads, form, kind, at(w), len(w), x.shape[1], at(x), len(x), at(bias), at(y))
        return y, bool(finite)

    def unpacked(self, w: NDArray[Any], inputs: int, output: int, form: Form = Form.PAIRS, kind: int = 0) -> Floats:
        to = np.full(inputs, np.nan, np.float32)
        self.library.llmos_unpacked(form, kind, at(w), len(w), inputs, output, at(to))
        return to

    def write(self, cache: Cache, frame: int, slot: int, layer: int, head: int, key: Floats, value: Floats) -> None:
        self.library.llmos_write(ctypes.byref(cache), frame, slot, layer, head, at(key), at(value))

    def attention(self, cache: Cache, rows: Sequence[Sight], queries: Bits, layer: int, window: int, threads: int = 1) -> Bits:
        """Of queries [tokens, heads, width], the rows' tokens one after the other."""
        frames = [np.array(row.frames, np.int32) for row in rows]
        given = np.zeros(len(rows), ROW)
        firsts = np.cumsum([0, *(row.count for row in rows[:-1])])
        given[:] = [
            (first, row.count, row.position, table.ctypes.data, False) for first, row, table in zip(firsts, rows, frames, strict=True)
        ]
        out = np.zeros_like(queries)
        tokens, heads, _ = queries.shape
        self.library.llmos_attention(
            ctypes.byref(AttentionIn(at(given), at(queries), at(out), cache, len(rows), tokens, heads, window, layer, threads))
        )
        return out

    def exp(self, x: Floats) -> Floats:
        y = np.zeros_like(x)
        self.library.llmos_exp(len(x), at(x), at(y))
        return y

    def exp_roughly(self, x: Floats) -> Floats:
        y = np.zeros_like(x)
        self.library.llmos_exp_roughly(len(x), at(x), at(y))
        return y

    def narrow(self, x: Floats) -> tuple[Bits, Bits]:
        vectors, single = np.zeros(len(x), np.uint16), np.zeros(len(x), np.uint16)
        self.library.llmos_narrow(len(x), at(x), at(vectors), at(single))
        return vectors, single

    def arg_max(self, x: Floats) -> int:
        return int(self.library.llmos_arg_max(at(x), len(x)))

    def draw(self, logits: Floats, how: Sampling, numbers: NDArray[np.float64], history: Sequence[int] = ()) -> list[int]:
        """A token for each of the numbers in [0, 1)."""
        seen = np.array(history or [0], np.int32)
        tokens = np.full(len(numbers), -1, np.int32)
        choice = Choice(how.temperature, how.top_p, how.min_p, how.repetition_penalty, how.top_k, 0, seen.ctypes.data, len(history), 0)
        self.library.llmos_draw(at(logits), len(logits), ctypes.byref(choice), len(numbers), at(numbers), at(tokens))
        return [int(token) for token in tokens]

    def likeliest(self, x: Floats, count: int) -> tuple[float, list[int]]:
        ids = np.full(count, -1, np.int32)
        total = self.library.llmos_likeliest(at(x), len(x), count, at(ids))
        return float(total), [int(index) for index in ids]


@cache
def functions(isa: Isa, *extra: str) -> Functions:
    """extra: flags for the compiler."""
    return Functions(isa, *extra)


def at(array: NDArray[Any]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def config(**changes: Any) -> ModelConfig:
    """A small model; tied, no biases, no norms of queries, no sliding window unless it says so."""
    values: dict[str, Any] = {
        "family": "qwen3", "layers": 2, "width": 48, "heads": 4, "kv_heads": 2, "head_width": 16, "ffn_width": 56, "vocabulary": 67,
        "window": 640, "norm_epsilon": 1e-5, "rope": Rope(1e4), "tied": True, "qk_norm": False, "attention_bias": False,
        "output_bias": False, "mlp_bias": False,
    }  # fmt: skip
    values |= changes
    values.setdefault("windows", (None,) * values["layers"])
    return ModelConfig(**values)


def random_weights(shape: ModelConfig, seed: int = 0, scale: float = 0.3) -> dict[str, Floats]:
    random = np.random.default_rng(seed)
    return {
        name: ((1 if "norm" in name else 0) + random.normal(0, scale, size)).astype(np.float32)
        for name, size in weight_shapes(shape).items()
    }


def checkpoint(shape: ModelConfig, weights: Mapping[str, Floats]) -> Checkpoint:
    found = {name: Weight("f32", array.shape, lambda array=array: array) for name, array in weights.items()}  # type: ignore[misc]
    return Checkpoint(shape, found, lambda: bytes(32))


def device(shape: ModelConfig, given: Mapping[str, Floats], isa: Isa | None = None, **how: Any) -> NativeDevice:
    return NativeDevice(compiled(isa), checkpoint(shape, given), **{"name": "small", "frames": 64, "host_frames": 8, **how})


ACTIVATIONS = {"w8a8": 127, "int8": 256 * 127}
"""How many levels the greatest magnitude of a row of activations is, by how weights are held."""


def to_levels(x: NDArray[Any], most: int = 127) -> NDArray[np.float64]:
    """Each row in `most` levels of its greatest magnitude: whole numbers; multiply by that magnitude / `most`."""
    top = np.abs(x).max(-1, keepdims=True).astype(np.float32)
    inverse = np.divide(np.float32(most), top, out=np.zeros_like(top), where=top > 0)
    return np.rint(x.astype(np.float32) * inverse).astype(np.float64)


def in_levels(x: NDArray[Any], most: int = 127) -> NDArray[np.float64]:
    """What such levels say."""
    return to_levels(x, most) * np.abs(x).max(-1, keepdims=True) / most


def decoder(shape: ModelConfig, weights: Mapping[str, Floats], tokens: Sequence[int], held: str = "bf16") -> NDArray[np.float64]:
    """Hidden states [tokens, width] before the last norm; weights held in bf16, int8 or w8a8."""

    def near(x: NDArray[np.float64], most: int) -> NDArray[np.float64]:
        return x if held == "bf16" else in_levels(x, most)

    w = {name: near(rounded(array), 127) if array.ndim == 2 else array.astype(np.float64) for name, array in weights.items()}
    x = (w["model.embed_tokens.weight"] if shape.tied else rounded(weights["model.embed_tokens.weight"]))[list(tokens)]
    count, half = len(tokens), shape.head_width // 2
    frequencies, factor = inverse_frequencies(shape.rope, shape.head_width)
    angles = (np.arange(count, dtype=np.float32)[:, None] * frequencies).astype(np.float64)[:, None]
    cosines, sines = np.cos(angles) * factor, np.sin(angles) * factor

    def norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + shape.norm_epsilon) * w[name + ".weight"]

    def linear(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return near(rounded(x), ACTIVATIONS.get(held, 0)) @ w[name + ".weight"].T + w.get(name + ".bias", 0)

    def turn(x: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b = x[..., :half], x[..., half:]
        return np.concatenate((a * cosines - b * sines, b * cosines + a * sines), -1)

    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        h = norm(x, prefix + "input_layernorm")
        q, k, v = (linear(h, f"{prefix}self_attn.{name}_proj").reshape(count, -1, shape.head_width) for name in "qkv")
        if shape.qk_norm:
            q, k = norm(q, prefix + "self_attn.q_norm"), norm(k, prefix + "self_attn.k_norm")
        q, k, v = rounded(turn(q) * shape.head_width**-0.5), rounded(turn(k)), rounded(v)
        share = shape.heads // shape.kv_heads
        mixed = attend(q, np.repeat(k, share, 1), np.repeat(v, share, 1), range(count), shape.windows[layer] or 0)
        x = x + linear(mixed.reshape(count, -1), prefix + "self_attn.o_proj")
        h = norm(x, prefix + "post_attention_layernorm")
        gate, up = linear(h, prefix + "mlp.gate_proj"), linear(h, prefix + "mlp.up_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * up, prefix + "mlp.down_proj")
    return x


def attend(
    q: NDArray[np.float64], k: NDArray[np.float64], v: NDArray[np.float64], positions: Sequence[int], window: int
) -> NDArray[np.float64]:
    """Softmax attention of q [tokens, heads, width], scaled, over k and v [positions, heads, width].

    What multiplies a value is rounded, relative to the greatest of its segment of 128 positions.
    """
    seen, query = np.arange(len(k))[None], np.array(positions)[:, None]
    visible = (seen <= query) & ((seen > query - window) | (window == 0))
    scores = np.where(visible[None], np.einsum("thw,shw->hts", q, k), -np.inf)
    top, total, mixed = scores.max(-1, keepdims=True), 0.0, 0.0
    for start in range(0, len(k), SEGMENT):
        part = scores[..., start : start + SEGMENT]
        best = np.maximum(part.max(-1, keepdims=True), -1e30)
        weights = np.exp(part - best)
        total = total + (weights.sum(-1, keepdims=True) * np.exp(best - top)).swapaxes(0, 1)
        mixed = mixed + np.einsum("hts,shw->thw", rounded(weights), v[start : start + SEGMENT]) * np.exp(best - top).swapaxes(0, 1)
    result: NDArray[np.float64] = mixed / total
    return result
