"""The border to C++: the structures that cross it, and one class around a model there.

Owns the handle of a model. Every array that is passed is kept alive for the time it is read. Numbers are checked before
they come here; C++ checks nothing. Calls release the GIL.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmos.kernel.errno import BadFormat, DeviceFailed, NotSupported

MOST_LOGPROBS = 20
PARTS = ("qkv", "output", "gate_up", "down", "head", "attention", "rest")
"""What a step does: Part in step.cpp. The head samples too; the rest is norms, rotation, the embedding, what is found out once."""

ROW = np.dtype([(name, "<i4") for name in ("first", "count", "position", "frames", "store")], align=True)
"""A row of a step: RowIn in step.cpp."""

PICK = np.dtype(
    [(name, "<i4") for name in ("token", "top_k", "logprobs", "history", "history_size", "mask")]
    + [(name, "<f4") for name in ("temperature", "top_p", "min_p", "penalty")]
    + [("uniform", "<f8")],
    align=True,
)
"""A token to sample in a step: Pick in choice.hpp."""


class Shape(ctypes.Structure):
    """Shape in step.cpp."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("layers", "width", "heads", "kv_heads", "head_width", "ffn", "vocabulary", "slots")),
        *((name, ctypes.c_int32) for name in ("tied", "qk_norm", "kv_in_levels")),
        ("epsilon", ctypes.c_float),
    ]


class StepIn(ctypes.Structure):
    """StepIn in step.cpp."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in ("rows", "picks", "tokens", "frames", "history", "masks", "cache", "cosines", "sines", "greatest")
        ),
        *((name, ctypes.c_void_p) for name in ("chosen", "chosen_logprobs", "top_ids", "top_logprobs", "hidden", "logits")),
        *((name, ctypes.c_int32) for name in ("count", "pick_count")),
    ]


class Native:
    """The functions of one shared object."""

    def __init__(self, path: Path) -> None:
        try:
            self.functions = ctypes.CDLL(str(path))
        except OSError as error:
            raise NotSupported(f"the compiled functions do not load ({error}); delete {path} and try again") from None
        sizes = [self.functions.llmos_layout(index) for index in range(6)]
        segment = sizes.pop(4)
        if sizes != [ctypes.sizeof(Shape), ROW.itemsize, PICK.itemsize, ctypes.sizeof(StepIn), len(PARTS)]:
            raise NotSupported(f"the compiled functions and this Python do not agree on their structures: {sizes}")
        self.segment: int = segment
        if not self.functions.llmos_allowed():
            raise NotSupported("the system does not let this process use AMX")

    def open(self, shape: Shape, threads: int) -> Model:
        handle = ctypes.c_void_p()
        _check(self.functions.llmos_open(ctypes.byref(shape), threads, ctypes.byref(handle)))
        return Model(self.functions, handle)


class Model:
    """A model in C++: its weights, its threads, its scratch."""

    def __init__(self, functions: Any, handle: ctypes.c_void_p) -> None:
        self._functions, self._handle = functions, handle
        self._kept: list[NDArray[Any]] = []
        self.forms: set[int] = set()
        """How its matrices are held."""

    def set_matrix(self, layer: int, part: int, weight: NDArray[np.uint16], first: int = 0, stride: int = 1) -> None:
        """weight: bf16 bits [out, in]; its outputs go to blocks of 16 from `first` on, every `stride`-th. Raises BadFormat."""
        weight = np.ascontiguousarray(weight)
        _check(self._functions.llmos_set_matrix(self._handle, layer, part, _pointer(weight), weight.shape[0], first, stride))

    def hold(self, layer: int, part: int, form: int) -> None:
        """How a matrix is held, a Form of weights.py: before its weights come."""
        _check(self._functions.llmos_hold(self._handle, layer, part, form))
        self.forms.add(form)

    def set_blocks(self, layer: int, part: int, kind: int, blocks: NDArray[np.uint8], first: int = 0, stride: int = 1) -> None:
        """blocks: bytes [out, blocks of a row] of a ggml type; their outputs go where `set_matrix` would put them. Raises BadFormat."""
        blocks = np.ascontiguousarray(blocks)
        rows, row_bytes = blocks.shape
        function = self._functions.llmos_set_blocks
        _check(function(self._handle, layer, part, kind, _pointer(blocks), ctypes.c_size_t(row_bytes), rows, first, stride))

    def set_bias(self, layer: int, part: int, bias: NDArray[np.float32], first: int = 0, stride: int = 1) -> None:
        self._functions.llmos_set_bias(self._handle, layer, part, _pointer(bias), len(bias), first, stride)

    def set_norm(self, layer: int, which: int, weight: NDArray[np.float32]) -> None:
        self._functions.llmos_set_norm(self._handle, layer, which, _pointer(weight), len(weight))

    def set_window(self, layer: int, window: int) -> None:
        self._functions.llmos_set_window(self._handle, layer, window)

    def set_embedding(self, weight: NDArray[np.uint16]) -> None:
        """Looked up where it lies: it stays mapped."""
        self._kept.append(weight)
        self._functions.llmos_set_embedding(self._handle, _pointer(weight))

    def step(self, step: StepIn) -> None:
        if not self._handle:
            raise DeviceFailed("the model is closed")
        _check(self._functions.llmos_step(self._handle, ctypes.byref(step)))

    def laps(self) -> dict[str, float]:
        """Seconds of all steps so far by what they were spent on (PARTS), on the thread that waits for the others."""
        if not self._handle:
            raise DeviceFailed("the model is closed")
        seconds = np.zeros(len(PARTS), np.float64)
        self._functions.llmos_laps(self._handle, _pointer(seconds))
        return dict(zip(PARTS, seconds.tolist(), strict=True))

    def close(self) -> None:
        if self._handle:
            self._functions.llmos_close(self._handle)
            self._handle = ctypes.c_void_p()
            self._kept.clear()


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _check(code: int) -> None:
    if code == 1:
        raise DeviceFailed("there is not enough memory; close something, or give pages less of it (LLMOS_DEVICE_MEMORY)")
    if code == 2:
        raise BadFormat("a weight holds numbers that are not finite: the file is damaged, pull it again")
