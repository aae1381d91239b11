"""The matcher of grep: a program of its own, since a regular expression may take for ever, and nothing in Python can stop it.

    python -I -S matcher.py < frames > frames

A frame is a length in four bytes, and so many bytes. The first that comes in is the pattern after its flags, each other some lines;
for each goes out which of these match, four bytes a number. A pattern that is none is answered with one frame, and the end. It uses
the standard library alone and is never imported: whoever started it kills it when it is late.
"""

from __future__ import annotations

import re
import resource
import struct
import sys
from array import array
from typing import BinaryIO

MEMORY = 1 << 30


def _frame(stream: BinaryIO) -> bytes | None:
    head = stream.read(4)
    return stream.read(struct.unpack("<I", head)[0]) if len(head) == 4 else None


def _answer(data: bytes) -> None:
    sys.stdout.buffer.write(struct.pack("<I", len(data)) + data)
    sys.stdout.buffer.flush()


def main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    first = _frame(sys.stdin.buffer)
    if first is None:
        return 1
    flags, _, pattern = first.decode("utf-8", "surrogateescape").partition(" ")
    try:
        search = re.compile(pattern, re.IGNORECASE if "i" in flags else 0).search
    except (re.error, RecursionError, OverflowError) as error:
        _answer(str(error).encode())
        return 2
    _answer(b"")
    inverted = "v" in flags
    while (data := _frame(sys.stdin.buffer)) is not None:
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        _answer(array("I", [number for number, line in enumerate(lines) if (search(line) is None) == inverted]).tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
