"""What each way to hold weights, and keys and values, costs in quality: perplexity, and divergence from float32.

    python benchmarks/quality.py                        # the default model on quality.txt, then one trained here
    python benchmarks/quality.py --model NAME --text FILE --tokens 4000     # one of the store alone
    python benchmarks/quality.py --trained              # the one trained here alone
    python benchmarks/quality.py --quick                # small sizes: does everything work?

The reference is the torch driver in float32. KL divergence is of the next-token distributions, in nats, at every position;
"agree" is how often the likeliest token is the same; "greedy" is how many of the first tokens of greedy continuations are the
same before the first that differs (a small difference anywhere ends it); "extraction" is the share of right answers to the
questions of extraction.py; "ms/token" is the least time of a step of one row, since the machine may be shared: an
indication; cpu.py measures speed.

The default model's weights were 4-bit (Q4_1) before they came here: int4 takes them as they are and can lose nothing, and what
int8 loses says less than it would of weights that were shipped in bf16. So a second model is trained here (trained.py).
Below each table stand the forms within the loss that llmos allows its default (MOST_KL, LEAST_AGREE), with the least ms/token first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import numpy as np
from extraction import ANSWER_TOKENS, questions, right
from numpy.typing import NDArray
from overhead import machine
from platformdirs import user_cache_path

from llmos.drivers.checkpoint import open_checkpoint
from llmos.drivers.cpu.compiler import Compiled, compile_native
from llmos.drivers.cpu.device import NativeDevice
from llmos.drivers.cpu.pages import Kv
from llmos.drivers.cpu.weights import KINDS, Part, Weights, form_of
from llmos.drivers.tokenizer import load_text
from llmos.drivers.weights import Checkpoint
from llmos.kernel.device import GREEDY, Row, Step
from llmos.services.init.settings import read_settings
from llmos.services.init.store import library

if TYPE_CHECKING:
    from llmos.drivers.torch_cpu import TorchDevice

HERE = Path(__file__).parent
MOST_KL, LEAST_AGREE = 0.01, 0.95
"""The stated loss: a default form's mean KL divergence from float32 is at most this, and its agreement at least that."""
AS_THE_FILE = "native as the file has it"
"""What llmos does unless it is asked for something else."""
SLOTS = 16
CHUNK = 512
WINDOW = 1024
"""The text is read in stretches of this many tokens."""
PROMPT = 48
THREADS = 2

Floats = NDArray[np.float32]
Model: TypeAlias = "NativeDevice | TorchDevice"


@dataclass(frozen=True, slots=True)
class Sizes:
    tokens: int = 2048
    prompts: int = 20
    greedy: int = 64
    """Tokens of a greedy continuation."""
    questions: int = 24


QUICK = Sizes(tokens=192, prompts=2, greedy=16, questions=2)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, and what it reads."""

    name: str
    text: str
    """What the text is, in words."""
    checkpoint: Checkpoint
    ids: list[int]
    asked: Sequence[tuple[list[int], str]] = ()
    """Prompts and the answers that are right; none where the model cannot be asked."""
    decode: Callable[[Sequence[int]], str] = repr


@dataclass(frozen=True, slots=True)
class Result:
    """A row of the table."""

    name: str
    perplexity: float
    kl_mean: float
    kl_p99: float
    agree: float
    greedy: float
    extraction: float | None
    seconds_per_token: float

    @property
    def stands(self) -> bool:
        """Within the stated loss."""
        return self.kl_mean <= MOST_KL and self.agree >= LEAST_AGREE


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a name of the store (default: smollm2, and the trained model)")
    parser.add_argument("--trained", action="store_true", help="the model trained here, without the default one")
    parser.add_argument("--text", type=Path, default=HERE / "quality.txt", help="what the model of the store reads")
    parser.add_argument("--tokens", type=int, help=f"how much of a text is read (default: {Sizes().tokens})")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    found = parser.parse_args(argv)
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # read when torch loads: services/init/cpu.py says why
    sizes = QUICK if found.quick else Sizes()
    tokens = found.tokens or sizes.tokens
    compiled = compile_native(user_cache_path("llmos") / "native")
    makers: list[Callable[[], Subject]] = []
    if found.model or not found.trained:
        makers.append(lambda: of_the_store(found.model or "smollm2", found.text, tokens, sizes.questions))
    if found.trained or not found.model:
        makers.append(lambda: trained_here(tokens, quick=found.quick))
    about = {**machine(), "isa": compiled.isa}
    tables = list[dict[str, Any]]()
    everywhere = set[str]()
    for make in makers:
        subject = make()
        if len(subject.ids) < 2:
            parser.error(f"{subject.text} has fewer than two tokens: there is none to foretell")
        rows = measure(subject, sizes, compiled)
        print(table(subject, rows, about), end="\n\n", flush=True)
        stand = {row.name for row in rows if row.stands}
        everywhere = everywhere & stand if tables else stand
        tables.append({"model": subject.name, "text": subject.text, "tokens": len(subject.ids), "rows": [asdict(row) for row in rows]})
    if len(tables) > 1:
        print("within the stated loss on both:", "; ".join(row["name"] for row in tables[0]["rows"] if row["name"] in everywhere))
    if found.json is not None:
        bound = {"kl_mean": MOST_KL, "agree": LEAST_AGREE}
        found.json.write_text(json.dumps({"about": about, "bound": bound, "tables": tables}, indent=1) + "\n")
    return 0


def of_the_store(name: str, text: Path, tokens: int, count: int) -> Subject:
    model = library(read_settings().home).find(name)
    checkpoint, tokenizer = open_checkpoint(model.path, model.cache), load_text(model.path, model.cache)
    asked = [(tokenizer.encode(question.prompt), question.answer) for question in questions(count)]
    if max(len(prompt) for prompt, _ in asked) + ANSWER_TOKENS > checkpoint.config.window:
        asked = []
    return Subject(name, text.name, checkpoint, tokenizer.encode(text.read_text("utf-8"))[:tokens], asked, tokenizer.decode)


def trained_here(tokens: int, *, quick: bool) -> Subject:
    import trained  # loads torch

    how = trained.QUICK if quick else trained.Training()
    learned, held_out = trained.texts()
    checkpoint = trained.train(how, learned)
    said = f"bytes of the Python reference, held out of the {how.steps * how.batch * how.window} it was trained on"
    return Subject(f"a model of {how.layers} layers of {how.width}, trained here", said, checkpoint, list(held_out[:tokens]))


def forms(compiled: Compiled, checkpoint: Checkpoint, frames: int) -> dict[str, Callable[[], Model]]:
    """A device for each way to compute; the reference comes first."""
    from llmos.drivers.torch_cpu import Dtype, TorchDevice  # loads torch

    def in_torch(dtype: Dtype) -> Callable[[], Model]:
        return lambda: TorchDevice(checkpoint, name="quality", frames=frames, page_slots=SLOTS, dtype=dtype, threads=THREADS)

    def native(weights: Weights, kv: Kv = "bf16") -> Callable[[], Model]:
        return lambda: NativeDevice(compiled, checkpoint, name="quality", frames=frames, threads=THREADS, weights=weights, kv=kv)

    of_weights = {f"native {weights}" if weights else AS_THE_FILE: native(weights) for weights in get_args(Weights)}
    return {"torch fp32": in_torch("fp32"), "torch bf16": in_torch("bf16"), **of_weights, "native bf16, kv int8": native("bf16", "int8")}


def measure(subject: Subject, sizes: Sizes, compiled: Compiled) -> list[Result]:
    """A row for each form."""
    ids, window = subject.ids, min(WINDOW, subject.checkpoint.config.window)
    stretches = [ids[at : at + window] for at in range(0, len(ids), window)]
    prompts = [ids[at : at + PROMPT] for at in range(0, len(ids), PROMPT)][: sizes.prompts]
    length = min(sizes.greedy, window - PROMPT)
    rows = list[Result]()
    reference, expected = list[Floats](), list[list[int]]()
    longest = [window, sum(len(prompt) + length for prompt in prompts), sum(len(prompt) + ANSWER_TOKENS for prompt, _ in subject.asked)]
    frames = max(longest) // SLOTS + max(len(prompts), len(subject.asked)) + 1
    for name, make in forms(compiled, subject.checkpoint, frames).items():
        device = make()
        logs = [log_probabilities(device, stretch) for stretch in stretches]
        greedy = continuations(device, prompts, length)
        said = continuations(device, [prompt for prompt, _ in subject.asked], ANSWER_TOKENS)
        answers = [right(subject.decode(tokens), answer) for tokens, (_, answer) in zip(said, subject.asked, strict=True)]
        seconds = seconds_per_token(device, ids[:PROMPT])
        device.close()
        reference, expected = reference or logs, expected or greedy
        compared = compare(stretches, logs, reference, greedy, expected)
        extraction = statistics.mean(answers) if answers else None
        rows.append(Result(name, **compared, extraction=extraction, seconds_per_token=seconds))
    return rows


def log_probabilities(device: Model, tokens: list[int]) -> Floats:
    """[tokens, vocabulary] of each next token, the tokens read in chunks."""
    frames = tuple(range(-(-len(tokens) // SLOTS)))
    found = []
    for at in range(0, len(tokens), CHUNK):
        chunk = tokens[at : at + CHUNK]
        row = Row(0, tuple(chunk), at, frames)
        if isinstance(device, NativeDevice):  # computed once for their pages, then each token again for its logits: the same bits
            device.hidden([row])
            again = [Row(0, (token,), at + index, frames, store=False) for index, token in enumerate(chunk)]
            logits = np.concatenate([device.logits(again[part : part + 64]) for part in range(0, len(again), 64)])
        else:
            import torch

            with torch.inference_mode():
                logits = device.decoder.logits(device.forward([row])).float().numpy()
        logits = logits - logits.max(-1, keepdims=True)
        found.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    together: Floats = np.concatenate(found)
    return together


def continuations(device: Model, prompts: Sequence[list[int]], length: int) -> list[list[int]]:
    """The likeliest tokens after each prompt, all in one batch."""
    pages = [-(-(len(prompt) + length) // SLOTS) for prompt in prompts]
    frames = [tuple(range(end - count, end)) for count, end in zip(pages, accumulate(pages), strict=True)]
    rows = [Row(at, tuple(prompt), 0, own, sampling=GREEDY) for at, (prompt, own) in enumerate(zip(prompts, frames, strict=True))]
    made: list[list[int]] = [[] for _ in prompts]
    for number in range(length):
        tokens = device.execute(Step(number, tuple(rows))).tokens
        for at, (row, (token,)) in enumerate(zip(rows, tokens, strict=True)):
            made[at].append(token)
            rows[at] = replace(row, tokens=(token,), position=row.position + len(row.tokens))
    return made


def seconds_per_token(device: Model, tokens: list[int]) -> float:
    """The least time of a step of one row; each of the tokens is read in a step of its own."""
    frames = tuple(range(-(-len(tokens) // SLOTS)))
    times = []
    for at, token in enumerate(tokens):
        start = time.perf_counter()
        device.execute(Step(at, (Row(0, (token,), at, frames, sampling=GREEDY),)))
        times.append(time.perf_counter() - start)
    return min(times)


def compare(
    texts: list[list[int]], logs: list[Floats], reference: list[Floats], greedy: list[list[int]], expected: list[list[int]]
) -> dict[str, Any]:
    surprise = np.concatenate([-log[np.arange(len(text) - 1), text[1:]] for log, text in zip(logs, texts, strict=True)])
    divergence = np.concatenate([(np.exp(p) * (p - q)).sum(-1) for p, q in zip(reference, logs, strict=True)])
    agree = np.concatenate([p.argmax(-1) == q.argmax(-1) for p, q in zip(reference, logs, strict=True)])
    same = [next((at for at, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), len(x)) for x, y in zip(greedy, expected, strict=True)]
    return {
        "perplexity": float(np.exp(surprise.mean())),
        "kl_mean": float(divergence.mean()),
        "kl_p99": float(np.quantile(divergence, 0.99)),
        "agree": float(agree.mean()),
        "greedy": statistics.mean(same),
    }


def table(subject: Subject, rows: Sequence[Result], about: dict[str, str]) -> str:
    """The rows, and what they say of the default."""
    lines = [
        f"{subject.name}, {len(subject.ids)} tokens of {subject.text}; {', '.join(about.values())}",
        f"{'':28}{'perplexity':>11}{'KL mean':>10}{'KL p99':>9}{'agree':>8}{'greedy':>8}{'extraction':>12}{'ms/token':>10}",
    ]
    for row in rows:
        answers = "-" if row.extraction is None else f"{row.extraction:.0%}"
        lines.append(
            f"{row.name:28}{row.perplexity:11.3f}{row.kl_mean:10.5f}{row.kl_p99:9.4f}{row.agree:8.1%}{row.greedy:8.1f}{answers:>12}"
            f"{row.seconds_per_token * 1e3:10.1f}"
        )
    lines.append(f"(one that knows nothing, all tokens alike: perplexity {subject.checkpoint.config.vocabulary})")
    standing = sorted((row for row in rows if row.stands), key=lambda row: row.seconds_per_token)
    lines.append(
        f"within the stated loss (mean KL at most {MOST_KL}, agree at least {LEAST_AGREE:.0%}), least ms/token first: "
        + "; ".join(row.name for row in standing)
    )
    found = {row.name: row for row in rows}
    default = found[AS_THE_FILE]
    lines.append(f"the default, {AS_THE_FILE}, {'stands' if default.stands else 'DOES NOT stand'} within it")
    if shipped_in_4_bits(subject.checkpoint):
        lines.append("int4 loses nothing here by construction: the file's weights are such blocks already, and are used as they are")
    return "\n".join(lines)


def shipped_in_4_bits(checkpoint: Checkpoint) -> bool:
    """All matrices of the file are blocks that int4 takes as they are."""
    head = "model.embed_tokens.weight" if checkpoint.config.tied else "lm_head.weight"
    matrices = [name for name in checkpoint.names if name.endswith("_proj.weight") or name == head]
    blocks = {name: checkpoint.blocks(name) for name in matrices}
    forms = {name: form_of([block], "int4", Part.HEAD if name == head else Part.OUTPUT) for name, block in blocks.items()}
    return all(block is not None and KINDS.get(block.kind) is forms[name] for name, block in blocks.items())


if __name__ == "__main__":
    sys.exit(main())
