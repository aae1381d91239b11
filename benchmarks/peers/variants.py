"""Which weights each engine is measured with: one line a variant, in the order of the table.

A name here is what `--engines` takes and what a result file has. `kv` is the precision of the keys and values that are kept. Imports
no engine; what an engine needs whatever its weights is in catalogue.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from peers.catalogue import CATALOGUE, Peer

Bits = Literal["bf16", "8-bit", "4-bit"]
BITS: tuple[Bits, ...] = ("bf16", "8-bit", "4-bit")
"""What is compared like for like, in the order of the table."""


@dataclass(frozen=True, slots=True)
class Variant:
    """`engine` is a name of CATALOGUE; `options` go to its adapter, before those of the command line; `needs` are paths under home() that
    must exist; `gap` says why it cannot be measured, empty if it can."""

    engine: str
    bits: Bits
    weights: str
    kv: str
    options: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    gap: str = ""

    @property
    def peer(self) -> Peer:
        return CATALOGUE[self.engine]

    @property
    def title(self) -> str:
        return self.peer.title if self.bits == "bf16" else f"{self.peer.title}, {self.weights}"

    def interpreter(self, peers: Path) -> Path | None:
        """None if the engine or these weights are not installed."""
        return self.peer.interpreter(peers) if all((peers / path).exists() for path in self.needs) else None


def gguf(name: str, bits: Bits) -> Variant:
    file = f"{name.lower()}.gguf"
    return Variant("llama_cpp", bits, name, "f16", {"model": file}, (f"models/{file}",))


VARIANTS: dict[str, Variant] = {
    "llmos": Variant("llmos", "bf16", "bf16", "bf16", {"model": "smollm2:135m-instruct-q4_1-bf16"}),
    "vllm": Variant("vllm", "bf16", "bf16", "bf16"),
    "openvino": Variant("openvino", "bf16", "bf16", "u8"),
    "llama_cpp": Variant("llama_cpp", "bf16", "bf16", "f16"),
    "hf": Variant("hf", "bf16", "bf16", "bf16"),
    "hf_generate": Variant("hf_generate", "bf16", "bf16", "bf16"),
    "llmos-int8": Variant("llmos", "8-bit", "int8", "bf16", {"model": "smollm2:135m-instruct-q4_1-int8"}),
    "openvino-int8": Variant("openvino", "8-bit", "int8", "u8", {"model": "openvino-int8"}, ("models/openvino-int8",)),
    "llama_cpp-q8_0": gguf("Q8_0", "8-bit"),
    "llmos-q4_1": Variant("llmos", "4-bit", "Q4_1", "bf16", {"model": "smollm2:135m-instruct-q4_1"}),
    "llmos-w4a8": Variant("llmos", "4-bit", "w4a8", "bf16", {"model": "smollm2:135m-instruct-q4_1-w4a8"}),
    "llama_cpp-q4_1": gguf("Q4_1", "4-bit"),
    "llama_cpp-q4_0": gguf("Q4_0", "4-bit"),
}
