"""What each way to hold weights, and keys and values, costs in quality: perplexity, and divergence from float32.

    python benchmarks/quality.py                        # the default model, on quality.txt
    python benchmarks/quality.py --model NAME --text FILE --tokens 4000
    python benchmarks/quality.py --quick                # small sizes: does everything work?

The reference is the torch driver in float32. KL divergence is of the next-token distributions, in nats, at every position;
"agree" is how often the likeliest token is the same; "greedy" is how many of the first tokens of greedy continuations are the
same before the first that differs (a small difference anywhere ends it). The default model's weights were 4-bit (Q4_1) before
they came here: that int8 loses little on it says less than it would of weights trained and shipped in bf16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from overhead import machine
from platformdirs import user_cache_path

from llmos.drivers.checkpoint import open_checkpoint
from llmos.drivers.cpu.compiler import compile_native
from llmos.drivers.cpu.device import NativeDevice
from llmos.drivers.tokenizer import load_text
from llmos.drivers.torch_cpu import TorchDevice
from llmos.kernel.device import GREEDY, Row, Step
from llmos.services.init.settings import read_settings
from llmos.services.init.store import library

HERE = Path(__file__).parent
SLOTS = 16
CHUNK = 512
WINDOW = 1024
"""The text is read in stretches of this many tokens."""
TOKENS, GREEDY_PROMPTS, GREEDY_TOKENS, PROMPT = 2048, 20, 64, 48
QUICK_TOKENS, QUICK_PROMPTS, QUICK_GREEDY = 192, 2, 16

Floats = NDArray[np.float32]
Model = NativeDevice | TorchDevice


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a name of the store")
    parser.add_argument("--text", type=Path, default=HERE / "quality.txt")
    parser.add_argument("--tokens", type=int, help=f"how much of the text is read (default: {TOKENS})")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    found = parser.parse_args(argv)
    tokens = found.tokens or (QUICK_TOKENS if found.quick else TOKENS)
    model = library(read_settings().home).find(found.model)
    checkpoint = open_checkpoint(model.path, model.cache)
    ids = load_text(model.path, model.cache).encode(found.text.read_text("utf-8"))[:tokens]
    window = min(WINDOW, checkpoint.config.window)
    if len(ids) < 2:
        parser.error(f"{found.text} has fewer than two tokens: there is none to foretell")
    prompts = [ids[at : at + PROMPT] for at in range(0, len(ids), PROMPT)][: QUICK_PROMPTS if found.quick else GREEDY_PROMPTS]
    length = min(QUICK_GREEDY if found.quick else GREEDY_TOKENS, window - PROMPT)
    stretches = [ids[at : at + window] for at in range(0, len(ids), window)]
    compiled = compile_native(user_cache_path("llmos") / "native")
    frames = window // SLOTS + 2

    def torch_device(dtype: str) -> Callable[[], Model]:
        return lambda: TorchDevice(checkpoint, name="quality", frames=frames, page_slots=SLOTS, dtype=dtype)  # type: ignore[arg-type]

    def native(weights: str, kv: str = "bf16") -> Callable[[], Model]:
        return lambda: NativeDevice(compiled, checkpoint, name="quality", frames=frames, threads=2, weights=weights, kv=kv)  # type: ignore[arg-type]

    variants = {"torch fp32": torch_device("fp32"), "torch bf16": torch_device("bf16")}
    variants |= {f"native {weights} ({compiled.isa})": native(weights) for weights in ("bf16", "int8", "w8a8")}
    variants |= {f"native bf16, kv int8 ({compiled.isa})": native("bf16", "int8")}
    rows = list[dict[str, float | str]]()
    reference, continuations = list[Floats](), list[list[int]]()
    for name, make in variants.items():
        device = make()
        logs = [log_probabilities(device, stretch) for stretch in stretches]
        greedy = [continuation(device, prompt, length) for prompt in prompts]
        device.close()
        reference, continuations = reference or logs, continuations or greedy
        rows.append(compare(name, stretches, logs, reference, greedy, continuations))
    print(f"{found.model}, {len(ids)} tokens of {found.text.name}; {', '.join(machine().values())}")
    print(f"{'':28}{'perplexity':>11}{'KL mean':>10}{'KL p99':>9}{'agree':>8}{f'greedy of {length}':>14}")
    for row in rows:
        print(
            f"{row['name']:28}{row['perplexity']:11.3f}{row['kl_mean']:10.5f}{row['kl_p99']:9.4f}{row['agree']:8.1%}{row['greedy']:14.1f}"
        )
    if found.json is not None:
        found.json.write_text(json.dumps({"model": found.model, "tokens": len(ids), "rows": rows}, indent=1) + "\n")
    return 0


def log_probabilities(device: Model, tokens: list[int]) -> Floats:
    """[tokens, vocabulary] of each next token, the tokens read in chunks."""
    frames = tuple(range(-(-len(tokens) // SLOTS)))
    found = []
    for at in range(0, len(tokens), CHUNK):
        chunk = tokens[at : at + CHUNK]
        row = Row(0, tuple(chunk), at, frames)
        if isinstance(device, TorchDevice):
            with torch.inference_mode():
                logits = device.decoder.logits(device.forward([row])).float().numpy()
        else:  # computed once for their pages, then each token again for its logits: the same bits
            device.hidden([row])
            again = [Row(0, (token,), at + index, frames, store=False) for index, token in enumerate(chunk)]
            logits = np.concatenate([device.logits(again[part : part + 64]) for part in range(0, len(again), 64)])
        logits = logits - logits.max(-1, keepdims=True)
        found.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    together: Floats = np.concatenate(found)
    return together


def continuation(device: Model, prompt: list[int], length: int) -> list[int]:
    frames = tuple(range(-(-(len(prompt) + length) // SLOTS)))
    tokens, position, made = tuple(prompt), 0, list[int]()
    while len(made) < length:
        ((token,),) = device.execute(Step(len(made), (Row(0, tokens, position, frames, sampling=GREEDY),))).tokens
        made.append(token)
        tokens, position = (token,), position + len(tokens)
    return made


def compare(
    name: str, texts: list[list[int]], logs: list[Floats], reference: list[Floats], greedy: list[list[int]], expected: list[list[int]]
) -> dict[str, float | str]:
    surprise = np.concatenate([-log[np.arange(len(text) - 1), text[1:]] for log, text in zip(logs, texts, strict=True)])
    divergence = np.concatenate([(np.exp(p) * (p - q)).sum(-1) for p, q in zip(reference, logs, strict=True)])
    agree = np.concatenate([p.argmax(-1) == q.argmax(-1) for p, q in zip(reference, logs, strict=True)])
    same = [next((at for at, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), len(x)) for x, y in zip(greedy, expected, strict=True)]
    return {
        "name": name,
        "perplexity": float(np.exp(surprise.mean())),
        "kl_mean": float(divergence.mean()),
        "kl_p99": float(np.quantile(divergence, 0.99)),
        "agree": float(agree.mean()),
        "greedy": statistics.mean(same),
    }


if __name__ == "__main__":
    sys.exit(main())
