"""Calls: one system call under way, and the record of those that were made.

A record is written before a call takes effect (the intent) and completed after it (the result), under the call's id: the
process, the path of the task that made it, and its number in that task. It is in memory and bounded: the oldest go first.
Arguments and results above a bound are remembered by their size only. A call that was refused before it began has its line too.
Knows nothing of handlers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import param
from .abi import Arguments, Piece, Request

if TYPE_CHECKING:
    from .channel import Channel
    from .table import Row


REFUSED = -1
"""A capability that is not held; init, whose pid this would be, answers nothing."""


@dataclass(slots=True)
class Record:
    """One line of the record."""

    pid: int
    path: str
    sequence: int
    name: str
    replayable: bool
    begun: float
    arguments: Arguments | None
    """None if they are longer than MAX_RECORDED."""
    size: int
    """Characters, bytes and tokens in the arguments."""
    ended: float | None = None
    """None while the call is under way."""
    error: str = ""
    """The errno of the fault it ended with; empty if it was done."""
    result: Any = None
    """What it gave; None until then, and if it is longer than MAX_RECORDED."""
    result_size: int = 0
    """The same as `size`, in the result; of many parts of one kind about."""


_ONE = frozenset({int, float, bool})
"""What takes no looking into: it is most of what calls carry."""


def _size(value: Any) -> int:
    if (kind := type(value)) in _ONE:
        return 1
    if value is None:
        return 0
    if kind is str or isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Arguments):
        return sum([_size(part) for part in value.__dict__.values()])
    if (names := getattr(type(value), "__dataclass_fields__", None)) is not None:
        return sum([_size(getattr(value, name)) for name in names])
    if isinstance(value, tuple):  # of a result: many processes, or log-probabilities; each is taken to be as long as the first
        return len(value) * _about(value[0]) if value else 0
    if isinstance(value, list):
        # A million token ids need no look each; all else in lists has a length of its own, and counts as an entry besides.
        return len(value) if value and type(value[0]) is int else sum(map(_size, value)) + len(value)
    return 1


def _about(value: Any) -> int:
    """The same without looking into what is in it."""
    names = getattr(type(value), "__dataclass_fields__", None)
    return _size(value) if names is None else sum([len(part) if isinstance(part := getattr(value, name), str) else 1 for name in names])


class Ledger:
    """The record, newest last. Invariant: at most `bound` lines; every call under way or over has had its line."""

    __slots__ = ("_lines", "count", "errors")

    def __init__(self, bound: int = param.MAX_RECORDS) -> None:
        self._lines: deque[Record] = deque(maxlen=bound)
        self.count = 0
        self.errors = 0

    def intend(self, request: Request, row: Row, arguments: Arguments, now: float) -> Record:
        """Written before the call takes effect."""
        size = _size(arguments)
        kept = arguments if size <= param.MAX_RECORDED else None
        record = Record(request.pid, request.path, request.sequence, row.name, row.replayable, now, kept, size)
        self._lines.append(record)
        self.count += 1
        return record

    def refuse(self, request: Request, arguments: Arguments | None, now: float, error: str) -> None:
        """A call that never came to be: refused at the door. Of one whose arguments made no sense, they are not kept."""
        size = _size(arguments)
        kept = arguments if size <= param.MAX_RECORDED else None
        self._lines.append(Record(request.pid, request.path, request.sequence, request.name[:64], True, now, kept, size, now, error))
        self.count += 1
        self.errors += 1

    def complete(self, record: Record, now: float, result: Any = None, error: str = "") -> None:
        """Written after it."""
        record.ended, record.error, record.result_size = now, error, _size(result)
        record.result = result if record.result_size <= param.MAX_RECORDED else None
        self.errors += bool(error)

    def find(self, pid: int, path: str, sequence: int) -> Record | None:
        """The call with this id, if it is still remembered."""
        return next((line for line in reversed(self._lines) if (line.sequence, line.pid, line.path) == (sequence, pid, path)), None)

    def of(self, pid: int) -> list[Record]:
        """What is remembered of a process's calls."""
        return [record for record in self._lines if record.pid == pid]


@dataclass(slots=True, eq=False)
class Call:
    """One call under way. A handler that sleeps is a coroutine in `body`, on at most one channel."""

    request: Request
    row: Row
    arguments: Arguments
    record: Record
    body: Coroutine[Any, Any, Any] | None = None
    channel: Channel | None = None
    blocked: str = ""
    """What the kernel's account was told that the process is blocked on; empty if it was not told."""
    ticket: int = 0
    """Changes with every sleep: tells late results of work elsewhere from awaited ones."""
    over: bool = False
    permits: dict[str, int] = field(default_factory=dict)
    """Capabilities that this call wanted -> 0 if the process holds them outright, the pid of whoever approved, the negative pid of whoever
    denied, or REFUSED."""

    @property
    def pid(self) -> int:
        return self.request.pid

    def push(self, piece: Piece) -> None:
        """Give the caller part of the result."""
        self.request.sink.push(piece)
