"""The models of the store, on the CPU: with the torch driver, or with the reference."""

from __future__ import annotations

import os
from pathlib import Path

from llmos.drivers.checkpoint import Checkpoint, open_checkpoint
from llmos.drivers.tokenizer import load_text
from llmos.kernel.device import Device
from llmos.kernel.errno import Fault
from llmos.services.library import Library, Manifest

from .inspect import inspect_model
from .memory import tier_bytes
from .models import LoadedModel
from .settings import Settings

PAGE_SLOTS = 16
MAX_FRAMES = 1 << 20
_FLOAT_BYTES = 4
"""Of one KV number at most: how many frames fit is decided before the driver has chosen its type."""


def library(home: Path) -> Library:
    """The models of one llmos home, judged by our drivers."""
    return Library(home, inspect_model)


class StoreCatalogue:
    """Models by the names of the store. A name means the same model until the next boot."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._library = library(settings.home)
        self._found: dict[str, Manifest] = {}

    def resolve(self, name: str | None) -> str:
        wanted = name or self._settings.model
        if wanted in self._found:
            return wanted
        manifest = self._library.find(wanted)
        bare = self._found.get(manifest.name) or self._library.find(manifest.name)
        full = manifest.name if bare.tag == manifest.tag else f"{manifest.name}:{manifest.tag}"
        self._found.setdefault(full, manifest)
        return full

    def load(self, name: str) -> LoadedModel:
        manifest = self._found[name]
        checkpoint = open_checkpoint(manifest.path, manifest.cache)
        text = load_text(manifest.path, manifest.cache)
        return LoadedModel(self._device(name, checkpoint), text)

    def _device(self, name: str, checkpoint: Checkpoint) -> Device:
        config, settings = checkpoint.config, self._settings
        page = config.layers * 2 * config.kv_heads * config.head_width * PAGE_SLOTS * _FLOAT_BYTES
        frames = max(1, min(MAX_FRAMES, tier_bytes(settings.device_memory) // page))
        host_frames = min(MAX_FRAMES, tier_bytes(settings.host_memory) // page)
        # Torch's OpenMP threads wait for each other in a spin. Where something else wants a core too, the one that is not running
        # is waited for that way for a whole time slice, thousands of times a second: spin briefly, then sleep. Read when torch loads.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        if settings.device == "reference":
            from llmos.drivers.reference import ReferenceDevice  # torch takes 2 s to import: on the worker's thread

            return ReferenceDevice(checkpoint, name=name, frames=frames, host_frames=host_frames, page_slots=PAGE_SLOTS)
        from llmos.drivers.torch_cpu import TorchDevice

        return TorchDevice(checkpoint, name=name, frames=frames, host_frames=host_frames, page_slots=PAGE_SLOTS, threads=settings.threads)

    def sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for manifest in self._library.models():
            try:
                newest = self._library.find(manifest.name)
            except Fault:
                continue
            found[manifest.name if newest.tag == manifest.tag else f"{manifest.name}:{manifest.tag}"] = manifest.size
        return found
