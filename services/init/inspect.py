"""The judge that the library is given: what a model's files say, before it is taken into the store.

The library knows no drivers and the shell may not; init does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmos.drivers.examine import examine


def inspect_model(path: Path, *, weights: bool) -> Mapping[str, str]:
    """Raises BadFormat or NotSupported if llmos cannot run it. Without `weights`, those are not there yet."""
    return examine(path, weights=weights)
