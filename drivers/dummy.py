"""The dummy device: deterministic tokens, a cost model for time, and frames that remember which tokens they hold.

It computes nothing, but it checks everything a real device would silently get wrong: a row that reads a slot which was
never written, or which holds another token than the context's, raises Panic. The next token is a hash of all tokens
before it (and of the seed, when sampling), so a wrong page would also change what is generated. With a short `memory`,
which only the last tokens pass through, it soon repeats itself: then guesses come true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from llmos.kernel.device import Copy, Geometry, Logprobs, Outcome, Row, Sampling, Step, Tier
from llmos.kernel.errno import DeviceFailed, Panic

from .rows import hidden_wanted, logprobs_per_row, masked, one_by_one, per_row


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a step: fixed + per token computed + per token attended to + per page copied."""

    step: float = 0.008
    token: float = 0.0004
    attended: float = 2e-8
    page: float = 2e-5


class DummyDevice:
    """A Device without a model. `execute` returns at once and reports the seconds the cost model says."""

    def __init__(
        self,
        name: str = "dummy",
        *,
        frames: int = 1024,
        host_frames: int = 1024,
        page_slots: int = 16,
        vocabulary: int = 256,
        window: int = 8192,
        max_rows: int = 64,
        max_tokens: int = 512,
        cost: Cost | None = None,
        memory: int = 0,
        guess_cost: float = 0.0,
    ) -> None:
        self.cost = cost or Cost()
        self.memory = memory
        """How many of the last tokens decide the next; 0: all."""
        self.geometry = Geometry(
            name=name,
            vocabulary=vocabulary,
            window=window,
            page_slots=page_slots,
            device_frames=frames,
            host_frames=host_frames,
            page_bytes=page_slots * 4,
            digest=blake2b(f"dummy {name} {page_slots}".encode(), digest_size=32).digest(),
            max_rows=max_rows,
            max_tokens=max_tokens,
            batch_invariant=True,
            prefill_rate=1 / self.cost.token,
            copy_rate=1 / self.cost.page,
            guess_cost=guess_cost,
        )
        self.fail_when: set[int] = set()
        """A step with a row that computes one of these tokens fails: for tests of what the kernel does then."""
        self._slots: dict[Tier, list[list[int | None]]] = {
            tier: [[None] * page_slots for _ in range(count)] for tier, count in ((Tier.DEVICE, frames), (Tier.HOST, host_frames))
        }

    def frame(self, tier: Tier, number: int) -> list[int | None]:
        """The tokens a frame holds, None where nothing was written."""
        return self._slots[tier][number]

    def execute(self, step: Step) -> Outcome:
        for row in step.rows:
            if self.fail_when.intersection(row.tokens):
                raise DeviceFailed(f"step {step.number}: the dummy device was told to fail on a token of burst {row.burst}")
        rows, refused = masked(step.rows, self.geometry)
        for copy in step.copies:
            self._copy(copy)
        seconds = self.cost.step + self.cost.page * len(step.copies)
        tokens: list[int] = []
        logprobs: list[Logprobs | None] = []
        for row in rows:
            if row.store:
                self._store(row)
        for row in rows:
            context = self._read(row)
            seconds += self.cost.token * len(row.tokens) + self.cost.attended * len(row.tokens) * len(context)
            for pick in one_by_one(row):
                token, how = self._sample(pick, context[: pick.position + len(pick.tokens)]), pick.sampling
                tokens.append(token)
                logprobs.append(Logprobs(-1.0, ((token, -1.0),)) if how is not None and how.logprobs > 0 else None)
        hidden = tuple((index, self.state(self._read(rows[index]))) for index, _ in hidden_wanted(rows))
        return Outcome(step.number, per_row(rows, tokens), logprobs_per_row(rows, logprobs), seconds, refused, hidden)

    def _copy(self, copy: Copy) -> None:
        self._slots[copy.target_tier][copy.target] = list(self._slots[copy.source_tier][copy.source])

    def _store(self, row: Row) -> None:
        slots = self.geometry.page_slots
        for position, token in enumerate(row.tokens, row.position):
            self._slots[Tier.DEVICE][row.frames[position // slots]][position % slots] = token

    def _read(self, row: Row) -> list[int]:
        """The context as its frames hold it."""
        slots, end = self.geometry.page_slots, row.position + len(row.tokens)
        seen = [self._slots[Tier.DEVICE][row.frames[p // slots]][p % slots] for p in range(end)]
        if None in seen:
            raise Panic(f"burst {row.burst} reads slot {seen.index(None)}, which was never written")
        if tuple(seen[row.position :]) != row.tokens:
            raise Panic(f"burst {row.burst} finds {seen[row.position :]} where it should have {list(row.tokens)}")
        return [token for token in seen if token is not None]

    def _sample(self, row: Row, context: list[int]) -> int:
        if row.history and list(row.history) != context:
            raise Panic(f"burst {row.burst} has a history of {len(row.history)} tokens that are not those of its context, {len(context)}")
        token = self.next(context, row.sampling)
        return self._allowed(token, row.masks[0]) if row.masks else token

    def state(self, context: Sequence[int]) -> tuple[float, ...]:
        """What stands for a hidden state after these tokens: eight numbers in [-1, 1)."""
        data = b"".join(token.to_bytes(4, "little") for token in context)
        return tuple(byte / 128 - 1 for byte in blake2b(data, digest_size=8).digest())

    def next(self, context: Sequence[int], sampling: Sampling | None) -> int:
        """The token that comes after these."""
        salt = b"" if sampling is None or sampling.temperature == 0 else sampling.seed.to_bytes(8, "little")
        data = b"".join(token.to_bytes(4, "little") for token in context[-self.memory :])
        return int.from_bytes(blake2b(data + salt, digest_size=4).digest(), "little") % self.geometry.vocabulary

    def _allowed(self, token: int, mask: bytes) -> int:
        """The token, or another that the mask allows."""
        ids = [i for i in range(self.geometry.vocabulary) if mask[i >> 3] >> (i & 7) & 1]
        return token if token in ids else ids[token % len(ids)]

    def close(self) -> None:
        self._slots.clear()
