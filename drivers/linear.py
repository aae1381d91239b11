"""One matrix product of the decoder on a CPU: y = x W^T + b, with the weight laid out for this machine.

A bf16 weight is laid out once by oneDNN in the blocks its kernels read (a plain one would be reordered at every
call, which takes longer than the product itself: decision 0002). float32 uses the weight as it is. Owns the laid-out
weight only; the plain one may be freed.
"""

from __future__ import annotations

import threading
import time

import torch
import torch.nn.functional as F


class Linear:
    """y = x W^T + b, then silu(y) if asked, for x [rows, in]; W [out, in]."""

    __slots__ = ("activation", "bias", "packed", "weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, packed: bool, silu: bool = False) -> None:
        self.packed = packed
        self.bias = bias
        self.activation = "swish" if silu else "none"
        self.weight: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None) if packed else weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.packed:
            result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], "")
            return result
        result = F.linear(x, self.weight, self.bias)
        return F.silu(result, inplace=True) if self.activation == "swish" else result


def packable(dtype: torch.dtype) -> bool:
    """Whether this build of torch and this machine can lay out weights of `dtype`."""
    return dtype is torch.bfloat16 and torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def seconds_per_product(dtype: torch.dtype, rows: int, width: int, out: int, repeats: int = 5) -> float:
    """CPU seconds of one product of this shape on one thread, the best of several.

    One thread and CPU time, so that what else runs on the machine does not decide which dtype a model gets.
    """
    with _TIMING:
        return _best_seconds(dtype, rows, width, out, repeats)


def machine_threads() -> int:
    """As many threads as torch takes by itself: not the one of a timing under way."""
    with _TIMING:
        return torch.get_num_threads()


_TIMING = threading.Lock()
"""The number of threads is of the whole process, and a thread that uses torch for the first time keeps what it finds. So one
timing at a time changes it, and whoever serves sets its own (`TorchDevice`)."""


def _best_seconds(dtype: torch.dtype, rows: int, width: int, out: int, repeats: int) -> float:
    weight, x = torch.full((out, width), 0.01, dtype=dtype), torch.full((rows, width), 0.5, dtype=dtype)
    linear = Linear(weight, None, packed=packable(dtype))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = float("inf")
        for _ in range(repeats):
            start = time.thread_time()
            linear(x)
            best = min(best, time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return best
