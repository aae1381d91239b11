"""Rotary frequencies against transformers' for every kind of scaling, and the rotation against its definition."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from llmos.drivers.config import Rope, config_from_hf
from llmos.drivers.rope import RopeTable, inverse_frequencies, rotate
from llmos.kernel.errno import NotSupported

KINDS = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "theta": {"rope_type": "default", "rope_theta": 1e6},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768},
    "yarn with everything": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 24.0,
        "beta_slow": 2.0,
        "attention_factor": 1.37,
    },
    "yarn of a tiny window": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 4},
}


def models(kind: str) -> tuple[Rope, LlamaRotaryEmbedding]:
    config = LlamaConfig(
        hidden_size=256, num_attention_heads=4, head_dim=64, max_position_embeddings=131072, rope_parameters=dict(KINDS[kind])
    )
    return config_from_hf({**config.to_dict(), "architectures": ["LlamaForCausalLM"]}).rope, LlamaRotaryEmbedding(config)


@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_are_those_of_transformers(kind: str) -> None:
    rope, theirs = models(kind)
    ours, factor = inverse_frequencies(rope, 64)
    torch.testing.assert_close(ours, theirs.inv_freq, rtol=1e-6, atol=0)
    assert factor == pytest.approx(theirs.attention_scaling)


@pytest.mark.parametrize("kind", KINDS)
def test_rotation_is_that_of_transformers(kind: str) -> None:
    rope, theirs = models(kind)
    positions = torch.tensor([0, 1, 2, 17, 1000, 4095])
    query, key = torch.randn(2, 1, 4, 6, 64).unbind(0)
    cos, sin = theirs(query, positions[None])
    expected, _ = apply_rotary_pos_emb(query, key, cos, sin)
    table = RopeTable(rope, 64, 8192)
    cosines, sines = table.upto(4096)
    ours = rotate(query[0].transpose(0, 1), cosines[positions].unsqueeze(1), sines[positions].unsqueeze(1))
    torch.testing.assert_close(ours.transpose(0, 1), expected[0], rtol=1e-5, atol=1e-5)


def test_scores_depend_on_the_distance_only() -> None:
    cos, sin = RopeTable(Rope(10000.0), 32, 2048).upto(1500)
    query, key = torch.randn(32), torch.randn(32)
    scores = [float(rotate(query, cos[at + 7], sin[at + 7]) @ rotate(key, cos[at], sin[at])) for at in (0, 3, 900, 1400)]
    assert scores == pytest.approx([scores[0]] * 4, abs=1e-3)


def test_a_table_that_grew_is_the_one_made_at_once() -> None:
    grown = RopeTable(Rope(10000.0), 16, 5000)
    for length in (1, 1000, 1025, 4999, 5000):
        cos, sin = grown.upto(length)
        assert len(cos) >= length
        assert len(cos) <= 5000
    whole_cos, whole_sin = RopeTable(Rope(10000.0), 16, 5000).upto(5000)
    assert torch.equal(cos, whole_cos)
    assert torch.equal(sin, whole_sin)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(NotSupported, match="yarn"):
        inverse_frequencies(Rope(10000.0, "longrope"), 64)  # type: ignore[arg-type]
