"""Compiled grammars: masks, the way back, and sources that explode."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from llmos.drivers import grammar
from llmos.drivers.dummy_text import END, DummyText
from llmos.drivers.grammar import KEPT, Constraint, Grammars
from llmos.drivers.judge import Judge
from llmos.kernel.errno import Fault, InvalidArgument, NotSupported, TimedOut

VOCABULARY = 259
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def grammars() -> Iterator[Grammars]:
    made = Grammars(DummyText(), VOCABULARY)
    yield made
    made.close()


def masks(constraint: Constraint, said: Any = (), guesses: Any = ()) -> tuple[bytes, ...]:
    constraint.ask(tuple(said), tuple(guesses))
    found = constraint.masks(time.monotonic() + 20)
    assert found is not None
    return found


def allowed(mask: bytes) -> set[int]:
    return {token for token in range(len(mask) * 8) if mask[token >> 3] >> (token & 7) & 1}


def next_ids(constraint: Constraint, said: str | bytes) -> set[int]:
    return allowed(masks(constraint, said.encode() if isinstance(said, str) else said)[0])


def chars(text: str) -> set[int]:
    return set(text.encode())


def test_the_end_is_allowed_where_the_grammar_accepts_and_nowhere_else(grammars: Grammars) -> None:
    constraint = grammars.compile("regex", "ab*")
    assert next_ids(constraint, "") == chars("a")
    assert next_ids(constraint, "a") == {*chars("b"), END}
    assert next_ids(constraint, "abbb") == {*chars("b"), END}
    assert next_ids(grammars.compile("regex", "yes|no"), "yes") == {END}


def test_it_goes_back_and_elsewhere(grammars: Grammars) -> None:
    """A step that failed is asked for again, and what had been said may not have been, after all."""
    constraint = grammars.compile("regex", "(ab|cd|ce)+x")
    for said, expected in (("ab", "acx"), ("a", "b"), ("abc", "de"), ("", "ac"), ("cdcece", "acx"), ("cd", "acx"), ("cdab", "acx")):
        assert next_ids(constraint, said) == chars(expected)


def test_guesses_up_to_the_first_that_cannot_be(grammars: Grammars) -> None:
    constraint = grammars.compile("regex", "abcd?")
    found = masks(constraint, b"a", b"bXc")
    assert [allowed(mask) for mask in found] == [chars("b"), chars("c"), chars("c"), chars("c")]
    assert [allowed(mask) for mask in masks(constraint, b"a", b"bc")] == [chars("b"), chars("c"), {*chars("d"), END}]
    assert [allowed(mask) for mask in masks(constraint, b"abc", [END, 5])] == [{*chars("d"), END}] * 3


def test_a_number_ends_some_time(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models write digits without end; but what must be long may be."""
    constraint = grammars.compile("schema", json.dumps({"type": "array", "items": {"type": "number"}}))
    for begun, until in (("[", 32), ("[-0.", 29), ("[12, ", 32), ("[1e+", 29)):
        said = begun
        while "7" in map(chr, next_ids(constraint, said) - {END}):
            said += "7"
            assert len(said) < 100
        assert said == begun + "7" * until
        assert next_ids(constraint, said) == chars(",]"), said
        assert next_ids(constraint, said + ", ") == chars("-0123456789")  # the next begins anew
    assert chars("7") < next_ids(constraint, "[" + "7" * 31)  # after going back
    text = grammars.compile("schema", json.dumps({"type": "string"}))
    for said in ('"' + "7" * 50, '"\\"' + "7" * 50, '"\\\\' + "7" * 50):
        assert chars("7") < next_ids(text, said)
    assert chars("7") < next_ids(grammars.compile("regex", "7*"), "7" * 50)
    monkeypatch.setattr(grammar, "MOST_OF_A_NUMBER", 3)
    long = grammars.compile("schema", json.dumps({"type": "integer", "minimum": 1_000_000, "maximum": 9_000_000}))
    assert next_ids(long, "1000") == chars("0123456789")


def test_json_is_compact_and_ends(grammars: Grammars) -> None:
    for seed in range(20):
        draw, constraint, said = random.Random(seed), grammars.compile("schema", json.dumps(PERSON)), bytearray()
        while True:
            token = draw.choice(sorted(allowed(masks(constraint, said)[0])))
            if token == END:
                break
            said.append(token)
        value = json.loads(said)
        assert set(value) == {"name", "age"}
        assert 0 <= value["age"] <= 120
        assert said.startswith(b'{"name": "')


def test_halves_of_characters(grammars: Grammars) -> None:
    """Bytes are tokens: what is no UTF-8 is never allowed."""
    constraint = grammars.compile("regex", "é|à|.{3}")
    assert next_ids(constraint, b"\xc3") >= {0xA9, 0xA0}
    assert not next_ids(constraint, b"\xc3") & {*range(128), 0xC3, 0xFF}
    assert 0xFF not in next_ids(constraint, b"")


def test_one_burst_does_not_disturb_another(grammars: Grammars) -> None:
    first, second = grammars.compile("regex", "(ab)+"), grammars.compile("regex", "(ab)+")
    assert next_ids(first, "a") == chars("b")
    assert next_ids(second, "") == chars("a")
    assert next_ids(first, "ab") == {*chars("a"), END}


def test_the_mask_is_as_long_as_the_vocabulary_of_the_device(grammars: Grammars) -> None:
    for size in (258, 264, 265, 1000):
        wide = Grammars(DummyText(), size)
        mask = masks(wide.compile("regex", "(?s:.*)"))[0]
        assert len(mask) == (size + 7) // 8
        assert max(allowed(mask)) == END
        wide.close()


def test_a_model_without_an_end_is_refused() -> None:
    text = DummyText()
    text.stop_ids = frozenset()
    endless = Grammars(text, VOCABULARY)
    with pytest.raises(NotSupported, match="no token that ends a text"):
        endless.compile("regex", "a")
    endless.close()


def test_a_vocabulary_that_cannot_write_it() -> None:
    class Letters(DummyText):
        def token_bytes(self, token: int) -> bytes:
            return b"" if token == ord("z") else super().token_bytes(token)

    poor = Grammars(Letters(), VOCABULARY)
    constraint = poor.compile("regex", "az")
    masks(constraint)
    with pytest.raises(InvalidArgument, match=r"no token of this model|cannot go on"):
        masks(constraint, b"a")
    poor.close()


def test_compiled_grammars_are_kept_and_bounded(grammars: Grammars) -> None:
    for number in range(KEPT + 10):
        grammars.compile("regex", f"n{number}")
    assert len(grammars._kept) == KEPT
    began = time.perf_counter()
    for _ in range(100):
        grammars.compile("regex", f"n{KEPT + 9}")
    assert time.perf_counter() - began < 0.5, "not compiled again"


# --- attacks


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}
    return schema


PRODUCT = {"allOf": [{"anyOf": [{"type": "object", "properties": {f"p{i}{j}": {"type": "string"}}} for j in range(4)]} for i in range(12)]}

CYCLE = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
ATTACKS = {
    "not a regex": ("regex", "ab(c", "unclosed group, at character 3"),
    "look-ahead": ("regex", "(?=a)b", "look-ahead"),
    "back-reference": ("regex", r"(a)\1", "backreferences"),
    "repeated thrice": ("regex", "((a{1000}){1000}){1000}", "too long|longer|cannot go on|memory"),
    "nested": ("regex", "(" * 2000 + "a" + ")" * 2000, "nest|regex|longer"),
    "references in a circle": ("schema", json.dumps(CYCLE), "no text matches"),
    "a product of alternatives": ("schema", json.dumps(PRODUCT), "too large"),
    "nested schema": ("schema", json.dumps(deep(200)), "recursion limit"),
    "no such type": ("schema", '{"type": "foo"}', "Invalid type: foo"),
    "no such keyword": ("schema", '{"type": "array", "uniqueItems": true}', "uniqueItems"),
    "impossible": ("schema", '{"type": "string", "minLength": 5, "maxLength": 3}', "Unsatisfiable"),
    "a property that cannot be": ("schema", '{"type": "object", "properties": {"a": false}, "required": ["a"]}', "Unsatisfiable"),
    "from the net": ("schema", '{"$ref": "http://example.com/a.json"}', "does not fetch"),
    "100,000 alternatives": ("schema", json.dumps({"enum": [f"x{i}" for i in range(100_000)]}), "too big|longer"),
    "5,000 properties": ("schema", json.dumps({"type": "object", "properties": {f"p{i}": {} for i in range(5000)}}), "."),
    "not JSON": ("schema", "{", "EOF"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_explodes_is_refused_in_time(grammars: Grammars, name: str) -> None:
    kind, source, problem = ATTACKS[name]
    began = time.monotonic()
    with pytest.raises((InvalidArgument, TimedOut), match=problem) as refused:
        grammars.compile(kind, source)  # type: ignore[arg-type]
    assert time.monotonic() - began < 15, "on a machine however busy"
    assert len(str(refused.value)) < 1000
    assert next_ids(grammars.compile("regex", "ab"), "a") == chars("b"), "the next is served as ever"


HEAVY = (
    "[ab]*a[ab]{400}",
    "(.*a.{30})",
    "(a|aa|aaa)*(b|bb)*.*c{1000}",
    r"\p{L}{1,500}",
    "(a{0,1000}){0,1000}b",
    "x((a{1000}){1000}){1000}",
)


@pytest.mark.parametrize("source", HEAVY)
def test_what_is_slow_later_holds_nobody_up(grammars: Grammars, source: str) -> None:
    """Whoever waits, waits no longer than it said; the mask comes, or the reply ends with an errno."""
    try:
        constraint = grammars.compile("regex", source)
    except Fault:
        return
    draw, said = random.Random(1), bytearray()
    for _ in range(40):
        constraint.ask(tuple(said), ())
        found = None
        for _ in range(2000):
            began = time.monotonic()
            try:
                found = constraint.masks(began + 0.005)
            except InvalidArgument:
                return
            assert time.monotonic() - began < 2.0, "it waits on a clock, not on the mask"
            if found is not None:
                break
        assert found is not None
        token = draw.choice(sorted(allowed(found[0])))
        if token == END:
            return
        said.append(token)


def test_the_judge_kills_what_takes_too_long_and_starts_afresh() -> None:
    judge = Judge(seconds=20.0)
    judge.examine("start: /a/", {})
    assert judge._process is not None
    os.kill(judge._process.pid, signal.SIGSTOP)  # whatever it would say, it says too late
    judge._seconds = 0.05
    with pytest.raises(TimedOut, match=r"longer than 0.05 s"):
        judge.examine("start: /a/", {})
    assert judge._process is None
    judge._seconds = 20.0
    with pytest.raises(InvalidArgument):
        judge.examine('{"grammars": []}', {})
    assert judge._process is not None
    pid = judge._process.pid
    judge.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(NotSupported):
        judge.examine("start: /a/", {})


def test_a_judge_that_dies_is_an_errno() -> None:
    judge = Judge(seconds=20.0)
    judge.examine("start: /a/", {})
    assert judge._process is not None
    judge._process.kill()
    judge._process.wait()
    with pytest.raises(InvalidArgument, match="memory"):
        judge.examine("start: /a/", {})
    judge.examine("start: /a/", {})
    judge.close()


class SlowJudge(Judge):
    """Takes until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.go_on = threading.Event(), threading.Event()

    def examine(self, grammar: str, limits: Any) -> None:
        if "slow" in grammar:
            self.slow.set()
            self.go_on.wait(20)


def test_what_is_kept_waits_for_nobody_who_compiles() -> None:
    judge = SlowJudge()
    grammars = Grammars(DummyText(), VOCABULARY, judge)
    found: list[Constraint] = []
    hit = threading.Thread(target=lambda: found.append(grammars.compile("regex", "kept")))
    miss = threading.Thread(target=lambda: grammars.compile("regex", "slow"))
    try:
        grammars.compile("regex", "kept")
        miss.start()
        assert judge.slow.wait(20)
        hit.start()
        hit.join(5)
        assert found
    finally:
        judge.go_on.set()
        miss.join(20)
        hit.join(20)
        grammars.close()
