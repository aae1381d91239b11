"""Conversations for engines that keep none: the whole history is sent again each turn.

What such an engine saves between turns is its own prefix cache's affair. Knows no engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from client import Kind, Session

T = TypeVar("T")


class Stateless:
    """An engine with one entrance: a prompt goes in, a stream of ids comes out. Adapters fill in `stream`."""

    streams_turns = True

    def versions(self) -> dict[str, str]:
        """What no package's metadata tells."""
        return {}

    async def prepare(self, workload: object) -> None:
        """Called before each run, outside the measured time."""

    def stream(self, tokens: Sequence[int], length: int, *, kind: Kind, more: bool) -> AsyncIterator[list[int]]:
        raise NotImplementedError

    async def agent(self, body: Callable[[Session], Awaitable[T]], *, kind: Kind = "normal") -> T:
        return await body(Conversation(self, kind))


class Conversation:
    """A `Session` that remembers on the client's side."""

    def __init__(self, engine: Stateless, kind: Kind) -> None:
        self.engine = engine
        self.kind: Kind = kind
        self.history: list[int] = []

    async def generate(self, tokens: Sequence[int], length: int, *, more: bool = False) -> AsyncIterator[list[int]]:
        self.history.extend(tokens)
        async for piece in self.engine.stream(tuple(self.history), length, kind=self.kind, more=more):
            self.history.extend(piece)
            yield piece
