"""``llmos.sync``: boot for programs without an event loop. See sdk/sync.py."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from llmos.sdk.sync import Blocking, run

from .boot import boot as _boot

__all__ = ["boot"]


def boot(model: str | None = None, **settings: Any) -> AbstractContextManager[Blocking]:
    """The same as `llmos.boot`, as a plain context manager. The system and all it gives wait instead of being awaited."""
    return run(partial(_boot, model, **settings))
