"""Safetensors files: a checked header, memory-mapped tensors, and an atomic writer.

    8 bytes          N bytes                       the rest
    N, little-endian JSON {name: {dtype, shape,    tensor bytes, named by data_offsets
                           data_offsets}, ...}     relative to here; no overlap, no hole

Invariant: once `read_header` returned, every tensor lies inside the file, its bytes are exactly its shape times its
element, and no two share a byte. The header is never trusted before that. Knows nothing of models.
The format: https://github.com/huggingface/safetensors (its own reader cannot give bfloat16 to numpy).
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from llmos.kernel.errno import BadFormat

MAX_HEADER = 100_000_000  # the format's own limit
MAX_TENSORS = 1 << 18
MAX_DIMENSIONS = 8

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes per element of each dtype the format defines with whole bytes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    """From the start of the file."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    entries: dict[str, Entry]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of a file. Raises BadFormat if anything in it cannot be true."""

    def bad(why: str) -> BadFormat:
        return BadFormat(f"{path.name} is not a sound safetensors file: {why}; fetch it again")

    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise bad(f"{size} bytes cannot hold a header")
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise bad(f"its header claims {length} bytes, the file has {size}")
        raw = file.read(length)
    try:
        parsed = json.loads(raw.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise bad(f"its header is no JSON ({str(error)[:80]})") from None
    if not isinstance(parsed, dict):
        raise bad("its header is no JSON object")
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise bad("its metadata is not text")
    if len(parsed) > MAX_TENSORS:
        raise bad(f"it names {len(parsed)} tensors, more than {MAX_TENSORS}")
    data = 8 + length
    entries = {name: _entry(name, value, data, size, bad) for name, value in parsed.items()}
    end = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if entry.offset != end:
            raise bad(f"tensor {name[:80]!r} {'overlaps another' if entry.offset < end else 'leaves a hole before it'}")
        end += entry.nbytes
    if end != size:
        raise bad(f"its tensors end at byte {end}, the file at {size}")
    return Header(entries, metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _entry(name: str, value: Any, data: int, size: int, bad: Callable[[str], BadFormat]) -> Entry:
    """Check one entry of the header by itself; `data` is where tensor bytes begin."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise bad(f"the entry of {name[:80]!r} is malformed")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise bad(f"tensor {name[:80]!r} has the unknown dtype {str(dtype)[:20]!r}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise bad(f"tensor {name[:80]!r} has the impossible shape {str(shape)[:60]}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        raise bad(f"tensor {name[:80]!r} has malformed offsets")
    begin, end = offsets
    if not 0 <= begin <= end <= size - data:
        raise bad(f"tensor {name[:80]!r} lies at bytes {begin}..{end} of {size - data}")
    if math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
        raise bad(f"tensor {name[:80]!r} of shape {shape} and dtype {dtype} does not fill its {end - begin} bytes")
    return Entry(dtype, tuple(shape), data + begin, end - begin)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. BadFormat if it is a pipe, which would keep us waiting, or a device, which may never end."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115  # the caller closes it
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise BadFormat(f"{path.name} is not a regular file; give a copy of the model's own")


def map_file(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file, mapped copy-on-write: arrays over it may be written without ever changing the file."""
    return np.memmap(path, dtype=np.uint8, mode="c")


def view(mapped: NDArray[np.uint8], entry: Entry, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A tensor over a mapped file: no bytes are read until they are used. Copied only where the file misaligns it."""
    if entry.offset + entry.nbytes > mapped.size:
        raise BadFormat("a weight file became shorter while it was open; fetch the model again")
    raw = mapped[entry.offset : entry.offset + entry.nbytes]
    if entry.offset % dtype.itemsize:
        raw = raw.copy()
    return raw.view(dtype).reshape(entry.shape)


Fill = Callable[[str], Iterable[NDArray[Any]]]


def write_safetensors(
    path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], fill: Fill, seal: Callable[[], dict[str, str]]
) -> None:
    """Write `path` whole or not at all.

    `tensors` gives each tensor's dtype and shape, `fill(name)` yields its bytes piece by piece, in that order. `seal()` gives the
    metadata and is called twice: before the first byte and after the last (a digest is known only then); both
    answers must be equally long. Raises OSError as the file system does, and leaves nothing behind then.
    """
    offset = 0
    entries: dict[str, dict[str, Any]] = {}
    for name, (dtype, shape) in tensors.items():
        nbytes = math.prod(shape) * ITEM_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            length = _write_header(file, entries, seal())
            for name, entry in entries.items():
                written = 0
                for piece in fill(name):
                    written += file.write(np.ascontiguousarray(piece).view(np.uint8).data)
                if written != entry["data_offsets"][1] - entry["data_offsets"][0]:
                    raise ValueError(f"{name}: {written} bytes written for {entry}")
            file.seek(0)
            if _write_header(file, entries, seal()) != length:
                raise ValueError("the metadata changed its length")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_header(file: BinaryIO, entries: Mapping[str, Any], metadata: Mapping[str, str]) -> int:
    header = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % 64)  # aligned for every dtype and for cache lines
    return file.write(len(header).to_bytes(8, "little") + header)
