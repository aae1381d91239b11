"""Checkpoints: the same weights from every kind of file, and files that do not hold what they say refused."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray
from tiny import config_json, permuted, random_weights, write_directory, write_gguf

from llmos.drivers import checkpoint as module, derived, files, safetensors
from llmos.drivers.checkpoint import open_checkpoint
from llmos.drivers.config import FAMILIES, config_from_hf, weight_shapes
from llmos.drivers.gguf import GgufFile
from llmos.drivers.weights import Checkpoint, to_bf16
from llmos.kernel.errno import BadFormat, NoSpace, NotFound, NotPermitted, NotSupported


def as_float(checkpoint: Checkpoint, name: str) -> NDArray[np.float32]:
    array = checkpoint.array(name)
    if checkpoint.dtype(name) == "bf16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def rounded(numbers: NDArray[Any]) -> NDArray[np.float32]:
    """To the nearest bfloat16, by arithmetic instead of bits: 8 significant binary digits."""
    fraction, exponent = np.frexp(numbers.astype(np.float64))
    return np.ldexp(np.round(fraction * 256.0) / 256.0, exponent).astype(np.float32)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_directory_gives_what_was_written(shards: int, dtype: Any, tmp_path: Path) -> None:
    weights = write_directory(tmp_path / "m", shards=shards, dtype=dtype)
    checkpoint = open_checkpoint(tmp_path / "m")
    assert list(checkpoint.names) == list(weight_shapes(checkpoint.config))
    for name, array in weights.items():
        assert checkpoint.dtype(name) == {np.float32: "f32", np.float16: "f16"}[dtype]
        np.testing.assert_array_equal(checkpoint.array(name), array)
    assert checkpoint.nbytes == sum(array.nbytes for array in weights.values())


def test_writing_to_an_array_changes_no_file(tmp_path: Path) -> None:
    write_directory(tmp_path / "m")
    before = (tmp_path / "m/model.safetensors").read_bytes()
    open_checkpoint(tmp_path / "m").array("model.norm.weight")[:] = 7.0
    assert (tmp_path / "m/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cached", [True, False])
def test_gguf_gives_the_same_weights_rounded_to_bf16(family: str, cached: bool, tmp_path: Path) -> None:
    config = config_from_hf(config_json(family, attention_bias=family in ("llama", "qwen3"), sliding_window=None, tie_word_embeddings=True))
    weights = random_weights(config)
    write_gguf(tmp_path / "m.gguf", weights, config)
    checkpoint = open_checkpoint(tmp_path / "m.gguf", tmp_path / "cache" if cached else None)
    assert checkpoint.config == (config if family != "mistral" else config_from_hf(config_json("llama", tie_word_embeddings=True)))
    assert "lm_head.weight" not in checkpoint.names
    for name, array in weights.items():
        assert checkpoint.dtype(name) == "bf16"
        np.testing.assert_array_equal(as_float(checkpoint, name), rounded(array))


@pytest.mark.parametrize("at_once", [1, 1000, 1 << 20])
@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
def test_quantized_gguf(kind: Kind, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmos.drivers.derived.AT_ONCE", at_once)
    config = config_from_hf(config_json())
    weights = random_weights(config)
    write_gguf(tmp_path / "m.gguf", weights, config, kind)
    checkpoint = open_checkpoint(tmp_path / "m.gguf", tmp_path / "cache")
    plain, query = "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"
    np.testing.assert_array_equal(as_float(checkpoint, plain), rounded(dequantize(quantize(weights[plain], kind), kind)))
    stored = dequantize(quantize(permuted(weights[query], config.heads), kind), kind)
    np.testing.assert_array_equal(permuted(as_float(checkpoint, query), config.heads), rounded(stored))


def test_blocks_become_numbers_without_all_of_them_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmos.drivers.derived.AT_ONCE", 1 << 14)
    config = config_from_hf(config_json(vocab_size=20_000))
    write_gguf(tmp_path / "m.gguf", random_weights(config), config, Kind.Q4_1)
    checkpoint = open_checkpoint(tmp_path / "m.gguf", tmp_path / "cache")
    tracemalloc.start()
    try:
        made = checkpoint.array("model.embed_tokens.weight")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made.nbytes < peak < made.nbytes + 64 * (1 << 14)


def test_bf16_rounds_to_even_at_ties_and_keeps_signs() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0xBF808000, 0x00000000, 0x80000000, 0x00000001, 0x7F7F0000], dtype=np.uint32)
    expected = [0x3F80, 0x3F82, 0x3F81, 0xBF80, 0x0000, 0x8000, 0x0000, 0x7F7F]
    assert to_bf16(bits.view(np.float32)).tolist() == expected


def test_derived_weights_are_made_once_and_again_when_the_file_changes(tmp_path: Path) -> None:
    config = config_from_hf(config_json())
    path, cache = tmp_path / "m.gguf", tmp_path / "cache"
    write_gguf(path, random_weights(config), config)
    steps: list[tuple[int, int]] = []
    first = open_checkpoint(path, cache, lambda done, total: steps.append((done, total)))
    assert steps == [(number, len(first.names)) for number in range(1, len(first.names) + 1)]
    again = open_checkpoint(path, cache, lambda done, total: pytest.fail("derived twice"))
    assert again.digest == first.digest == open_checkpoint(path).digest
    assert len(first.digest) == 32
    write_gguf(path, {name: array * 2 for name, array in random_weights(config).items()}, config)
    assert open_checkpoint(path, cache).digest != first.digest


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "stamp", "config"])
def test_damaged_derived_weights_are_made_again(damage: str, tmp_path: Path) -> None:
    config = config_from_hf(config_json())
    path, cache = tmp_path / "m.gguf", tmp_path / "cache"
    write_gguf(path, random_weights(config), config)
    digest = open_checkpoint(path, cache).digest
    derived = cache / "weights.safetensors"
    content = derived.read_bytes()
    torn = {
        "cut": content[:-100], "garbage": os.urandom(1000), "empty": b"",
        "stamp": content.replace(b'"stamp":"', b'"stamq":"'), "config": content.replace(b'\\"heads\\"', b'\\"haeds\\"'),
    }  # fmt: skip
    derived.write_bytes(torn[damage])
    assert open_checkpoint(path, cache).digest == digest
    assert derived.read_bytes() == content
    assert sorted(file.name for file in cache.iterdir()) == [".lock", "weights.safetensors"]


def test_processes_that_open_at_once_derive_once(tmp_path: Path) -> None:
    config = config_from_hf(config_json())
    write_gguf(tmp_path / "m.gguf", random_weights(config), config)
    program = (
        "import sys; from pathlib import Path; from llmos.drivers.checkpoint import open_checkpoint; made = []; "
        "print(len(open_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), lambda *step: made.append(step)).digest), len(made))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "m.gguf"), str(tmp_path / "cache")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(2)]
    answers = sorted(process.communicate(timeout=60)[0].split() for process in both)
    assert answers == [["32", "0"], ["32", str(len(weight_shapes(config)))]]


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_from_hf(config_json())
    write_gguf(tmp_path / "m.gguf", random_weights(config), config)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.os, "fsync", full)
    with pytest.raises(NoSpace, match=r"m\.gguf"):
        open_checkpoint(tmp_path / "m.gguf", tmp_path / "cache")
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [".lock"]


def test_the_digest_names_weights_and_config(tmp_path: Path) -> None:
    write_directory(tmp_path / "a")
    write_directory(tmp_path / "b", shards=2)
    one = open_checkpoint(tmp_path / "a").digest
    assert open_checkpoint(tmp_path / "b").digest == one  # the same weights in other files
    (tmp_path / "b/config.json").write_text(json.dumps(config_json(rope_theta=20000.0)))
    assert open_checkpoint(tmp_path / "b").digest != one
    write_directory(tmp_path / "c", dtype=np.float16)
    assert open_checkpoint(tmp_path / "c").digest != one


def test_a_cache_remembers_the_digest_until_the_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_directory(tmp_path / "m")
    digest = open_checkpoint(tmp_path / "m", tmp_path / "cache").digest
    with monkeypatch.context() as patch:
        patch.setattr(module, "digest_of", lambda *_: pytest.fail("hashed again"))
        assert open_checkpoint(tmp_path / "m", tmp_path / "cache").digest == digest
    (tmp_path / "cache/digest.json").write_text('{"torn')
    assert open_checkpoint(tmp_path / "m", tmp_path / "cache").digest == digest
    os.utime(tmp_path / "m/model.safetensors", ns=(1, 1))
    assert open_checkpoint(tmp_path / "m", tmp_path / "cache").digest == digest


def test_threads_that_find_no_digest_at_once_all_remember_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_directory(tmp_path / "m")
    both, replace = threading.Barrier(2), Path.replace

    def slow(path: Path, target: Path) -> Path:
        both.wait(10)  # both have written, neither has moved
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", slow)
    with ThreadPoolExecutor(2) as threads:
        found = [threads.submit(lambda: open_checkpoint(tmp_path / "m", tmp_path / "cache").digest) for _ in range(2)]
        assert found[0].result() == found[1].result()
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["digest.json"]


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_files_that_keep_one_waiting_or_never_end(file: str, kind: str, tmp_path: Path) -> None:
    write_directory(tmp_path / "m")
    path = tmp_path / "m" / file
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises((BadFormat, NotPermitted), match=file):
        open_checkpoint(tmp_path / "m")


def test_a_text_file_at_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_TEXT_FILE", 10)
    (tmp_path / "a").write_text("a" * 10)
    assert files.read_text(tmp_path / "a") == "a" * 10
    (tmp_path / "a").write_text("a" * 11)
    with pytest.raises(BadFormat, match="larger than 10"):
        files.read_text(tmp_path / "a")


def test_gguf_frequencies_are_not_read_before_their_number_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_from_hf(config_json())
    weights = random_weights(config)
    write_gguf(tmp_path / "a.gguf", {**weights, "rope_freqs.weight": np.ones(derived.MAX_FREQUENCIES + 1, np.float32)}, config)
    monkeypatch.setattr(GgufFile, "rows", lambda *_: pytest.fail("read"))
    with pytest.raises(BadFormat, match="rope_freqs"):
        open_checkpoint(tmp_path / "a.gguf")


def test_old_and_tied_extras_are_ignored_and_others_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = write_directory(tmp_path / "m", tie_word_embeddings=True)
    file = tmp_path / "m/model.safetensors"
    extra = {
        "lm_head.weight": weights["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(8, np.float32),
    }
    save_file({**weights, **extra}, file)
    assert "lm_head.weight" not in open_checkpoint(tmp_path / "m").names
    save_file({**load_file(file), "model.layers.0.self_attn.q_proj.bias": np.zeros(64, np.float32)}, file)
    with pytest.raises(BadFormat, match=r"q_proj\.bias"):
        open_checkpoint(tmp_path / "m")


# --- what is refused


def test_missing_wrong_and_strange_weights(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    weights = write_directory(tmp_path / "m")
    file = tmp_path / "m/model.safetensors"
    save_file({name: array for name, array in weights.items() if name != "model.norm.weight"}, file)
    with pytest.raises(BadFormat, match=r"model\.norm\.weight is missing"):
        open_checkpoint(tmp_path / "m")
    save_file({**weights, "model.norm.weight": np.zeros(63, np.float32)}, file)
    with pytest.raises(BadFormat, match=r"\(63,\).*\(64,\)"):
        open_checkpoint(tmp_path / "m")
    save_file({**weights, "model.norm.weight": np.zeros(64, np.int8)}, file)
    with pytest.raises(NotSupported, match="I8"):
        open_checkpoint(tmp_path / "m")


def test_gguf_without_a_tensor_or_with_one_too_many(tmp_path: Path) -> None:
    config = config_from_hf(config_json())
    weights = random_weights(config)
    write_gguf(tmp_path / "a.gguf", {name: array for name, array in weights.items() if "layers.1.mlp.up" not in name}, config)
    with pytest.raises(BadFormat, match=r"up_proj\.weight is missing"):
        open_checkpoint(tmp_path / "a.gguf")
    write_gguf(tmp_path / "b.gguf", weights, config, extra={"strange.weight": np.zeros(4, np.float32)})
    with pytest.raises(BadFormat, match="strange"):
        open_checkpoint(tmp_path / "b.gguf")


def test_files_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadFormat, match=r"config\.json"):
        open_checkpoint(tmp_path / "empty")
    for name in ("pytorch_model.bin", "m.pt", "m.pth", "m.ckpt"):
        (tmp_path / name).write_bytes(b"\x80\x04")
        with pytest.raises(NotSupported, match="pickled"):
            open_checkpoint(tmp_path / name)
    (tmp_path / "m.safetensors").write_bytes(b"")
    with pytest.raises(NotSupported, match="directory"):
        open_checkpoint(tmp_path / "m.safetensors")
    (tmp_path / "m.gguf").write_bytes(b"hello")
    with pytest.raises(BadFormat, match="GGUF"):
        open_checkpoint(tmp_path / "m.gguf", tmp_path / "cache")


def test_a_directory_with_only_pickles(tmp_path: Path) -> None:
    write_directory(tmp_path / "m")
    (tmp_path / "m/model.safetensors").unlink()
    with pytest.raises(BadFormat, match=r"no model\.safetensors"):
        open_checkpoint(tmp_path / "m")
    (tmp_path / "m/pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(NotSupported, match="pickled"):
        open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize("config", ["", "[]", "{", "[" * 100_000, '"x"', "\udcff"])
def test_a_config_that_is_no_object(config: str, tmp_path: Path) -> None:
    write_directory(tmp_path / "m")
    (tmp_path / "m/config.json").write_bytes(config.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadFormat, match=r"config\.json"):
        open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "model.bin", "missing.safetensors"])
def test_an_index_that_points_elsewhere(shard: str, tmp_path: Path) -> None:
    write_directory(tmp_path / "m", shards=2)
    index = tmp_path / "m/model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = shard
    index.write_text(json.dumps(content))
    with pytest.raises(BadFormat):
        open_checkpoint(tmp_path / "m")


def test_a_weight_in_two_shards(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    write_directory(tmp_path / "m", shards=2)
    first, second = sorted((tmp_path / "m").glob("*.safetensors"))
    name, array = next(iter(load_file(first).items()))
    save_file({**load_file(second), name: array}, second)
    with pytest.raises(BadFormat, match="is in"):
        open_checkpoint(tmp_path / "m")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    config = config_from_hf(config_json())
    write_gguf(tmp_path / "m.gguf", random_weights(config), config)
    (tmp_path / "cache").write_text("a file is in the way")
    with pytest.raises(NotPermitted, match="cache"):
        open_checkpoint(tmp_path / "m.gguf", tmp_path / "cache")


# --- safetensors headers


@pytest.mark.model
def test_the_default_model_is_what_the_gguf_package_reads(default_model: Path, default_cache: Path) -> None:
    from gguf import GGUFReader

    checkpoint = open_checkpoint(default_model, default_cache)
    stored = {tensor.name: tensor for tensor in GGUFReader(default_model).tensors}
    assert (checkpoint.config.layers, checkpoint.config.width, checkpoint.config.tied) == (30, 576, True)
    for name, source, heads in (
        ("model.norm.weight", "output_norm", 0),
        ("model.layers.7.mlp.down_proj.weight", "blk.7.ffn_down", 0),
        ("model.layers.29.self_attn.q_proj.weight", "blk.29.attn_q", 9),
        ("model.layers.3.self_attn.k_proj.weight", "blk.3.attn_k", 3),
    ):
        numbers = as_float(checkpoint, name)
        tensor = stored[f"{source}.weight"]
        np.testing.assert_array_equal(permuted(numbers, heads) if heads else numbers, rounded(dequantize(tensor.data, tensor.tensor_type)))
