"""Any message survives the trip; any bytes are understood or refused, and nothing else happens."""

from __future__ import annotations

import math
from typing import Any

import msgpack
from hypothesis import given, strategies as st

from llmos.kernel.device import Logprobs
from llmos.syscalls import param, wire
from llmos.syscalls.numbers import CALLS
from llmos.syscalls.results import Piece

ids = st.integers(0, param.MAX_ID)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | words | st.binary(max_size=40)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(words, inner, max_size=5), max_leaves=20)
tokens = st.lists(st.integers(0, 2**53), max_size=200)
numbers = st.floats(allow_nan=False, allow_infinity=False)
top = st.lists(st.tuples(st.integers(0, 2**31), numbers), max_size=3).map(tuple)
pieces = st.builds(Piece, words, tokens.map(tuple), st.lists(st.builds(Logprobs, numbers, top), max_size=3).map(tuple))

from_client = st.one_of(
    st.builds(wire.Hello, st.just(wire.PROTOCOL), st.text(max_size=9).filter(str.isascii), st.just("n")),
    st.builds(
        wire.Call,
        ids,
        ids,
        st.integers(0, 1 << 16),
        st.dictionaries(words, values | tokens, max_size=5),
        st.text("0123456789.", max_size=20),
        ids,
        st.integers(0, param.MAX_CREDIT),
    ),
    st.builds(wire.Cancel, ids),
    st.builds(wire.Credit, ids, st.integers(1, param.MAX_CREDIT)),
    st.builds(wire.Ack, st.binary(max_size=16)),
    st.builds(wire.Claim, st.just(wire.PROTOCOL), st.text(max_size=9).filter(str.isascii), st.binary(max_size=32)),
    st.just(wire.Ping()),
    st.just(wire.Bye()),
)
from_daemon = st.one_of(
    st.builds(wire.Welcome, ids, ids, words, ids),
    st.builds(wire.Refused, ids, st.integers(0, 4096), words),
    st.builds(wire.Part, ids, pieces),
    st.builds(wire.Failed, ids, st.integers(0, 4096), words),
    st.builds(wire.Ended, ids),
    st.builds(wire.Mark, st.binary(max_size=16)),
    st.just(wire.Pong()),
    st.builds(wire.Hangup, words),
)


@given(from_client)
def test_what_a_client_sends_arrives(message: wire.FromClient) -> None:
    assert wire.decode_for_daemon(wire.encode(message)) == message


@given(from_daemon)
def test_what_the_daemon_sends_arrives(message: wire.FromDaemon) -> None:
    assert wire.decode_for_client(wire.encode(message)) == message


def survives(data: bytes) -> None:
    for decode in (wire.decode_for_daemon, wire.decode_for_client):
        try:
            decode(data)
        except wire.Malformed:
            pass


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_understood(data: bytes) -> None:
    survives(data)


@given(st.lists(values, max_size=9))
def test_any_list_is_refused_or_understood(found: list[Any]) -> None:
    survives(msgpack.packb(found))


@given(from_client | from_daemon, st.data())
def test_a_damaged_message_is_refused_or_understood(message: Any, data: st.DataObject) -> None:
    whole = bytearray(wire.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    survives(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    survives(bytes(whole))


@given(values, st.sampled_from(sorted(CALLS)))
def test_any_value_is_read_as_a_result_or_refused(value: Any, name: str) -> None:
    kind = CALLS[name][1]
    try:
        result = wire.reader(kind)(value)
    except ValueError:
        return
    assert type(result) is kind
    assert not any(isinstance(getattr(result, field), float) and math.isnan(getattr(result, field)) for field in kind.__slots__)
