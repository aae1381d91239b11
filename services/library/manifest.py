"""A manifest: what the store knows of one model.

    <home>/models/<name>/<tag>/manifest.json     written last: a model without one is not there
                               files/            as they came, never changed
                               derived/          caches made from them; may be deleted at any time

Invariant: a manifest lists every file under files/ with its size and SHA-256. Names and tags are safe as file names.
Reads and writes manifest.json and nothing else.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from llmos.kernel.errno import BadFormat, Fault, InvalidArgument

from .transfer import read_small

VERSION = 1
QUANTIZED = ("bf16", "int8", "int4", "w8a8", "w4a8")
"""How weights can be held instead of as their files have them, see `Library.quantize`: Weights of drivers/cpu/weights.py."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")


@dataclass(frozen=True, slots=True)
class File:
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One model in the store."""

    name: str
    tag: str
    files: dict[str, File]
    licence: str
    """As the source states it; empty if it does not."""
    source: str
    """What was pulled: the reference that would pull it again."""
    size: int
    """Bytes of all files."""
    created: str
    """When it was pulled: ISO 8601, UTC."""
    directory: Path
    """Where it is. Not written into the file: a store may be moved."""
    weights: str = ""
    """How a driver holds the weights, one of QUANTIZED; empty: as the files have them."""

    @property
    def path(self) -> Path:
        """What a driver opens: the GGUF file, or the directory of safetensors."""
        weights = [name for name in self.files if name.endswith(".gguf")]
        return self.directory / "files" / weights[0] if weights else self.directory / "files"

    @property
    def cache(self) -> Path:
        """Where a driver keeps what it derives."""
        return self.directory / "derived"

    @property
    def damage(self) -> str | None:
        """What is wrong with its files at a glance, that is without reading them; None if nothing is."""
        for name, file in sorted(self.files.items()):
            try:
                size = (self.directory / "files" / name).stat().st_size
            except OSError as error:
                return f"{name} cannot be read: {error.strerror}"
            if size != file.size:
                return f"{name} has {size} bytes, not {file.size}"
        return None

    def write(self) -> None:
        content = {
            "version": VERSION,
            "name": self.name,
            "tag": self.tag,
            "files": {name: {"sha256": file.sha256, "size": file.size} for name, file in sorted(self.files.items())},
            "licence": self.licence,
            "source": self.source,
            "size": self.size,
            "created": self.created,
            **({"weights": self.weights} if self.weights else {}),
        }
        (self.directory / "manifest.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a model's directory. Raises FileNotFoundError, NotADirectoryError, BadFormat if there is one that says nothing."""
    name = f"{directory.parent.name}:{directory.name}"
    try:
        content = json.loads(read_small(directory / "manifest.json"))
        files = {str(name): File(str(entry["sha256"]), int(entry["size"])) for name, entry in content["files"].items()}
        text = {key: str(content[key]) for key in ("licence", "source", "created")}
        size, weights = int(content["size"]), content.get("weights", "")
        if not isinstance(weights, str):
            raise TypeError(f"weights: {weights!r}")
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (Fault, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadFormat(f"the manifest of {name} is damaged; `llmos rm {name}` and pull it again") from None
    if weights not in ("", *QUANTIZED):
        raise BadFormat(f"{name} has {weights[:40]!r} weights, which this llmos does not know; use a newer one, or `llmos rm {name}`")
    return Manifest(directory.parent.name, directory.name, files, **text, size=size, directory=directory, weights=weights)


def is_name(text: str) -> bool:
    """Safe as a file name everywhere."""
    return _NAME.fullmatch(text) is not None


def checked_name(text: str, what: str = "name") -> str:
    """The name or tag itself. Raises InvalidArgument if it is not one."""
    if not is_name(text):
        raise InvalidArgument(
            f"{text[:60]!r} cannot be the {what} of a model: use up to 96 of a-z 0-9 . _ - and begin with a letter or digit"
        )
    return text


def name_from(text: str) -> str:
    """The nearest allowed name to some text, such as a file's or a repository's name."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("._-")[:96].strip("._-") or "model"
