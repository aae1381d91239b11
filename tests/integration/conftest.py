"""A booted system on the dummy device, and the real model where a test asks for it."""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import llmos
from llmos.services.init.boot import catalogue_of
from llmos.services.init.daemon import listening, locked
from llmos.services.init.settings import read_settings

DEADLINE = 30.0
"""Seconds that nothing here takes unless it hangs."""

Boot = Callable[..., AbstractAsyncContextManager[llmos.System]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


SDK = (
    "agents", "approvals", "arguments", "embed", "ends", "files", "forms", "generation", "map", "processes", "remote", "remote_forms",
    "samples", "streams", "talk", "tools",
)  # fmt: skip
TWICE = {f"test_sdk_{name}" for name in SDK} | {"test_mcp_servers"}
"""Modules whose tests run on a booted system, and again as a client of a daemon."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "transport" in metafunc.fixturenames:
        twice = metafunc.module.__name__.rpartition(".")[2] in TWICE
        metafunc.parametrize("transport", ["boot", "connect"] if twice else ["boot"])


@pytest.fixture
def boot(tmp_path: Path, transport: str) -> Boot:
    """Boots with the dummy device and a home of its own; or starts a daemon in this OS process and connects to it."""
    if transport == "connect":
        return partial(connected, home=tmp_path, seed=1)
    return partial(llmos.boot, device="dummy", home=tmp_path, seed=1)


@asynccontextmanager
async def connected(model: str | None = None, *, home: Path, preload: bool = True, **given: Any) -> AsyncIterator[llmos.System]:
    """What boot gives, over a real socket."""
    settings = read_settings(model=model, home=home, device="dummy", runners=0, **given)
    with locked(home) as path:
        async with listening(settings, catalogue_of(settings, None), path, preload=preload), llmos.connect(home=home) as system:
            yield system


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
