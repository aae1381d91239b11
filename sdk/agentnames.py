"""Which agents there are, by the names of their files. Reads none of them, so that a prompt may ask at each key: see agentfile.py."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[1] / "agents"
"""The folder of those that come with llmos."""


def names(folders: Iterable[Path]) -> list[str]:
    """The agents that `agentfile.find` finds by name, in order of the alphabet."""
    found: set[str] = set()
    for folder in folders:
        try:
            found.update(path.stem for path in folder.glob("*.toml") if is_file(path))
        except OSError:  # there is no such folder, or it is not ours to look into
            continue
    return sorted(found)


def is_file(path: Path) -> bool:
    """False also where a name is too long for a file's, or a folder is not ours to look into."""
    try:
        return path.is_file()
    except OSError:
        return False
