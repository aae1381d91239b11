"""Grammars for tests: masks from a table, or by rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmos.kernel.errno import InvalidArgument


def bits(ids: Iterable[int], vocabulary: int) -> bytes:
    """The mask that allows these."""
    mask = bytearray((vocabulary + 7) // 8)
    for token in ids:
        mask[token >> 3] |= 1 << (token & 7)
    return bytes(mask)


class Rule:
    """Allows what a function of the tokens so far says. `late` answers come only when asked for once more."""

    def __init__(self, allowed: Callable[[tuple[int, ...]], Iterable[int]], vocabulary: int) -> None:
        self.allowed, self.vocabulary = allowed, vocabulary
        self.late = 0
        self.broken = ""
        self.asked: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def ask(self, said: tuple[int, ...], guesses: tuple[int, ...]) -> None:
        self.asked.append((said, guesses))

    def masks(self, deadline: float) -> tuple[bytes, ...] | None:
        if self.broken:
            raise InvalidArgument(self.broken)
        if self.late:
            self.late -= 1
            return None
        said, guesses = self.asked[-1]
        return tuple(bits(self.allowed(said + guesses[:n]), self.vocabulary) for n in range(len(guesses) + 1))
