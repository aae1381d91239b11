"""Files of safetensors: what they hold is read, and what lies about it is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmos.drivers import safetensors
from llmos.drivers.safetensors import read_header, write_safetensors
from llmos.kernel.errno import BadFormat


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": offsets, **more}}


DATA = b"\0" * 8
SOUND = raw(one(), DATA)
LYING = {
    "empty": b"",
    "7 bytes": SOUND[:7],
    "only a length": SOUND[:8],
    "header cut": SOUND[:20],
    "data cut by one": SOUND[:-1],
    "one byte too many": SOUND + b"\0",
    "header of 0": raw(b"", b"", 0),
    "header of 1": raw(b"{", b"", 1),
    "header longer than the file": raw(one(), DATA, 10**6),
    "huge header": raw(one(), DATA, 2**64 - 1),
    "header beyond the format's limit": raw(one(), DATA, safetensors.MAX_HEADER + 1),
    "no JSON": raw(b"hello"),
    "no UTF-8": raw(b'{"\xff": 1}'),
    "deep JSON": raw(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "a list": raw([1]),
    "a name twice": raw(
        b'{"w":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', b"\0" * 4
    ),
    "metadata of numbers": raw({"__metadata__": {"a": 1}} | one(), DATA),
    "an entry of text": raw({"w": "x"}, DATA),
    "an entry without offsets": raw({"w": {"dtype": "F32", "shape": [2]}}, DATA),
    "an entry with more": raw(one(code="x"), DATA),
    "unknown dtype": raw(one("F128"), DATA),
    "dtype of a list": raw(one(["F32"]), DATA),
    "negative shape": raw(one(shape=(-2,)), DATA),
    "shape of floats": raw(one(shape=(2.0,)), DATA),
    "shape of true": raw(one(shape=(True, 2)), DATA),
    "shape of text": raw(one(shape="2"), DATA),
    "huge shape": raw(one(shape=(2**60,)), DATA),
    "too many dimensions": raw(one(shape=(1,) * 8 + (2,)), DATA),
    "shape larger than the bytes": raw(one(shape=(3,)), DATA),
    "shape smaller than the bytes": raw(one(shape=(1,)), DATA),
    "a product that wraps": raw(one(shape=(2**32, 2**32, 0)), DATA),
    "negative offset": raw(one(offsets=(-8, 0)), DATA),
    "backwards": raw(one(offsets=(8, 0)), DATA),
    "past the end": raw(one(offsets=(0, 16), shape=(4,)), DATA),
    "offsets of floats": raw(one(offsets=(0.0, 8.0)), DATA),
    "three offsets": raw(one(offsets=(0, 8, 8)), DATA),
    "a hole at the front": raw(one(offsets=(4, 8), shape=(1,)), DATA),
    "overlapping": raw({"v": one()["w"], "w": one(offsets=(4, 12))["w"]}, b"\0" * 12),
    "the same bytes twice": raw({"v": one()["w"], "w": one()["w"]}, DATA),
}


@pytest.mark.parametrize("lie", LYING)
def test_lying_safetensors_are_refused(lie: str, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(LYING[lie])
    with pytest.raises(BadFormat, match=r"m\.safetensors"):
        read_header(tmp_path / "m.safetensors")


def test_sound_safetensors_are_read(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    file.write_bytes(SOUND)
    assert read_header(file).entries["w"].shape == (2,)
    file.write_bytes(raw({}))
    assert read_header(file).entries == {}
    empty = {"e": one(shape=(0,), offsets=(0, 0))["w"], **one(), "z": one(shape=(0, 5), offsets=(8, 8))["w"]}
    file.write_bytes(raw({"__metadata__": {"a": "b"}} | empty, DATA))
    assert read_header(file).metadata == {"a": "b"}


def test_what_we_write_the_safetensors_library_reads(tmp_path: Path) -> None:
    from safetensors import safe_open

    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(5, dtype=np.float16)}
    what = {"a": ("F32", (2, 3)), "b": ("F16", (5,))}
    seals = iter([{"digest": "0" * 8}, {"digest": "12345678"}])
    write_safetensors(tmp_path / "m.safetensors", what, lambda name: [arrays[name][:1], arrays[name][1:]], lambda: next(seals))
    with safe_open(tmp_path / "m.safetensors", "np") as file:
        assert file.metadata() == {"digest": "12345678"}
        for name, array in arrays.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)
    assert read_header(tmp_path / "m.safetensors").metadata == {"digest": "12345678"}


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails(name: str) -> Any:
        yield np.zeros(1, np.float32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "m.safetensors", {"a": ("F32", (2,))}, fails, dict)
    assert list(tmp_path.iterdir()) == []


def test_misaligned_tensors_are_read(tmp_path: Path) -> None:
    numbers = np.array([1.5, -2.5], dtype="<f4")
    header = {"b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, **one(offsets=(1, 9))}
    (tmp_path / "m.safetensors").write_bytes(raw(header, b"\0" + numbers.tobytes()))
    entry = read_header(tmp_path / "m.safetensors").entries["w"]
    array = safetensors.view(safetensors.map_file(tmp_path / "m.safetensors"), entry, np.dtype("<f4"))
    np.testing.assert_array_equal(array, numbers)
