"""Random small models of every family, saved as safetensors, and transformers' answer to what they should say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from llmos.drivers.checkpoint import open_checkpoint
from llmos.drivers.weights import Checkpoint

VOCABULARY = 320
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 96,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "llama-tied-llama3-rope": ("Llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 6}),
    "llama-linear-rope": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}),
    "llama-dynamic-rope": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}),
    "llama-yarn-rope": ("Llama", {"rope_parameters": YARN}),
    "mistral": ("Mistral", {"sliding_window": None, "num_key_value_heads": 1}),
    "mistral-sliding": ("Mistral", {"sliding_window": 24}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-sliding-above": ("Qwen2", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1, "num_hidden_layers": 3}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True, "head_dim": 32}),
    "qwen3-yarn-rope": ("Qwen3", {"tie_word_embeddings": False, "rope_parameters": YARN}),
}


@dataclass(frozen=True)
class Golden:
    """A model in transformers and the checkpoint it was saved to."""

    name: str
    model: Any
    checkpoint: Checkpoint
    tolerance: float = 1e-3
    """How far below the best logit a token may be."""

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """[tokens, vocabulary], computed at once by transformers in float32."""
        with torch.inference_mode():
            result: torch.Tensor = self.model(input_ids=torch.tensor([list(tokens)])).logits[0].float()
        return result

    def agrees(self, prompt: Sequence[int], output: Sequence[int], tolerance: float | None = None) -> None:
        """Every token of the output is transformers' arg-max after those before it, or as good within the tolerance."""
        tolerance = self.tolerance if tolerance is None else tolerance
        logits = self.logits([*prompt, *output])[len(prompt) - 1 : -1]
        lost = logits.max(-1).values - logits.gather(1, torch.tensor(output)[:, None])[:, 0]
        worst = int(lost.argmax())
        assert lost[worst] <= tolerance, (
            f"token {worst} of {self.name}: {output[worst]} is {lost[worst]:.4f} below {int(logits[worst].argmax())}"
        )


def make(name: str, folder: Path) -> Golden:
    """The family's model, saved to the folder."""
    family, changes = FAMILIES[name]
    torch.manual_seed(sorted(FAMILIES).index(name) + 1)
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **changes}, attn_implementation="eager")
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for key, parameter in model.named_parameters():  # norms and biases are born as ones and zeros: nothing would be tested
        if "norm" in key or key.endswith("bias"):
            parameter.data = parameter.data + 0.2 * torch.randn_like(parameter)
    state = {
        key: value.contiguous() for key, value in model.state_dict().items() if not (key == "lm_head.weight" and config.tie_word_embeddings)
    }
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return Golden(name, model, open_checkpoint(folder))
