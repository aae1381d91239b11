"""Values: what a program is given and what it returns, as bytes between OS processes, and back. The bytes are msgpack.

None, numbers, text, bytes, lists and maps cross; a tuple arrives as a list. What does not cross is refused on the side that has
it, by name. No code is ever read from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from llmos.kernel.errno import IntegrityError, InvalidArgument, TooLong


def pack_arguments(args: tuple[Any, ...] | list[Any], most: int) -> bytes:
    """A program's arguments. Raises InvalidArgument, which names the one that does not cross, TooLong."""
    return _pack(list(args), most, "the arguments", lambda: _which(args))


def _which(args: tuple[Any, ...] | list[Any]) -> str:
    for number, value in enumerate(args, 1):
        try:
            msgpack.packb(value)
        except (TypeError, ValueError, OverflowError) as error:
            return f"argument {number}, a {type(value).__name__}, cannot be given to another OS process: {error}"
    return "these arguments cannot be given to another OS process"


def pack_value(value: Any, most: int) -> bytes:
    """What a program returned; empty for None. Raises InvalidArgument, TooLong."""
    if value is None:
        return b""
    return _pack(
        value,
        most,
        "what the program returned",
        lambda: f"the program returned a {type(value).__name__}, or one inside it, that cannot be given to another OS process",
    )


def _pack(value: Any, most: int, what: str, why: Callable[[], str]) -> bytes:
    try:
        data: bytes = msgpack.packb(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgument(f"{why()}; use None, numbers, text, bytes, lists and maps") from None
    if len(data) > most:
        raise TooLong(f"{what} takes {len(data)} bytes, more than the {most} there may be: put it into a file or a pipe")
    return data


def unpack(data: bytes) -> Any:
    """Either of them back. Raises IntegrityError."""
    if not data:
        return None
    try:
        return msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise IntegrityError(f"what came from the other OS process cannot be read: {type(error).__name__}") from None
