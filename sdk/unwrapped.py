"""Unwrapped: a fault out of a task group as itself, for whoever asked for one thing and need not know that tasks did it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unwrapped() -> Iterator[None]:
    """Without the group that a task group makes of one fault; of several, the first. Stands around the task group."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
