"""Guesses from what a context has said before: where they come from, and how many are worth making."""

from __future__ import annotations

from hypothesis import given, strategies as st

from llmos.kernel.lookup import HOPE, LONGEST, Lookup


def taught(tokens: list[int]) -> Lookup:
    lookup = Lookup()
    lookup.learn(tokens, len(tokens))
    return lookup


def test_what_came_after_the_same_pair_is_guessed() -> None:
    tokens = [7, 1, 2, 3, 9, 4, 1, 2]
    assert taught(tokens).guess(tokens, 3, 0.0) == [3, 9, 4]


def test_nothing_is_guessed_where_the_pair_is_new() -> None:
    assert taught([1, 2, 3, 4, 2]).guess([1, 2, 3, 4, 2], 8, 0.0) == []
    assert taught([1]).guess([1], 8, 0.0) == []


def test_a_longer_match_is_better_than_a_later_one() -> None:
    tokens = [5, 1, 2, 30, 0, 6, 1, 2, 40, 0, 5, 1, 2]
    assert taught(tokens).guess(tokens, 1, 0.0) == [30]
    later = [1, 2, 30, 0, 1, 2, 40, 0, 1, 2]
    assert taught(later).guess(later, 1, 0.0) == [40], "of equal ones the latest"


def test_a_guess_goes_on_into_itself() -> None:
    assert taught([1, 2, 1, 2]).guess([1, 2, 1, 2], 5, 0.0) == [1, 2, 1, 2, 1]
    assert taught([8, 8, 8]).guess([8, 8, 8], 3, 0.0) == [8, 8, 8]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 9))
def test_guesses_are_what_a_search_finds(tokens: list[int], most: int, chunk: int) -> None:
    """In whatever portions the context was taken in: of the latest eight places of its last pair, what came after the best."""
    lookup = Lookup()
    learnt = 1
    while (more := lookup.learn(tokens[: learnt + chunk], chunk)) > 0:
        learnt += more
    places = [end for end in range(len(tokens) - 2, 0, -1) if len(tokens) > 2 and tokens[end - 1 : end + 1] == tokens[-2:]][:8]

    def agreed(end: int) -> int:
        return next((n for n in range(1, LONGEST) if n > end or tokens[end - n] != tokens[-1 - n]), LONGEST)

    expected: list[int] = []
    if places:
        best = max(places, key=lambda end: (agreed(end), end))
        said = list(tokens)
        for place in range(best + 1, best + 1 + most):
            said.append(said[place])
        expected = said[len(tokens) :]
    assert lookup.guess(tokens, most, 0.0) == expected


def test_a_context_that_is_not_known_yet_has_no_guesses() -> None:
    tokens = [1, 2, 3, 1, 2]
    lookup = Lookup()
    assert lookup.learn(tokens, 3) == 3
    assert lookup.guess(tokens, 4, 0.0) == []
    assert lookup.learn(tokens, 3) == 1
    assert lookup.guess(tokens, 1, 0.0) == [3]


def test_as_many_are_made_as_are_worth_their_price() -> None:
    tokens = [1, 2] * 9
    lookup = taught(tokens)
    assert len(lookup.guess(tokens, 15, HOPE**3 * 1.01)) == 2
    for _ in range(20):
        lookup.guess(tokens, 15, 0.01)
        lookup.verified(15, 15)
    assert len(lookup.guess(tokens, 15, 0.5)) == 15
    for _ in range(60):
        if guesses := lookup.guess(tokens, 15, 0.1):
            lookup.verified(len(guesses), 0)
    assert lookup.chances[LONGEST] < 0.11
    made = 0
    for _ in range(600):
        if guesses := lookup.guess(tokens, 15, 0.1):
            made += len(guesses)
            lookup.verified(len(guesses), 0)
    assert 0 < made < 120, "hope comes back, slowly: what begins to come true is found out"


def test_the_length_of_a_match_has_a_chance_of_its_own() -> None:
    lookup = taught([1, 2, 3, 9, 1, 2])
    for _ in range(40):
        lookup.guess([1, 2, 3, 9, 1, 2], 1, 0.0)
        lookup.verified(1, 0)
    assert lookup.chances[2] < 0.01
    assert lookup.chances[3:] == [HOPE] * (LONGEST - 2)
