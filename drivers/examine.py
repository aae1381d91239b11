"""Can llmos run these files? What the library asks before it takes a model in.

Opens what a boot would open (config, weight headers, tokenizer, chat template) and nothing more: no weight is read, no
file written. Raises what opening raises, BadFormat or NotSupported, with words for the person who pulls.
"""

from __future__ import annotations

import math
from pathlib import Path

from llmos.kernel.errno import BadFormat

from .checkpoint import open_checkpoint
from .config import config_from_hf, weight_shapes
from .files import file_errors, read_json
from .gguf import read_gguf
from .tokenizer import load_text


def examine(path: Path, *, weights: bool = True) -> dict[str, str]:
    """Facts of a model, as text: family, parameters, window, licence (if its files state one).

    With `weights` False (a directory whose weights are still to be fetched) judges config and tokenizer alone.
    """
    with file_errors(path):
        if weights:
            config = open_checkpoint(path).config
        elif (path / "config.json").exists():
            config = config_from_hf(read_json(path / "config.json"))
        else:
            raise BadFormat(f"{path.name} has no config.json: it is not a model directory; give one, or a GGUF file")
        text = load_text(path)
        if text.size > config.vocabulary:
            raise BadFormat(f"the tokenizer of {path.name} has {text.size} tokens, the weights {config.vocabulary}: they are of two models")
        text.chat([{"role": "user", "content": "?"}], reply=True)
        licence = "" if path.is_dir() else read_gguf(path).metadata.get("general.license", "")
        parameters = sum(math.prod(shape) for shape in weight_shapes(config).values())
        return {
            "family": config.family,
            "parameters": str(parameters),
            "window": str(config.window),
            "licence": licence if isinstance(licence, str) else "",
        }
