"""The torch CPU driver: one forward for a mixed batch of decode rows and prompt chunks over paged KV.

Owns one model on the machine's cores: its weights (decoder.py), its frames (frames.py), and the order of a step:
copies, forward, sample. Linear layers see all tokens of a step as one matrix, attention its rows (attention.py), the
sampler the rows that want a token. Not batch invariant: the shapes of products, and so their rounding, depend on the
batch. bf16 or float32 is chosen by timing both at load. No compiler, no extension: docs/decisions/0002-torch-cpu-driver.md.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch

from llmos.kernel.device import Geometry, Logprobs, Outcome, Row, Step
from llmos.kernel.errno import DeviceFailed, InvalidArgument

from .attention import StepAttention
from .config import ModelConfig
from .decoder import Decoder
from .frames import LAYOUT, Frames
from .linear import machine_threads, seconds_per_product
from .rates import measured
from .rows import check_rows, hidden_wanted, logprobs_per_row, masked, one_by_one, per_row
from .sampler import sample
from .snapshots import Snapshots
from .weights import Checkpoint

Dtype = Literal["auto", "bf16", "fp32"]

SNAPSHOT_SHARE = 0.5
"""Memory for snapshots (snapshots.py), as a share of the device tier's."""


class TorchDevice:
    """A Device that runs the Llama family with torch on the CPU."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        name: str,
        frames: int,
        host_frames: int = 0,
        page_slots: int = 16,
        dtype: Dtype = "auto",
        threads: int | None = None,
    ) -> None:
        if frames < 1 or host_frames < 0 or page_slots < 1:
            raise InvalidArgument(f"a device needs at least one frame of at least one slot (got {frames} frames of {page_slots} slots)")
        self._threads = threads or machine_threads()
        config = checkpoint.config
        self._choice = "as asked"
        if dtype == "auto":
            dtype, self._choice = choose_dtype(config)
        self._dtype = dtype
        with torch.inference_mode():
            self.decoder = Decoder(checkpoint, torch.bfloat16 if dtype == "bf16" else torch.float32)
            self.frames = Frames(config, frames=frames, host_frames=host_frames, page_slots=page_slots, dtype=self.decoder.dtype)
        self.snapshots = Snapshots(self.frames, config.layers, int(SNAPSHOT_SHARE * frames * self.frames.page_bytes))
        key = hashlib.sha256(b"|".join((checkpoint.digest, dtype.encode(), str(page_slots).encode(), LAYOUT.encode())))
        self._geometry = Geometry(
            name=name,
            vocabulary=config.vocabulary,
            window=config.window,
            page_slots=page_slots,
            device_frames=frames,
            host_frames=host_frames,
            page_bytes=self.frames.page_bytes,
            digest=key.digest(),
        )
        self._geometry = measured(self)

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    def describe(self) -> str:
        """One line for a person: model, precision and why, threads, memory."""
        config, here = self.decoder.config, self._geometry
        return (
            f"{here.name}: {config.family}, {config.layers} layers of {config.width}, {self._dtype} ({self._choice}), "
            f"{'packed weights' if self.decoder.packed else 'plain weights'}, {self._threads} threads, "
            f"{here.device_frames} + {here.host_frames} frames of {here.page_slots} tokens ({here.page_bytes / 1024:.0f} KiB), "
            f"prefill {here.prefill_rate:.0f} tokens/s, copies {here.copy_rate:.0f} pages/s"
        )

    def execute(self, step: Step) -> Outcome:
        start = time.perf_counter()
        self._use_threads()
        check_rows(step.rows, self._geometry)
        rows, refused = masked(step.rows, self._geometry)
        try:
            with torch.inference_mode():
                self.frames.copy(step.copies)
                tokens, logprobs, hidden = self._run(rows) if rows else ((), (), ())
        except (RuntimeError, MemoryError) as error:  # torch has no narrower class: out of memory, a failed kernel
            raise DeviceFailed(f"step {step.number}: torch could not execute it ({str(error)[:200]})") from error
        return Outcome(step.number, tokens, logprobs, time.perf_counter() - start, refused, hidden)

    def _use_threads(self) -> None:
        """As many as this device was given, on whichever thread it runs and whatever other devices have set meanwhile."""
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def forward(self, rows: Sequence[Row]) -> torch.Tensor:
        """Hidden states [tokens, width] of all rows' tokens, one row after the other; stores their KV."""
        tokens = torch.tensor([token for row in rows for token in row.tokens])
        positions = torch.tensor([row.position + index for row in rows for index in range(len(row.tokens))])
        longest = max(row.position + len(row.tokens) for row in rows)
        with torch.inference_mode():
            return self.decoder.forward(tokens, positions, longest, StepAttention(rows, self.frames, self.snapshots, self.decoder.config))

    def close(self) -> None:
        self.snapshots.free()
        self.frames.free()
        self.decoder.free()

    def _run(
        self, rows: Sequence[Row]
    ) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[Logprobs, ...], ...], tuple[tuple[int, tuple[float, ...]], ...]]:
        """Sampled tokens, log-probabilities and hidden states of the rows."""
        # Decodes first and in the order of their page tables: then a batch is one slice, and the same at every step.
        order = sorted(range(len(rows)), key=lambda index: (len(rows[index].tokens) > 1, rows[index].frames))
        ordered = [rows[index] for index in order]
        hidden = self.forward(ordered)
        ends = accumulate(len(row.tokens) for row in ordered)
        wanted = [one_by_one(row) for row in ordered]
        places = [place for end, picks in zip(ends, wanted, strict=True) for place in range(end - len(picks), end)]
        if not places:
            return ((),) * len(rows), (), ()
        states = sorted((order[index], tuple(self.decoder.last(hidden[place]).tolist())) for index, place in hidden_wanted(ordered))
        if len(places) < len(hidden):
            hidden = hidden[places]
        try:
            chosen, logs = sample(self.decoder.logits(hidden), [pick for picks in wanted for pick in picks])
        except DeviceFailed:
            self.frames.scrub(sorted({frame for row in rows for frame in row.frames}))
            raise
        back = sorted(range(len(rows)), key=order.__getitem__)
        tokens, logprobs = per_row(ordered, chosen), logprobs_per_row(ordered, logs)
        return tuple(tokens[place] for place in back), tuple(logprobs[place] for place in back) if logprobs else (), tuple(states)


def choose_dtype(config: ModelConfig) -> tuple[Literal["bf16", "fp32"], str]:
    """The faster of bf16 and float32 for the largest matrix of a layer, at one row and at 64; and how fast each was."""
    seconds = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with torch.inference_mode():
            seconds[name] = sum(seconds_per_product(dtype, rows, config.width, 2 * config.ffn_width) for rows in (1, 64))
    reason = f"measured: bf16 {seconds['bf16'] * 1e3:.2f} ms, fp32 {seconds['fp32'] * 1e3:.2f} ms"
    return ("bf16" if seconds["bf16"] <= seconds["fp32"] else "fp32"), reason
