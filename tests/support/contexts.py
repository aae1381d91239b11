"""What a kernel would ask of a device, by hand: contexts with page tables over one device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from llmos.kernel.device import GREEDY, Copy, Device, Outcome, Row, Sampling, Step, Tier


@dataclass
class Context:
    """Tokens, how many of them have KV in pages, and the pages' frames."""

    tokens: list[int]
    frames: list[int] = field(default_factory=list)
    stored: int = 0


class Frontend:
    """Allocates frames from a shuffled list, so that no page lies where one would expect it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.slots = device.geometry.page_slots
        count = device.geometry.device_frames
        self.free = [frame * 7919 % count for frame in range(count)] if count % 7919 else list(range(count))
        self.holders = [0] * count
        self.steps = 0

    def take(self) -> int:
        """A free frame."""
        frame = self.free.pop()
        self.holders[frame] = 1
        return frame

    def give(self, frames: Sequence[int]) -> None:
        """Frames that a context no longer needs: free once nobody shares them."""
        for frame in frames:
            self.holders[frame] -= 1
            if not self.holders[frame]:
                self.free.append(frame)

    def cover(self, context: Context, tokens: int) -> None:
        """Give the context frames for this many tokens."""
        while len(context.frames) * self.slots < tokens:
            context.frames.append(self.take())

    def step(self, rows: Sequence[Row], copies: Sequence[Copy] = ()) -> Outcome:
        self.steps += 1
        outcome = self.device.execute(Step(self.steps, tuple(rows), tuple(copies)))
        assert outcome.number == self.steps
        assert len(outcome.tokens) == len(rows)
        return outcome

    def row(self, context: Context, end: int | None = None, sampling: Sampling | None = GREEDY) -> Row:
        """Compute what is not stored, up to `end`. With everything stored: the last token again, without storing it."""
        store = context.stored < len(context.tokens)
        begin = context.stored if store else len(context.tokens) - 1
        end = len(context.tokens) if end is None else end
        self.cover(context, end)
        context.stored = max(context.stored, end)
        frames = tuple(context.frames[: -(-end // self.slots)])
        return Row(7, tuple(context.tokens[begin:end]), begin, frames, store, sampling, tuple(context.tokens))

    def prefill(self, context: Context, chunk: int = 512) -> None:
        """Fill the pages of all tokens but sample nothing."""
        while context.stored < len(context.tokens):
            self.step([self.row(context, min(context.stored + chunk, len(context.tokens)), None)])

    def generate(self, contexts: Sequence[Context], count: int, sampling: Sampling = GREEDY) -> list[list[int]]:
        """`count` tokens for each context, all in one batch; what is not stored yet is computed in the first step."""
        outputs: list[list[int]] = [[] for _ in contexts]
        for _ in range(count):
            outcome = self.step([self.row(context, sampling=sampling) for context in contexts])
            for context, output, (token,) in zip(contexts, outputs, outcome.tokens, strict=True):
                context.tokens.append(token)
                output.append(token)
        return outputs

    def guess(self, context: Context, guesses: Sequence[int], sampling: Sampling = GREEDY) -> Row:
        """A row that computes what is not stored, which must be something, and verifies guesses."""
        row = self.row(context, sampling=sampling)
        end = len(context.tokens) + len(guesses)
        self.cover(context, end)
        frames = tuple(context.frames[: -(-end // self.slots)])
        return replace(row, tokens=row.tokens + tuple(guesses), frames=frames, guesses=len(guesses))

    def fork(self, context: Context) -> tuple[Context, list[Copy]]:
        """A twin that shares every full page; the copy of the last, partly filled one."""
        full = context.stored // self.slots
        twin = replace(context, tokens=list(context.tokens), frames=context.frames[:full])
        for frame in twin.frames:
            self.holders[frame] += 1
        copies = []
        if context.stored % self.slots:
            twin.frames.append(self.take())
            copies = [Copy(Tier.DEVICE, context.frames[full], Tier.DEVICE, twin.frames[full])]
        return twin, copies

    def swap(self, context: Context, host: Sequence[int]) -> list[Copy]:
        """Copies that move the context's pages to the host and back, into other frames."""
        out = [Copy(Tier.DEVICE, frame, Tier.HOST, place) for frame, place in zip(context.frames, host, strict=False)]
        fresh = [self.take() for _ in context.frames]
        back = [Copy(Tier.HOST, place, Tier.DEVICE, frame) for frame, place in zip(fresh, host, strict=False)]
        self.give(context.frames)
        context.frames = fresh
        return out + back
