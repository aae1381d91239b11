"""GGUF files: every quantization reads as the gguf package reads it, and a lying file is refused before it can do harm."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings, strategies as st

from llmos.drivers import gguf as reader
from llmos.drivers.gguf import read_gguf
from llmos.kernel.errno import BadFormat, Fault, NotSupported


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file_of(
    pairs: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    magic: bytes = b"GGUF",
) -> bytes:
    pairs, tensors = pairs or [], tensors or []
    tensor_count, pair_count = counts or (len(tensors), len(pairs))
    head = magic + struct.pack("<IQQ", version, tensor_count, pair_count) + b"".join(pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], reader.GgufFile]:
    def write_and_read(content: bytes) -> reader.GgufFile:
        (tmp_path / "x.gguf").write_bytes(content)
        return read_gguf(tmp_path / "x.gguf")

    return write_and_read


READABLE = [
    kind
    for kind in Kind
    if kind not in (Kind.Q8_1, Kind.Q8_K, Kind.I8, Kind.I16, Kind.I32, Kind.I64, Kind.F64) and kind.name not in ("Q1_0",)
]


@pytest.mark.parametrize("kind", READABLE)
def test_every_type_reads_as_the_package_reads_it(kind: Kind, tmp_path: Path) -> None:
    block, nbytes = GGML_QUANT_SIZES[kind]
    generator = np.random.default_rng(int(kind))
    # Any bytes are some numbers; small ones keep half-precision scales finite.
    raw = generator.integers(0, 60, (3, 2 * nbytes), dtype=np.uint8)
    if kind == Kind.F32:
        raw = generator.normal(size=(3, 2)).astype("<f4").view(np.uint8)
    (tmp_path / "x.gguf").write_bytes(file_of([], [tensor("w.weight", (2 * block, 3), int(kind), 0)], raw.tobytes()))
    file = read_gguf(tmp_path / "x.gguf")
    expected = gguf.quants.dequantize(raw, kind)
    got = np.concatenate(list(file.rows("w.weight")))
    assert got.dtype == np.float32
    assert got.shape == file.tensors["w.weight"].shape == (3, 2 * block)
    np.testing.assert_array_equal(got, expected)
    picked = np.concatenate(list(file.rows("w.weight", np.array([2, 0], dtype=np.intp))))
    np.testing.assert_array_equal(picked, expected[[2, 0]])


def test_rows_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.arange(60, dtype="<f4").reshape(10, 6)
    (tmp_path / "x.gguf").write_bytes(file_of([], [tensor("w", (6, 10), 0, 0)], numbers.tobytes()))
    monkeypatch.setattr(reader, "CHUNK_ELEMENTS", 20)
    pieces = list(read_gguf(tmp_path / "x.gguf").rows("w"))
    assert [len(piece) for piece in pieces] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(pieces), numbers)


def test_metadata_of_every_type(read: Callable[[bytes], reader.GgufFile]) -> None:
    values: dict[str, tuple[int, str, Any]] = {
        "u8": (0, "B", 255), "i8": (1, "b", -128), "u16": (2, "H", 65535), "i16": (3, "h", -1), "u32": (4, "I", 2**32 - 1),
        "i32": (5, "i", -5), "f32": (6, "f", 1e-5), "bool": (7, "?", True),
        "u64": (10, "Q", 2**64 - 1), "i64": (11, "q", -(2**63)), "f64": (12, "d", 0.1),
    }  # fmt: skip
    pairs = [pair(key, kind, struct.pack("<" + code, value)) for key, (kind, code, value) in values.items()]
    pairs += [pair("s", 8, string("héllo")), pair("ls", 9, struct.pack("<IQ", 8, 2) + string("a") + string(""))]
    pairs += [pair("li", 9, struct.pack("<IQ3i", 5, 3, 1, -2, 3)), pair("empty", 9, struct.pack("<IQ", 8, 0))]
    metadata = read(file_of(pairs)).metadata
    assert metadata == {key: value for key, (_, _, value) in values.items()} | {
        "s": "héllo",
        "ls": ["a", ""],
        "li": [1, -2, 3],
        "empty": [],
    }
    assert read(file_of(pairs, version=2)).metadata == metadata


HUGE = 2**64 - 1
LYING = {
    "empty": b"",
    "23 bytes": file_of()[:23],
    "no magic": file_of(magic=b"GGML"),
    "too many keys": file_of(counts=(0, reader.MAX_KEYS + 1)),
    "too many tensors": file_of(counts=(reader.MAX_TENSORS + 1, 0)),
    "more keys than there are": file_of(counts=(0, 5)),
    "huge counts": file_of(counts=(HUGE, HUGE)),
    "huge key": file_of([struct.pack("<Q", HUGE)]),
    "key too long": file_of([pair("k" * (reader.MAX_NAME + 1), 7, b"\1")]),
    "huge string": file_of([pair("k", 8, struct.pack("<Q", HUGE))]),
    "string past the end": file_of([pair("k", 8, struct.pack("<Q", 1000) + b"x")]),
    "not UTF-8": file_of([pair("k", 8, string(b"\xff\xfe"))]),
    "key twice": file_of([pair("k", 7, b"\1"), pair("k", 7, b"\0")]),
    "unknown type": file_of([pair("k", 13, b"\0" * 8)]),
    "list of lists": file_of([pair("k", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 5, 0))]),
    "huge list": file_of([pair("k", 9, struct.pack("<IQ", 5, HUGE))]),
    "list too long": file_of([pair("k", 9, struct.pack("<IQ", 0, reader.MAX_ARRAY + 1))]),
    "list past the end": file_of([pair("k", 9, struct.pack("<IQ", 5, 100))]),
    "huge list of strings": file_of([pair("k", 9, struct.pack("<IQ", 8, reader.MAX_ARRAY))]),
    "string in a list past the end": file_of([pair("k", 9, struct.pack("<IQ", 8, 1) + struct.pack("<Q", HUGE))]),
    "no dimension": file_of([], [tensor("w", (), 0, 0)]),
    "five dimensions": file_of([], [tensor("w", (1, 1, 1, 1, 1), 0, 0)], b"\0" * 4),
    "a dimension of 0": file_of([], [tensor("w", (0, 4), 0, 0)]),
    "a huge dimension": file_of([], [tensor("w", (HUGE, 4), 0, 0)]),
    "a product that wraps": file_of([], [tensor("w", (2**32, 2**32), 0, 0)]),
    "tensor twice": file_of([], [tensor("w", (8,), 0, 0), tensor("w", (8,), 0, 32)], b"\0" * 64),
    "past the end by one": file_of([], [tensor("w", (8,), 0, 0)], b"\0" * 31),
    "offset past the end": file_of([], [tensor("w", (8,), 0, 2**40)], b"\0" * 32),
    "huge offset": file_of([], [tensor("w", (8,), 0, HUGE - 31)], b"\0" * 32),
    "not aligned": file_of([], [tensor("w", (8,), 0, 4)], b"\0" * 64),
    "overlapping": file_of([], [tensor("v", (16,), 0, 0), tensor("w", (8,), 0, 32)], b"\0" * 64),
    "half a block": file_of([], [tensor("w", (16,), 2, 0)], b"\0" * 32),
    "alignment 0": file_of([pair("general.alignment", 4, struct.pack("<I", 0))]),
    "alignment 24": file_of([pair("general.alignment", 4, struct.pack("<I", 24))]),
    "huge alignment": file_of([pair("general.alignment", 4, struct.pack("<I", 2**31))]),
    "alignment of text": file_of([pair("general.alignment", 8, string("32"))]),
}


@pytest.mark.parametrize("lie", LYING)
def test_lies_are_refused(lie: str, read: Callable[[bytes], reader.GgufFile]) -> None:
    with pytest.raises(BadFormat, match="GGUF"):
        read(LYING[lie])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (file_of(version=1), "version 1"),
        (file_of(version=4), "version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (file_of([], [tensor("w", (8,), 24, 0)], b"\0" * 8), "ggml type 24"),
        (file_of([], [tensor("w", (8,), 9999, 0)], b"\0" * 8), "ggml type 9999"),
    ],
)
def test_what_is_sound_but_not_supported_says_so(content: bytes, words: str, read: Callable[[bytes], reader.GgufFile]) -> None:
    with pytest.raises(NotSupported, match=words):
        read(content)


def test_bounds_that_just_hold(read: Callable[[bytes], reader.GgufFile]) -> None:
    content = file_of([pair("k" * reader.MAX_NAME, 7, b"\1")], [tensor("w", (8,), 0, 0), tensor("v", (8, 1, 1, 1), 0, 32)], b"\0" * 64)
    file = read(content)
    assert {name: found.shape for name, found in file.tensors.items()} == {"w": (8,), "v": (1, 1, 1, 8)}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(bad: float, read: Callable[[bytes], reader.GgufFile]) -> None:
    file = read(file_of([], [tensor("w", (8,), 0, 0)], np.full(8, bad, "<f4").tobytes()))
    with pytest.raises(BadFormat, match="not finite"):
        list(file.rows("w"))


SOUND = file_of(
    [pair("a", 8, string("text")), pair("b", 9, struct.pack("<IQ", 8, 3) + string("x") * 3), pair("c", 4, struct.pack("<I", 7))],
    [tensor("v", (8, 2), 0, 0), tensor("w", (32,), 8, 64)],
    b"\0" * 64 + b"\1" * 34,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(SOUND)), changes=st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), max_size=4))
def test_damage_never_does_worse_than_a_fault(cut: int, changes: list[tuple[int, int]], tmp_path: Path) -> None:
    content = bytearray(SOUND)
    for at, value in changes:
        content[at] = value
    path = tmp_path / "x.gguf"
    path.write_bytes(content[:cut] if not changes else content)
    try:
        file = read_gguf(path)
        for name in file.tensors:
            list(file.rows(name))
    except Fault:
        pass
    else:
        assert changes or cut >= len(SOUND)
