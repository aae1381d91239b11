"""The wire: the messages between a client and the daemon, as bytes and back. One message is one frame of msgpack.

    client -> daemon                                          daemon -> client
    Hello    protocol, shape, name                            Welcome  pid, daemon, model, sessions
    Claim    protocol, shape, secret    of a runner
    Call     id, pid, number, arguments, path, sequence,      Refused  protocol, errno, message
             credit                                           Part     id, piece
    Cancel   id                                               Result   id, value
    Credit   id, count      it has read pieces                Failed   id, errno, message
    Ack      nonce          it has read up to that mark       Ended    pid        a process has died
    Ping                                                      Mark     nonce
    Bye                                                       Pong, Hangup  message

A message is a list that begins with its kind. Hello and Refused keep their first two fields for ever, so that any two
versions understand that they do not understand each other. Whatever the bytes, `decode` gives a message or raises Malformed,
in memory that is a small multiple of their number: lists are short, their count is bounded, long lists of integers come
packed (plain.py). Knows no socket, and of the calls only their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias

import msgpack

from llmos.kernel.errno import FAULTS, Fault, InvalidArgument, TooLong

from . import param
from .numbers import CALLS
from .plain import Reader, packed, plain, reader, shape, unpacked
from .results import Piece
from .values import pack_arguments, pack_value, unpack

__all__ = [
    "CALLS", "PROTOCOL", "Ack", "Bye", "Call", "Cancel", "Claim", "Credit", "Ended", "Failed", "Hangup", "Hello", "Malformed", "Mark",
    "Part", "Ping", "Pong", "Reader", "Refused", "Result", "Welcome", "decode_for_client", "decode_for_daemon", "encode",
    "fault_of", "pack_arguments", "pack_value", "reader", "shape", "unpack",
]  # fmt: skip

PROTOCOL: Final = 1
"""Changes with the meaning of a message. What results look like is in `shape`."""


class Malformed(InvalidArgument):
    """Bytes that are no message, or a message of the wrong types. `call` is the id of the call it would have been, if that can be read."""

    def __init__(self, message: str, call: int | None = None) -> None:
        super().__init__(message)
        self.call = call


@dataclass(frozen=True, slots=True)
class Hello:
    protocol: int
    shape: str
    name: str
    """What the client's own process is to be called."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The hello of a runner: it is the process for which the daemon drew this secret."""

    protocol: int
    shape: str
    secret: bytes


@dataclass(frozen=True, slots=True)
class Call:
    id: int
    pid: int
    number: int
    arguments: Mapping[str, Any]
    path: str
    sequence: int
    credit: int
    """Pieces that may be sent before more credit is given."""


@dataclass(frozen=True, slots=True)
class Cancel:
    id: int


@dataclass(frozen=True, slots=True)
class Credit:
    id: int
    count: int


@dataclass(frozen=True, slots=True)
class Ack:
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    pass


@dataclass(frozen=True, slots=True)
class Bye:
    pass


@dataclass(frozen=True, slots=True)
class Welcome:
    pid: int
    """The process that stands for the client: the parent of what it spawns."""
    daemon: int
    """The daemon's pid in the machine's own system."""
    model: str
    """That of contexts that name none."""
    sessions: int
    """Clients connected, this one included."""


@dataclass(frozen=True, slots=True)
class Refused:
    protocol: int
    errno: int
    message: str


@dataclass(frozen=True, slots=True)
class Part:
    id: int
    piece: Piece


@dataclass(frozen=True, slots=True)
class Result:
    id: int
    value: Any
    """Read it with `reader` of the call's result."""


@dataclass(frozen=True, slots=True)
class Failed:
    id: int
    errno: int
    message: str


@dataclass(frozen=True, slots=True)
class Ended:
    pid: int


@dataclass(frozen=True, slots=True)
class Mark:
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    pass


@dataclass(frozen=True, slots=True)
class Hangup:
    message: str


FromClient: TypeAlias = Hello | Claim | Call | Cancel | Credit | Ack | Ping | Bye
FromDaemon: TypeAlias = Welcome | Refused | Part | Result | Failed | Ended | Mark | Pong | Hangup

# --- what each field may be

Check = Callable[[Any], bool]


def _whole(least: int = 0, most: int = param.MAX_ID) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def _words(most: int) -> Check:
    return lambda value: type(value) is str and len(value) <= most


def _bytes(most: int) -> Check:
    return lambda value: type(value) is bytes and len(value) <= most


def _map(value: Any) -> bool:
    return type(value) is dict and all(type(name) is str for name in value)


def _anything(value: Any) -> bool:
    return True


_ID, _SENTENCE, _NONCE = _whole(), _words(param.MAX_REPLY), _bytes(16)

_KINDS: Final[dict[int, tuple[type[Any], tuple[Check, ...]]]] = {
    1: (Hello, (_whole(), _words(64), _words(param.MAX_NAME))),
    2: (Call, (_ID, _ID, _whole(0, 1 << 16), _map, _words(param.MAX_PATH), _ID, _whole(0, param.MAX_CREDIT))),
    3: (Cancel, (_ID,)),
    4: (Credit, (_ID, _whole(1, param.MAX_CREDIT))),
    5: (Ack, (_NONCE,)),
    6: (Ping, ()),
    7: (Bye, ()),
    8: (Claim, (_whole(), _words(64), _bytes(32))),
    16: (Welcome, (_ID, _ID, _words(param.MAX_MODEL), _ID)),
    17: (Refused, (_whole(), _whole(0, 4096), _SENTENCE)),
    18: (Part, (_ID, _anything)),
    19: (Result, (_ID, _anything)),
    20: (Failed, (_ID, _whole(0, 4096), _SENTENCE)),
    21: (Ended, (_ID,)),
    22: (Mark, (_NONCE,)),
    23: (Pong, ()),
    24: (Hangup, (_SENTENCE,)),
}
_NUMBERS: Final = {kind: number for number, (kind, _) in _KINDS.items()}
_TO_CLIENT: Final = 16
"""Kinds from here on are the daemon's to send."""
_NAMES: Final = {kind: tuple(field.name for field in fields(kind)) for kind, _ in _KINDS.values()}

# --- out


def encode(message: FromClient | FromDaemon) -> bytes:
    """A message as bytes. Raises InvalidArgument for arguments that no message can carry."""
    kind = type(message)
    values = [getattr(message, name) for name in _NAMES[kind]]
    if isinstance(message, Call):
        return _pack_call(message, values)
    if isinstance(message, Part | Result):
        values[1] = plain(values[1])
    data: bytes = msgpack.packb([_NUMBERS[kind], *values])
    return data


def _pack_call(call: Call, values: list[Any]) -> bytes:
    """Only what a program gave can be unfit: it is told which argument it was."""
    try:
        values[3] = {name: packed(value) if type(value) is list else value for name, value in call.arguments.items()}
        data: bytes = msgpack.packb([_NUMBERS[Call], *values])
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument(_unfit(call.arguments, error)) from None
    if len(data) > param.MAX_MESSAGE:
        raise TooLong(f"the arguments take {len(data)} bytes, more than the {param.MAX_MESSAGE} of one call: break them up")
    return data


def _unfit(arguments: Mapping[str, Any], error: Exception) -> str:
    for name, value in arguments.items():
        try:
            msgpack.packb(value)
        except UnicodeEncodeError:
            return f"{name} must be valid Unicode text"
        except (TypeError, ValueError, OverflowError) as own:
            return f"{name} cannot be sent: {own}"
    return f"the arguments cannot be sent: {error}"


# --- in


class _Containers:
    """Counts the lists and maps of one message while it is unpacked."""

    __slots__ = ("left",)

    def __init__(self, most: int) -> None:
        self.left = most

    def count(self, container: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("too many lists and maps")
        return container


def decode_for_daemon(data: bytes) -> FromClient:
    """What a client sent. Raises Malformed. Trusts nothing."""
    if len(data) > param.MAX_MESSAGE:
        raise Malformed(f"a message of {len(data)} bytes is longer than the {param.MAX_MESSAGE} there may be")
    containers = _Containers(param.MAX_CONTAINERS)
    try:
        found = msgpack.unpackb(
            data, strict_map_key=True, ext_hook=unpacked, list_hook=containers.count, object_hook=containers.count,
            max_str_len=param.MAX_MESSAGE, max_bin_len=param.MAX_MESSAGE, max_ext_len=param.MAX_MESSAGE,
            max_array_len=param.MAX_ITEMS, max_map_len=param.MAX_ITEMS,
        )  # fmt: skip
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise Malformed(f"not a message: {type(error).__name__}") from None
    message: FromClient = _build(found, range(_TO_CLIENT))
    return message


def decode_for_client(data: bytes) -> FromDaemon:
    """What the daemon sent. Raises Malformed."""
    try:
        found = msgpack.unpackb(data, strict_map_key=True, ext_hook=unpacked)
        message: FromDaemon = _build(found, range(_TO_CLIENT, 256))
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise Malformed(f"not a message: {type(error).__name__}: {error}") from None
    return message


def _build(found: Any, kinds: range) -> Any:
    if type(found) is not list or not found or type(found[0]) is not int:
        raise Malformed("a message is a list that begins with its kind")
    number, *values = found
    if number not in kinds or number not in _KINDS:
        raise Malformed(f"there is no message of kind {number if abs(number) < 1 << 32 else 'so high'} from this side")
    kind, checks = _KINDS[number]
    if kind is Hello and values and _ID(values[0]) and values[0] != PROTOCOL:
        return Hello(values[0], "", "")
    call = values[0] if kind is Call and values and _ID(values[0]) else None
    if len(values) != len(checks):
        raise Malformed(f"{kind.__name__} has {len(checks)} fields, not {len(values)}", call)
    for name, check, value in zip(_NAMES[kind], checks, values, strict=True):
        if not check(value):
            raise Malformed(f"{kind.__name__}.{name} is not what it may be", call)
    if kind is Part:
        values[1] = reader(Piece)(values[1])
    return kind(*values)


def fault_of(errno: int, message: str) -> Fault:
    """The fault that was sent, of the same class."""
    return FAULTS.get(errno, Fault)(message)
