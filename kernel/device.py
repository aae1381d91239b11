"""The Device protocol: what the kernel asks of hardware, in numbers.

A step is a list of page copies, then one batch of rows. The kernel names frames and positions; how the
bytes of a frame lie is the driver's business. A driver never allocates, evicts or decides: it executes.

    context tokens   0 1 2 3 | 4 5 6 7 | 8 9 . .      page_slots = 4
    row.frames          [12,       7,      30]         page i of the context lies in device frame frames[i]
    row.position = 8, row.tokens = (t8, t9)            compute tokens 8 and 9; attention sees 0..9

A row that samples may end in guesses of what comes next. The device samples after the last token that is known and after
each guess, every time by what comes before it, so that a guess proves right or wrong by the token sampled in its place:

    row.tokens = (t9, g10, g11), row.guesses = 2       sampled: t10, t11, t12; t11 stands if g10 = t10, t12 if g11 = t11 too

A row may come with a grammar, which says what each token sampled may be. It is asked on the device's thread, right before the
step: the kernel carries it from the call to the row and back to nobody, and never looks inside.

Steps are executed in the order of submission; within a step every copy is finished before a row reads or
writes a page. Knows nothing of processes, tensors, text or time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias


class Tier(Enum):
    """Where a frame lies."""

    DEVICE = "device"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a device can hold and how fast it was measured to be. Constant after load."""

    name: str
    """Name of the model on this device, unique in the system: what a context is opened on."""
    vocabulary: int
    """Number of token ids: every id is in [0, vocabulary)."""
    window: int
    """Most tokens one context may hold."""
    page_slots: int
    """Token slots in a page."""
    device_frames: int
    """Frames in the device tier, numbered from 0."""
    host_frames: int
    """Frames in the host tier, numbered from 0. May be 0."""
    page_bytes: int
    """KV bytes of one page over all layers."""
    digest: bytes
    """Identifies weights, KV dtype, page size and byte layout: the root of every page key."""
    max_rows: int = 64
    """Most rows in a step."""
    max_tokens: int = 512
    """Most tokens in a step, summed over its rows (the token budget)."""
    batch_invariant: bool = False
    """True if a row's result never depends on the rest of the batch, bit for bit."""
    prefill_rate: float = 0.0
    """Tokens/s of a long prefill, measured at load; 0 if not measured."""
    copy_rate: float = 0.0
    """Pages/s between host and device, measured at load; 0 if not measured."""
    guess_cost: float = 0.0
    """What one token more adds to a step of one token, as a share of it, measured at load. 0: rows may not hold guesses, because
    that was not measured, or because the numbers of a row depend on how many tokens it has."""
    slots: int = 0
    """Requests it serves at once, if it takes them whole and has no pages: see slot.py. 0: it has, and runs steps."""
    price_in: float = 0.0
    """Money for a token of a prompt."""
    price_out: float = 0.0
    """Money for a token of a reply."""

    def cost(self, prompt: int, output: int) -> float:
        """Money for so many tokens."""
        return prompt * self.price_in + output * self.price_out


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen from the logits before it.

    Order: repetition penalty, then temperature, then top-k, then top-p, then min-p, as transformers does.
    The random number of a token depends on (seed, position of the token) only.
    """

    temperature: float = 0.0
    """0 is greedy (arg-max, lowest id on a tie); at most 10."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set with at least this probability; in (0, 1]."""
    min_p: float = 0.0
    """Drop tokens less likely than min_p times the likeliest; in [0, 1]."""
    repetition_penalty: float = 1.0
    """Divide positive and multiply negative logits of tokens already in the context (CTRL, Keskar et al. 2019)."""
    seed: int = 0
    """In [0, 2**63)."""
    logprobs: int = 0
    """Return log-probabilities of the chosen token and of this many likeliest (0 = none at all, at most 20)."""
    hidden: bool = False
    """Return what the model made of the last known token too: its hidden state after the last norm."""


GREEDY = Sampling()


class Grammar(Protocol):
    """What the tokens of one burst may be, decided by those before them. Its methods are called by devices only, on their thread.

    What it answers depends on its arguments alone: a step that failed, or was planned twice, changes nothing.
    """

    def ask(self, said: tuple[int, ...], guesses: tuple[int, ...]) -> None:
        """Begin to find which tokens may follow `said`, all that the burst has sampled; and which each guess that follows it."""
        ...

    def masks(self, deadline: float) -> tuple[bytes, ...] | None:
        """What was asked for: a mask each, a bit for every id (bit i % 8 of byte i // 8), not all zero; one more than there are guesses.

        None if it is not there by `deadline` (of time.monotonic): ask again, with the same. Raises InvalidArgument if it gives up.
        """
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """Consecutive tokens of one context to compute in a step."""

    burst: int
    """The burst this row belongs to; comes back in the outcome."""
    tokens: tuple[int, ...]
    """Ids to compute, at least one."""
    position: int
    """Position of tokens[0] in the context."""
    frames: tuple[int, ...]
    """Device frame of each page from position 0; covers position + len(tokens) - 1."""
    store: bool = True
    """False: the KV of these tokens is in its pages already and must not be written again (only logits are wanted)."""
    sampling: Sampling | None = None
    """None: no logits wanted, no token is sampled. Otherwise sample one token after the last known one and one after each guess."""
    history: tuple[int, ...] = ()
    """All known tokens of the context, only if sampling has a repetition penalty."""
    guesses: int = 0
    """How many of the tokens, at the end, are guesses: fewer than all, and only where the row samples and stores."""
    grammar: Grammar | None = None
    """What may be sampled; None: anything."""
    said: tuple[int, ...] = ()
    """The tokens that the burst has sampled so far, only if there is a grammar."""
    masks: tuple[bytes, ...] = ()
    """What the grammar said, one for each token to sample: a driver puts it here. Applied to the logits before all else."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy one whole page between frames."""

    source_tier: Tier
    source: int
    target_tier: Tier
    target: int


@dataclass(frozen=True, slots=True)
class Step:
    """What a device executes at once: all copies in order, then all rows as one batch."""

    number: int
    rows: tuple[Row, ...]
    copies: tuple[Copy, ...] = ()


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural-log probabilities of one sampled token, from the unmodified logits (before penalty and temperature)."""

    chosen: float
    top: tuple[tuple[int, float], ...]
    """(token id, log-probability), likeliest first."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one step."""

    number: int
    tokens: tuple[tuple[int, ...], ...]
    """Per row, the sampled tokens, one more than it has guesses; none where none was asked for, or where a grammar was late: its
    row has been computed, and is to ask again."""
    logprobs: tuple[tuple[Logprobs, ...], ...] = ()
    """Per row, of each of these tokens; none where none were asked for. Empty if no row asked for any."""
    seconds: float = 0.0
    """Time the device spent on it."""
    refused: tuple[tuple[int, str], ...] = ()
    """(row, why) where a grammar gave up. The row has been computed, but nothing was sampled, and nothing ever will be."""
    hidden: tuple[tuple[int, tuple[float, ...]], ...] = ()
    """(row, hidden state) where it was asked for: as many numbers as the model is wide."""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The device could not execute a step: nothing of it may be used."""

    number: int
    reason: str
    seconds: float = field(default=0.0)


Retired: TypeAlias = Outcome | StepFailed


class Device(Protocol):
    """A driver. Its methods are called from one thread, its own."""

    @property
    def geometry(self) -> Geometry: ...

    def execute(self, step: Step) -> Outcome:
        """Run one step to its end. Raises DeviceFailed if it cannot; frames written by the step are then undefined."""
        ...

    def close(self) -> None:
        """Give back all memory."""
        ...
