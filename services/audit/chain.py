"""The chain: what a line of the audit log is, and how each line holds the one before it.

    {"n": 7, ..., "hash": "<64 hex digits>"}        hash = BLAKE2b-256(hash of line n-1, the bytes of this line before `,"hash"`)

Lines are numbered from 1 without a gap, over all files. A file begins with a line of kind "file" that says once more what the line
before it hashed to, so that a file can be verified when those before it are gone. What a crash tore off at the end of a file is not a
line: the next file says how many bytes of it lie there and what they hash to, and so holds them too.

A change, a removal, an insertion, an exchange anywhere breaks the chain at that place. What it cannot show by itself: lines cut off at
the end, and a whole log written anew by whoever may write in the folder. Against the first there is `head`; against both a head
that was kept elsewhere. Reads and writes no files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

GENESIS = "0" * 64
"""What comes before the first line."""
MAX_LINE = 16_384
"""Bytes of a line: what is longer was not written by this."""

_TAIL = len(',"hash":""}') + 64


_json = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain."""

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


START = Head(0, GENESIS)


class Broken(Exception):
    """The chain does not hold; says where and how."""


def digest(data: bytes) -> str:
    return blake2b(data, digest_size=32).hexdigest()


def forge(head: Head, record: dict[str, Any]) -> tuple[bytes, Head]:
    """The next line of a chain, with its newline, and the head after it."""
    body = _json({"n": head.number + 1, **record}).encode()[:-1]
    mark = digest(head.hash.encode() + body)
    return body + b',"hash":"' + mark.encode() + b'"}\n', Head(head.number + 1, mark)


def read_line(line: bytes) -> dict[str, Any]:
    """A line without its newline, as it claims to be. Raises Broken for what is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise Broken("is no line of an audit log") from None
    if not isinstance(found, dict) or type(found.get("n")) is not int or not isinstance(found.get("hash"), str):
        raise Broken("is no line of an audit log")
    return found


def follow(head: Head | None, line: bytes) -> tuple[dict[str, Any], Head]:
    """A line and the head after it, if it follows. None is for the first of those that are there. Raises Broken."""
    record = read_line(line)
    if head is None:
        previous = record.get("previous") if record.get("kind") == "file" else None
        if not isinstance(previous, str):
            raise Broken("is not how a file of the log begins: what was before it is missing")
        head = Head(record["n"] - 1, previous)
    if record["n"] != head.number + 1:
        raise Broken(f"has the number {record['n']} and should have {head.number + 1}: lines are missing, or were put in")
    mark = digest(head.hash.encode() + line[:-_TAIL])
    if line[-_TAIL:] != b',"hash":"' + mark.encode() + b'"}':
        raise Broken("does not follow from the line before it: one of them was changed")
    return record, Head(record["n"], mark)
