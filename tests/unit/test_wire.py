"""The wire: every message survives the trip, every result too, and no bytes do harm."""

from __future__ import annotations

import time
from typing import Any

import msgpack
import pytest

from llmos.kernel.errno import FAULTS
from llmos.kernel.process import Class
from llmos.kernel.view import ProcessView
from llmos.syscalls import param, wire
from llmos.syscalls.abi import Fault, Forked, InvalidArgument, Logprobs, Piece, ProcessList, Reply, Spawned, TokenList, TooLong
from llmos.syscalls.numbers import CALLS
from llmos.syscalls.plain import PACKED, Packed, plain, reader, unpacked
from llmos.syscalls.results import GenerationUsage
from llmos.syscalls.table import TABLE

PIECE = Piece("text", (1, 2), (Logprobs(-0.5, ((1, -0.5), (7, -2.0))),))


def call(**given: Any) -> wire.Call:
    return wire.Call(**{"id": 1, "pid": 2, "number": 30, "arguments": {}, "path": "0", "sequence": 3, "credit": 4, **given})


def packed(*values: Any) -> bytes:
    data: bytes = msgpack.packb(values)
    return data


@pytest.mark.parametrize(
    "message",
    [
        wire.Hello(wire.PROTOCOL, wire.shape(), "llmsh"),
        call(arguments={"text": "é", "data": b"\x00", "n": 1.5, "none": None, "messages": [{"role": "user", "content": "x"}]}),
        call(arguments={"tokens": list(range(1000))}),
        call(arguments={"tokens": [2**40] * 100}),
        wire.Cancel(1),
        wire.Credit(1, 64),
        wire.Ack(b"12345678"),
        wire.Claim(wire.PROTOCOL, wire.shape(), b"s" * 32),
        wire.Ping(),
        wire.Bye(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_a_client_sends_arrives(message: wire.FromClient) -> None:
    assert wire.decode_for_daemon(wire.encode(message)) == message
    with pytest.raises(wire.Malformed):
        wire.decode_for_client(wire.encode(message))


@pytest.mark.parametrize(
    "message",
    [
        wire.Welcome(2, 4711, "smollm2", 1),
        wire.Refused(1, 1, "no"),
        wire.Part(1, PIECE),
        wire.Part(1, Piece("", tuple(range(1000)))),
        wire.Failed(1, 22, "why"),
        wire.Ended(7),
        wire.Mark(b"12345678"),
        wire.Pong(),
        wire.Hangup("why"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_the_daemon_sends_arrives(message: wire.FromDaemon) -> None:
    assert wire.decode_for_client(wire.encode(message)) == message
    with pytest.raises(wire.Malformed):
        wire.decode_for_daemon(wire.encode(message))


VIEW = ProcessView(3, 1, "root", "é", "ready", "", Class.BATCH, -3, 5, 1, 0, 1.5, 2.5, None)


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("spawn", Spawned(3, 1, None, None, 4, 5, 6)),
        ("fork", Forked(Spawned(3, 1, 2, 3, 4, 5, 6), {1: 2, 3: 4})),
        ("ps", ProcessList([VIEW, VIEW], False)),
        ("context_tokens", TokenList(list(range(100_000)))),
        ("context_tokens", TokenList([])),
        ("generate", Reply("x" * 100, tuple(range(100)), "stop", PIECE.logprobs, GenerationUsage(1, 2, 3, 0.5, 0.25), 9)),
    ],
)
def test_a_result_is_the_same_dataclass_again(name: str, result: Any) -> None:
    arrived = wire.decode_for_client(wire.encode(wire.Result(1, result)))
    assert isinstance(arrived, wire.Result)
    again = wire.reader(CALLS[name][1])(arrived.value)
    assert again == result
    assert type(again) is type(result)
    if isinstance(again, ProcessList):
        assert again.processes[0].cls is Class.BATCH


def test_the_client_knows_the_numbers_and_results_of_the_table() -> None:
    assert {row.name: (row.number, row.result) for row in TABLE.values()} == CALLS
    for _, result in CALLS.values():
        wire.reader(result)


@pytest.mark.parametrize(
    "value",
    [[], [1], "x", None, [3, 1, None, None, 4, 5], [3, 1, None, None, 4, 5, "6"], [True, 1, 2, 3, 4, 5, 6], {}],
    ids=repr,
)
def test_a_result_of_another_shape_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        wire.reader(Spawned)(value)


@pytest.mark.parametrize("errno", sorted({*FAULTS, 0, 9999}))
def test_a_fault_comes_back_as_its_class(errno: int) -> None:
    fault = wire.fault_of(errno, "why")
    assert type(fault) is FAULTS.get(errno, Fault)
    assert fault.args == ("why",)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"text": "\ud800"}, "text must be valid Unicode"),
        ({"n": 1 << 70}, "n cannot be sent"),
        ({"n": [1 << 70] * 100}, "n cannot be sent"),
        ({"program": object()}, "program cannot be sent"),
        ({"deep": [{"x": {1, 2}}]}, "deep cannot be sent"),
    ],
)
def test_what_cannot_be_sent_is_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        wire.encode(call(arguments=arguments))


def test_too_much_is_too_long() -> None:
    wire.encode(call(arguments={"text": "x" * param.MAX_TEXT}))
    with pytest.raises(TooLong):
        wire.encode(call(arguments={"text": "x" * param.MAX_MESSAGE}))


def nested(depth: int, kind: bytes = b"\x91") -> bytes:
    return b"\x98" + packed(2, 1, 2, 30)[1:] + kind * depth


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\x91",
        packed(),
        packed("1"),
        packed(True),
        packed(99),
        packed(-1),
        packed(2**63),
        packed(1),
        packed(3, -1),
        packed(3, 2**53),
        packed(3, 1.0),
        packed(3, True),
        packed(3, "1"),
        packed(3, 1, 1),
        packed(4, 1, 0),
        packed(4, 1, param.MAX_CREDIT + 1),
        packed(5, b"x" * 17),
        packed(5, "x"),
        packed(6, None),
        packed(16, 1, 1, "m", 1),
        packed(2, 1, 2, 30, {}, "0", 3),
        packed(2, 1, 2, 30, [], "0", 3, 4),
        packed(2, 1, 2, 30, {}, "x" * (param.MAX_PATH + 1), 3, 4),
        packed(2, 1, 2, 30, {b"x": 1}, "0", 3, 4),
        packed(2, 1, 2, 1 << 17, {}, "0", 3, 4),
        packed(2, 1, 2, 30, {}, "0", 3, 4) + b"\xc0",
        packed(2, 1, 2, 30, {}, "0", 3, 4)[:-1],
        packed(2, 1, 2, 30, {"x": msgpack.ExtType(9, b"")}, "0", 3, 4),
        packed(2, 1, 2, 30, {"x": msgpack.ExtType(1, b"123")}, "0", 3, 4),
        msgpack.packb([2, 1, 2, 30, {1: 2}, "0", 3, 4]),
        msgpack.packb([2, 1, 2, 30, {"x": [None] * (param.MAX_ITEMS + 1)}, "0", 3, 4]),
        msgpack.packb([2, 1, 2, 30, {"x": [[[]] * 127] * 130}, "0", 3, 4]),
        b"\xa1\xff",
        nested(5),
        nested(1000),
        nested(1024),
        nested(1_000_000),
        nested(1000, b"\xdd\xff\xff\xff\xff"),
        nested(1000, b"\xdd\x00\x00\x10\x00"),
        nested(1000, b"\xdf\x00\x00\x10\x00"),
        b"\xc6\xff\xff\xff\xff",
        b"\x90" * 100,
        b"\xdc\xff\xff" + b"\x90" * 65535,
        b"x" * (param.MAX_MESSAGE + 1),
    ],
    ids=lambda data: f"{data[:12].hex()}-{len(data)}",
)
def test_nonsense_is_refused_quickly(data: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(wire.Malformed):
        wire.decode_for_daemon(data)
    assert time.perf_counter() - began < 1.0


def test_the_id_of_a_call_that_is_wrong_is_found() -> None:
    for data, number in ((packed(2, 7, "x", 30, {}, "0", 3, 4), 7), (packed(2, 7), 7), (packed(2, "7"), None), (packed(3, "7"), None)):
        with pytest.raises(wire.Malformed) as raised:
            wire.decode_for_daemon(data)
        assert raised.value.call == number


def test_any_two_versions_understand_that_they_do_not() -> None:
    hello = wire.decode_for_daemon(packed(1, wire.PROTOCOL + 1, {"all": "else"}))
    assert hello == wire.Hello(wire.PROTOCOL + 1, "", "")


def test_the_most_that_may_be_is_accepted() -> None:
    for arguments in (
        {"x": [None] * param.MAX_ITEMS},
        {"tokens": [7] * param.MAX_TOKENS},
        {"messages": [{"role": "user", "content": "x"}] * param.MAX_MESSAGES},
        {"x": "é" * (param.MAX_TEXT)},
    ):
        message = call(arguments=arguments)
        assert wire.decode_for_daemon(wire.encode(message)) == message


@pytest.mark.parametrize("values", [[], [1], [0, 2**31 - 1, -(2**31)] * 30, [2**31] * 100, [2**63 - 1]])
def test_integers_packed_elsewhere_cross_as_others_do(values: list[int]) -> None:
    """A reader sees a list of integers either way; short ones that were packed cross as a block too."""
    sent = plain(TokenList(Packed(values)))
    (back,) = msgpack.unpackb(msgpack.packb(sent), ext_hook=unpacked)
    assert back == values
    assert reader(TokenList)([back]) == TokenList(values)
    if len(values) > PACKED:
        assert sent == plain(TokenList(values))


def test_integers_too_great_to_pack() -> None:
    with pytest.raises(OverflowError):
        Packed([2**63])
