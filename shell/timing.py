"""`llmos boot`: one boot, one token, one shutdown, and how long each part took."""

from __future__ import annotations

import argparse
import sys
import time

import anyio

import llmos
from llmos.services.init.settings import read_settings

from .store import provide


def boot_timed(found: argparse.Namespace) -> int:
    """Boot the system as the options say. `found.began` is when the command began."""
    parts: list[tuple[str, float]] = []

    def mark(part: str) -> None:
        parts.append((part, time.monotonic()))

    mark("imports")
    settings = read_settings(model=found.model, device=found.device, home=found.home)
    provide(settings)
    mark("model in the store")

    async def run() -> None:
        async with llmos.boot(found.model, home=settings.home, device=settings.device) as system:
            mark("kernel")
            context = await system.open()
            mark("model loaded")
            await context.generate(user="Say a word.", max_tokens=1)
            mark("first token")
        mark("shutdown")

    anyio.run(run)
    if found.timing:
        before = found.began
        for part, at in parts:
            print(f"{part:<20} {at - before:8.3f} s", file=sys.stdout)
            before = at
        print(f"{'in all':<20} {before - found.began:8.3f} s")
    else:
        print(f"llmos {llmos.__version__}: {settings.model} on {settings.device} works")
    return 0
