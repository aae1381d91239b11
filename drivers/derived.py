"""Weights of a GGUF file, and the file that is derived from it.

Canonical names are Hugging Face's, and so is the order of query and key rows (llama.cpp pairs neighbours where Hugging
Face pairs halves): both are undone on the way. Blocks that drivers compute with (Q4_0, Q4_1, Q8_0) stay as they are, all
other types are dequantized and rounded to bf16: once, into `cache/weights.safetensors`. Later opens map that and do not
read the GGUF file at all.

    a weight in blocks      U8 [outputs, bytes of a row], its ggml type under "blocks" in the metadata
    any other               BF16, in its own shape
"""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmos.kernel.errno import BadFormat, Fault

from .config import ModelConfig, Rope, config_from_gguf, weight_shapes
from .files import stamp_of
from .gguf import BLOCKS, GgufFile, dequantized, read_gguf
from .safetensors import Entry, map_file, read_header, view, write_safetensors
from .weights import NUMPY, Blocks, Checkpoint, Weight, begun_digest, checked_weights, described, digest_of, to_bf16

Progress = Callable[[int, int], None]
"""Called with (weights done, weights in all)."""
MAX_FREQUENCIES = 512
"""Numbers in rope_freqs.weight, which is read before the config that says how many there should be: half a head's width."""
AT_ONCE = 1 << 20
"""Numbers that are dequantized together, some 30 MB of temporary arrays."""
_GGUF_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def _gguf_name(name: str) -> str:
    """The name GGUF has for a canonical one."""
    outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in outer:
        return outer[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    module, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{_GGUF_NAMES[module]}.{kind}"


def _gguf_config(file: GgufFile) -> ModelConfig:
    """The config, after checking that the file has exactly the tensors it asks for."""
    factors = None
    if "rope_freqs.weight" in file.tensors:
        shape = file.tensors["rope_freqs.weight"].shape
        if math.prod(shape) > MAX_FREQUENCIES:
            raise BadFormat(f"rope_freqs.weight has the shape {shape}: no head is that wide; fetch the model again")
        factors = [float(n) for rows in file.rows("rope_freqs.weight") for n in rows.reshape(-1)]
    config = config_from_gguf(file.metadata, {name: tensor.shape for name, tensor in file.tensors.items()}, factors)
    canonical = {_gguf_name(name): name for name in weight_shapes(config)}
    found = {canonical.get(name, name): ("BF16", tensor.shape) for name, tensor in file.tensors.items() if name != "rope_freqs.weight"}
    checked_weights(config, found)
    return config


def _order(file: GgufFile, config: ModelConfig, name: str) -> NDArray[np.intp] | None:
    """Which row of the file each row of a weight is; None: the same."""
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.rsplit(".", 2)[-2], 0)
    if file.metadata["general.architecture"] != "llama" or not heads:
        return None
    # GGUF holds row (pair, half) of each head where Hugging Face has (half, pair).
    rows = file.tensors[_gguf_name(name)].shape[0]
    return np.arange(rows, dtype=np.intp).reshape(heads, config.head_width // 2, 2).swapaxes(1, 2).reshape(-1)


def _pieces(file: GgufFile, config: ModelConfig, name: str) -> Iterator[NDArray[np.uint16]]:
    """A weight as bf16 rows."""
    source, order = _gguf_name(name), _order(file, config, name)
    if order is not None and len(file.tensors[source].shape) == 1:
        yield to_bf16(np.concatenate([rows.reshape(-1) for rows in file.rows(source)])[order])
        return
    for rows in file.rows(source, order):
        yield to_bf16(rows)


def _in_blocks(kind: int, shape: tuple[int, ...], load: Callable[[], NDArray[np.uint8]]) -> Weight:
    return Weight("bf16", shape, lambda: _rounded(load(), kind, shape), Blocks(kind, load))


def _rounded(blocks: NDArray[np.uint8], kind: int, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """bf16 bits, a few rows at a time: all of an embedding in float32 may be larger than the rest of its model."""
    made, some = np.empty(shape, np.uint16), max(1, AT_ONCE // shape[1])
    for row in range(0, shape[0], some):
        made[row : row + some] = to_bf16(dequantized(blocks[row : row + some], kind))
    return made


def _weight(file: GgufFile, config: ModelConfig, name: str, shape: tuple[int, ...]) -> Weight:
    source = _gguf_name(name)
    kind = file.tensors[source].kind
    if kind in BLOCKS and len(shape) == 2:
        return _in_blocks(kind, shape, lambda: file.blocks(source, _order(file, config, name)))
    return Weight("bf16", shape, lambda: np.concatenate(list(_pieces(file, config, name))).reshape(shape))


def open_gguf(path: Path) -> Checkpoint:
    """Without a cache: what is not used as it is, is made anew at each use."""
    file = read_gguf(path)
    config = _gguf_config(file)
    weights = {name: _weight(file, config, name, shape) for name, shape in weight_shapes(config).items()}
    return Checkpoint(config, weights, lambda: digest_of(config, weights))


def open_derived(path: Path, cache: Path, progress: Progress | None = None) -> Checkpoint:
    """Derived into the cache, once, however many processes ask: the others wait for the lock and map the result."""
    cache.mkdir(parents=True, exist_ok=True)
    if (known := _derived(path, cache)) is not None:
        return known
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (known := _derived(path, cache)) is not None:
            return known
        _derive(path, cache, progress)
        made = _derived(path, cache)
        if made is None:
            raise BadFormat(f"{path.name} changed while its weights were derived; try again")
        return made


def _derived(path: Path, cache: Path) -> Checkpoint | None:
    """The derived weights, if they are there, whole, and of this very file."""
    derived = cache / "weights.safetensors"
    try:
        header = read_header(derived)
        if header.metadata["stamp"] != stamp_of(path):
            return None
        fields = json.loads(header.metadata["config"])
        config = ModelConfig(**{**fields, "rope": Rope(**fields["rope"]), "windows": tuple(fields["windows"])})
        digest = bytes.fromhex(header.metadata["digest"])
        kinds: dict[str, int] = json.loads(header.metadata["blocks"])
        found = {name: _found(entry, kinds.get(name)) for name, entry in header.entries.items()}
        shapes = checked_weights(config, found)
    except FileNotFoundError:
        path.stat()  # the model itself must exist, or say so
        return None
    except (KeyError, ValueError, TypeError, AttributeError, Fault):
        return None  # of an older llmos, or damaged: derive it again
    mapped = map_file(derived)

    def viewer(name: str, dtype: np.dtype[Any]) -> Callable[[], NDArray[Any]]:
        return lambda: view(mapped, header.entries[name], dtype)

    weights = {
        name: _in_blocks(kinds[name], shape, viewer(name, np.dtype(np.uint8)))
        if name in kinds
        else Weight(dtype, shape, viewer(name, NUMPY[dtype]))
        for name, (dtype, shape) in shapes.items()
    }
    return Checkpoint(config, weights, lambda: digest, [mapped])


def _found(entry: Entry, kind: int | None) -> tuple[str, tuple[int, ...]]:
    """What a derived tensor holds. Raises KeyError, ValueError."""
    if kind is None:
        return entry.dtype, entry.shape
    rows, row_bytes = entry.shape
    return "BF16", (rows, row_bytes // BLOCKS[kind].nbytes * BLOCKS[kind].numbers)


def _derive(path: Path, cache: Path, progress: Progress | None) -> None:
    file = read_gguf(path)
    config = _gguf_config(file)
    weights = {name: _weight(file, config, name, shape) for name, shape in weight_shapes(config).items()}
    hasher = begun_digest(config, described(weights))
    names = list(weights)
    stamp = stamp_of(path)
    kinds = {name: weight.blocks.kind for name, weight in weights.items() if weight.blocks}

    def fill(name: str) -> Iterator[NDArray[Any]]:
        blocks = weights[name].blocks
        for piece in [blocks.load()] if blocks else _pieces(file, config, name):
            hasher.update(np.ascontiguousarray(piece).view(np.uint8).data)
            yield piece
        if progress is not None:
            progress(names.index(name) + 1, len(names))

    def seal() -> dict[str, str]:
        facts = {"stamp": stamp, "config": json.dumps(asdict(config)), "blocks": json.dumps(kinds)}
        return {**facts, "digest": hasher.hexdigest()}

    tensors = {
        name: ("U8", (weight.shape[0], file.row_bytes(_gguf_name(name)))) if weight.blocks else ("BF16", weight.shape)
        for name, weight in weights.items()
    }
    write_safetensors(cache / "weights.safetensors", tensors, fill, seal)
