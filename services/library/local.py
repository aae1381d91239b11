"""A model from this machine: a GGUF file, or a directory of safetensors as Hugging Face writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from llmos.kernel.errno import BadFormat, NotFound, NotSupported

from .manifest import name_from
from .source import PICKLES, SMALL_FILES, Workplace, weight_files
from .transfer import copy, read_small


@dataclass(frozen=True, slots=True)
class LocalSource:
    """Copied, not linked: the store's files never change, whatever becomes of the originals."""

    path: Path

    @property
    def name(self) -> str:
        return name_from(self.path.stem if self.path.suffix.lower() == ".gguf" else self.path.name)

    @property
    def tag(self) -> str:
        return "local"

    @property
    def origin(self) -> str:
        return str(self.path)

    def bring(self, workplace: Workplace) -> tuple[dict[str, str], str]:
        if not self.path.exists():
            raise NotFound(f"{self.path} does not exist; give a GGUF file, a model directory, a name of the catalogue, or hf:REPO")
        names = sorted(file.name for file in self.path.iterdir()) if self.path.is_dir() else []
        if "config.json" in names:
            workplace.inspect(self.path, weights=False)
            wanted = [name for name in SMALL_FILES if name in names]
            index = "model.safetensors.index.json"
            shards = read_shards(self.path / index) if index in names and "model.safetensors" not in names else None
            wanted += ([index] if shards else []) + weight_files(names, self.path.name, shards)
            return self._copy(self.path, wanted, workplace), ""
        if self.path.is_dir():
            weights = [name for name in names if name.lower().endswith(".gguf")]
            if len(weights) != 1:
                raise BadFormat(f"{self.path} has no config.json and {len(weights)} GGUF files; give a model directory, or one GGUF file")
            return self._copy(self.path, weights, workplace), ""
        if self.path.suffix.lower() in PICKLES:
            raise NotSupported(f"{self.path.name} holds pickled weights, which can run code when loaded; pull safetensors or a GGUF file")
        if self.path.suffix.lower() != ".gguf":
            raise BadFormat(f"{self.path.name} is not a GGUF file; give one, or a directory with config.json and *.safetensors")
        return self._copy(self.path.parent, [self.path.name], workplace), ""

    def _copy(self, folder: Path, names: list[str], workplace: Workplace) -> dict[str, str]:
        hashes = {}
        for name in names:
            if not (folder / name).exists():
                raise BadFormat(f"{folder.name} lacks {name}, which its index names; complete it and pull again")
            hashes[name] = copy(folder / name, workplace.files / name, workplace.progress)
        return hashes


def read_shards(path: Path) -> dict[str, str]:
    """The weight_map of an index of shards: {weight: file beside it}. Raises BadFormat."""
    try:
        shards = json.loads(read_small(path))["weight_map"]
        sound = bool(shards) and all(name == Path(name).name and name.endswith(".safetensors") for name in shards.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise BadFormat(f"{path.name} is not an index of safetensors files; fetch it again")
    return {str(weight): str(name) for weight, name in shards.items()}
