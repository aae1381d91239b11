"""Slots: what the kernel asks of a device without pages, an endpoint elsewhere that takes a request whole and streams its reply.

    kernel    Order -------------------->  endpoint      at most `geometry.slots` of them at once
              <------ Received, Received, ..., Settled   as they come: no steps
              recall -------------------->               somebody has had enough; Settled follows all the same

Every order is answered by exactly one Settled, its last event; until that has come it has its slot. What a token is is the
driver's business: to the kernel a context on such a device is a sequence of numbers like any other. Knows nothing of text,
sockets or time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from .device import Geometry, Sampling
from .errno import Fault


@dataclass(frozen=True, slots=True)
class Form:
    """What a reply is to look like: told to such a device, where one with pages has a grammar to mask its logits with."""

    kind: str
    source: str
    """In the words of syscalls/grammar.py. Not looked at by the kernel."""


@dataclass(frozen=True, slots=True)
class Order:
    """One request: go on after these tokens."""

    burst: int
    """Comes back in every event."""
    tokens: tuple[int, ...]
    """The whole context."""
    sampling: Sampling
    max_tokens: int
    """With the tokens at most the window; as much as that if nobody said how many."""
    form: Form | None = None
    """None: any."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens of one request, as the endpoint counts them: what it takes money for."""

    prompt: int
    output: int


@dataclass(frozen=True, slots=True)
class Received:
    """Part of a reply."""

    burst: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """The request is over, and its slot free."""

    burst: int
    reason: str
    """stop, length, failed (then there is a fault), or cancelled: it was recalled."""
    counted: Counted | None = None
    """None: the endpoint did not say, and what was sent and received counts."""
    fault: Fault | None = None


Event: TypeAlias = Received | Settled


class SlotDevice(Protocol):
    """A driver. Its methods never wait, and may be called from any thread."""

    @property
    def geometry(self) -> Geometry: ...

    def listen(self, heard: Callable[[Sequence[Event]], None]) -> None:
        """Give every event to `heard`, in order, on a thread of its own. Comes before the first order."""
        ...

    def send(self, order: Order) -> None: ...

    def recall(self, burst: int) -> None:
        """End a request now. Does nothing if it has settled."""
        ...

    def close(self) -> None:
        """End all requests and let go of everything. Waits until that is done."""
        ...
