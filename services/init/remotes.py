"""Remote models beside those of another catalogue."""

from __future__ import annotations

import os
from pathlib import Path

from llmos.drivers.remote.text import VOCABULARY, RemoteText
from llmos.kernel.device import Geometry
from llmos.services.library.remote import Remote, Remotes

from .models import Catalogue, LoadedModel

MILLION = 1e6


class RemoteCatalogue:
    """The remote models of a home, and whatever the other catalogue has. A name means the same model until the next boot."""

    def __init__(self, home: Path, default: str, others: Catalogue) -> None:
        self._remotes, self._default, self._others = Remotes(home), default, others
        self._found: dict[str, Remote] = {}

    def resolve(self, name: str | None) -> str:
        wanted = name or self._default
        if wanted in self._found:
            return wanted
        if not self._remotes.has(wanted):
            return self._others.resolve(name)
        self._found[wanted] = self._remotes.find(wanted)
        return wanted

    def load(self, name: str) -> LoadedModel:
        remote = self._found.get(name)
        if remote is None:
            return self._others.load(name)
        from llmos.drivers.remote.device import RemoteDevice, Target  # httpx takes 0.1 s to import

        target = Target(remote.url.rstrip("/"), remote.model, remote.key(os.environ))  # where a key is is no setting of the system
        return LoadedModel(RemoteDevice(_geometry(remote), target), RemoteText(name))

    def kind(self, name: str) -> str:
        return "remote" if name in self._found or self._remotes.has(name) else self._others.kind(name)

    def sizes(self) -> dict[str, int]:
        return self._others.sizes() | {remote.name: 0 for remote in self._remotes.all()}


def _geometry(remote: Remote) -> Geometry:
    return Geometry(
        name=remote.name,
        vocabulary=VOCABULARY,
        window=remote.window,
        page_slots=1,
        device_frames=0,
        host_frames=0,
        page_bytes=0,
        digest=b"",
        slots=remote.slots,
        price_in=remote.price_in / MILLION,
        price_out=remote.price_out / MILLION,
    )
