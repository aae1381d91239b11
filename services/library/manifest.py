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

from llmos.kernel.errno import BadFormat, InvalidArgument

VERSION = 1
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

    @property
    def path(self) -> Path:
        """What a driver opens: the GGUF file, or the directory of safetensors."""
        weights = [name for name in self.files if name.endswith(".gguf")]
        return self.directory / "files" / weights[0] if weights else self.directory / "files"

    @property
    def cache(self) -> Path:
        """Where a driver keeps what it derives."""
        return self.directory / "derived"

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
        }
        (self.directory / "manifest.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a model's directory. Raises FileNotFoundError, BadFormat."""
    try:
        content = json.loads((directory / "manifest.json").read_text("utf-8"))
        files = {str(name): File(str(entry["sha256"]), int(entry["size"])) for name, entry in content["files"].items()}
        text = {key: str(content[key]) for key in ("licence", "source", "created")}
        return Manifest(directory.parent.name, directory.name, files, **text, size=int(content["size"]), directory=directory)
    except (ValueError, KeyError, TypeError, AttributeError):
        name = f"{directory.parent.name}:{directory.name}"
        raise BadFormat(f"the manifest of {name} is damaged; `llmos rm {name}` and pull it again") from None


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
