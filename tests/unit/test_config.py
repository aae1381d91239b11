"""Configs: what transformers reads from a config.json is what we read, and nothing out of bounds gets through."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import transformers
from needs import needs_torch
from tiny import config_json

from llmos.drivers import config as limits
from llmos.drivers.config import FAMILIES, ModelConfig, Rope, config_from_gguf, config_from_hf, weight_shapes
from llmos.kernel.errno import BadFormat, NotSupported

SHAPES = {"token_embd.weight": (420, 64), "output.weight": (420, 64)}


def gguf_values(architecture: str = "llama", **changes: Any) -> dict[str, Any]:
    values = {
        "block_count": 2, "context_length": 128, "embedding_length": 64, "feed_forward_length": 96, "attention.head_count": 4,
        "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0,
    } | {key.replace("__", "."): value for key, value in changes.items()}  # fmt: skip
    return {"general.architecture": architecture} | {f"{architecture}.{key}": value for key, value in values.items() if value is not None}


@needs_torch
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_transformers_has(family: str) -> None:
    json = config_json(family, attention_bias=family != "qwen2", mlp_bias=True)
    with_meta = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**json))
    theirs = {name: tuple(weight.shape) for name, weight in with_meta.state_dict().items()}
    assert weight_shapes(config_from_hf(json)) == theirs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "missing", ["num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "tie_word_embeddings", "sliding_window"]
)
def test_missing_keys_mean_what_they_mean_to_transformers(family: str, missing: str) -> None:
    json = config_json(family, **{"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 512, missing: ...})
    theirs = transformers.AutoConfig.for_model(**json)
    ours = config_from_hf(json)
    assert ours.kv_heads == theirs.num_key_value_heads
    assert ours.head_width == theirs.head_dim if hasattr(theirs, "head_dim") else 512 // 32
    assert ours.norm_epsilon == theirs.rms_norm_eps
    assert ours.rope.theta == theirs.rope_parameters["rope_theta"]
    assert ours.tied == theirs.tie_word_embeddings


@needs_torch
@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "attention_factor": 1.5,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
        },
        {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 1.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    ],
)
@pytest.mark.parametrize("style", ["rope_parameters", "rope_scaling", "type"])
def test_rope_scaling_in_every_spelling(parameters: dict[str, Any], style: str) -> None:
    values = dict(parameters)
    if style == "type":
        values["type"] = values.pop("rope_type")
    if style == "rope_parameters":
        json = config_json(rope_theta=..., rope_parameters={**values, "rope_theta": 500000.0})
    else:
        json = config_json(rope_theta=500000.0, rope_scaling=values)
    config = config_from_hf(json)
    assert config.rope.kind == parameters["rope_type"]
    assert config.rope.factor == parameters["factor"]
    assert config.rope.theta == 500000.0
    theirs = transformers.AutoConfig.for_model(**json)
    _, attention = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS[config.rope.kind](theirs, "cpu")
    assert math.isclose(config.rope.attention_factor, attention)
    assert config.window == (max(128, int(64 * parameters["factor"])) if config.rope.kind == "yarn" else 128)


@pytest.mark.parametrize(
    ("family", "changes", "windows"),
    [
        ("llama", {"sliding_window": 32}, (None, None)),
        ("mistral", {"sliding_window": 32}, (32, 32)),
        ("mistral", {"sliding_window": None}, (None, None)),
        ("mistral", {"sliding_window": ..., "max_position_embeddings": 8192}, (4096, 4096)),
        ("mistral", {"sliding_window": 128}, (None, None)),  # as wide as the window: full
        ("qwen2", {"sliding_window": 32, "use_sliding_window": False}, (None, None)),
        ("qwen2", {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 1}, (None, 32)),
        ("qwen3", {"sliding_window": 32, "use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]}, (32, None)),
    ],
)
def test_sliding_windows(family: str, changes: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    assert config_from_hf(config_json(family, **changes)).windows == windows


def test_biases_are_where_the_family_has_them() -> None:
    llama = config_from_hf(config_json(attention_bias=True, mlp_bias=True))
    assert (llama.attention_bias, llama.output_bias, llama.mlp_bias) == (True, True, True)
    qwen2 = config_from_hf(config_json("qwen2"))
    assert (qwen2.attention_bias, qwen2.output_bias, qwen2.qk_norm) == (True, False, False)
    assert config_from_hf(config_json("qwen3")).qk_norm


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [
        ("num_hidden_layers", 1, limits.MAX_LAYERS),
        ("hidden_size", 1, limits.MAX_WIDTH),
        ("intermediate_size", 1, limits.MAX_FFN_WIDTH),
        ("vocab_size", 1, limits.MAX_VOCABULARY),
        ("max_position_embeddings", 1, limits.MAX_WINDOW),
        ("head_dim", 2, limits.MAX_HEAD_WIDTH),
    ],
)
def test_numbers_at_their_bounds(key: str, low: int, high: int) -> None:
    for value in (low, high):
        config_from_hf(config_json(**{key: value}))
    for value in (low - 1, high + 1, -1, 10**30, float(low), "2", True, float("nan"), [2], {}):
        with pytest.raises(BadFormat, match=key):
            config_from_hf(config_json(**{key: value}))


@pytest.mark.parametrize("value", [0, -1e-5, 0.2, float("nan"), float("inf"), "1e-5", True])
def test_epsilon_out_of_bounds(value: Any) -> None:
    with pytest.raises(BadFormat, match="rms_norm_eps"):
        config_from_hf(config_json(rms_norm_eps=value))


@pytest.mark.parametrize(
    ("changes", "fault", "words"),
    [
        ({"model_type": "gpt2"}, NotSupported, "llama, mistral, qwen2, qwen3"),
        ({"model_type": None}, NotSupported, "llama"),
        ({"auto_map": {"AutoModel": "x.Y"}}, NotSupported, "auto_map"),
        ({"quantization_config": {"quant_method": "gptq"}}, NotSupported, "quantized"),
        ({"architectures": ["LlamaForSequenceClassification"]}, NotSupported, "ForCausalLM"),
        ({"architectures": "LlamaForCausalLM"}, NotSupported, "ForCausalLM"),
        ({"hidden_act": "gelu"}, NotSupported, "silu"),
        ({"num_key_value_heads": 3}, BadFormat, "evenly"),
        ({"head_dim": 15}, BadFormat, "pairs"),
        ({"num_attention_heads": 0}, BadFormat, "num_attention_heads"),
        ({"partial_rotary_factor": 0.5}, NotSupported, "part of a head"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, NotSupported, "longrope"),
        ({"rope_scaling": {"rope_type": "linear"}}, BadFormat, "factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, BadFormat, "factor"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}},
            BadFormat,
            "high_freq_factor",
        ),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}, NotSupported, "truncate"),
        ({"rope_scaling": [1]}, BadFormat, "object"),
        ({"rope_theta": float("nan")}, BadFormat, "rope_theta"),
        ({"tie_word_embeddings": "yes"}, BadFormat, "tie_word_embeddings"),
        ({"model_type": "mistral", "sliding_window": 0}, BadFormat, "sliding_window"),
        ({"model_type": "qwen2", "use_sliding_window": True, "layer_types": ["full_attention"]}, BadFormat, "layer_types"),
        ({"model_type": "qwen2", "layer_types": ["full_attention", "mamba"]}, NotSupported, "layer_types"),
    ],
)
def test_what_cannot_run_is_refused_with_a_reason(changes: dict[str, Any], fault: type[Exception], words: str) -> None:
    with pytest.raises(fault, match=words):
        config_from_hf(config_json(**changes))


def test_gguf_says_the_same() -> None:
    assert config_from_gguf(gguf_values(), SHAPES) == config_from_hf(config_json())
    tied = config_from_gguf(gguf_values(), {"token_embd.weight": (420, 64)})
    assert tied == replace(config_from_hf(config_json()), tied=True)
    qwen3 = config_from_gguf(gguf_values("qwen3", attention__key_length=16), {**SHAPES, "blk.0.attn_q_norm.weight": (16,)})
    assert qwen3 == config_from_hf(config_json("qwen3"))
    qwen2 = config_from_gguf(gguf_values("qwen2"), {**SHAPES, "blk.0.attn_q.bias": (64,)})
    assert qwen2 == config_from_hf(config_json("qwen2"))


def test_gguf_names_llama3_scaling_from_its_factors() -> None:
    rope = Rope(500000.0, "llama3", factor=32.0, original_window=8192)
    factors = [limits._llama3_divisor(rope, 2 * math.pi * 500000.0 ** (2 * pair / 64)) for pair in range(32)]
    values = gguf_values(rope__freq_base=500000.0, embedding_length=256)
    config = config_from_gguf(values, {"token_embd.weight": (420, 256)}, factors)
    assert config.rope == rope
    with pytest.raises(NotSupported, match="rope_freqs"):
        config_from_gguf(values, {"token_embd.weight": (420, 256)}, [*factors[:-3], 7.0, 7.5, 32.0])
    with pytest.raises(NotSupported, match="rope_freqs"):
        config_from_gguf(values, {"token_embd.weight": (420, 256)}, factors[:-1])
    assert config_from_gguf(values, {"token_embd.weight": (420, 256)}, [1.0] * 32).rope == Rope(500000.0)


@pytest.mark.parametrize(
    ("changes", "fault", "words"),
    [
        ({"architecture": "gemma2"}, NotSupported, "gemma2"),
        ({"expert_count": 8}, NotSupported, "experts"),
        ({"block_count": None}, BadFormat, "block_count is missing|block_count in the GGUF metadata is missing"),
        ({"attention__head_count": [4, 4]}, BadFormat, "head_count"),
        ({"rope__dimension_count": 8}, NotSupported, "part of a head"),
        ({"attention__value_length": 8}, NotSupported, "different width"),
        ({"rope__scaling__type": "longrope"}, NotSupported, "longrope"),
        ({"rope__scaling__type": "linear"}, BadFormat, "factor"),
    ],
)
def test_gguf_refusals(changes: dict[str, Any], fault: type[Exception], words: str) -> None:
    with pytest.raises(fault, match=words):
        config_from_gguf(gguf_values(**changes), SHAPES)
    with pytest.raises(BadFormat, match="token_embd"):
        config_from_gguf(gguf_values(), {})


def test_gguf_yarn() -> None:
    values = gguf_values(rope__scaling__type="yarn", rope__scaling__factor=4.0, rope__scaling__original_context_length=32)
    rope = config_from_gguf(values, SHAPES).rope
    assert (rope.kind, rope.factor, rope.original_window) == ("yarn", 4.0, 32)
    assert math.isclose(rope.attention_factor, 0.1 * math.log(4.0) + 1.0)


def test_a_config_is_a_value() -> None:
    one, other = config_from_hf(config_json()), config_from_hf(config_json())
    assert one == other
    assert hash(one) == hash(other)
    assert isinstance(one, ModelConfig)
