"""Plain values: the results of calls as msgpack can carry them, and back.

    dataclass -> list of its fields      dict -> list of pairs      tuple -> list      many integers -> packed, 4 or 8 bytes each

Back, a value must be exactly of the type that the dataclass names; what is not raises ValueError. The shape is a digest of
every dataclass that may cross: two sides that would read each other's lists wrongly see it at their first message.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from functools import cache
from hashlib import blake2b
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import msgpack

from . import numbers
from .results import Piece

PACKED: Final = 64
"""Integers in a list from which on they are packed: msgpack would look at each, on both sides."""
_CODES: Final = {1: "i", 2: "q"}
"""Extension type -> how the integers in it lie, in the order of this machine's bytes: a socket never leaves it."""

Reader = Callable[[Any], Any]


class Packed(list[int]):
    """Integers that are packed where they are made: 20,000 of them would hold up the kernel's thread for a millisecond.

    Nobody changes it. Raises OverflowError for integers above 64 bits.
    """

    __slots__ = ("block",)

    def __init__(self, values: Iterable[int]) -> None:
        super().__init__(values)
        self.block = _block(self)


def packed(values: list[Any] | tuple[Any, ...]) -> Any:
    """Integers in a block; anything else as it is. Raises OverflowError for those above 64 bits."""
    if len(values) <= PACKED or set(map(type, values)) != {int}:
        return values
    return _block(values)


def _block(values: Sequence[int]) -> msgpack.ExtType:
    try:
        return msgpack.ExtType(1, array("i", values).tobytes())
    except OverflowError:
        return msgpack.ExtType(2, array("q", values).tobytes())


def unpacked(code: int, data: bytes) -> list[int]:
    """The same back, as msgpack's hook for extension types. Raises ValueError."""
    kind = _CODES.get(code)
    if kind is None:
        raise ValueError(f"there is no extension type {code}")
    values = array(kind)
    values.frombytes(data)  # raises ValueError if there is half a number
    return values.tolist()


def plain(value: Any) -> Any:
    """A result of plain values. Raises TypeError for what no result may hold."""
    kind: Any = type(value)
    if kind in _SIMPLE:
        return value
    if kind is Packed:
        return value.block
    if kind is list or kind is tuple:
        if value and type(value[0]) is int:
            return packed(value)
        return [plain(part) for part in value]
    if kind is dict:
        return [[plain(key), plain(part)] for key, part in value.items()]
    names = _names(kind)
    if names is not None:
        return [plain(getattr(value, name)) for name in names]
    if isinstance(value, Enum) and isinstance(value, int):
        return int(value)
    raise TypeError(f"a {kind.__name__} does not cross the wire")


_SIMPLE: Final = frozenset({int, str, float, bool, bytes, NoneType})


@cache
def _names(kind: Any) -> tuple[str, ...] | None:
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else None


def reader(kind: Any) -> Reader:
    """What turns a plain value into this type again, or raises ValueError."""
    return _reader(kind)


@cache
def _reader(kind: Any) -> Reader:
    origin = get_origin(kind)
    if origin is list:
        return _sequence(reader(get_args(kind)[0]), get_args(kind)[0], list)
    if origin is tuple:
        return _tuple(get_args(kind))
    if origin is dict:
        return _mapping(*map(reader, get_args(kind)))
    if origin in (Union, UnionType):
        return _optional(*(reader(part) for part in get_args(kind) if part is not NoneType))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _record(kind)
    if issubclass(kind, Enum):
        return _enumerated(kind)
    return _exactly(kind)


def _exactly(kind: type[Any]) -> Reader:
    fitting = (float, int) if kind is float else (kind,)

    def read(value: Any) -> Any:
        if type(value) not in fitting:
            raise ValueError(f"a {kind.__name__} was to come, not a {type(value).__name__}")
        return value

    return read


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError(f"a list was to come, not a {type(value).__name__}")
    return value


def _sequence(part: Reader, kind: Any, make: Callable[[Any], Any]) -> Reader:
    if kind is int:

        def numbers_of(value: Any) -> Any:
            if not set(map(type, _list(value))) <= {int}:
                raise ValueError("a list of integers was to come")
            return make(value)

        return numbers_of
    return lambda value: make([part(each) for each in _list(value)])


def _tuple(kinds: tuple[Any, ...]) -> Reader:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return _sequence(reader(kinds[0]), kinds[0], tuple)
    parts = [reader(kind) for kind in kinds]
    return lambda value: tuple([part(each) for part, each in zip(parts, _list(value), strict=True)])


def _mapping(key: Reader, part: Reader) -> Reader:
    def read(value: Any) -> Any:
        pairs = [_list(pair) for pair in _list(value)]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError("pairs were to come")
        return {key(pair[0]): part(pair[1]) for pair in pairs}

    return read


def _optional(part: Reader) -> Reader:
    return lambda value: None if value is None else part(value)


def _enumerated(kind: type[Any]) -> Reader:
    return lambda value: kind(_exactly(int)(value))


def _record(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    parts = [reader(hints[field.name]) for field in dataclasses.fields(kind)]

    def read(value: Any) -> Any:
        return kind(*[part(each) for part, each in zip(parts, _list(value), strict=True)])

    return read


def _described(kind: type[Any]) -> str:
    return f"{kind.__name__}({', '.join(f'{field.name}: {field.type}' for field in dataclasses.fields(kind))})"


def _shape() -> str:
    """Every call's number and result, and every dataclass that such a result may hold, by the names and types of its fields."""
    lines = [f"{number} {name} {kind.__name__}" for name, (number, kind) in sorted(numbers.CALLS.items())]
    seen: set[type[Any]] = set()
    waiting: list[Any] = [kind for _, kind in numbers.CALLS.values()] + [Piece]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            if kind not in seen:
                seen.add(kind)
                waiting += get_type_hints(kind).values()
        else:
            waiting += get_args(kind)
    lines += sorted(map(_described, seen))
    return blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


@cache
def shape() -> str:
    """The digest of what may cross."""
    return _shape()
