"""Weights of a model, by name, from a GGUF file or a directory of safetensors.

Owns the way from files to arrays under canonical (Hugging Face) names. Invariant: an opened checkpoint has exactly
the weights its config needs, each with the shape the config gives it; there is nothing else to check. Arrays are
memory-mapped: opening reads no weight, and processes that open the same model share its bytes.

A GGUF file is dequantized once, to bf16, into `cache/weights.safetensors`; later opens map that and do not read the
GGUF file at all. Its own layout of query and key rows (llama.cpp pairs neighbours, Hugging Face pairs halves) is
undone on the way. Does not load tokenizers, imports no torch, and never reads pickles: they can run code.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmos.kernel.errno import BadFormat, Fault, NoSpace, NotFound, NotPermitted, NotSupported

from .config import ModelConfig, Rope, config_from_gguf, config_from_hf, weight_shapes
from .gguf import GgufFile, read_gguf
from .safetensors import Entry, map_file, open_regular, read_header, view, write_safetensors

Progress = Callable[[int, int], None]
"""Called with (weights done, weights in all)."""
Dtype = Literal["f32", "f16", "bf16"]

DERIVED_VERSION = "1"
"""Changes when the same GGUF file would be derived into other bytes."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_TEXT_FILE = 64 << 20
MAX_FREQUENCIES = 512
"""Numbers in rope_freqs.weight, which is read before the config that says how many there should be: half a head's width."""

_DTYPES: dict[str, Dtype] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_NUMPY: dict[Dtype, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype("<u2")}


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight: what it is, and how to get it."""

    dtype: Dtype
    shape: tuple[int, ...]
    load: Callable[[], NDArray[Any]]


class Checkpoint:
    """All weights of one model. `array` may be called from any thread."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Weight], digest: Callable[[], bytes]) -> None:
        self.config = config
        self._weights = dict(weights)
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
        return sum(math.prod(weight.shape) * _NUMPY[weight.dtype].itemsize for weight in self._weights.values())

    def dtype(self, name: str) -> Dtype:
        return self._weights[name].dtype

    def array(self, name: str) -> NDArray[Any]:
        """The weight as float32, float16, or uint16 that hold bfloat16 bits. Writing to it changes no file."""
        return self._weights[name].load()


def open_checkpoint(path: Path, cache: Path | None = None, progress: Progress | None = None) -> Checkpoint:
    """Open a GGUF file, or a directory with config.json and *.safetensors (one file, or shards with their index).

    `cache` is a folder for derived files, made when missing. Without one, GGUF weights are dequantized at each use
    and digests computed at each start. Raises NotFound, BadFormat, NotSupported, NoSpace, NotPermitted.
    """
    with file_errors(path):
        if path.is_dir():
            return _open_directory(path, cache)
        if path.suffix.lower() in PICKLES:
            raise NotSupported(f"{path.name} holds pickled weights, which can run code; pull safetensors or a GGUF of this model")
        if path.suffix.lower() == ".safetensors":
            raise NotSupported(f"{path.name} alone has no config.json; give the directory that holds both")
        if cache is None:
            return _open_gguf(path)
        cache.mkdir(parents=True, exist_ok=True)
        return _open_derived(path, cache) or _derive(path, cache, progress)


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{error.filename} does not exist; see `llmos models`") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"the disk is full while deriving weights of {path.name}; free some space and try again") from None
        raise NotPermitted(f"{error.filename or path}: {error.strerror}; check its permissions") from None


def _digest(config: ModelConfig, weights: Mapping[str, tuple[Dtype, tuple[int, ...]]]) -> Any:
    """A hash that has seen the config and what the weights are; their bytes, in order, complete it."""
    what = {"config": asdict(config), "weights": list(weights.items())}
    return hashlib.sha256(b"llmos weights 1\0" + json.dumps(what, sort_keys=True).encode() + b"\0")


def _digest_of(config: ModelConfig, weights: Mapping[str, Weight]) -> bytes:
    hasher = _digest(config, {name: (weight.dtype, weight.shape) for name, weight in weights.items()})
    for weight in weights.values():
        hasher.update(np.ascontiguousarray(weight.load()).view(np.uint8).data)
    return bytes(hasher.digest())


def stamp_of(*files: Path) -> str:
    """Changes when a file does, without reading it."""
    facts = [(file.name, (status := file.stat()).st_size, status.st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([DERIVED_VERSION, facts]).encode()).hexdigest()


# --- directories of safetensors


def read_text(path: Path) -> str:
    """A text from a model's files. Raises BadFormat, FileNotFoundError."""
    with open_regular(path) as file:
        content = file.read(MAX_TEXT_FILE + 1)  # not the size that it says it has: it may grow
    if len(content) > MAX_TEXT_FILE:
        raise BadFormat(f"{path.name} is larger than {MAX_TEXT_FILE} bytes: it is not a model's {path.name}")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadFormat(f"{path.name} is not UTF-8; fetch it again") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model's files. Raises BadFormat, FileNotFoundError."""
    try:
        parsed = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise BadFormat(f"{path.name} is no JSON ({str(error)[:80]}); fetch it again") from None
    if not isinstance(parsed, dict):
        raise BadFormat(f"{path.name} is no JSON object; fetch it again")
    return parsed


def _open_directory(path: Path, cache: Path | None) -> Checkpoint:
    if not (path / "config.json").exists():
        raise BadFormat(f"{path.name} has no config.json: it is not a model directory; give one, or a GGUF file")
    config = config_from_hf(read_json(path / "config.json"))
    files = _weight_files(path)
    entries: dict[str, tuple[Path, Entry]] = {}
    for file in files:
        for name, entry in read_header(file).entries.items():
            if name in entries:
                raise BadFormat(f"weight {name[:80]!r} is in {entries[name][0].name} and in {file.name}; fetch the model again")
            entries[name] = (file, entry)
    maps = {file: map_file(file) for file in files}
    weights = _checked_weights(config, {name: (entry.dtype, entry.shape) for name, (_, entry) in entries.items()})
    loaded = {}
    for name, (dtype, shape) in weights.items():
        file, entry = entries[name]
        loaded[name] = Weight(dtype, shape, _viewer(maps[file], entry, dtype))
    return Checkpoint(config, loaded, lambda: _remembered_digest(config, loaded, files, cache))


def _viewer(mapped: NDArray[np.uint8], entry: Entry, dtype: Dtype) -> Callable[[], NDArray[Any]]:
    return lambda: view(mapped, entry, _NUMPY[dtype])


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if (path / "model.safetensors").exists():
        return [path / "model.safetensors"]
    if not index.exists():
        pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
        if pickles:
            raise NotSupported(
                f"{path.name} has only pickled weights ({pickles[0]}), which can run code; pull safetensors or a GGUF of this model"
            )
        raise BadFormat(f"{path.name} has no model.safetensors and no index of shards; fetch the model again")
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise BadFormat(f"{index.name} has no weight_map; fetch it again")
    names = sorted(set(shards.values()))
    for name in names:
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise BadFormat(f"{index.name} names {name[:80]!r}, which is not a safetensors file beside it")
        if not (path / name).exists():
            raise BadFormat(f"the shard {name} is missing; fetch the model again")
    return [path / name for name in names]


def _checked_weights(config: ModelConfig, found: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[Dtype, tuple[int, ...]]]:
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


def _remembered_digest(config: ModelConfig, weights: Mapping[str, Weight], files: list[Path], cache: Path | None) -> bytes:
    """The digest from the cache if the files are unchanged, else computed and remembered."""
    if cache is None:
        return _digest_of(config, weights)
    note, stamp = cache / "digest.json", stamp_of(*files)
    try:
        known = json.loads(note.read_text())
        if known["stamp"] == stamp and known["config"] == repr(config):
            return bytes.fromhex(known["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing or torn: compute it again
    digest = _digest_of(config, weights)
    with file_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(note, json.dumps({"stamp": stamp, "config": repr(config), "digest": digest.hex()}))
    return digest


def write_whole(path: Path, text: str) -> None:
    """Write a text so that it is there whole or not at all, however many threads and processes write it at once: the last wins."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


# --- GGUF


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
    _checked_weights(config, found)
    return config


def to_bf16(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round finite float32 to the nearest bfloat16, ties to even."""
    bits = numbers.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _pieces(file: GgufFile, config: ModelConfig, name: str) -> Iterator[NDArray[np.uint16]]:
    """A canonical weight from a GGUF file, as bf16 rows."""
    source = _gguf_name(name)
    shape = file.tensors[source].shape
    order = None
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.rsplit(".", 2)[-2], 0)
    if file.metadata["general.architecture"] == "llama" and heads:
        # GGUF holds row (pair, half) of each head where Hugging Face has (half, pair).
        order = np.arange(shape[0], dtype=np.intp).reshape(heads, config.head_width // 2, 2).swapaxes(1, 2).reshape(-1)
        if len(shape) == 1:
            yield to_bf16(np.concatenate([rows.reshape(-1) for rows in file.rows(source)])[order])
            return
    for rows in file.rows(source, order):
        yield to_bf16(rows)


def _open_gguf(path: Path) -> Checkpoint:
    file = read_gguf(path)
    config = _gguf_config(file)

    def load(name: str, shape: tuple[int, ...]) -> Callable[[], NDArray[Any]]:
        return lambda: np.concatenate(list(_pieces(file, config, name))).reshape(shape)

    weights = {name: Weight("bf16", shape, load(name, shape)) for name, shape in weight_shapes(config).items()}
    return Checkpoint(config, weights, lambda: _digest_of(config, weights))


def _open_derived(path: Path, cache: Path) -> Checkpoint | None:
    """The derived weights, if they are there, whole, and of this very file."""
    derived = cache / "weights.safetensors"
    try:
        header = read_header(derived)
        if header.metadata["stamp"] != stamp_of(path):
            return None
        fields = json.loads(header.metadata["config"])
        config = ModelConfig(**{**fields, "rope": Rope(**fields["rope"]), "windows": tuple(fields["windows"])})
        digest = bytes.fromhex(header.metadata["digest"])
        shapes = _checked_weights(config, {name: (entry.dtype, entry.shape) for name, entry in header.entries.items()})
    except FileNotFoundError:
        path.stat()  # the model itself must exist, or say so
        return None
    except (KeyError, ValueError, TypeError, Fault):
        return None  # of an older llmos, or damaged: derive it again
    mapped = map_file(derived)
    weights = {name: Weight(dtype, shape, _viewer(mapped, header.entries[name], dtype)) for name, (dtype, shape) in shapes.items()}
    return Checkpoint(config, weights, lambda: digest)


def _derive(path: Path, cache: Path, progress: Progress | None) -> Checkpoint:
    """Dequantize into the cache, once, however many processes ask: the others wait for the lock and map the result."""
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = _open_derived(path, cache)
        if done is not None:
            return done
        file = read_gguf(path)
        config = _gguf_config(file)
        shapes = weight_shapes(config)
        hasher = _digest(config, {name: ("bf16", shape) for name, shape in shapes.items()})
        names = list(shapes)
        stamp = stamp_of(path)

        def fill(name: str) -> Iterator[NDArray[np.uint16]]:
            for piece in _pieces(file, config, name):
                hasher.update(piece.data)
                yield piece
            if progress is not None:
                progress(names.index(name) + 1, len(names))

        def seal() -> dict[str, str]:
            return {"stamp": stamp, "config": json.dumps(asdict(config)), "digest": hasher.hexdigest()}

        write_safetensors(cache / "weights.safetensors", {name: ("BF16", shape) for name, shape in shapes.items()}, fill, seal)
        made = _open_derived(path, cache)
        if made is None:
            raise BadFormat(f"{path.name} changed while its weights were derived; try again")
        return made
