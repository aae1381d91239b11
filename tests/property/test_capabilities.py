"""The laws of capabilities: what a child holds says no more of anything than what its parent holds, asks included.

Patterns are of a small world, so that every capability of it can be tried: the sets of patterns are judged by what they say of each.
"""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings, strategies as st

from llmos.kernel.capability import ASK, Verdict, attenuate, check, covers, judge
from llmos.kernel.errno import NotPermitted
from llmos.kernel.kernel import Kernel

NAMES = ["a", "ab", "b", "a-b"]
PATHS = ["/", "/a", "/ab", "/a/b", "/a/b/c", "/b"]
MODES = ["r", "w", "rw"]
CONCRETE = [
    *(f"tool:{name}" for name in NAMES),
    *(f"llm:{name}" for name in NAMES),
    *(f"file:{mode}:{path}" for mode, path in product(MODES, PATHS)),
    *(f"file:r:host:{path}" for path in PATHS),
    "net:a.b", "proc:spawn", "approve:tool:a",
]  # fmt: skip
"""Every capability of the world; longer names would say nothing new."""

PATTERNS = [
    "*", "tool:*", "llm:*", "tool:a*", "tool:ab*", "llm:a*", "file:*", "net:*", "approve:*", "approve:tool:*",
    *(f"file:{mode}:*" for mode in MODES),
    *(f"file:{mode}:{path.rstrip('/')}/*" for mode, path in product(MODES, PATHS)),
    *(f"file:{mode}:host:{path.rstrip('/')}/*" for mode, path in product(MODES, PATHS)),
    *CONCRETE,
]  # fmt: skip

RULES = st.tuples(st.booleans(), st.sampled_from(PATTERNS)).map(lambda each: ASK * each[0] + each[1])
HELD = st.frozensets(RULES, max_size=6)
MANY = settings(max_examples=200, deadline=None)


def said(held: frozenset[str]) -> list[Verdict]:
    return [judge(held, each) for each in CONCRETE]


def worse(one: list[Verdict], other: list[Verdict]) -> list[Verdict]:
    return [min(pair) for pair in zip(one, other, strict=True)]


@given(st.sampled_from(PATTERNS))
def test_every_pattern_of_this_world_is_good_and_covers_itself(pattern: str) -> None:
    assert check(pattern) == pattern
    assert check(ASK + pattern) == ASK + pattern
    assert covers({pattern}, pattern)
    assert judge(frozenset({ASK + pattern}), pattern) is Verdict.ASKED


@given(*[st.sampled_from(PATTERNS)] * 3)
@MANY
def test_covering_is_transitive_and_says_what_the_capabilities_say(one: str, two: str, three: str) -> None:
    if covers({one}, two):
        assert worse(said(frozenset({one})), said(frozenset({two}))) == said(frozenset({two}))
        if covers({two}, three):
            assert covers({one}, three)


@given(HELD, st.sampled_from(PATTERNS))
@MANY
def test_of_a_pattern_is_said_the_least_that_is_said_of_anything_in_it(held: frozenset[str], pattern: str) -> None:
    inside = [each for each in CONCRETE if covers({pattern}, each)]
    assert all(judge(held, pattern) <= judge(held, each) for each in inside)


@given(HELD, HELD)
@MANY
def test_attenuated_is_the_lesser_of_both_for_every_capability(held: frozenset[str], wanted: frozenset[str]) -> None:
    lesser = attenuate(held, wanted)
    assert said(lesser) == worse(said(held), said(wanted))
    assert said(attenuate(wanted, held)) == said(lesser)
    assert attenuate(lesser, held) == attenuate(lesser, wanted) == attenuate(lesser, lesser)
    assert all(covers(held, each) or covers(held, ASK + each.removeprefix(ASK)) for each in lesser)
    for each in lesser:
        check(each)


@given(HELD, RULES, HELD)
@MANY
def test_holding_a_plain_pattern_more_denies_nothing_and_an_ask_rule_more_frees_nothing(
    held: frozenset[str], rule: str, wanted: frozenset[str]
) -> None:
    before, after = said(attenuate(held, wanted)), said(attenuate(held | {rule}, wanted))
    for was, now in zip(before, after, strict=True):
        assert now >= was if not rule.startswith(ASK) else (was, now) in {(was, was), (was, Verdict.ASKED)}


@given(HELD, st.lists(HELD, min_size=1, max_size=4))
@MANY
def test_no_chain_of_spawns_gains_anything(first: frozenset[str], chain: list[frozenset[str]]) -> None:
    kernel = Kernel()
    parent = kernel.spawn(0, 1, name="top", capabilities=first | {"proc:spawn"})
    for wanted in chain:
        above = kernel.table.get(parent).capabilities
        try:
            child = kernel.spawn(0, parent, name="child", capabilities=wanted)
        except NotPermitted:
            child = kernel.spawn(0, parent, name="child", capabilities=attenuate(above, wanted))
            least = worse(said(above), said(wanted))
        else:
            least = said(wanted)
        got = said(kernel.table.get(child).capabilities)
        assert worse(got, said(above)) == got, "more than its parent"
        assert worse(got, least) == got, "more than was wanted"
        grants = [verdict is not Verdict.DENIED for verdict in got]
        assert grants == [verdict is not Verdict.DENIED for verdict in least], "less than was wanted and could be had"
        parent = child
