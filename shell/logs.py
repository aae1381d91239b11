"""`llmos logs`: the end of what the daemon wrote, and with follow what it writes.

A log may be of any length, and hold what models and tools said: it is read in pieces of PIECE bytes at most, from its end, and shown with
nothing in it that a terminal would obey. Needs no daemon.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

import llmos
from llmos.services.init.place import daemon_folder, home_of

from .terminal import VISIBLE

PIECE = 1 << 16
"""Bytes that are read at once, of a line too."""


def logs(found: argparse.Namespace) -> int:
    """Print the last lines. Raises NotFound if there is no log."""
    path = daemon_folder(home_of(found.home)) / "log"
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below, by the with
    except FileNotFoundError:
        raise llmos.NotFound(f"there is no log at {path}: no daemon was started with llmos up") from None
    with file:
        file.seek(start_of_last(file, found.lines))
        for piece in chain(_rest(file), _following(file) if found.follow else ()):
            sys.stdout.write(piece.decode(errors="replace").translate(VISIBLE))
            sys.stdout.flush()
    return 0


def start_of_last(file: BinaryIO, lines: int) -> int:
    """Where the last so many lines of a file begin, in bytes."""
    at = file.seek(0, os.SEEK_END)
    left = lines
    last = True  # the newline at the very end ends a line, and begins none
    while at > 0:
        size = min(PIECE, at)
        at -= size
        file.seek(at)
        block = file.read(size)
        end = len(block)
        if last:
            end -= block.endswith(b"\n")
            last = False
            if left <= 0:
                return at + size
        while (found := block.rfind(b"\n", 0, end)) >= 0:
            left -= 1
            if left == 0:
                return at + found + 1
            end = found
    return 0


def _rest(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.readline(PIECE):
        yield piece


def _following(file: BinaryIO) -> Iterator[bytes]:
    """What is written from now on, until Ctrl-C. A file has nothing that could be waited on."""
    while True:
        if piece := file.readline(PIECE):
            yield piece
        else:
            time.sleep(0.2)
