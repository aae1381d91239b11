"""Generations: a reply while it comes.

    async for piece in context.generate(...):     pieces of text; leaving the loop stops the decode
    reply = await context.generate(...)           the whole reply
    async for token in generation.tokens():       token ids

A generation runs from the moment it is made, so two of them made one after the other run side by side. Pieces are pushed by
the kernel as they come, not asked for. One that is dropped before its end is stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

from llmos.syscalls.abi import Cancelled, Piece, Reply

from .port import Port, Stream, ignore


class Generation:
    """One reply under way on one context."""

    def __init__(self, port: Port, pid: int, arguments: dict[str, Any], ended: Callable[[Reply], None]) -> None:
        self._port = port
        request, slot = port.request(pid, "generate", arguments, stream=True)
        if not isinstance(slot, Stream):
            raise TypeError("a request with pieces has a stream")
        self._request, self._stream = request, slot
        slot.ended = ended
        slot.future.add_done_callback(ignore)

    @property
    def done(self) -> bool:
        return self._stream.future.done()

    async def _next(self) -> Piece | None:
        """The next piece; None at the end."""
        stream = self._stream
        while not stream.pieces:
            if stream.future.done():
                stream.future.result()  # raises what it ended with
                return None
            stream.news = self._port.loop.create_future()
            await stream.news
        stream.taken()
        return stream.pieces.popleft()

    def __aiter__(self) -> AsyncIterator[str]:
        return _Iterator(self, lambda piece: [piece.text] if piece.text else [])

    def tokens(self) -> AsyncIterator[int]:
        """Ids as they come, without the stop id that ends a reply."""
        return _Iterator(self, lambda piece: list(piece.tokens))

    def pieces(self) -> AsyncIterator[Piece]:
        """Text, ids and log-probabilities as they come."""
        return _Iterator(self, lambda piece: [piece])

    def __await__(self) -> Generator[Any, None, Reply]:
        return self._reply().__await__()

    async def _reply(self) -> Reply:
        try:
            reply: Reply = await asyncio.shield(self._stream.future)
        except asyncio.CancelledError:
            self.stop()
            raise
        return reply

    def stop(self) -> None:
        """Stop the decode now, without waiting. The context keeps what was generated."""
        if not self.done:
            self._port.cancel(self._request)

    async def cancel(self) -> None:
        """Stop the decode and wait until the context is free again."""
        self.stop()
        try:
            await asyncio.shield(self._stream.future)
        except Cancelled:
            pass

    def __del__(self) -> None:
        stream = getattr(self, "_stream", None)
        if stream is not None and not stream.future.done():
            self._port.drop(self._request)


class _Iterator:
    """Goes over what a generation gives. Dropped before the end, it stops the generation: that is what `break` does."""

    def __init__(self, generation: Generation, parts: Callable[[Piece], list[Any]]) -> None:
        self._generation, self._parts = generation, parts
        self._left: list[Any] = []

    def __aiter__(self) -> _Iterator:
        return self

    async def __anext__(self) -> Any:
        while not self._left:
            try:
                piece = await self._generation._next()
            except asyncio.CancelledError:
                self._generation.stop()
                raise
            if piece is None:
                raise StopAsyncIteration
            self._left = self._parts(piece)
        return self._left.pop(0)

    def __del__(self) -> None:
        if not self._generation.done:
            self._generation._port.drop(self._generation._request)
