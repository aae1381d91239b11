"""The default model against transformers on the same weights: 20 chat prompts, 64 greedy tokens each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
import transformers
from contexts import Context, Frontend
from native import compiled

from llmos.drivers.checkpoint import open_checkpoint
from llmos.drivers.cpu.device import NativeDevice
from llmos.drivers.tokenizer import Tokenizer, load_text
from llmos.drivers.torch_cpu import TorchDevice
from llmos.drivers.weights import Checkpoint
from llmos.kernel.device import Device, Row

from .models import Golden

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

PROMPTS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain photosynthesis to a child in two sentences.",
    "List three uses of a paperclip.",
    "Translate 'good morning' into Spanish.",
    "What is 17 plus 25?",
    "Who wrote Romeo and Juliet?",
    "Give me a recipe for pancakes.",
    "Why is the sky blue?",
    "Write a Python function that reverses a string.",
    "Summarise the plot of Cinderella.",
    "What are the primary colours?",
    "How do I boil an egg?",
    "Name five animals that live in the desert.",
    "What does an operating system do?",
    "Tell me a joke about computers.",
    "Is a tomato a fruit or a vegetable?",
    "Write one sentence with the word 'serendipity'.",
    "What is the difference between a list and a tuple in Python?",
    "Describe the taste of coffee.",
)


@pytest.fixture(scope="module")
def checkpoint(default_model: Path, default_cache: Path) -> Checkpoint:
    return open_checkpoint(default_model, default_cache)


@pytest.fixture(scope="module")
def text(default_model: Path, default_cache: Path) -> Tokenizer:
    return load_text(default_model, default_cache)


@pytest.fixture(scope="module")
def both(checkpoint: Checkpoint) -> Iterator[Golden]:
    """transformers with the very numbers of the checkpoint, in float32."""
    shape = checkpoint.config
    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.ffn_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.window,
        rms_norm_eps=shape.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope.theta},
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    model = model.to_empty(device="cpu").eval()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    assert shape.tied
    weights = {name: torch.from_numpy(checkpoint.array(name)).view(torch.bfloat16).float() for name in checkpoint.names}
    model.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield Golden("default", model, checkpoint)
    torch.set_num_threads(threads)


def answers(checkpoint: Checkpoint, prompts: list[list[int]], kind: str) -> list[list[int]]:
    """64 greedy tokens for each prompt, all in one batch."""
    device: Device
    if kind in ("native", "int8"):
        device = NativeDevice(compiled(), checkpoint, name="default", frames=400, threads=2, weights="int8" if kind == "int8" else "")
    else:
        device = TorchDevice(checkpoint, name="default", frames=400, host_frames=0, dtype=kind)
    frontend = Frontend(device)
    contexts = [Context(list(prompt)) for prompt in prompts]
    for context in contexts[::2]:
        frontend.prefill(context, 20)
    try:
        return frontend.generate(contexts, 64)
    finally:
        device.close()


def test_float32_says_what_transformers_says(both: Golden, text: Tokenizer) -> None:
    prompts = [text.chat([{"role": "user", "content": prompt}], reply=True) for prompt in PROMPTS]
    outputs = answers(both.checkpoint, prompts, "fp32")
    for prompt, output in zip(prompts, outputs, strict=True):
        both.agrees(prompt, output, tolerance=5e-3)
    assert "Paris" in text.decode(outputs[0])


@pytest.mark.parametrize("kind", ["bf16", "native"])
def test_bf16_says_nearly_the_same(both: Golden, text: Tokenizer, kind: str) -> None:
    """Where its choice differs from float32's on the same context, float32 finds it almost as good."""
    prompts = [text.chat([{"role": "user", "content": prompt}], reply=True) for prompt in PROMPTS]
    lost = []
    for prompt, output in zip(prompts, answers(both.checkpoint, prompts, kind), strict=True):
        logits = both.logits([*prompt, *output])[len(prompt) - 1 : -1]
        lost.append(logits.max(-1).values - logits.gather(1, torch.tensor(output)[:, None])[:, 0])
    losses = torch.cat(lost)
    assert (losses == 0).float().mean() > 0.9
    assert losses.quantile(0.99) < 0.5
    assert losses.max() < 2


def test_integers_are_near_bf16(checkpoint: Checkpoint, text: Tokenizer) -> None:
    """Divergence of each next token's distribution, in nats; 8-bit activations with one scale a token lose more than four times as much."""
    prompts = [text.chat([{"role": "user", "content": prompt}], reply=True) for prompt in PROMPTS]
    plain, *others = (log_probabilities(checkpoint, prompts, weights) for weights in ("bf16", "int8", "w4a8", "w8a8"))
    wide, fours, narrow = ((np.exp(plain) * (plain - other)).sum(-1).mean() for other in others)
    assert 0 < wide < 0.01
    assert 0 < fours < 0.01
    assert narrow > 4 * wide
    (capital, *_) = answers(checkpoint, prompts[:1], "int8")
    assert "Paris" in text.decode(capital)


def log_probabilities(checkpoint: Checkpoint, prompts: list[list[int]], weights: str) -> np.ndarray:
    """[tokens of all prompts, vocabulary] of the next token after each."""
    device = NativeDevice(compiled(), checkpoint, name="default", frames=64, threads=2, weights=weights)  # type: ignore[arg-type]
    found = []
    for prompt in prompts:
        frames = tuple(range(-(-len(prompt) // 16)))
        device.hidden([Row(1, tuple(prompt), 0, frames)])
        found.append(device.logits([Row(1, (token,), at, frames, store=False) for at, token in enumerate(prompt)]).astype(np.float64))
    device.close()
    logits = np.concatenate(found)
    logits -= logits.max(-1, keepdims=True)
    logs: np.ndarray = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logs
