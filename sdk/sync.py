"""The synchronous face: the same objects, for scripts and notebooks without a loop of their own.

    with llmos.sync.boot() as system:
        child = system.spawn("summarise", stdin=text)
        for piece in child.stdout: print(piece, end="")

A loop runs in a thread (anyio's blocking portal); every object of the sdk is wrapped in one generic `Blocking`, whose methods
wait for the coroutine's result and whose iteration waits for the next item. Not a second implementation: it knows no method
by name. Programs stay async functions and are given the unwrapped Process.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import wraps
from inspect import isawaitable
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from llmos.syscalls.abi import NotSupported, ShutDown

from .child import Child
from .context import Context
from .files import Files
from .generation import Generation
from .stream import Reader, Writer
from .system import System

_WRAPPED = (System, Child, Context, Files, Generation, Reader, Writer)


class Blocking:
    """An object of the sdk whose awaitables are waited for."""

    def __init__(self, portal: BlockingPortal, inner: Any) -> None:
        self._portal, self._inner = portal, inner

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._inner) if not name.startswith("_")]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = _call(self._portal, getattr, self._inner, name)
        if not callable(value) or isinstance(value, _WRAPPED):
            return _wrap(self._portal, value)

        @wraps(value)
        def method(*args: Any, **kwargs: Any) -> Any:
            return _wrap(self._portal, _call(self._portal, _result, value, args, kwargs))

        return method

    def __iter__(self) -> Iterator[Any]:
        return _iterate(self._portal, self._inner)

    def result(self) -> Any:
        """Wait for the end of something that can be awaited, such as a generation."""
        return _wrap(self._portal, _call(self._portal, _await, self._inner))

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<sync {self._inner!r}>"


def _call(portal: BlockingPortal, function: Callable[..., Any], *args: Any) -> Any:
    """Run on the loop's thread and wait. Raises ShutDown if that has ended, NotSupported where it would wait for itself."""
    try:
        future = portal.start_task_soon(function, *args)
    except RuntimeError as error:
        if "not running" in str(error):
            raise ShutDown("the system has shut down; boot it again") from None
        raise NotSupported("a program is async and must not wait for its own loop; use the Process that it is given, and await") from None
    return future.result()


async def _result(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call on the loop's thread; wait for what is a coroutine. A generation runs by itself: it is given back as it is."""
    value = function(*map(_unwrap, args), **{name: _unwrap(value) for name, value in kwargs.items()})
    return value if isinstance(value, Generation) else await value if isawaitable(value) else value


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _unwrap(value: Any) -> Any:
    return value._inner if isinstance(value, Blocking) else value


def _wrap(portal: BlockingPortal, value: Any) -> Any:
    if isinstance(value, _WRAPPED):
        return Blocking(portal, value)
    if isinstance(value, tuple) and any(isinstance(part, _WRAPPED) for part in value):
        return tuple(_wrap(portal, part) for part in value)
    return _iterate(portal, value) if isinstance(value, AsyncIterable) else value


def _iterate(portal: BlockingPortal, source: AsyncIterable[Any]) -> Iterator[Any]:
    """Items as they come. Left early, the source is dropped on its own thread, which is what stops a generation."""
    holder = [_call(portal, aiter, source)]
    try:
        while True:
            try:
                item = _call(portal, _next, holder[0])
            except StopAsyncIteration:
                return
            yield _wrap(portal, item)
    finally:
        try:
            _call(portal, holder.clear)
        except ShutDown:  # it went with the system
            pass


async def _next(iterator: Any) -> Any:
    return await anext(iterator)


@contextmanager
def run(boot: Callable[[], AbstractAsyncContextManager[System]]) -> Iterator[Blocking]:
    """Run a boot in a thread of its own, and give its system."""
    with start_blocking_portal(backend="asyncio", name="llmos-sync") as portal, portal.wrap_async_context_manager(boot()) as system:
        yield Blocking(portal, system)
