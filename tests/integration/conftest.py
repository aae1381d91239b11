"""A booted system on the dummy device, and the real model where a test asks for it."""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import anyio
import pytest

import llmos

DEADLINE = 30.0
"""Seconds that nothing here takes unless it hangs."""

Boot = Callable[..., AbstractAsyncContextManager[llmos.System]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    """Boots with the dummy device and a home of its own."""
    return partial(llmos.boot, device="dummy", home=tmp_path, seed=1)


@pytest.fixture
async def system(boot: Boot) -> AsyncIterator[llmos.System]:
    async with boot() as system:
        with anyio.fail_after(DEADLINE):
            yield system


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Whatever a test does, its system's threads end with it, and no coroutine is left unawaited."""
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("llmos")]
    gc.collect()
    assert not left
