"""A trial of grammars, in an OS process of its own: this file run as a program. Imports nothing of llmos.

Reads a grammar a line as JSON, compiles it and computes its first mask over a vocabulary of bytes, and answers in a line with
what is wrong with it, or with an empty string. Whoever started it kills it when an answer takes too long; it ends with its
standard input. Its memory is limited: an allocation beyond that is its end.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import llguidance

MEMORY = 1 << 30
"""Bytes of address space."""
MASK_SECONDS = 0.1
"""Of processor time, for the first mask: one over a whole vocabulary takes a hundredth of that."""
END = 256


class Bytes:
    """The vocabulary: each byte, and an end."""

    is_tokenizer_wrapper = True
    eos_token_id, bos_token_id = END, None
    tokens: Sequence[bytes] = [bytes([byte]) for byte in range(256)] + [b""]
    special_token_ids: Sequence[int] = [END]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


def complaint(tokenizer: llguidance.LLTokenizer, grammar: str, limits: dict[str, Any]) -> str:
    """What is wrong with a grammar; nothing if that is empty."""
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=llguidance.LLParserLimits(**limits))
    problem: str = matcher.get_error()
    if not problem and matcher.is_stopped() and not matcher.is_accepting():
        problem = "NoExtension"
    if not problem:
        began = time.process_time()
        mask = matcher.compute_bitmask()
        if time.process_time() - began > MASK_SECONDS:
            return "it takes too long to say which character may come first; make it smaller"
        problem = matcher.get_error() or ("" if any(mask) else "NoExtension")
    return "no text matches it" if problem.startswith("NoExtension") else problem


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    tokenizer = llguidance.LLTokenizer(Bytes(), eos_token=END)  # type: ignore[arg-type]  # it is looked at, not its class
    for line in sys.stdin:
        grammar, limits = json.loads(line)
        sys.stdout.write(json.dumps(complaint(tokenizer, grammar, limits)[:2000]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
