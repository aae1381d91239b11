"""Weights of a model, by name, from a GGUF file or a directory of safetensors.

Owns the way from files to a `Checkpoint`. Arrays are memory-mapped: opening reads no weight, and processes that open the
same model share its bytes. Does not load tokenizers, imports no torch, and never reads pickles: they can run code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmos.kernel.errno import BadFormat, NotSupported

from .config import ModelConfig, config_from_hf
from .derived import Progress, open_derived, open_gguf
from .files import file_errors, read_json, stamp_of, write_whole
from .safetensors import Entry, map_file, read_header, view
from .weights import NUMPY, Checkpoint, Dtype, Weight, checked_weights, digest_of

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


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
            return open_gguf(path)
        return open_derived(path, cache, progress)


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
    weights = checked_weights(config, {name: (entry.dtype, entry.shape) for name, (_, entry) in entries.items()})
    loaded = {}
    for name, (dtype, shape) in weights.items():
        file, entry = entries[name]
        loaded[name] = Weight(dtype, shape, _viewer(maps[file], entry, dtype))
    return Checkpoint(config, loaded, lambda: _remembered_digest(config, loaded, files, cache), list(maps.values()))


def _viewer(mapped: NDArray[np.uint8], entry: Entry, dtype: Dtype) -> Callable[[], NDArray[Any]]:
    return lambda: view(mapped, entry, NUMPY[dtype])


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


def _remembered_digest(config: ModelConfig, weights: Mapping[str, Weight], files: list[Path], cache: Path | None) -> bytes:
    """The digest from the cache if the files are unchanged, else computed and remembered."""
    if cache is None:
        return digest_of(config, weights)
    note, stamp = cache / "digest.json", stamp_of(*files)
    try:
        known = json.loads(note.read_text())
        if known["stamp"] == stamp and known["config"] == repr(config):
            return bytes.fromhex(known["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing or torn: compute it again
    digest = digest_of(config, weights)
    with file_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(note, json.dumps({"stamp": stamp, "config": repr(config), "digest": digest.hex()}))
    return digest
