"""Recital: what a burst is to say is known, so it is guessed as such. A stand-in for Lookup where tokens are given, not chosen.

Guesses ride in what a step has left, and so do these. Owns nothing. Knows no pages, steps or models.
"""

from __future__ import annotations

from collections.abc import Sequence


class Recital:
    """Of one burst, which says `tokens` from position `begin` of its context on."""

    __slots__ = ("_begin", "_tokens")

    def __init__(self, tokens: Sequence[int], begin: int) -> None:
        self._tokens, self._begin = tokens, begin

    def learn(self, tokens: Sequence[int], most: int) -> int:
        return 0

    def guess(self, tokens: Sequence[int], most: int, price: float) -> list[int]:
        """The next of them: certain, and so worth any price."""
        said = len(tokens) - self._begin
        return list(self._tokens[said : said + max(most, 0)])

    def verified(self, guesses: int, right: int) -> None:
        """They came true: nothing else could be sampled."""
