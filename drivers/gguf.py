"""GGUF files: checked metadata, a checked table of tensors, rows dequantized to float32.

    "GGUF" version   metadata: key, type, value ...   tensors: name, dimensions, type, offset ...   pad   tensor bytes
    4      4 bytes   counts come before both                                                        to alignment

Invariant: every count, length and offset is compared with the bytes that are left before it is used, so a lying
file costs at most time proportional to its size; once `read_gguf` returned, every tensor lies inside the file and no two
overlap. The layout is read here because the `gguf` package's reader trusts the file; its dequantizing functions are
used (they know nothing of files). Knows nothing of models.
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmos.kernel.errno import BadFormat, NotSupported

from .safetensors import map_file

MAGIC = b"GGUF"
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_NAME = 1 << 10
MAX_ARRAY = 1 << 23
MAX_DIMENSIONS = 4
MAX_ELEMENTS = 1 << 40
CHUNK_ELEMENTS = 1 << 22  # rows are dequantized in pieces of about this many numbers

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FLOAT32, _STRING, _ARRAY = 6, 8, 9


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a ggml type that begins with its scales, which are float16."""

    numbers: int
    nbytes: int
    scales: int


BLOCKS = {2: Block(32, 18, 1), 3: Block(32, 20, 2), 8: Block(32, 34, 1)}
"""Q4_0, Q4_1 and Q8_0: a scale (Q4_1: and a minimum), then 32 levels."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies. `shape` is rows first (GGUF writes it the other way round)."""

    kind: int
    """A ggml type number."""
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class GgufFile:
    """An opened file: `metadata` (numbers, strings, booleans, lists of them) and `tensors` by name."""

    def __init__(self, path: Path, metadata: dict[str, Any], tensors: dict[str, GgufTensor], mapped: NDArray[np.uint8]) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors = tensors
        self._mapped = mapped

    def rows(self, name: str, order: NDArray[np.intp] | None = None) -> Iterator[NDArray[np.float32]]:
        """The tensor as float32 (rows, columns), a few rows at a time; `order` picks the rows.

        Raises BadFormat if a weight is infinite or not a number: no model has such, a damaged file does.
        """
        tensor = self.tensors[name]
        columns = tensor.shape[-1]
        packed = self._packed(tensor)
        count = len(packed)
        step = max(1, CHUNK_ELEMENTS // columns)
        for start in range(0, count, step):
            piece = packed[start : start + step] if order is None else packed[order[start : start + step]]
            numbers = dequantized(piece, tensor.kind)
            if not np.isfinite(numbers).all():
                raise self._damaged(name)
            yield numbers.reshape(-1, columns)

    def blocks(self, name: str, order: NDArray[np.intp] | None = None) -> NDArray[np.uint8]:
        """A tensor of a type in BLOCKS, as it is: bytes [rows, bytes of a row]; `order` picks the rows. Raises BadFormat as `rows`."""
        tensor = self.tensors[name]
        block = BLOCKS[tensor.kind]
        packed = self._packed(tensor)
        scales = packed.reshape(len(packed), -1, block.nbytes)[..., : 2 * block.scales]
        if not np.isfinite(np.ascontiguousarray(scales).view(np.float16)).all():
            raise self._damaged(name)
        return packed if order is None else packed[order]

    def row_bytes(self, name: str) -> int:
        tensor = self.tensors[name]
        return tensor.nbytes // math.prod(tensor.shape[:-1])

    def _packed(self, tensor: GgufTensor) -> NDArray[np.uint8]:
        """[rows, bytes of a row]"""
        return self._mapped[tensor.offset : tensor.offset + tensor.nbytes].reshape(math.prod(tensor.shape[:-1]), -1)

    def _damaged(self, name: str) -> BadFormat:
        return BadFormat(f"tensor {name!r} of {self.path.name} holds numbers that are not finite: the file is damaged, fetch it again")


def dequantized(packed: NDArray[np.uint8], kind: int) -> NDArray[np.float32]:
    """Rows of blocks of a ggml type as numbers [rows, columns]."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    with np.errstate(all="ignore"):
        return np.asarray(dequantize(np.ascontiguousarray(packed), GGMLQuantizationType(kind)), dtype=np.float32)


def read_gguf(path: Path) -> GgufFile:
    """Open a GGUF file, version 2 or 3, little-endian. Raises BadFormat or NotSupported; reads no tensor bytes."""
    size = path.stat().st_size
    if size < 24:
        raise BadFormat(f"{path.name} is not a GGUF file: {size} bytes cannot hold a header")
    mapped = map_file(path)
    cursor = _Cursor(path.name, mapped.data)
    if bytes(cursor.take(4)) != MAGIC:
        raise BadFormat(f"{path.name} is not a GGUF file (it does not begin with GGUF)")
    version = cursor.scalar("I")
    if version not in (2, 3):
        big = version & 0xFFFF == 0
        raise NotSupported(
            f"{path.name} is {'a big-endian GGUF file' if big else f'GGUF version {version}'}; versions 2 and 3, little-endian, work"
        )
    tensor_count, key_count = cursor.scalar("Q"), cursor.scalar("Q")
    if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
        raise cursor.bad(f"it claims {tensor_count} tensors and {key_count} keys, more than {MAX_TENSORS} and {MAX_KEYS}")
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.string(MAX_NAME)
        if key in metadata:
            raise cursor.bad(f"the key {key[:80]!r} occurs twice")
        metadata[key] = cursor.value()
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 16 or alignment & (alignment - 1):
        raise cursor.bad(f"an alignment of {str(alignment)[:20]} is impossible")
    return GgufFile(path, metadata, _tensors(cursor, tensor_count, alignment), mapped)


def _tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, GgufTensor]:
    """Read the table of tensors and check that each lies in the file and that none overlap."""
    blocks: dict[int, tuple[int, int]] = {}
    raw: dict[str, tuple[int, tuple[int, ...], int, int]] = {}
    for _ in range(count):
        name = cursor.string(MAX_NAME)
        if name in raw:
            raise cursor.bad(f"tensor {name[:80]!r} occurs twice")
        dimensions = cursor.scalar("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise cursor.bad(f"tensor {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(cursor.scalar("Q") for _ in range(dimensions))
        kind, offset = cursor.scalar("I"), cursor.scalar("Q")
        if not all(shape) or math.prod(shape) > MAX_ELEMENTS:
            raise cursor.bad(f"tensor {name[:80]!r} has the impossible shape {shape}")
        if kind not in blocks:
            blocks[kind] = _block(kind, name, cursor.name)
        block, block_bytes = blocks[kind]
        if shape[0] % block:
            raise cursor.bad(f"rows of tensor {name[:80]!r} hold {shape[0]} numbers, not a multiple of {block}")
        raw[name] = (kind, shape[::-1], offset, math.prod(shape) // block * block_bytes)
    data = -(-cursor.offset // alignment) * alignment
    tensors, end = {}, data
    for name, (kind, shape, offset, nbytes) in sorted(raw.items(), key=lambda item: item[1][2]):
        start = data + offset
        if offset % alignment or start < end:
            raise cursor.bad(f"tensor {name[:80]!r} {'is not aligned' if offset % alignment else 'overlaps another'}")
        end = start + nbytes
        if end > cursor.size:
            raise cursor.bad(f"tensor {name[:80]!r} ends at byte {end}, the file at {cursor.size}: it is cut short")
        tensors[name] = GgufTensor(kind, shape, start, nbytes)
    return tensors


def _block(kind: int, tensor: str, file: str) -> tuple[int, int]:
    """(numbers, bytes) of one block of a ggml type. Raises NotSupported if the `gguf` package cannot dequantize it."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        numbers, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        dequantize(np.zeros((1, nbytes), dtype=np.uint8), GGMLQuantizationType(kind))
    except (ValueError, KeyError, NotImplementedError):
        raise NotSupported(
            f"tensor {tensor[:80]!r} of {file} has ggml type {kind}, which llmos cannot read; pull another quantization"
        ) from None
    return numbers, nbytes


class _Cursor:
    """Reads from the front of the file; every read is checked against what is left."""

    def __init__(self, name: str, view: memoryview) -> None:
        self.name = name
        self.size = len(view)
        self.offset = 0
        self._view = view

    def bad(self, why: str) -> BadFormat:
        return BadFormat(f"{self.name} is not a sound GGUF file: {why}; fetch it again")

    def take(self, count: int) -> memoryview:
        start, end = self.offset, self.offset + count
        if count < 0 or end > self.size:
            raise self.bad(f"it ends at byte {self.size}, {end - self.size} bytes before its own header says")
        self.offset = end
        return self._view[start:end]

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self, most: int) -> str:
        length = self.scalar("Q")
        if length > most:
            raise self.bad(f"a string claims {length} bytes, more than {most}")
        return self._text(self.take(length))

    def value(self) -> Any:
        kind = self.scalar("I")
        if kind == _STRING:
            return self.string(self.size)
        if kind != _ARRAY:
            number = self.scalar(self._code(kind))
            return float(str(np.float32(number))) if kind == _FLOAT32 else number  # 1e-05 was written, not 9.99999975e-06
        kind, count = self.scalar("I"), self.scalar("Q")
        if count > MAX_ARRAY:
            raise self.bad(f"a list claims {count} entries, more than {MAX_ARRAY}")
        if kind == _STRING:
            return self._strings(count)
        code = self._code(kind)
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code))))

    def _code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self.bad(f"a value has the unknown type {kind}")
        return _SCALARS[kind]

    def _strings(self, count: int) -> list[str]:
        """As `string`, without a call per entry: a vocabulary has 150,000 of them."""
        if count * 8 > self.size - self.offset:
            raise self.bad(f"a list claims {count} strings, more than fit the file")
        view, offset, size, length_at = self._view, self.offset, self.size, struct.Struct("<Q").unpack_from
        strings = []
        for _ in range(count):
            if offset + 8 > size:
                raise self.bad("a list of strings runs over its end")
            start = offset + 8
            offset = start + length_at(view, offset)[0]
            if offset > size:
                raise self.bad("a string runs over the end of the file")
            strings.append(self._text(view[start:offset]))
        self.offset = offset
        return strings

    def _text(self, raw: memoryview) -> str:
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise self.bad("a string in its header is not UTF-8") from None
