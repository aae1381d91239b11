"""What a model's files say, before it is taken into the store: the judge that the library is given.

Opens everything as a load would, and runs none of it. The library knows no drivers; this does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmos.drivers.checkpoint import file_errors, open_checkpoint, read_json
from llmos.drivers.config import config_from_hf
from llmos.drivers.gguf import read_gguf
from llmos.drivers.tokenizer import load_text


def inspect_model(path: Path, *, weights: bool) -> Mapping[str, str]:
    """Raises BadFormat or NotSupported if llmos cannot run it. Without `weights`, those are not there yet.

    Returns the licence, if the files tell.
    """
    if weights:
        open_checkpoint(path)
    elif path.is_dir():
        with file_errors(path):
            config_from_hf(read_json(path / "config.json"))
    load_text(path)
    if path.is_dir():
        return {}
    licence = read_gguf(path).metadata.get("general.license")
    return {"licence": licence} if isinstance(licence, str) else {}
