"""What the Triton functions cost on a GPU that need not be there: compiles them ahead of time and reads the machine code's needs.

    python -m llmos.drivers.triton.resources --target 80 --target 90 [--json]

Owns the models' shapes that are watched and each target's limits. Measures no time and needs no GPU, only the assembler that comes
with Triton. A function that spills registers, or takes more shared memory than a block may have, is slow or does not start: the tests
fail on either.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from llmos.kernel.errno import DeviceFailed

from .decode_attention import HeadShape, _attend, _merge

BLOCK_SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Compute capability x 10 -> most bytes of shared memory of one block (CUDA C++ Programming Guide, technical specifications)."""

PROCESSOR_SHARED = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}
"""Compute capability x 10 -> bytes of shared memory of one processor; each block there takes 1 KiB more than it asks for."""

PROCESSOR_REGISTERS = 65536
PROCESSOR_WARPS = 64

MODELS = {
    "SmolLM2-135M": (9, 3, 64),
    "Qwen3-0.6B": (16, 8, 128),
    "Qwen3-4B, Llama-3.1-8B": (32, 8, 128),
}
"""Name -> query heads, KV heads, head width."""

TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True, slots=True)
class Resources:
    """The needs of one compiled function."""

    function: str
    model: str
    target: int
    page_slots: int
    kv: str
    shared: int
    """Bytes of a block."""
    registers: int
    """Of a thread."""
    local: int
    """Bytes of a thread in local memory: spilled registers and stack."""
    resident: int
    """Blocks that fit on one processor at once."""


def compiled(model: str, shape: HeadShape, target: int) -> list[Resources]:
    """Compile both functions for one shape and one compute capability."""
    kv = TYPES[shape.dtype]
    attend = {
        **dict.fromkeys(("query", "pool", "out"), f"*{kv}"),
        **dict.fromkeys(("frames", "work"), "*i32"),
        **dict.fromkeys(("partial_out", "partial_weight"), "*fp32"),
        **dict.fromkeys(("layer", "query_stride", "frames_stride", "page_stride"), "i32"),
        "scale": "fp32",
    }
    merge = {"merges": "*i32", "partial_out": "*fp32", "partial_weight": "*fp32", "out": f"*{kv}"}
    aligned = {"query_stride", "page_stride"}
    options = {"num_warps": shape.warps, "enable_fp_fusion": True}
    found = []
    for name, function, types, constants, stages in (
        ("attend", _attend, attend, shape.attend_constants, {"num_stages": shape.stages}),
        ("merge", _merge, merge, shape.merge_constants, {}),
    ):
        binary = _compile(function, types, constants, aligned, target, {**options, **stages})
        registers, local = _usage(binary.asm["cubin"])
        blocks = min(
            PROCESSOR_SHARED[target] // (binary.metadata.shared + 1024),
            PROCESSOR_WARPS // shape.warps,
            PROCESSOR_REGISTERS // (-(-registers // 8) * 8 * 32 * shape.warps),
        )
        found.append(Resources(name, model, target, shape.page_slots, kv, binary.metadata.shared, registers, local, blocks))
    return found


def _compile(
    function: Any, types: dict[str, str], constants: dict[str, int], aligned: set[str], target: int, options: dict[str, Any]
) -> Any:
    """Compile a function as a launch would with 16-byte aligned tensors and `aligned` numbers that are multiples of 16."""
    signature = {name: types.get(name, "constexpr") for name in function.arg_names}
    attributes = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(function.arg_names) if signature[name][0] == "*" or name in aligned
    }
    source = ASTSource(function, signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of local memory of a thread, as the assembler's own tool reads them from the machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        answer = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name], capture_output=True, text=True, timeout=60, check=False
        )
    usage = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", answer.stdout + answer.stderr))
    if answer.returncode or len(usage) != 3:
        raise DeviceFailed(f"cuobjdump does not say what the function uses: {answer.stderr.strip()}")
    return int(usage["REG"]), int(usage["STACK"]) + int(usage["LOCAL"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m llmos.drivers.triton.resources", description="Compile the Triton functions for GPUs and print what they need."
    )
    parser.add_argument(
        "--target", type=int, action="append", choices=sorted(BLOCK_SHARED), help="compute capability x 10; repeatable (default: all)"
    )
    parser.add_argument("--page", type=int, action="append", help="slots of a page; repeatable (default: 16 and 64)")
    parser.add_argument("--model", action="append", choices=MODELS, help="repeatable (default: all)")
    parser.add_argument("--kv", choices=sorted(TYPES.values()), default="bf16")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    dtype = next(dtype for dtype, name in TYPES.items() if name == options.kv)
    found = [
        resources
        for target in options.target or sorted(BLOCK_SHARED)
        for page_slots in options.page or (16, 64)
        for model in options.model or MODELS
        for resources in compiled(model, HeadShape(*MODELS[model], page_slots, dtype), target)
    ]
    if options.json:
        print(json.dumps([asdict(resources) for resources in found], indent=1))
        return 0
    print(f"Triton {triton.__version__}")
    print(f"{'target':8}{'function':10}{'model':26}{'page':>5}{'kv':>6}{'shared B':>10}{'registers':>11}{'local B':>9}{'resident':>10}")
    for r in found:
        print(
            f"sm_{r.target:<5}{r.function:10}{r.model:26}{r.page_slots:5}{r.kv:>6}{r.shared:10}{r.registers:11}{r.local:9}{r.resident:10}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
