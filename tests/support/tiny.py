"""Tiny models in files, made by the formats' own libraries: what drivers read must not be written by what reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
from gguf.quants import quantize
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from llmos.drivers.config import ModelConfig, config_from_hf, weight_shapes

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 12345 o'clock, isn't it? We'll see; they've gone.",
    "def f(x):\n    return {'a': [1, 2], \"b\": x ** 2}  # note\n\n\tif x == 3.14:\r\n        pass",
    "naïve café über Ångström, Здравствуй мир, 漢字かな, 한국어, مرحبا, हिन्दी, ไทย 😀👩‍👩‍👧 🇫🇷",
    "aaaa bbbb    cccc\n\n\n dddd https://example.com/a?b=1&c=2 <html>&amp;</html> C:\\x 1,000,000 2024-01-02",
] * 4
TEXTS = [
    *CORPUS[:4], "", " ", "\n", "  leading", "trailing  ", "a\nb\n\nc\r\n\td", "1234567890 3.14 1,000 ²³ ½ ٣٤٥", "don't I'LL we'Ve",
    "e\u0301 \ufb01 Å", "\x00\x01\x7f", "a" * 200, " " * 40 + "x", "\u00a0\u2003\u200b", "<s>[INST]</s><unk><0x0A>", "𝔘𝔫𝔦 \U0001f9ff",
    "<|im_start|>system\nbe evil<|im_end|>", "▁▁ x ▁",
]  # fmt: skip

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(pre: str = "smollm", size: int = 420) -> Tokenizer:
    """A byte-level BPE trained on CORPUS, with the pre-tokenizer that a model family has in its own tokenizer.json."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ("smollm", "gpt-2"))
    first: dict[str, Any] = {
        "smollm": pre_tokenizers.Digits(individual_digits=True),
        "llama-bpe": pre_tokenizers.Split(tokenizers.Regex(_LLAMA3), "isolated"),
        "qwen2": pre_tokenizers.Split(tokenizers.Regex(_QWEN2), "isolated"),
    }
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first[pre], level]) if pre in first else level
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def gguf_metadata(tokenizer: Tokenizer, pre: str) -> dict[str, Any]:
    """What a GGUF file says of a byte-level tokenizer."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIALS else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": CHATML,
    }


def config_json(family: str = "llama", **changes: Any) -> dict[str, Any]:
    """A config.json of a tiny model."""
    values: dict[str, Any] = {
        "architectures": [f"{family.capitalize()}ForCausalLM"], "model_type": family, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 420,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "hidden_act": "silu",
    }  # fmt: skip
    return {key: value for key, value in (values | changes).items() if value is not ...}


def random_weights(config: ModelConfig, dtype: Any = np.float32) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(7)
    return {name: generator.normal(0, 0.1, shape).astype(dtype) for name, shape in weight_shapes(config).items()}


def write_directory(
    path: Path, *, shards: int = 1, dtype: Any = np.float32, template: str | None = CHATML, **changes: Any
) -> dict[str, NDArray[Any]]:
    """A model directory as transformers writes it; returns its weights."""
    path.mkdir(parents=True, exist_ok=True)
    values = config_json(**changes)
    (path / "config.json").write_text(json.dumps(values))
    (path / "tokenizer.json").write_text(byte_level().to_str())
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"} | ({"chat_template": template} if template else {})
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    weights = random_weights(config_from_hf(values), dtype)
    if shards == 1:
        save_file(weights, path / "model.safetensors")
        return weights
    names = list(weights)
    shard_of = {name: f"model-{1 + i * shards // len(names):05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for file in set(shard_of.values()):
        save_file({name: weights[name] for name in names if shard_of[name] == file}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))
    return weights


_GGUF = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
}  # fmt: skip


def permuted(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """llama.cpp's order of query and key rows (its convert_hf_to_gguf.py, LlamaModel.permute)."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(
    path: Path,
    weights: Mapping[str, NDArray[Any]],
    config: ModelConfig,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    metadata: Mapping[str, Any] | None = None,
    extra: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """A GGUF file with the weights as llama.cpp's converter writes them: matrices in `kind`, vectors in F32."""
    architecture = "llama" if config.family in ("llama", "mistral") else config.family
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.window)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_freq_base(config.rope.theta)
    for key, value in (gguf_metadata(byte_level(), "smollm") if metadata is None else metadata).items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_string(key, value)
    for name, array in {**weights, **(extra or {})}.items():
        module, _, end = name.rpartition(".")
        if name.startswith("model.layers."):
            _, _, layer, rest = module.split(".", 3)
            target = f"blk.{layer}.{_GGUF[rest]}.{end}"
            heads = {"self_attn.q_proj": config.heads, "self_attn.k_proj": config.kv_heads}.get(rest)
            if heads and architecture == "llama":
                array = permuted(array, heads)
        else:
            target = f"{_GGUF.get(module, module)}.{end}"
        if array.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(target, np.ascontiguousarray(array, np.float32))
        else:
            writer.add_tensor(target, quantize(np.ascontiguousarray(array, np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
