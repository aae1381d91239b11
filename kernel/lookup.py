"""Lookup: guesses of what a context says next, from what it has said before. No model is asked.

Text that quotes (an edit of a file, a table copied, a name said again) goes on after two tokens as it did when they last came
up. Guesses are verified by the step that computes the next token anyway, so that each that comes true saves a step (prompt
lookup: Saxena 2023, "Prompt Lookup Decoding"; verification: Leviathan et al. 2023).

    tokens     7 1 2 3 9 | 4 1 2                the pair 1 2 was said before, and 3 9 4 came after it
    guesses                      3 9 4

Places of a pair are chained, latest first, as in LZ77 compressors (RFC 1951, section 4): of the latest few, the one that more
tokens before it agree on is taken. How often guesses came true, by how many tokens agreed, decides how many are worth making.
Owns no tokens: it is told of those of one context, which only grow. Knows nothing of pages, steps or models.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

PAIR = 2
LONGEST = 6
"""Tokens that agree, at least and at most: more than that says no more."""
DEPTH = 8
"""Places looked at."""
HOPE = 0.5
"""Chance that a guess comes true, before any has been made."""
HASTE = 0.125
"""How far one guess moves what is believed of the next."""
RELIEF = 1 / 1024
"""How far a guess that was not worth making moves it back to HOPE: a text that begins to repeat itself is found out."""


class Lookup:
    """Of one burst. `chances` are probabilities, by the number of tokens that agreed."""

    __slots__ = ("_agreed", "_before", "_latest", "chances")

    def __init__(self) -> None:
        self._latest: dict[int, int] = {}
        """Pair -> where it was last said: the place of its second token."""
        self._before = array("i", [-1])
        """By place: where the pair that ends here was said before, or -1."""
        self.chances = [HOPE] * (LONGEST + 1)
        self._agreed = 0
        """Tokens that agreed for the latest guesses."""

    def learn(self, tokens: Sequence[int], most: int) -> int:
        """Take in up to `most` of the tokens that are not known yet. Returns how many."""
        latest, before = self._latest, self._before
        begin = len(before)
        end = min(len(tokens), begin + most)
        for place in range(begin, end):
            pair = tokens[place - 1] << 32 | tokens[place]
            before.append(latest.get(pair, -1))
            latest[pair] = place
        return max(end - begin, 0)

    def guess(self, tokens: Sequence[int], most: int, price: float) -> list[int]:
        """Up to `most` tokens that may come next: as many as are likelier to come true than their price, a share of a step each."""
        last = len(tokens) - 1
        if most < 1 or len(self._before) <= last or (place := self._before[last]) < 0:
            return []
        place, agreed = self._best(tokens, place)
        chance = likely = self.chances[agreed]
        count = 0
        while count < most and likely > price:
            count += 1
            likely *= chance
        if not count:
            self.chances[agreed] += (HOPE - chance) * RELIEF
            return []
        self._agreed = agreed
        guesses = list(tokens[place + 1 : place + 1 + count])
        while len(guesses) < count:  # they run into the end of the context, and on into themselves
            guesses.append(guesses[place - last])
        return guesses

    def _best(self, tokens: Sequence[int], place: int) -> tuple[int, int]:
        """Of the places that a chain leads to, the one where most tokens agree with the last ones; and how many do."""
        last, found, longest = len(tokens) - 1, place, PAIR - 1
        for _ in range(DEPTH):
            agreed = PAIR
            while agreed < LONGEST and agreed <= place and tokens[place - agreed] == tokens[last - agreed]:
                agreed += 1
            if agreed > longest:
                found, longest = place, agreed
            place = self._before[place]
            if longest == LONGEST or place < 0:
                break
        return found, longest

    def verified(self, guesses: int, right: int) -> None:
        """Of the latest guesses the first `right` came true; the next one, if there was one, did not."""
        chance = self.chances[self._agreed]
        for _ in range(right):
            chance += (1 - chance) * HASTE
        if right < guesses:
            chance -= chance * HASTE
        self.chances[self._agreed] = chance
