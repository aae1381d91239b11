"""Where a model comes from: what every kind of source offers the store.

A source brings files; it does not install. `workplace.files` becomes the model's files/, `workplace.parts` keeps what is half
fetched until the next try. Invariant: a source names every file it brought with its SHA-256, and brings no file that
can run code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llmos.kernel.errno import NotSupported

from .transfer import Progress

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

SMALL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja", "chat_template.json", "LICENSE", "LICENSE.txt", "LICENSE.md",
)  # fmt: skip
"""What a model directory may have besides weights, of what llmos uses."""


class Inspect(Protocol):
    """Looks at a model's files and raises BadFormat or NotSupported if llmos cannot run them.

    With `weights` False the weights are not there yet: it judges the rest. Returns facts; "licence" is used.
    """

    def __call__(self, path: Path, *, weights: bool) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Workplace:
    """What a source works with during one pull."""

    files: Path
    parts: Path
    progress: Progress
    environ: Mapping[str, str]
    home: Path
    """The person's home folder, where other programs keep their settings."""
    inspect: Inspect
    pause: Callable[[float], None] = time.sleep


class Source(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def tag(self) -> str: ...

    @property
    def origin(self) -> str:
        """The reference that names this source, and no other."""
        ...

    def bring(self, workplace: Workplace) -> tuple[dict[str, str], str]:
        """Put the files into workplace.files; returns their SHA-256 by name, and the licence if the source states one."""
        ...


def weight_files(names: list[str], where: str, shards: Mapping[str, str] | None = None) -> list[str]:
    """Which of a directory's files hold its weights: model.safetensors, or the shards that its index names."""
    if "model.safetensors" in names:
        return ["model.safetensors"]
    if shards:
        return sorted(set(shards.values()))
    pickled = sorted(name for name in names if name.endswith(PICKLES))
    if pickled:
        raise NotSupported(
            f"{where} has only pickled weights ({pickled[0]}), which can run code when loaded; pull one with safetensors or GGUF weights"
        )
    raise NotSupported(f"{where} has neither model.safetensors nor a GGUF file; pull a model that has")
