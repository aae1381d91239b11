"""``llmos.sync``: boot and connect for programs without an event loop. See sdk/sync.py."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from llmos.sdk.sync import Blocking, run
from llmos.services.init.connect import connect as _connect

__all__ = ["boot", "connect"]


def boot(model: str | None = None, **settings: Any) -> AbstractContextManager[Blocking]:
    """The same as `llmos.boot`, as a plain context manager. The system and all it gives wait instead of being awaited."""
    from llmos.services.init.boot import boot as booted  # it takes its time to import, and who connects needs none of it

    return run(partial(booted, model, **settings))


def connect(path: Path | str | None = None, **options: Any) -> AbstractContextManager[Blocking]:
    """The same as `llmos.connect`, as a plain context manager."""
    return run(partial(_connect, path, **options))
