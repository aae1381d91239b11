"""The shape of a decoder: what a checkpoint's metadata says, checked and bounded.

Owns `ModelConfig`, the one description that every driver builds its model from, and its two readers: Hugging
Face's config.json and GGUF metadata. Invariant: a `ModelConfig` that exists is consistent (heads divide, every
number is within its bound), so drivers check nothing again. Reads no file and knows nothing of tensors' bytes.

Families: Llama (with SmolLM and its like), Mistral, Qwen2, Qwen3. All are one decoder: pre-norm (RMSNorm), rotary
positions, grouped-query attention, gated SiLU feed-forward. They differ only in what the fields below say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from llmos.kernel.errno import BadFormat, NotSupported

Family = Literal["llama", "mistral", "qwen2", "qwen3"]
RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn"]

FAMILIES: tuple[str, ...] = get_args(Family)
ROPE_KINDS: tuple[str, ...] = get_args(RopeKind)

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 17
MAX_HEADS = 1024
MAX_HEAD_WIDTH = 1024
MAX_FFN_WIDTH = 1 << 20
MAX_VOCABULARY = 1 << 21
MAX_WINDOW = 1 << 24


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding: rotate dimension pairs (i, i + head_width/2) by position * frequency[i].

    frequency[i] = theta ** (-2 i / head_width), then changed as `kind` says:

    * linear: divided by `factor`.
    * dynamic: unchanged within the window (it would only change beyond it, and no context goes there).
    * llama3: as Llama 3.1: long wavelengths divided by `factor`, short ones kept, a smooth ramp between
      original_window / low_freq_factor and original_window / high_freq_factor.
    * yarn: Peng et al. 2023 (arXiv 2309.00071): a ramp between the dimensions that turn `beta_fast` and `beta_slow` times in
      original_window (limits rounded outwards); cos and sin are multiplied by `attention_factor`.
    """

    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_window: int = 0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One decoder. Widths are numbers of elements; the activation is always SiLU."""

    family: Family
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    ffn_width: int
    vocabulary: int
    window: int
    """Most tokens in a context."""
    norm_epsilon: float
    rope: Rope
    tied: bool
    """The output matrix is the embedding."""
    attention_bias: bool
    """q, k and v projections have a bias."""
    output_bias: bool
    """The projection after attention has a bias."""
    mlp_bias: bool
    qk_norm: bool
    """RMSNorm over head_width on every query and key head, before the rotation."""
    windows: tuple[int | None, ...]
    """Per layer: token i sees j iff i - windows[layer] < j <= i; None sees all j <= i."""


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every weight of the decoder by its canonical (Hugging Face) name, with its shape, in order of use."""
    width, queries, keys = config.width, config.heads * config.head_width, config.kv_heads * config.head_width
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocabulary, width)}
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = (width,)
        for part, rows in (("q", queries), ("k", keys), ("v", keys)):
            shapes[f"{prefix}self_attn.{part}_proj.weight"] = (rows, width)
            if config.attention_bias:
                shapes[f"{prefix}self_attn.{part}_proj.bias"] = (rows,)
        if config.qk_norm:
            shapes[prefix + "self_attn.q_norm.weight"] = (config.head_width,)
            shapes[prefix + "self_attn.k_norm.weight"] = (config.head_width,)
        shapes[prefix + "self_attn.o_proj.weight"] = (width, queries)
        if config.output_bias:
            shapes[prefix + "self_attn.o_proj.bias"] = (width,)
        shapes[prefix + "post_attention_layernorm.weight"] = (width,)
        for part, rows, columns in (("gate", config.ffn_width, width), ("up", config.ffn_width, width), ("down", width, config.ffn_width)):
            shapes[f"{prefix}mlp.{part}_proj.weight"] = (rows, columns)
            if config.mlp_bias:
                shapes[f"{prefix}mlp.{part}_proj.bias"] = (rows,)
    shapes["model.norm.weight"] = (width,)
    if not config.tied:
        shapes["lm_head.weight"] = (config.vocabulary, width)
    return shapes


def config_from_hf(json: Mapping[str, Any]) -> ModelConfig:
    """Read a config.json, of transformers 4 or 5.

    Raises NotSupported for another architecture, code (`auto_map`) or quantized weights; BadFormat for numbers that cannot be.
    """
    if json.get("auto_map"):
        raise NotSupported("config.json asks to run code that comes with the model (auto_map): llmos never does; pull a model without it")
    family = json.get("model_type")
    if family not in FAMILIES:
        raise NotSupported(
            f"the architecture {family!r} is not one llmos can run; these are: {', '.join(FAMILIES)} (SmolLM counts as llama)"
        )
    architectures = json.get("architectures") or []
    if not isinstance(architectures, list) or (architectures and not any(str(name).endswith("ForCausalLM") for name in architectures)):
        raise NotSupported(f"the model is a {architectures}, not one that generates text (...ForCausalLM)")
    if json.get("quantization_config"):
        raise NotSupported("the weights are quantized in a form llmos does not read; pull the plain safetensors or a GGUF of this model")
    if json.get("hidden_act", "silu") not in ("silu", "swish"):
        raise NotSupported(f"hidden_act is {json.get('hidden_act')!r}; only silu works")
    number = _Numbers(json, "config.json")
    heads = number.integer("num_attention_heads", 1, MAX_HEADS)
    width = number.integer("hidden_size", 1, MAX_WIDTH)
    layers = number.integer("num_hidden_layers", 1, MAX_LAYERS)
    head_width = number.integer("head_dim", 2, MAX_HEAD_WIDTH, 128 if family == "qwen3" else width // heads)
    kv_default = {"llama": heads, "mistral": 8, "qwen2": 32, "qwen3": 32}[family] if "num_key_value_heads" not in json else heads
    has_bias = number.boolean("attention_bias") if family in ("llama", "qwen3") else family == "qwen2"
    rope, window = _rope_from_hf(json, number.integer("max_position_embeddings", 1, MAX_WINDOW))
    return _checked(
        ModelConfig(
            family=family,
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=number.integer("num_key_value_heads", 1, MAX_HEADS, kv_default),
            head_width=head_width,
            ffn_width=number.integer("intermediate_size", 1, MAX_FFN_WIDTH),
            vocabulary=number.integer("vocab_size", 1, MAX_VOCABULARY),
            window=window,
            norm_epsilon=number.real("rms_norm_eps", 1e-12, 0.1, 1e-6),
            rope=rope,
            tied=number.boolean("tie_word_embeddings"),
            attention_bias=has_bias,
            output_bias=has_bias and family != "qwen2",
            mlp_bias=number.boolean("mlp_bias") if family == "llama" else False,
            qk_norm=family == "qwen3",
            windows=_windows_from_hf(json, number, layers, window),
        )
    )


def config_from_gguf(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], frequency_factors: Sequence[float] | None = None
) -> ModelConfig:
    """Read GGUF metadata.

    `shapes` are the file's tensors (rows first): which biases there are, whether the output is tied and how many rows the
    embedding has is written nowhere else. `frequency_factors` is the tensor rope_freqs.weight, where there is one.
    """
    architecture = metadata.get("general.architecture")
    if architecture not in ("llama", "qwen2", "qwen3"):
        raise NotSupported(
            f"the architecture {architecture!r} is not one llmos can run; in GGUF these are: llama (with Mistral and SmolLM), qwen2, qwen3"
        )
    number = _Numbers({key.removeprefix(f"{architecture}."): value for key, value in metadata.items()}, "the GGUF metadata")
    if number.values.get("expert_count"):
        raise NotSupported("a mixture of experts is not a model llmos can run; pull a dense one")
    heads = number.integer("attention.head_count", 1, MAX_HEADS)
    width = number.integer("embedding_length", 1, MAX_WIDTH)
    layers = number.integer("block_count", 1, MAX_LAYERS)
    head_width = number.integer("attention.key_length", 2, MAX_HEAD_WIDTH, width // heads)
    if number.integer("attention.value_length", 1, MAX_HEAD_WIDTH, head_width) != head_width:
        raise NotSupported("keys and values of different width are not supported")
    if number.integer("rope.dimension_count", 1, MAX_HEAD_WIDTH, head_width) != head_width:
        raise NotSupported("rotary positions over a part of a head only are not supported")
    rope, window = _rope_from_gguf(number, number.integer("context_length", 1, MAX_WINDOW))
    if frequency_factors is not None:
        rope = _llama3_from_factors(rope, head_width, frequency_factors)
    embedding = shapes.get("token_embd.weight")
    if embedding is None or len(embedding) != 2:
        raise BadFormat("the GGUF file has no token_embd.weight matrix: it holds no language model; pull another file")
    sliding = number.integer("attention.sliding_window", 0, MAX_WINDOW, 0) if architecture == "llama" else 0
    return _checked(
        ModelConfig(
            family=architecture,
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=number.integer("attention.head_count_kv", 1, MAX_HEADS, heads),
            head_width=head_width,
            ffn_width=number.integer("feed_forward_length", 1, MAX_FFN_WIDTH),
            vocabulary=embedding[0],
            window=window,
            norm_epsilon=number.real("attention.layer_norm_rms_epsilon", 1e-12, 0.1),
            rope=rope,
            tied="output.weight" not in shapes,
            attention_bias="blk.0.attn_q.bias" in shapes,
            output_bias="blk.0.attn_output.bias" in shapes,
            mlp_bias="blk.0.ffn_down.bias" in shapes,
            qk_norm="blk.0.attn_q_norm.weight" in shapes,
            windows=(sliding if 0 < sliding < window else None,) * layers,
        )
    )


def _checked(config: ModelConfig) -> ModelConfig:
    """The cross-checks that both formats share."""
    if config.heads % config.kv_heads:
        raise BadFormat(f"{config.heads} query heads cannot share {config.kv_heads} key heads evenly: the configuration is damaged")
    if config.head_width % 2:
        raise BadFormat(f"a head of {config.head_width} numbers cannot be rotated in pairs: the configuration is damaged")
    if not 1 <= config.vocabulary <= MAX_VOCABULARY:
        raise BadFormat(f"a vocabulary of {config.vocabulary} tokens is outside 1..{MAX_VOCABULARY}")
    return config


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Bounded look-ups in metadata; `where` names it in errors."""

    values: Mapping[str, Any]
    where: str

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self.values.get(key)
        value = default if value is None else value
        if type(value) is not int or not low <= value <= high:
            raise BadFormat(f"{key} in {self.where} is {_short(value)}; it must be a whole number in {low}..{high}")
        return value

    def real(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self.values.get(key)
        value = default if value is None else value
        if value is None or type(value) not in (int, float) or not low <= value <= high:  # a NaN fails this too
            raise BadFormat(f"{key} in {self.where} is {_short(value)}; it must be a number in {low:g}..{high:g}")
        return float(value)

    def boolean(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key)
        value = default if value is None else value
        if type(value) is not bool:
            raise BadFormat(f"{key} in {self.where} is {_short(value)}; it must be true or false")
        return value


def _short(value: object) -> str:
    return "missing" if value is None else repr(value)[:60]


def _windows_from_hf(json: Mapping[str, Any], number: _Numbers, layers: int, window: int) -> tuple[int | None, ...]:
    """Sliding windows. Mistral slides in every layer; Qwen where layer_types (or, before it, max_window_layers) says."""
    family = json["model_type"]
    if family == "llama":
        return (None,) * layers
    if family == "mistral":
        sliding = json.get("sliding_window", 4096)
        kinds: list[Any] = ["sliding_attention"] * layers
    else:
        sliding = json.get("sliding_window", 4096) if number.boolean("use_sliding_window") else None
        first = number.integer("max_window_layers", 0, MAX_LAYERS, 28)
        kinds = json.get("layer_types") or ["sliding_attention" if layer >= first else "full_attention" for layer in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise BadFormat(f"layer_types in config.json must name {layers} layers")
    if any(kind not in ("full_attention", "sliding_attention") for kind in kinds):
        raise NotSupported("layer_types in config.json names a kind of attention that is neither full nor sliding")
    if sliding is None:
        return (None,) * layers
    if type(sliding) is not int or not 1 <= sliding <= MAX_WINDOW:
        raise BadFormat(f"sliding_window in config.json is {_short(sliding)}; it must be a whole number in 1..{MAX_WINDOW}")
    return tuple(sliding if kind == "sliding_attention" and sliding < window else None for kind in kinds)


def _rope_from_hf(json: Mapping[str, Any], window: int) -> tuple[Rope, int]:
    """rope_parameters (transformers 5) or rope_theta with rope_scaling (before it); and the window they give."""
    scaling = json.get("rope_parameters") or json.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        raise BadFormat("rope_parameters in config.json must be an object")
    merged = {"rope_theta": json.get("rope_theta"), "partial_rotary_factor": json.get("partial_rotary_factor")}
    number = _Numbers(
        {**merged, **{key: value for key, value in scaling.items() if value is not None}}, "the rope parameters of config.json"
    )
    if number.real("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0:
        raise NotSupported("rotary positions over a part of a head only are not supported")
    kind = number.values.get("rope_type", number.values.get("type", "default"))
    if kind not in ROPE_KINDS:
        raise NotSupported(f"rope scaling {_short(kind)} is not supported; these are: {', '.join(ROPE_KINDS)}")
    theta = number.real("rope_theta", 1.0, 1e15, 10000.0)
    if kind == "default":
        return Rope(theta), window
    # Phi-3's place for the original window wins over the one in the dictionary, as in transformers.
    outer = json.get("original_max_position_embeddings")
    inner = _Numbers({**number.values, **({} if outer is None else {"original_max_position_embeddings": outer})}, number.where)
    original = inner.integer("original_max_position_embeddings", 1, MAX_WINDOW, window)
    default_factor = window / original if kind == "yarn" else None
    rope = Rope(theta, kind, factor=number.real("factor", 1.0, 1e6, default_factor), original_window=original)
    if kind == "llama3":
        rope = replace(
            rope, low_freq_factor=number.real("low_freq_factor", 1e-3, 1e6), high_freq_factor=number.real("high_freq_factor", 1e-3, 1e6)
        )
        if rope.high_freq_factor <= rope.low_freq_factor:
            raise BadFormat("high_freq_factor in config.json must be above low_freq_factor")
    if kind == "yarn":
        if not number.boolean("truncate", True):
            raise NotSupported("yarn without truncate is not supported")
        beta_fast, beta_slow = number.real("beta_fast", 1e-3, 1e6, 32.0), number.real("beta_slow", 1e-3, 1e6, 1.0)
        rope = replace(rope, beta_fast=beta_fast, beta_slow=beta_slow, attention_factor=_yarn_attention(number, rope.factor))
        window = min(MAX_WINDOW, max(window, int(original * rope.factor)))
    return rope, window


def _yarn_attention(number: _Numbers, factor: float) -> float:
    """What cos and sin are multiplied by; with mscale as DeepSeek uses it."""
    if number.values.get("attention_factor") is not None:
        return number.real("attention_factor", 1e-6, 1e6)
    over, under = number.real("mscale", 0.0, 1e3, 0.0), number.real("mscale_all_dim", 0.0, 1e3, 0.0)

    def grown(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1.0 else 1.0

    return grown(over) / grown(under) if over and under else grown(1.0)


def _rope_from_gguf(number: _Numbers, window: int) -> tuple[Rope, int]:
    theta = number.real("rope.freq_base", 1.0, 1e15, 10000.0)
    kind = number.values.get("rope.scaling.type", "linear" if number.values.get("rope.scale_linear") else "none")
    if kind == "none":
        return Rope(theta), window
    if kind == "linear":
        return Rope(theta, "linear", factor=number.real("rope.scaling.factor", 1.0, 1e6, number.values.get("rope.scale_linear"))), window
    if kind != "yarn":
        raise NotSupported(f"rope scaling {_short(kind)} in GGUF is not supported; these are: none, linear, yarn")
    factor = number.real("rope.scaling.factor", 1.0, 1e6)
    original = number.integer("rope.scaling.original_context_length", 1, MAX_WINDOW, window)
    attention = number.real("rope.scaling.attn_factor", 1e-6, 1e6, 1.0) * (0.1 * math.log(factor) + 1.0)
    beta_fast = number.real("rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32.0)
    beta_slow = number.real("rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1.0)
    return Rope(
        theta, "yarn", factor, original_window=original, attention_factor=attention, beta_fast=beta_fast, beta_slow=beta_slow
    ), window


def _llama3_from_factors(rope: Rope, head_width: int, factors: Sequence[float]) -> Rope:
    """Name the Llama 3.1 scaling that a rope_freqs tensor holds.

    GGUF stores what each frequency is divided by, not the four numbers it came from. All published models use
    low 1, high 4 and an original window of 8192, so that the largest factor tells the rest; anything else is refused.
    """
    if all(factor == 1.0 for factor in factors):
        return rope
    found = Rope(rope.theta, "llama3", factor=float(max(factors)), low_freq_factor=1.0, high_freq_factor=4.0, original_window=8192)
    expected = [_llama3_divisor(found, 2 * math.pi * rope.theta ** (2 * pair / head_width)) for pair in range(head_width // 2)]
    close = len(factors) == len(expected) and all(abs(have - want) <= 1e-3 * want for have, want in zip(factors, expected, strict=True))
    if rope.kind != "default" or not close:
        raise NotSupported(
            "the file scales rotary frequencies (rope_freqs) in a way llmos does not know; pull the safetensors of this model"
        )
    return found


def _llama3_divisor(rope: Rope, wavelength: float) -> float:
    if wavelength < rope.original_window / rope.high_freq_factor:
        return 1.0
    if wavelength > rope.original_window / rope.low_freq_factor:
        return rope.factor
    smooth = (rope.original_window / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return 1.0 / ((1.0 - smooth) / rope.factor + smooth)
