"""What a person sees on standard error while a run goes on: lines, and under them, on a terminal, a bar."""

from __future__ import annotations

import sys
import time

WIDTH = 24


def say(text: str) -> None:
    """A line; a bar that was there goes."""
    print(("\r\x1b[K" if sys.stderr.isatty() else "") + text, file=sys.stderr, flush=True)


class Progress:
    """So many steps of `total`, and how long the rest takes if the rest is like what was. Draws nothing where nobody looks."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.begin = total, 0, time.monotonic()

    def __str__(self) -> str:
        filled = WIDTH * self.done // max(1, self.total)
        left = (time.monotonic() - self.begin) / self.done * (self.total - self.done) if self.done else None
        rest = "" if left is None else f", some {left / 60:.0f} min left" if left >= 60 else f", some {left:.0f} s left"
        return f"[{'#' * filled}{'.' * (WIDTH - filled)}] {self.done}/{self.total}{rest}"

    def show(self, doing: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{self} {doing}", end="", file=sys.stderr, flush=True)

    def step(self, count: int = 1) -> None:
        self.done += count
