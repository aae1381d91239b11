"""Capabilities: what a process may ask for. A child never holds more than its parent.

A capability is ``family:object``, such as ``llm:smollm2`` or ``proc:spawn``. A held pattern covers a wanted
capability if it is equal to it, ends in ``*`` and is a prefix of it, or is ``*``. Checks happen when a call executes.
"""

from __future__ import annotations

from collections.abc import Iterable

ALL = frozenset({"*"})

DEFAULT = frozenset({"llm:*", "proc:spawn", "pipe:*", "file:r:/proc/*", "file:r:/models/*", "file:r:/tools/*"})
"""What a process spawned without a word about capabilities holds, as far as its parent holds it."""


def covers(held: Iterable[str], wanted: str) -> bool:
    """True if some pattern in `held` covers `wanted`, which may itself be a pattern."""
    return any(h == wanted or (h.endswith("*") and wanted.startswith(h[:-1])) for h in held)


def attenuate(held: Iterable[str], wanted: Iterable[str]) -> frozenset[str]:
    """The part of `wanted` that `held` covers, narrowing patterns to what is held."""
    held, wanted = frozenset(held), frozenset(wanted)
    kept = {w for w in wanted if covers(held, w)}
    narrowed = {h for h in held if covers(wanted, h)}
    return frozenset(kept | narrowed)
