"""Files of models: what may be read of them, how a failure is told, how small ones are written. Knows no format."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmos.kernel.errno import BadFormat, NoSpace, NotFound, NotPermitted

from .safetensors import open_regular

DERIVED_VERSION = "2"
"""Changes when the same file would be derived into other bytes."""
MAX_TEXT_FILE = 64 << 20


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{error.filename} does not exist; see `llmos models`") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"the disk is full while deriving weights of {path.name}; free some space and try again") from None
        raise NotPermitted(f"{error.filename or path}: {error.strerror}; check its permissions") from None


def stamp_of(*files: Path) -> str:
    """Changes when a file does, without reading it."""
    facts = [(file.name, (status := file.stat()).st_size, status.st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([DERIVED_VERSION, facts]).encode()).hexdigest()


def read_text(path: Path) -> str:
    """A text from a model's files. Raises BadFormat, FileNotFoundError."""
    with open_regular(path) as file:
        content = file.read(MAX_TEXT_FILE + 1)  # not the size that it says it has: it may grow
    if len(content) > MAX_TEXT_FILE:
        raise BadFormat(f"{path.name} is larger than {MAX_TEXT_FILE} bytes: it is not a model's {path.name}")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadFormat(f"{path.name} is not UTF-8; fetch it again") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model's files. Raises BadFormat, FileNotFoundError."""
    try:
        parsed = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise BadFormat(f"{path.name} is no JSON ({str(error)[:80]}); fetch it again") from None
    if not isinstance(parsed, dict):
        raise BadFormat(f"{path.name} is no JSON object; fetch it again")
    return parsed


def write_whole(path: Path, text: str) -> None:
    """Write a text so that it is there whole or not at all, however many threads and processes write it at once: the last wins."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
