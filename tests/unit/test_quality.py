"""benchmarks/quality.py: what it makes of numbers that are known, and that it runs, on a tiny model."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from native import compiled
from tiny import config_json, random_weights, write_gguf

from llmos.drivers.config import config_from_hf
from llmos.drivers.examine import examine
from llmos.services.library import Library

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_comparing():
    """Two texts of three tokens, over a vocabulary of two: one reading is uniform, the other surer of token 0."""
    from quality import compare

    def logs(share):
        return [np.log(np.tile(np.array([share, 1 - share], np.float32), (3, 1)))] * 2

    texts = [[0, 0, 1], [1, 0, 0]]
    same = compare("a", texts, logs(0.5), logs(0.5), [[1, 2, 3], [4, 5]], [[1, 2, 3], [4, 5]])
    assert same["perplexity"] == pytest.approx(2)
    assert (same["kl_mean"], same["kl_p99"], same["agree"], same["greedy"]) == (0, 0, 1, 2.5)
    other = compare("b", texts, logs(0.8), logs(0.25), [[1, 9, 3], [4, 5]], [[1, 2, 3], [4, 5]])
    assert other["perplexity"] == pytest.approx(math.exp(-(3 * math.log(0.8) + math.log(0.2)) / 4))
    assert other["kl_mean"] == pytest.approx(0.25 * math.log(0.25 / 0.8) + 0.75 * math.log(0.75 / 0.2), rel=1e-5)
    assert (other["agree"], other["greedy"]) == (0, 1.5)


def test_it_runs(tmp_path, monkeypatch, capsys):
    import quality

    shape = config_from_hf(config_json())
    write_gguf(tmp_path / "tiny.gguf", random_weights(shape), shape)
    Library(tmp_path / "home", examine, environ={}).pull(str(tmp_path / "tiny.gguf"))
    monkeypatch.setenv("LLMOS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(quality, "compile_native", lambda *_: compiled())
    assert quality.main(["--model", "tiny", "--quick", "--json", str(tmp_path / "out.json")]) == 0
    said = capsys.readouterr().out
    assert "greedy of 16" in said
    exact, half, plain, levels, narrow, pages = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["name"].partition(" (")[0] for row in (exact, half, plain, levels, narrow, pages)] == [
        "torch fp32", "torch bf16", "native bf16", "native int8", "native w8a8", "native bf16, kv int8",
    ]  # fmt: skip
    assert (exact["kl_mean"], exact["agree"], exact["greedy"]) == (0, 1, 16)
    assert 0 < plain["kl_mean"] < levels["kl_mean"] < narrow["kl_mean"] < 0.1
    assert 0 < pages["kl_mean"] < narrow["kl_mean"]
    assert plain["perplexity"] == pytest.approx(exact["perplexity"], rel=0.02)
    (tmp_path / "short").write_text("")
    with pytest.raises(SystemExit):
        quality.main(["--model", "tiny", "--text", str(tmp_path / "short")])
