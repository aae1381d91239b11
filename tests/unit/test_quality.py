"""benchmarks/quality.py: what it makes of numbers that are known, and that it runs, on tiny models."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

pytest.importorskip("torch")

from native import compiled
from tiny import config_json, random_weights, write_gguf

from llmos.drivers.config import config_from_hf
from llmos.drivers.cpu.weights import Weights
from llmos.drivers.examine import examine
from llmos.services.library import Library

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def quality(monkeypatch):
    import quality

    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    monkeypatch.setattr(quality, "compile_native", lambda *_: compiled())
    return quality


def pulled(tmp_path, monkeypatch, kind, **changes):
    """The store of a tiny model whose matrices are of this kind."""
    shape = config_from_hf(config_json(**changes))
    write_gguf(tmp_path / "tiny.gguf", random_weights(shape), shape, kind)
    Library(tmp_path / "home", examine, environ={}).pull(str(tmp_path / "tiny.gguf"))
    monkeypatch.setenv("LLMOS_HOME", str(tmp_path / "home"))


def rows_of(path):
    (table,) = json.loads(path.read_text())["tables"]
    return {row.pop("name"): row for row in table["rows"]}


def same(a, b):
    """But for the time they took."""
    return {**a, "seconds_per_token": 0} == {**b, "seconds_per_token": 0}


def test_comparing(quality):
    """Two texts of three tokens, over a vocabulary of two: one reading is uniform, the other surer of token 0."""

    def logs(share):
        return [np.log(np.tile(np.array([share, 1 - share], np.float32), (3, 1)))] * 2

    texts = [[0, 0, 1], [1, 0, 0]]
    equal = quality.compare(texts, logs(0.5), logs(0.5), [[1, 2, 3], [4, 5]], [[1, 2, 3], [4, 5]])
    assert equal["perplexity"] == pytest.approx(2)
    assert (equal["kl_mean"], equal["kl_p99"], equal["agree"], equal["greedy"]) == (0, 0, 1, 2.5)
    other = quality.compare(texts, logs(0.8), logs(0.25), [[1, 9, 3], [4, 5]], [[1, 2, 3], [4, 5]])
    assert other["perplexity"] == pytest.approx(math.exp(-(3 * math.log(0.8) + math.log(0.2)) / 4))
    assert other["kl_mean"] == pytest.approx(0.25 * math.log(0.25 / 0.8) + 0.75 * math.log(0.75 / 0.2), rel=1e-5)
    assert (other["agree"], other["greedy"]) == (0, 1.5)


@pytest.mark.parametrize(
    ("kl", "agree", "stands"), [(0, 1, True), (0.01, 0.95, True), (0.0101, 1, False), (0, 0.949, False), (math.nan, 1, False)]
)
def test_the_stated_loss(quality, kl, agree, stands):
    assert quality.Result("a", 1, kl, 0, agree, 0, None, 0).stands is stands


def test_plain_weights(quality, tmp_path, monkeypatch, capsys):
    pulled(tmp_path, monkeypatch, Kind.F32)
    assert quality.main(["--model", "tiny", "--quick", "--json", str(tmp_path / "out.json")]) == 0
    said = capsys.readouterr().out
    assert "the default, native as the file has it, stands within it" in said
    assert "perplexity 420)" in said
    assert "by construction" not in said  # int4 made its own blocks of these
    rows = rows_of(tmp_path / "out.json")
    named = [f"native {weights}" if weights else "native as the file has it" for weights in get_args(Weights)]
    assert list(rows) == ["torch fp32", "torch bf16", *named, "native bf16, kv int8"]
    exact, plain, levels, narrow, fours, narrow_fours = (
        rows[name] for name in ("torch fp32", "native bf16", "native int8", "native w8a8", "native int4", "native w4a8")
    )
    assert fours["kl_mean"] < narrow_fours["kl_mean"] < 1.5 * fours["kl_mean"]
    assert (exact["kl_mean"], exact["agree"], exact["greedy"]) == (0, 1, 16)
    assert 0 < plain["kl_mean"] < levels["kl_mean"] < narrow["kl_mean"] < fours["kl_mean"] < 0.5
    assert 0 < rows["native bf16, kv int8"]["kl_mean"] < narrow["kl_mean"]
    assert not same(rows["native bf16, kv int8"], plain)
    assert same(rows["native as the file has it"], plain)
    assert plain["perplexity"] == pytest.approx(exact["perplexity"], rel=0.02)
    assert exact["extraction"] is None  # its window is too short for a question
    assert all(row["seconds_per_token"] > 0 for row in rows.values())


def test_blocks(quality, tmp_path, monkeypatch, capsys):
    """A file of 4-bit blocks: as it is, it computes what its bf16 copy does, and so does int4. Its window takes the questions."""
    pulled(tmp_path, monkeypatch, Kind.Q4_1, max_position_embeddings=1024)
    assert quality.main(["--model", "tiny", "--quick", "--json", str(tmp_path / "out.json")]) == 0
    assert "int4 loses nothing here by construction" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out.json")
    as_it_is, plain = rows["native as the file has it"], rows["native bf16"]
    assert 0 < plain["kl_mean"] < rows["native int8"]["kl_mean"]
    assert same(as_it_is, plain)
    assert same(rows["native int4"], plain)
    assert plain["extraction"] == 0  # asked, and random weights know nothing


def test_8_bit_blocks_are_not_4_bit(quality, tmp_path, monkeypatch):
    from llmos.drivers.checkpoint import open_checkpoint

    for kind, expected in ((Kind.Q4_0, True), (Kind.Q8_0, False)):
        shape = config_from_hf(config_json())
        write_gguf(tmp_path / f"{kind}.gguf", random_weights(shape), shape, kind)
        assert quality.shipped_in_4_bits(open_checkpoint(tmp_path / f"{kind}.gguf")) is expected


def test_an_empty_text(quality, tmp_path, monkeypatch, capsys):
    pulled(tmp_path, monkeypatch, Kind.F32)
    (tmp_path / "short").write_text("")
    with pytest.raises(SystemExit):
        quality.main(["--model", "tiny", "--text", str(tmp_path / "short")])
    assert "fewer than two tokens" in capsys.readouterr().err


def test_the_model_trained_here(quality, tmp_path, monkeypatch, capsys):
    import trained

    monkeypatch.setattr(trained, "QUICK", trained.Training(steps=16, batch=2, layers=1, width=32, ffn_width=32, heads=2, window=128))
    assert quality.main(["--trained", "--quick", "--json", str(tmp_path / "out.json")]) == 0
    assert "a model of 1 layers of 32, trained here" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out.json")
    plain, fours = rows["native bf16"], rows["native int4"]
    assert plain["perplexity"] < trained.BYTES / 2
    assert plain["extraction"] is None
    assert same(rows["native as the file has it"], plain)
    assert plain["kl_mean"] < fours["kl_mean"]


def test_training_is_the_decoder_that_drivers_compute():
    """The logits that are trained are those of the reference driver, and more steps foretell the text better."""
    import torch
    from trained import Training, logits, texts, train

    from llmos.drivers.torch_cpu import TorchDevice
    from llmos.kernel.device import Row

    text, held_out = texts()
    assert len(held_out) > 2048
    assert held_out[:500] not in text
    how = Training(steps=1, batch=2, layers=2, width=32, ffn_width=64, heads=2, kv_heads=1, window=64)
    tokens = list(held_out[:48])
    losses = []
    for steps in (1, 20):
        checkpoint = train(replace(how, steps=steps), text)
        assert {checkpoint.dtype(name) for name in checkpoint.names} == {"bf16"}
        weights = {name: torch.from_numpy((checkpoint.array(name).astype(np.uint32) << 16).view(np.float32)) for name in checkpoint.names}
        expected = logits(how.config, weights, torch.tensor([tokens]))[0]
        device = TorchDevice(checkpoint, name="t", frames=4, page_slots=16, dtype="fp32")
        with torch.inference_mode():
            found = device.decoder.logits(device.forward([Row(0, tuple(tokens), 0, (0, 1, 2))]))
        device.close()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        losses.append(float(torch.nn.functional.cross_entropy(expected[:-1], torch.tensor(tokens[1:]))))
    assert losses[1] < losses[0] - 0.5


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (" Paris", True), ("Paris.\n\nAda", True), ("\nParis", True), (" Parisian", False), (" London", False),
        (" in Paris", False), ("", False), (" ", False), (" paris", False),
    ],
)  # fmt: skip
def test_the_scorer(said, expected):
    from extraction import right

    assert right(said, "Paris") is expected


def test_the_questions():
    """The same ones at each run; each answer stands in the line above it, once, and not in the question."""
    from extraction import questions

    made = questions(24)
    assert made == questions(24)
    assert made[:2] == questions(2)
    assert len({question.prompt for question in made}) == 24
    for question in made:
        *examples, last = question.prompt.split("\n\n")
        assert len(examples) == 1
        facts, _, asked = last.partition("\n")
        assert facts.count(question.answer) == 1
        assert question.answer not in asked
        assert asked.endswith("Answer:")
