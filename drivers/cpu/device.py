"""The native CPU device: steps of a model in C++ over paged KV.

Owns one model's frames in both tiers, as raw memory, and the order of a step: copies, then one call. Batch invariant: a
row's tokens are the same bits whatever else is in the batch, however its context was cut into chunks, and wherever its
pages come from. Imports no torch.

    a frame of either tier      [layers][key heads][keys, values][slots * head width]      bfloat16, or 8-bit levels: see cache.hpp
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmos.kernel.device import GREEDY, Copy, Geometry, Logprobs, Outcome, Row, Step, Tier
from llmos.kernel.errno import DeviceFailed, InvalidArgument, NotSupported

from ..frequencies import inverse_frequencies
from ..philox import uniform
from ..rates import measured
from ..rows import check_rows, hidden_wanted, logprobs_per_row, masked, one_by_one, per_row
from ..weights import Checkpoint
from .compiler import Compiled
from .native import MOST_LOGPROBS, PICK, ROW, Native, StepIn
from .pages import Kv, damaged, new_frames, page_bytes
from .weights import NAMES, Form, Weights, floats, open_model, unsuitable

LAYOUT = "cpu/4"
"""Changes whenever the bytes of a page, or how they are computed, change: part of every page key."""


class NativeDevice:
    """A Device that runs the Llama family in compiled C++."""

    def __init__(
        self,
        compiled: Compiled,
        checkpoint: Checkpoint,
        *,
        name: str,
        frames: int,
        host_frames: int = 0,
        page_slots: int = 16,
        threads: int = 1,
        weights: Weights = "",
        kv: Kv = "bf16",
    ) -> None:
        if frames < 1 or host_frames < 0 or page_slots < 1 or threads < 1:
            raise InvalidArgument(f"a device needs a frame of a slot, and a thread (got {frames} of {page_slots}, {threads} threads)")
        config = checkpoint.config
        native = Native(compiled.path)
        reason = unsuitable(config, page_slots, native.segment)
        if reason:
            raise NotSupported(f"the native functions cannot run {name}: {reason}")
        self._config, self._isa, self._threads, self._kv = config, compiled.isa, threads, kv
        self._model = open_model(native, checkpoint, page_slots, threads, weights, kv_int8=kv == "int8")
        self._last_norm = floats(checkpoint, "model.norm.weight")
        size = page_bytes(config, page_slots, kv)
        self.frames = {Tier.DEVICE: new_frames(frames, size), Tier.HOST: new_frames(host_frames, size)}
        self._cosines = self._sines = np.empty((0, config.head_width // 2), np.float32)
        facts = "|".join((weights, kv, compiled.isa, str(page_slots), LAYOUT))
        self._geometry = Geometry(
            name=name,
            vocabulary=config.vocabulary,
            window=config.window,
            page_slots=page_slots,
            device_frames=frames,
            host_frames=host_frames,
            page_bytes=size,
            digest=hashlib.sha256(checkpoint.digest + facts.encode()).digest(),
            batch_invariant=True,
        )
        self._geometry = measured(self)

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    def describe(self) -> str:
        """One line for a person: model, instruction set, threads, memory."""
        config, here = self._config, self._geometry
        return (
            f"{here.name}: {config.family}, {config.layers} layers of {config.width}, "
            f"native {' and '.join(NAMES[Form(form)] for form in sorted(self._model.forms))} ({self._isa}), {self._threads} threads, "
            f"{here.device_frames} + {here.host_frames} frames of {here.page_slots} tokens ({self._kv}, {here.page_bytes / 1024:.0f} KiB), "
            f"prefill {here.prefill_rate:.0f} tokens/s, copies {here.copy_rate:.0f} pages/s"
        )

    def execute(self, step: Step) -> Outcome:
        start = time.perf_counter()
        check_rows(step.rows, self._geometry)
        rows, refused = masked(step.rows, self._geometry)
        self._copy(step.copies)
        wanted = hidden_wanted(rows)
        states = np.empty((sum(len(row.tokens) for row in rows), self._config.width), np.float32) if wanted else None
        tokens, logprobs = self._run(rows, states) if rows else ((), ())
        hidden = tuple((index, self._normed(states[place])) for index, place in wanted) if states is not None else ()
        return Outcome(step.number, tokens, logprobs, time.perf_counter() - start, refused, hidden)

    def hidden(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Hidden states [tokens, width] of all rows' tokens before the last norm, one row after the other; stores their KV."""
        check_rows(rows, self._geometry)
        out = np.empty((sum(len(row.tokens) for row in rows), self._config.width), np.float32)
        self._call([replace(row, sampling=None, guesses=0) for row in rows], out)
        return out

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Logits [rows, vocabulary] of each row's last token; stores their KV."""
        check_rows(rows, self._geometry)
        out = np.empty((len(rows), self._config.vocabulary), np.float32)
        self._call([replace(row, sampling=GREEDY, guesses=0) for row in rows], logits=out)
        return out

    def laps(self) -> dict[str, float]:
        """Seconds of all steps so far by part: products with each matrix, attention, the rest."""
        return self._model.laps()

    def close(self) -> None:
        self._model.close()
        self.frames = {tier: np.zeros((0, 0), np.uint16) for tier in Tier}

    def _copy(self, copies: Sequence[Copy]) -> None:
        for copy in copies:
            for tier, frame in ((copy.source_tier, copy.source), (copy.target_tier, copy.target)):
                if not 0 <= frame < len(self.frames[tier]):
                    raise DeviceFailed(f"copy names {tier.value} frame {frame}, but the tier has {len(self.frames[tier])} frames")
            self.frames[copy.target_tier][copy.target] = self.frames[copy.source_tier][copy.source]

    def _normed(self, state: NDArray[np.float32]) -> tuple[float, ...]:
        """A hidden state after the last norm, which the step applies only where logits are wanted."""
        scale = 1 / np.sqrt(np.mean(np.square(state, dtype=np.float64)) + self._config.norm_epsilon)
        return tuple((state * scale * self._last_norm).tolist())

    def _run(
        self, rows: Sequence[Row], hidden: NDArray[np.float32] | None
    ) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[Logprobs, ...], ...]]:
        """Sampled tokens and log-probabilities of the rows."""
        picks, (greatest, chosen, logprobs, top_ids, top_logprobs) = self._call(rows, hidden)
        if not np.isfinite(greatest).all():
            self._refuse(rows, next((row, value) for row, value in zip(picks, greatest, strict=True) if not np.isfinite(value)))
        asked = [row.sampling.logprobs if row.sampling is not None else 0 for row in picks]
        logs = [
            Logprobs(float(log), tuple(zip(ids[:count].tolist(), values[:count].tolist(), strict=True))) if count else None
            for log, ids, values, count in zip(logprobs, top_ids, top_logprobs, asked, strict=True)
        ]
        return per_row(rows, chosen.tolist()), logprobs_per_row(rows, logs)

    def _call(
        self, rows: Sequence[Row], hidden: NDArray[np.float32] | None = None, logits: NDArray[np.float32] | None = None
    ) -> tuple[list[Row], tuple[NDArray[Any], ...]]:
        """The rows' picks, as rows of one; of each its greatest logit, token, its log-probability, likeliest ids and theirs."""
        cosines, sines = self._rotation(max(row.position + len(row.tokens) for row in rows))
        picks: list[Row] = []
        places: list[int] = []
        tokens: list[int] = []
        frames: list[int] = []
        given = np.zeros(len(rows), ROW)
        packed = []
        for row in rows:
            packed.append((len(tokens), len(row.tokens), row.position, len(frames), row.store))
            tokens += row.tokens
            frames += row.frames
            wanted = one_by_one(row)
            places += range(len(tokens) - len(wanted), len(tokens))
            picks += wanted
        given[:] = packed
        picked, history = self._pack(picks, places)
        masks = np.frombuffer(b"".join(mask for row in picks for mask in row.masks) or b"\0", np.uint8)
        arrays = [given, picked, *(np.array(numbers, np.int32) for numbers in (tokens, frames, history or [0])), masks]
        count = len(picks)
        out = (np.zeros(count, np.float32), np.zeros(count, np.int32), np.zeros(count, np.float32))
        top = (np.zeros((count, MOST_LOGPROBS), np.int32), np.zeros((count, MOST_LOGPROBS), np.float32))
        pointers = [array.ctypes.data for array in (*arrays, self.frames[Tier.DEVICE], cosines, sines, *out, *top)]
        extra = [None if array is None else array.ctypes.data for array in (hidden, logits)]
        self._model.step(StepIn(*pointers, *extra, len(rows), count))
        return picks, (*out, *top)

    def _pack(self, picks: Sequence[Row], places: Sequence[int]) -> tuple[NDArray[Any], list[int]]:
        """What C++ is told of the picks, and their histories one after the other. places: the token of the step each comes after.

        Masks lie one after the other too, each as long as a bit for every id takes.
        """
        hows = [row.sampling or GREEDY for row in picks]
        numbers = [0.0] * len(picks)
        if any(how.temperature > 0 for how in hows):
            numbers = uniform([how.seed for how in hows], [row.position + len(row.tokens) for row in picks]).tolist()
        packed, history, masks = [], list[int](), 0
        for row, how, place, number in zip(picks, hows, places, numbers, strict=True):
            seen = row.history if how.repetition_penalty != 1 else ()
            filters = (how.top_k, min(how.logprobs, self._config.vocabulary, MOST_LOGPROBS), len(history), len(seen))
            masked = masks if row.masks else -1
            packed.append((place, *filters, masked, how.temperature, how.top_p, how.min_p, how.repetition_penalty, number))
            history += seen
            masks += bool(row.masks)
        given = np.zeros(len(picks), PICK)
        given[:] = packed
        return given, history

    def _refuse(self, rows: Sequence[Row], pick: tuple[Row, float]) -> None:
        """Zero the pages that hold what is no number, so that nobody inherits it, and say so."""
        for frame in sorted({frame for row in rows for frame in row.frames}):
            page = self.frames[Tier.DEVICE][frame]
            if damaged(page, self._config, self._geometry.page_slots, self._kv):
                page[:] = 0
        row, value = pick
        raise DeviceFailed(
            f"the model gave logits that are no numbers ({value}) to burst {row.burst} after {row.position + len(row.tokens)} tokens: "
            "its weights or its pages are damaged; try again, and pull the model again if it stays"
        )

    def _rotation(self, length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cosines and sines [at least `length`, head width / 2] of every position; made larger as longer contexts appear."""
        if len(self._cosines) < length:
            grown = min(max(1024, 1 << (length - 1).bit_length()), max(self._config.window, length))
            frequencies, factor = inverse_frequencies(self._config.rope, self._config.head_width)
            angles = np.arange(grown, dtype=np.float32)[:, None] * frequencies
            self._cosines, self._sines = np.cos(angles) * np.float32(factor), np.sin(angles) * np.float32(factor)
        return self._cosines, self._sines
