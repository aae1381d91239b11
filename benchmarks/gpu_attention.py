"""Paged decode attention on a GPU: how near to the speed of memory, and against torch's own attention on gathered KV.

    python benchmarks/gpu_attention.py [--quick] [--json FILE]

Prints one table. `us` is the median time of one layer's call over the repeats, with the fastest and slowest in brackets: calls
over many layers captured in a CUDA graph, as serving runs them, so that neither Python's launch time nor the L2 cache (far smaller
than the layers' KV) takes part. `GB/s` counts K and V of the tokens attended to, each once, the queries and the outputs. `copy` is
that rate over the rate of a plain copy of 1 GiB (bytes read plus bytes written). `SDPA` is the same attention by torch's
scaled_dot_product_attention on KV that lies contiguous per row already, which a paged system would first have to gather:
`x SDPA` above 1 means that ours is faster. Rows of unlike length have no SDPA figure, for it takes no such batch without padding.
Every workload is first compared with float64 on its first and last row.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton

from llmos.drivers.triton.decode_attention import HeadShape, Workspace, decode_attention, prepare
from llmos.drivers.triton.oracle import gather, paged_attention
from llmos.drivers.triton.splits import plan_splits

MODELS = {"SmolLM2-135M": (9, 3, 64), "Qwen3-0.6B": (16, 8, 128), "Llama-3.1-8B": (32, 8, 128)}
"""Name -> query heads, KV heads, head width."""

COLD_BYTES = 1 << 30
"""KV that a pass over the layers reads at least: many times the L2 cache of any GPU of today (50 to 126 MB)."""


@dataclass(frozen=True, slots=True)
class Workload:
    model: str
    page_slots: int
    lengths: tuple[int, ...]

    @property
    def label(self) -> str:
        ragged = len(set(self.lengths)) > 1
        return f"{len(self.lengths)} x {'~' if ragged else ''}{sum(self.lengths) // len(self.lengths)}"


@dataclass(frozen=True, slots=True)
class Result:
    workload: Workload
    items: int
    partials: int
    megabytes: float
    microseconds: tuple[float, ...]
    rate: float
    """GB/s."""
    of_copy: float
    sdpa_microseconds: tuple[float, ...] | None
    error: float


@dataclass(frozen=True, slots=True)
class Batch:
    """One workload's tensors: every layer's KV drawn at random, frames dealt at random, no page shared."""

    shape: HeadShape
    query: torch.Tensor
    pool: torch.Tensor
    frames: torch.Tensor
    out: torch.Tensor
    workspace: Workspace

    def attend(self, layer: int) -> None:
        decode_attention(self.query, self.pool, layer, self.frames, self.workspace, self.out, scale=self.shape.width**-0.5)


def workloads(quick: bool) -> list[Workload]:
    sizes = [(32768,), (8192,) * 8, (2048,) * 64, (8192,) * 64, (500,) * 63 + (60_000,)]
    if quick:
        return [Workload("Llama-3.1-8B", 64, lengths) for lengths in (sizes[0], sizes[2])]
    return [Workload(model, 64, lengths) for model in MODELS for lengths in sizes] + [
        Workload("Llama-3.1-8B", page, lengths) for page in (16, 32) for lengths in sizes[:3]
    ]


def build(workload: Workload, device: torch.device, processors: int, cold_bytes: int) -> Batch:
    shape = HeadShape(*MODELS[workload.model], workload.page_slots, torch.bfloat16)
    pages = [-(-length // shape.page_slots) for length in workload.lengths]
    page_bytes = 2 * shape.page_slots * shape.kv_heads * shape.width * shape.dtype.itemsize
    layers = max(2, -(-cold_bytes // (sum(pages) * page_bytes)))
    draw = torch.Generator(device).manual_seed(0)
    pool = torch.empty(sum(pages), layers, 2, shape.page_slots, shape.kv_heads, shape.width, dtype=shape.dtype, device=device)
    pool.normal_(generator=draw)
    dealt = torch.randperm(sum(pages), generator=draw, device=device).to(torch.int32)
    frames = torch.nn.utils.rnn.pad_sequence(list(torch.split_with_sizes(dealt, pages)), batch_first=True)
    query = torch.randn(len(pages), shape.heads, shape.width, generator=draw, device=device).to(shape.dtype)
    plan = plan_splits(workload.lengths, kv_heads=shape.kv_heads, tile=shape.tile, processors=processors)
    return Batch(shape, query, pool, frames, torch.empty_like(query), prepare(plan, shape, device))


def error(batch: Batch, lengths: Sequence[int]) -> float:
    """Largest difference from float64 over the first and the last row of layer 0."""
    batch.attend(0)
    ends = [0, len(lengths) - 1]
    expected = paged_attention(
        batch.query[ends], batch.pool, 0, batch.frames[ends], [lengths[row] for row in ends], scale=batch.shape.width**-0.5
    )
    return float((batch.out[ends].double() - expected).abs().max())


def contiguous(batch: Batch, length: int) -> Callable[[int], None]:
    """torch's attention over copies of K and V, [layers][rows, KV heads, length, width]."""
    layers = batch.pool.shape[1]
    rows = [[gather(batch.pool, layer, row, length) for row in batch.frames] for layer in range(layers)]
    keys = [torch.stack([k for k, _ in row]).transpose(1, 2).contiguous() for row in rows]
    values = [torch.stack([v for _, v in row]).transpose(1, 2).contiguous() for row in rows]
    query = batch.query[:, :, None]

    def attend(layer: int) -> None:
        torch.nn.functional.scaled_dot_product_attention(query, keys[layer], values[layer], enable_gqa=True)

    return attend


def timed(call: Callable[[int], object], count: int, repeats: int) -> tuple[float, ...]:
    """Microseconds of call(0) .. call(count - 1) in one CUDA graph, per call, once per repeat."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call(0)  # compiles, and lets the libraries take their workspaces, which a capture does not allow
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for index in range(count):
            call(index)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    taken = []
    for repeat in range(repeats + 3):
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        if repeat >= 3:
            taken.append(start.elapsed_time(stop) * 1000 / count)
    return tuple(taken)


def copy_rate(repeats: int) -> float:
    """GB/s of a plain copy on this GPU, bytes read plus bytes written."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / statistics.median(timed(lambda _: target.copy_(source), 4, repeats)) / 1000


def measure(workload: Workload, processors: int, copy: float, repeats: int) -> Result:
    batch = build(workload, torch.device("cuda"), processors, COLD_BYTES)
    wrong = error(batch, workload.lengths)
    if not wrong < 0.02 or math.isnan(wrong):
        raise SystemExit(f"{workload}: differs from float64 by {wrong}")
    shape, layers = batch.shape, batch.pool.shape[1]
    taken = timed(batch.attend, layers, repeats)
    kv = sum(workload.lengths) * 2 * shape.kv_heads * shape.width * shape.dtype.itemsize
    moved = kv + 2 * batch.query.numel() * batch.query.element_size()
    rate = moved / statistics.median(taken) / 1000
    same = len(set(workload.lengths)) == 1
    peer = timed(contiguous(batch, workload.lengths[0]), layers, repeats) if same else None
    plan = batch.workspace.plan
    return Result(workload, len(plan.work) * shape.kv_heads, plan.partials, moved / 1e6, taken, rate, rate / copy, peer, wrong)


def spread(microseconds: Sequence[float]) -> str:
    return f"{statistics.median(microseconds):.1f} [{min(microseconds):.1f} {max(microseconds):.1f}]"


def row(result: Result) -> str:
    ours = statistics.median(result.microseconds)
    peer, ratio = "-", "-"
    if result.sdpa_microseconds is not None:
        peer, ratio = spread(result.sdpa_microseconds), f"{statistics.median(result.sdpa_microseconds) / ours:.2f}"
    return (
        f"{result.workload.model:14}{result.workload.page_slots:5}{result.workload.label:>12}{result.items:7}{result.partials:7}"
        f"{result.megabytes:9.1f}{spread(result.microseconds):>26}{result.rate:8.0f}{result.of_copy:7.2f}{peer:>26}{ratio:>8}{result.error:10.1e}"
    )


def commit() -> str:
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or "unknown"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure paged decode attention on a CUDA GPU.")
    parser.add_argument("--quick", action="store_true", help="two workloads only")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing measured", file=sys.stderr)
        return 1
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    copy = copy_rate(options.repeats)
    header = {
        "gpu": device.name,
        "processors": device.multi_processor_count,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "commit": commit(),
        "copy GB/s": round(copy),
    }
    print(" · ".join(f"{name} {value}" for name, value in header.items()))
    print(
        f"{'model':14}{'page':>5}{'rows x len':>12}{'progs':>7}{'parts':>7}{'MB':>9}{'us':>26}{'GB/s':>8}{'copy':>7}"
        f"{'SDPA us':>26}{'x SDPA':>8}{'error':>10}"
    )
    results = []
    for workload in workloads(options.quick):
        results.append(measure(workload, device.multi_processor_count, copy, options.repeats))
        print(row(results[-1]), flush=True)
        torch.cuda.empty_cache()
    if options.json:
        options.json.write_text(json.dumps({"machine": header, "results": [asdict(result) for result in results]}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
