"""Catalogues: the dummy device's models, which are whatever they are called, and the store's."""

from __future__ import annotations

from llmos.drivers.dummy import DummyDevice
from llmos.drivers.dummy_text import DummyText
from llmos.drivers.grammar import Grammars

from .models import LoadedModel


class DummyCatalogue:
    """Every name is a model. Its tokens are made up, its text is bytes."""

    VOCABULARY = 259
    WINDOW = 8192

    def __init__(self, default: str, frames: int = 4096, host_frames: int = 4096) -> None:
        self._default, self._frames, self._host_frames = default, frames, host_frames

    def resolve(self, name: str | None) -> str:
        return name or self._default

    def load(self, name: str) -> LoadedModel:
        device = DummyDevice(name, frames=self._frames, host_frames=self._host_frames, vocabulary=self.VOCABULARY, window=self.WINDOW)
        text = DummyText()
        return LoadedModel(device, text, Grammars(text, self.VOCABULARY))

    def sizes(self) -> dict[str, int]:
        return {self._default: 0}

    def kind(self, name: str) -> str:
        return "local"
