"""Every call of the table with every argument at its bound, beyond it, and of every wrong kind: a clear fault, no harm done."""

from __future__ import annotations

import math
import re
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import TypeAdapter, ValidationError

from llmos.kernel.errno import InvalidArgument, TooLong
from llmos.syscalls import abi
from llmos.syscalls.table import ROWS, Row

from .hand import Hand

GOOD: dict[str, Any] = {
    "pid": 2,
    "name": "child",
    "status": 0,
    "signal": "INT",
    "nice": 0,
    "cls": "batch",
    "limits": {},
    "context": 0,
    "length": 0,
    "text": "hello",
    "tokens": [1, 2],
    "pipe": 0,
    "data": b"data",
    "read": True,
    "path": "/home/f",
    "source": "/home/f",
    "target": "/home/g",
    "program": "module:function",
    "stdin": 0,
    "stdout": 0,
    "stderr": 0,
    "tools": [],
    "offer": 0,
    "call": 1,
    "seconds": 0.0,
    "id": 1,
    "allow": True,
}
"""A good value for what has no default."""

WRONG: list[Any] = [
    None,
    True,
    -1,
    -(10**30),
    2**31,
    2**63,
    2**64,
    10**400,
    10**5000,
    0.5,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "x",
    "\x00",
    "\ud800",
    "9" * 10_000,
    b"",
    b"\xff",
    [],
    [None],
    [-1],
    [2**70],
    ["\ud800"],
    [[]] * 100,
    {},
    {"x": 1},
    {"role": "user"},
    [{"role": "root", "content": "x"}],
    [{"role": "user", "content": "x", "extra": 1}],
    {"tokens": -1},
    {"tokens": True},
    {"wall_seconds": math.nan},
    (1, 2),
    {1, 2},
    object(),
    1j,
    lambda: None,
]


def arguments_of(row: Row) -> dict[str, Any]:
    """The least a call must be given."""
    return {name: GOOD[name] for name, field in row.arguments.model_fields.items() if field.is_required()}


CASES = [(row, name) for row in ROWS for name in row.arguments.model_fields]


def id_of(value: Any) -> str:
    return value.name if isinstance(value, Row) else str(value)


@pytest.fixture(scope="module")
def hand() -> Hand:
    """One system takes it all."""
    return Hand()


@pytest.mark.parametrize(("row", "argument"), CASES, ids=id_of)
def test_wrong_values_are_refused_by_name_or_harmless(row: Row, argument: str) -> None:
    """Each in a process with a context and pipes of its own, so that what passes the border meets the handler."""
    hand = Hand()
    for value in WRONG:
        child = hand.spawn(capabilities=["*"])
        context = hand.open(child.pid, user="hello")
        mine = {
            "context": context,
            "pipe": child.child_stdin if row.name in ("read", "close_pipe") else child.child_stdout,
            "pid": child.pid,
        }
        arguments = arguments_of(row)
        arguments |= {name: mine[name] for name in arguments if name in mine}
        arguments[argument] = value
        box = hand.send(child.pid, row.name, **arguments)
        for _ in range(3):
            hand.work()
            hand.step()
        if not box.done:
            hand.cancel(box)
        assert box.answers == 1
        hand.send(hand.host, "kill", pid=child.pid, signal="KILL")
        hand.call(hand.host, "wait", pid=child.pid)
        fault = box.fault
        if fault is None:
            continue
        assert fault.errno, f"{row.name}({argument}={str(value)[:40]}) leaked: {fault}"
        assert len(str(fault)) < 500
        try:
            row.arguments.model_validate(arguments)
        except ValidationError:
            assert isinstance(fault, InvalidArgument | TooLong)
            assert row.name in str(fault)
            assert argument in str(fault) or "say which end" in str(fault)
    hand.check()


def bounds(row: Row, argument: str) -> list[tuple[Any, Any]]:
    """(a value at a bound, one beyond it) for each bound of an argument."""
    field = row.arguments.model_fields[argument]
    found: list[tuple[Any, Any]] = []
    metadata = list(field.metadata)
    unions = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else ()
    for part in unions:  # Annotated[...] | None keeps its bounds inside
        metadata += getattr(part, "__metadata__", [])
        for item in getattr(part, "__metadata__", []):
            metadata += getattr(item, "metadata", [])
    whole = "int" in str(field.annotation)
    kind = str(field.annotation)
    made = ["llm:x"] if argument == "capabilities" else _made(kind)
    for bound in metadata:
        if isinstance(bound, Ge):
            found.append((bound.ge, bound.ge - 1 if whole else math.nextafter(float(bound.ge), -math.inf)))
        elif isinstance(bound, Gt):
            found.append((math.nextafter(float(bound.gt), math.inf), bound.gt))
        elif isinstance(bound, Le):
            found.append((bound.le, bound.le + 1 if whole else math.nextafter(float(bound.le), math.inf)))
        elif isinstance(bound, Lt):
            found.append((bound.lt - 1, bound.lt))
        elif isinstance(bound, MinLen):
            found.append((made * bound.min_length, made * (bound.min_length - 1)))
        elif isinstance(bound, MaxLen):
            found.append((made * bound.max_length, made * (bound.max_length + 1)))
    return found


def _made(kind: str) -> Any:
    """A value of length 1."""
    letter = "/" if "^/" in kind else "x"  # a path
    if "list" not in kind:
        return b"x" if "bytes" in kind else letter
    items: dict[str, Any] = {
        "Message": {"role": "user", "content": ""},
        "ToolSpec": {"name": "x", "schema": "{}"},
        "arguments.Tool]": {"name": "x", "json_schema": "{}"},
        "int": 0,
    }
    return [next((item for name, item in items.items() if name in kind), letter)]


@pytest.mark.parametrize(("row", "argument"), CASES, ids=id_of)
def test_bounds(row: Row, argument: str) -> None:
    """At the bound is good, one beyond is not. Numbers and lengths without a bound do not exist."""
    pairs = bounds(row, argument)
    kind = str(row.arguments.model_fields[argument].annotation)
    if re.search(r"\b(int|float)\b", kind):
        assert len(pairs) >= 2 or "list" in kind, f"{row.name}.{argument} has a number without bounds"
    if re.search(r"\b(str|bytes|list)\b", kind) and "Literal" not in kind:
        assert pairs, f"{row.name}.{argument} has a length without a bound"
    for at, beyond in pairs:
        row.arguments.model_validate({**arguments_of(row), argument: at})
        with pytest.raises(ValidationError):
            row.arguments.model_validate({**arguments_of(row), argument: beyond})


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        ("generate", {"context": 1, "temperature": 11.0}, "generate: temperature must be at most 10, not 11.0"),
        ("generate", {"context": 1, "temperature": math.nan}, "temperature must be a finite number, not nan"),
        ("generate", {"context": 1, "top_p": 0.0}, "top_p must be more than 0, not 0.0"),
        ("generate", {"context": 1, "max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ("generate", {"context": 1, "logprobs": 21}, "logprobs must be at most 20, not 21"),
        ("generate", {"context": 1, "stop": [""]}, "stop.0 must have a length of at least 1"),
        ("generate", {"context": 1, "temprature": 1.0}, "no argument 'temprature'; did you mean 'temperature'?"),
        ("generate", {}, "generate: context is missing"),
        ("generate", {"context": 10**400}, "context must be at most 9007199254740991, not an integer of 1329 bits"),
        ("generate", {"context": 1, "text": "a", "tokens": [1]}, "give one of messages, text and tokens"),
        ("kill", {"pid": 2, "signal": "HUP"}, "signal must be one of 'INT', 'KILL', 'TERM', 'CONT' or 'STOP', not 'HUP'"),
        ("spawn", {"name": "x", "capabilities": ["tol:x"]}, "there is no family 'tol'; did you mean 'tool'?"),
        ("spawn", {"name": "x", "capabilities": ["ask:file:x:/a"]}, "the mode is r, w or rw, not 'x'"),
        ("spawn", {"name": "x", "capabilities": ["file:r:/a/../b"]}, "a path is absolute, with no empty name, '.' or '..' in it"),
        ("spawn", {"name": "x", "capabilities": ["net:*.example.com"]}, "a * stands at the end, or nowhere"),
        ("spawn", {"name": "a\nb"}, "name must not contain control characters"),
        ("spawn", {"name": "x", "tools": ["d.*"]}, "tools.0 must be letters, digits, '_', '-' and '.'"),
        ("generat", {}, "no system call 'generat'; did you mean 'generate'?"),
    ],
)
def test_a_refusal_says_what_would_be_right(hand: Hand, call: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        hand.call(hand.host, call, **arguments)
    assert message in str(caught.value)


def test_a_length_beyond_its_bound_is_too_long(hand: Hand) -> None:
    with pytest.raises(TooLong, match="at most 16, not a list of 17"):
        hand.call(hand.host, "generate", context=1, stop=["x"] * 17)


def test_a_million_wrong_items_make_one_error(hand: Hand) -> None:
    with pytest.raises(InvalidArgument, match=r"tokens\.0 must be a valid integer"):
        hand.call(hand.host, "append", context=1, tokens=["x"] * 1_000_000)


@pytest.mark.parametrize("row", ROWS, ids=id_of)
def test_results_survive_json(hand: Hand, row: Row) -> None:
    """Results are plain enough for a wire."""
    adapter = TypeAdapter(row.result)
    samples = {
        abi.ProcessList: lambda: hand.call(hand.host, "ps"),
        abi.Explanation: lambda: hand.call(hand.host, "explain", pid=hand.host),
        abi.SystemStatistics: lambda: hand.call(hand.host, "statistics"),
        abi.Spawned: lambda: hand.spawn(),
        abi.ContextInfo: lambda: hand.call(hand.host, "open"),
        abi.Reply: lambda: hand.call(hand.host, "generate", context=hand.open(user="hi"), max_tokens=3, logprobs=1),
        abi.ModelList: lambda: hand.call(hand.host, "models"),
    }
    if row.result in samples:
        sample = samples[row.result]()
        assert adapter.validate_json(adapter.dump_json(sample)) == sample
    else:
        adapter.json_schema()


def test_errors_of_the_abi_are_those_of_the_kernel() -> None:
    for number, fault in abi.FAULTS.items():
        assert getattr(abi, fault.__name__) is fault
        assert fault.errno == number
