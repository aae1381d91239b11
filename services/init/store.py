"""The models of the store, on the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

from llmos.drivers.checkpoint import open_checkpoint
from llmos.drivers.cpu.weights import Weights
from llmos.drivers.grammar import Grammars
from llmos.drivers.tokenizer import load_text
from llmos.kernel.errno import Fault, NotFound
from llmos.services.library import Library, Manifest

from .cpu import open_device
from .inspect import inspect_model
from .models import LoadedModel
from .settings import Settings

MAX_ANSWERS = 1024


def library(home: Path) -> Library:
    """The models of one llmos home, judged by our drivers."""
    return Library(home, inspect_model)


class StoreCatalogue:
    """Models by the names of the store. A name means the same model until the next boot.

    Names are looked up on the kernel's thread, at every call that has one: so what the disk said is remembered until the store
    changes, and so is that there is no such model.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._library = library(settings.home)
        self._found: dict[str, Manifest] = {}
        """By full name."""
        self._stamp: object = None
        self._here: list[Manifest] = []
        self._answers: dict[str, str | NotFound] = {}
        """What names meant, as of the stamp."""

    def resolve(self, name: str | None) -> str:
        wanted = name or self._settings.model
        if wanted in self._found:
            return wanted
        stamp = self._library.stamp()  # before the look: what comes after it is seen next time
        if stamp != self._stamp or len(self._answers) >= MAX_ANSWERS:
            self._stamp, self._here, self._answers = stamp, self._library.models(), {}
        answer = self._answers.get(wanted)
        if answer is None:
            try:
                answer = self._full_name(wanted)
            except NotFound as fault:
                answer = fault
            self._answers[wanted] = answer
        if isinstance(answer, NotFound):
            raise NotFound(*answer.args)
        return answer

    def _full_name(self, wanted: str) -> str:
        manifest = self._library.find(wanted, self._here)
        bare = self._found.get(manifest.name) or self._library.find(manifest.name, self._here)
        full = manifest.name if bare.tag == manifest.tag else f"{manifest.name}:{manifest.tag}"
        self._found.setdefault(full, manifest)
        return full

    def load(self, name: str) -> LoadedModel:
        manifest = self._found[name]
        with ThreadPoolExecutor(1) as beside:  # reading a tokenizer takes a fifth of a second, and so do weights
            text = beside.submit(load_text, manifest.path, manifest.cache)
            device = open_device(name, open_checkpoint(manifest.path, manifest.cache), self._settings, cast(Weights, manifest.weights))
            try:
                return LoadedModel(device, text.result(), Grammars(text.result(), device.geometry.vocabulary))
            except BaseException:
                device.close()
                raise

    def kind(self, name: str) -> str:
        return "local"

    def sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for manifest in self._library.models():
            try:
                newest = self._library.find(manifest.name)
            except Fault:
                continue
            found[manifest.name if newest.tag == manifest.tag else f"{manifest.name}:{manifest.tag}"] = manifest.size
        return found
