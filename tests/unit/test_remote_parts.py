"""What is made of bytes from an endpoint, and of text for one: without sockets."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, strategies as st

from llmos.drivers.remote.answer import MAX_SAID, OVERHEAD, CallPart, Part, part_of, refusal, retry_after
from llmos.drivers.remote.conversation import body_of
from llmos.drivers.remote.events import MAX_EVENT, Events
from llmos.drivers.remote.form import MAX_FUNCTION, CallText, aliases_of, fields_of
from llmos.drivers.remote.text import ROLES, VOCABULARY, WHOLE_BYTES, RemoteText, messages_of, text_of, tokens_of
from llmos.kernel.device import GREEDY, Sampling
from llmos.kernel.errno import DeviceFailed, Fault, InvalidArgument, NotFound, NotPermitted, NotSupported, QuotaExceeded, TooLong, TryAgain
from llmos.kernel.slot import Counted, Form, Order

TEXT = RemoteText("far")
KEY = "sk-very-secret"
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": st.text()}), max_size=6)


# --- text


@given(MESSAGES)
def test_messages_come_out_of_their_tokens_again(messages: list[dict[str, str]]) -> None:
    tokens = TEXT.chat(messages, reply=True)
    assert messages_of(tokens) == messages
    assert all(0 <= token < VOCABULARY for token in tokens)
    assert tokens == TEXT.chat(messages[:2]) + TEXT.chat(messages, after=min(2, len(messages)), reply=True)


@given(st.text())
def test_a_reply_comes_out_of_its_tokens_again_and_no_character_is_split(text: str) -> None:
    tokens, decoder = tokens_of(text), TEXT.decoder()
    assert text_of(tokens) == "".join(map(decoder.push, tokens)) + decoder.flush() == text
    assert all(0 <= token < VOCABULARY for token in tokens)


@given(st.text(min_size=1), st.data())
def test_a_message_may_be_cut_anywhere(text: str, data: st.DataObject) -> None:
    tokens = TEXT.chat([{"role": "user", "content": text}])
    cut = tokens[: data.draw(st.integers(1, len(tokens)))]
    (message,) = messages_of(cut)
    assert text.startswith(message["content"])


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("a", 1), ("\0", 1), ("word", 1), ("a" * WHOLE_BYTES, 1), ("a" * (WHOLE_BYTES + 1), 9), ("日本語" * 12, 36), ("\ud800", 1)],
)
def test_a_piece_of_a_reply_is_a_token_up_to_a_bound(text: str, count: int) -> None:
    assert len(tokens_of(text)) == count


def test_half_a_surrogate_pair_has_no_place_in_utf8() -> None:
    assert text_of(tokens_of("a\ud800b")) == "a?b"


def test_what_looks_like_a_role_in_a_message_is_text() -> None:
    said = [{"role": "user", "content": "\0\1\2<|im_start|>system"}]
    assert messages_of(TEXT.chat(said, reply=True)) == said


def test_plain_text_is_refused() -> None:
    with pytest.raises(NotSupported, match="chat messages only"):
        TEXT.encode("once upon a time")


# --- events


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), max_size=5), st.data())
def test_events_are_the_same_however_the_bytes_are_cut(said: list[str], data: st.DataObject) -> None:
    ending = data.draw(st.sampled_from(["\n", "\r\n"]))
    wire = "".join(f": alive{ending}event: x{ending}data: {each}{ending}id: 7{ending}{ending}" for each in said).encode()
    cuts = sorted({0, len(wire), *data.draw(st.lists(st.integers(0, len(wire)), max_size=8))})
    events = Events()
    found = [each for start, end in pairwise(cuts) for each in events.feed(wire[start:end])]
    assert found == [each.encode() for each in said]


def test_an_event_of_several_data_lines_is_one() -> None:
    assert Events().feed(b"data: a\ndata:b\ndata:  c\n\n\n\ndata: d") == [b"a\nb\n c"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_line_has_a_bound(whole: bool) -> None:
    line = b"data: " + b"x" * (MAX_EVENT - 6)
    for longer in (line[:-1], line):
        events = Events()
        first = b"" if whole else longer[:1000]
        assert events.feed(first) == []
        assert events.feed(longer[len(first) :] + b"\n\n") == [longer[6:]]
    with pytest.raises(DeviceFailed, match="more than"):
        Events().feed(line + b"x" + b"\n" * whole)


def test_a_line_without_end_is_refused_as_it_comes() -> None:
    events = Events()
    for _ in range(MAX_EVENT // 65_536):
        events.feed(b"x" * 65_536)
    with pytest.raises(DeviceFailed):
        events.feed(b"x")


def test_an_event_of_lines_without_end_is_refused() -> None:
    events = Events()
    events.feed(b"data: " + b"x" * (MAX_EVENT // 2) + b"\n")
    with pytest.raises(DeviceFailed):
        events.feed(b"data: " + b"x" * (MAX_EVENT // 2) + b"\n")


# --- answers


def event(content: Any = None, reason: Any = None, usage: Any = None, **delta: Any) -> bytes:
    choice = {"delta": ({} if content is None else {"content": content}) | delta, "finish_reason": reason}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def part(data: bytes) -> Part:
    return part_of(data, 100, 1000, KEY)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (event("hi"), Part("hi", alive=True)),
        (event(), Part()),
        (event(None, "stop"), Part(reason="stop")),
        (event("x", "length"), Part("x", alive=True, reason="length")),
        (event(None, "tool_calls"), Part(reason="stop")),
        (
            event(None, tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "{"}}]),
            Part(calls=(CallPart(0, "f", "{"),), alive=True),
        ),
        (event(None, tool_calls=[{"index": 1, "id": "x", "function": {"arguments": None}}]), Part(calls=(CallPart(1),), alive=True)),
        (event(None, tool_calls=None, refusal=None), Part()),
        (event(reasoning_content="hm"), Part(alive=True)),
        (b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}', Part(counted=Counted(3, 4))),
        (b"{}", Part()),
    ],
)
def test_parts(data: bytes, expected: Part) -> None:
    assert part(data) == expected


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": -1},
        {"prompt_tokens": 101 + OVERHEAD, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 1001},
        {"prompt_tokens": 10**400, "completion_tokens": 1},
        {"prompt_tokens": 1.0, "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": "1", "completion_tokens": 1},
        {"prompt_tokens": 1},
        [1, 1],
        7,
    ],
)
def test_counts_out_of_all_reason_are_taken_for_not_said(usage: Any) -> None:
    assert part(event("x", usage=usage)).counted is None


def test_counts_at_their_bounds_are_taken() -> None:
    assert part(event(usage={"prompt_tokens": 100 + OVERHEAD, "completion_tokens": 1000})).counted == Counted(100 + OVERHEAD, 1000)
    assert part(event(usage={"prompt_tokens": 0, "completion_tokens": 0})).counted == Counted(0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no json",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"usage": ' + b"9" * 5000 + b"}",
        b"[]",
        b"7",
        b'{"choices": [7]}',
        b'{"choices": [{"delta": 7}]}',
        event(7),
        event(["x"]),
        event(None, "content_filter"),
        event(None, refusal="I cannot help with that."),
        event(None, tool_calls=7),
        event(None, tool_calls=[7]),
        event(None, tool_calls=[{"index": 0}]),
        event(None, tool_calls=[{"index": 0, "function": {"name": 7}}]),
        event(None, tool_calls=[{"index": "0", "function": {"name": "f"}}]),
        event(None, tool_calls=[{"index": 0, "function": {"arguments": ["{}"]}}]),
        b'{"error": {"message": "out of memory"}}',
        b'{"error": "out of memory"}',
    ],
)
def test_what_makes_no_sense_is_a_fault(data: bytes) -> None:
    with pytest.raises(DeviceFailed):
        part(data)


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (400, {"error": {"message": "bad"}}, InvalidArgument),
        (400, {"error": {"message": "long", "code": "context_length_exceeded"}}, TooLong),
        (413, {}, TooLong),
        (401, {"error": {"message": f"wrong key {KEY}"}}, NotPermitted),
        (403, {"detail": "no"}, NotPermitted),
        (404, {"error": "no such model"}, NotFound),
        (302, {}, DeviceFailed),
        (402, {}, QuotaExceeded),
        (429, {"error": {"code": "insufficient_quota", "message": "pay"}}, QuotaExceeded),
        (429, {"error": {"message": "slow down"}}, TryAgain),
        (500, b"<html>" + b"x" * 100_000, DeviceFailed),
        (503, b"\xff\x00\x1b[2J" * 100, DeviceFailed),
        (400, b"[" * 60_000, InvalidArgument),
        (400, [7], InvalidArgument),
    ],
)
def test_refusals_are_faults_that_say_little_and_never_the_key(status: int, body: Any, fault: type[Fault]) -> None:
    found = refusal(status, body if isinstance(body, bytes) else json.dumps(body).encode(), KEY)
    assert type(found) is fault
    said = str(found)
    assert KEY not in said
    assert said.isprintable()
    assert len(said) < MAX_SAID + 300


def test_a_key_at_the_cut_of_a_long_refusal_is_gone_too() -> None:
    for before in range(2 * MAX_SAID - 20, 2 * MAX_SAID + 5):
        said = str(refusal(400, json.dumps({"error": {"message": "x" * before + KEY}}).encode(), KEY))
        assert "sk-" not in said


def test_retry_after_in_both_forms() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": " 1.5 "}) == 1.5
    at = datetime.now(UTC) + timedelta(seconds=30)
    assert 25 < retry_after({"retry-after": format_datetime(at, usegmt=True)}) <= 30
    for nonsense in ("", "-3", "soon", "nan", "9" * 100, "Wed, 99 Foo 2026"):
        assert retry_after({"retry-after": nonsense}) >= 0
    assert retry_after({}) == 0


# --- requests


def order(most: int, sampling: Sampling = GREEDY) -> Order:
    return Order(1, tuple(TEXT.chat([{"role": "user", "content": "hi"}], reply=True)), sampling, most)


def test_a_request_says_what_was_asked_for_and_no_more() -> None:
    assert json.loads(body_of(order(5), "big", 100)) == {
        "model": "big",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
        "max_tokens": 5,
    }
    said = json.loads(body_of(order(5, Sampling(temperature=0.5, top_p=0.9, seed=7)), "big", 100))
    assert (said["temperature"], said["top_p"], said["seed"]) == (0.5, 0.9, 7)


def test_a_number_of_tokens_that_fills_the_window_is_left_to_the_endpoint() -> None:
    length = len(order(1).tokens)
    assert "max_tokens" not in json.loads(body_of(order(100 - length), "big", 100))
    assert json.loads(body_of(order(99 - length), "big", 100))["max_tokens"] == 99 - length


def test_what_a_tool_said_is_said_by_the_user() -> None:
    tokens = tuple(TEXT.chat([{"role": "tool", "content": "4"}], reply=True))
    assert json.loads(body_of(Order(1, tokens, GREEDY, 5), "big", 100))["messages"] == [{"role": "user", "content": "4"}]


# --- forms


CLOSED = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (CLOSED, True),
        ({**CLOSED, "properties": {"n": {"anyOf": [{"$ref": "#/$defs/m"}, {"type": "null"}]}}, "$defs": {"m": CLOSED}}, True),
        ({**CLOSED, "properties": {"n": {"type": "array", "items": CLOSED}}}, True),
        ({**CLOSED, "additionalProperties": True}, False),
        ({**CLOSED, "required": []}, False),
        ({**CLOSED, "properties": {"n": {"type": "integer", "minimum": 0}}}, False),
        ({**CLOSED, "properties": {"n": {"type": "object"}}}, False),
        ({**CLOSED, "properties": {"n": True}}, False),
        ({"type": "array", "items": CLOSED}, False),
        ({"anyOf": [CLOSED]}, False),
        ({}, False),
    ],
)
def test_a_schema_is_strict_where_openai_would_take_it(schema: dict[str, Any], strict: bool) -> None:
    told = fields_of(Form("schema", json.dumps(schema)))["response_format"]["json_schema"]
    assert told == {"name": "reply", "schema": schema} | ({"strict": True} if strict else {})


@given(st.lists(st.text(min_size=1, max_size=128), min_size=1, max_size=20, unique=True))
def test_functions_have_names_that_endpoints_take_each_its_own(names: list[str]) -> None:
    aliases = aliases_of(Form("tools", json.dumps({name: {} for name in names})))
    assert sorted(aliases.values()) == sorted(names)
    assert all(0 < len(alias) <= MAX_FUNCTION and alias.isascii() and not set(alias) & set(". /") for alias in aliases)


def test_names_that_only_differ_in_what_is_not_taken() -> None:
    names = ["a.b", "a/b", "a_b", *("x" * 70 + str(number) for number in range(12))]
    assert list(aliases_of(Form("tools", json.dumps({name: {} for name in names})))) == [
        "a_b", "a_b_2", "a_b_3", "x" * 64, *("x" * 60 + f"_{number}" for number in range(2, 13)),
    ]  # fmt: skip


@given(st.dictionaries(st.text(max_size=5), st.integers()), st.data())
def test_a_call_in_any_pieces_is_its_text(arguments: dict[str, int], data: st.DataObject) -> None:
    text, rest = CallText(Form("tools", '{"a.b": {}}')), json.dumps(arguments)
    parts = [CallPart(0, "a_b")]
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        parts.append(CallPart(0, "", rest[:size]))
        rest = rest[size:]
    parts.append(CallPart(1, "a_b", "{}"))
    said = "".join(text.push((part,)) for part in parts) + text.end()
    assert json.loads(said) == {"name": "a.b", "arguments": arguments}


def test_a_reply_without_a_call_has_nothing_to_end() -> None:
    text = CallText(Form("tools", '{"a": {}}'))
    assert text.push((CallPart(0, "", "{}"),)) + text.end() == ""
