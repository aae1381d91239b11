"""Everything the native driver does at sizes beside every border, for a build that watches every access.

LD_PRELOAD=libasan.so python sanitized.py FILE.so ISA
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import native
import numpy as np
from contexts import Context, Frontend
from native import Cache, Functions, Sight, at, config, random_weights

from llmos.drivers.cpu.compiler import Compiled
from llmos.drivers.cpu.native import Native
from llmos.drivers.cpu.weights import KINDS, Form
from llmos.drivers.weights import to_bf16
from llmos.kernel.device import Sampling

KV = ("bf16", "int8")
HOWS = (Sampling(), Sampling(temperature=1.0, top_k=9, top_p=0.9, repetition_penalty=1.2, logprobs=20), Sampling(logprobs=1))


def exact(*shape: int) -> np.ndarray:
    """bfloat16 numbers in memory of their own, with nothing behind."""
    return to_bf16(np.random.default_rng(0).normal(0, 1, shape).astype(np.float32))


def products(functions: Functions) -> None:
    for inputs, outputs in ((1, 1), (31, 17), (33, 65), (64, 130)):
        for rows in (1, 2, 17, 33, 150):
            for form in Form:
                functions.product(exact(outputs, inputs), exact(rows, inputs), np.zeros(outputs, np.float32), 2, form)
        for form in Form:
            functions.unpacked(exact(outputs, inputs), inputs, outputs - 1, form)
    for kind, nbytes in ((2, 18), (3, 20), (8, 34)):
        blocks = np.random.default_rng(0).integers(0, 60, (33, 3 * nbytes)).astype(np.uint8)
        functions.product(blocks, exact(3, 96), np.zeros(33, np.float32), 2, KINDS[kind], kind)


def attention(functions: Functions) -> None:
    for width, slots, kv in itertools.product((16, 48, 64, 80, 256), (16, 64), KV):
        pages = exact(-(-300 // slots), 2 * 2 * slots * width if kv == "bf16" else 2 * slots * (width + 4))
        cache = Cache(at(pages), 1, 2, width, slots, kv == "int8")
        key = np.ones(width, np.float32)
        for position in (0, 15, 16, 299):
            functions.write(cache, position // slots, position % slots, 0, 1, key, key)
        frames = list(range(len(pages)))
        for window in (0, 20):
            rows = [Sight(1, position, frames[: position // slots + 1]) for position in (0, 15, 16, 127, 128, 299, 299)]
            rows += [Sight(20, 120, frames), Sight(2, 298, frames)]
            functions.attention(cache, rows, exact(sum(row.count for row in rows), 6, width), 0, window, 2)


def sampling(functions: Functions) -> None:
    for vocabulary in (1, 15, 17, 1000):
        logits = np.random.default_rng(0).normal(0, 3, vocabulary).astype(np.float32)
        for how in (*HOWS, Sampling(temperature=0.1, min_p=0.5), Sampling(temperature=9.0, top_k=vocabulary - 1)):
            functions.draw(logits, how, np.linspace(0, 1 - 2.0**-53, 9), (0, vocabulary - 1, 0))
        functions.likeliest(logits, min(20, vocabulary))
        functions.arg_max(logits)


def steps() -> None:
    for changes in ({}, {"width": 37, "ffn_width": 19, "vocabulary": 33, "heads": 3, "kv_heads": 1, "tied": False, "windows": (None, 20)}):
        for kind, kv in itertools.product(("bf16", "int8", "int4", "w8a8", "w4a8"), KV):
            shape = config(**{"head_width": 48, "qk_norm": True, "attention_bias": True, **changes})
            one = native.device(shape, random_weights(shape), threads=3, weights=kind, kv=kv)
            frontend = Frontend(one)
            contexts = [Context(np.random.default_rng(n).integers(0, shape.vocabulary, n).tolist()) for n in (1, 17, 130, 5)]
            frontend.prefill(contexts[2], 100)
            for how in HOWS:
                frontend.generate(contexts, 2, how)
            frontend.generate([frontend.fork(contexts[2])[0], *contexts], 2)
            one.close()


if __name__ == "__main__":
    path, isa = sys.argv[1:]
    made = Compiled(Path(path), isa, fresh=False)  # type: ignore[arg-type]
    native.compiled = lambda _=None: made  # type: ignore[assignment]
    Native(made.path)  # asks the system for AMX
    given = Functions(made.isa)
    products(given)
    attention(given)
    sampling(given)
    given.exp(np.zeros(32, np.float32))
    given.exp_roughly(np.zeros(32, np.float32))
    given.narrow(np.zeros(32, np.float32))
    steps()
    print("done")
