"""Tools: what a program offers for others to call, and what one of them says.

    Tool.of(function)      its name, the schema of its arguments and its description from the signature and the docstring
    Tool(...)              anything else: `run` is given what was asked and says something

A function that is not async runs in a thread of its own. Whatever it raises, or gives that has no form as text, is an error that the
caller reads: it never ends who offers it. Makes no system call: see offer.py.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from dataclasses import asdict, dataclass, is_dataclass
from inspect import isawaitable, iscoroutinefunction
from typing import Any

import anyio

from llmos.syscalls.abi import InvalidArgument, Panic, cut, param

MAX_THREADS = 256
"""Calls of functions that are not async, of one tool, at once. One that hangs stays among them: a thread cannot be killed."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One call, as a tool sees it."""

    arguments: str
    """A JSON object that fits the tool's schema."""
    most: int
    """Bytes of text that are wanted at most."""
    seconds: float
    """Until the deadline. It is kept by who called: `run` is cancelled then."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a tool answers."""

    text: str
    is_error: bool = False
    missing: int = 0
    """Bytes that were cut out of the text."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool to offer."""

    name: str
    description: str
    schema: dict[str, Any]
    """JSON schema of the arguments, an object."""
    run: Callable[[Asked], Awaitable[Said]]
    seconds: float = param.TOOL_SECONDS
    """How long a call may take."""
    needs: Sequence[str] = ()
    """Capabilities that a caller must hold besides tool:NAME, such as net:HOST for what it reaches."""

    @staticmethod
    def of(
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        seconds: float = param.TOOL_SECONDS,
        needs: Sequence[str] = (),
    ) -> Tool:
        """A function as a tool: type hints make the schema, the docstring says what it does and what its arguments are.

        Raises InvalidArgument for a signature that has no schema: `*args`, positional-only parameters, types without a JSON form.
        """
        from .signature import Signature  # pydantic takes 0.2 s to import

        signature = Signature(function)
        own = name if name is not None else str(getattr(function, "__name__", type(function).__name__))
        words = signature.description if description is None else description
        return Tool(own, words[: param.MAX_TOOL_DESCRIPTION], signature.schema, _Function(function, signature.read).run, seconds, needs)


class _Function:
    """A Python function that answers calls."""

    def __init__(self, function: Callable[..., Any], read: Callable[[str], dict[str, Any]]) -> None:
        self._function, self._read = function, read
        self._is_async = iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
        self._threads = 0

    async def run(self, asked: Asked) -> Said:
        try:
            arguments = self._read(asked.arguments)
            value = await self._function(**arguments) if self._is_async else await self._in_thread(arguments)
            return said(value, asked.most)
        except BaseException as error:
            if isinstance(error, Panic | KeyboardInterrupt | GeneratorExit) or _is_cancelled(error):
                raise
            return failed(error)

    async def _in_thread(self, arguments: dict[str, Any]) -> Any:
        """Run the function in a daemon thread: one that hangs must not hold up the end of the program."""
        if self._threads >= MAX_THREADS:
            raise InvalidArgument(f"{self._threads} calls of this function are under way or hang; wait for some of them")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        context = copy_context()

        def settle(value: Any, error: BaseException | None) -> None:
            self._threads -= 1
            if not future.done():
                future.set_result((value, error))

        def work() -> None:
            try:
                value, error = context.run(self._function, **arguments), None
            except BaseException as raised:  # noqa: BLE001 - it is raised again where the function was called
                value, error = None, raised
            try:
                loop.call_soon_threadsafe(settle, value, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                pass

        self._threads += 1
        threading.Thread(target=work, name="tool", daemon=True).start()
        value, error = await future
        if error is not None:
            raise error
        return await value if isawaitable(value) else value


def _is_cancelled(error: BaseException) -> bool:
    """Whether the call is cancelled, and not a task that the function had cancelled itself and awaited."""
    return isinstance(error, asyncio.CancelledError) and anyio.current_effective_deadline() == -math.inf


def said(value: Any, most: int) -> Said:
    """What a function gave, as text: text as it is, nothing as nothing, all else as JSON. Raises TypeError, ValueError."""
    if isinstance(value, Said):
        return value
    if isinstance(value, str):
        text = value
    elif value is None:
        text = ""
    elif isinstance(value, bytes | bytearray):
        text = bytes(value).decode(errors="replace")
    else:
        text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    text, missing = cut(text, most)
    return Said(text, False, missing)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    dump = getattr(value, "model_dump", None)  # a pydantic model
    return dump(mode="json") if callable(dump) else value


def failed(error: BaseException) -> Said:
    """What a tool raised, as the error that its caller reads. How that reads is the tool's own code too, and may raise."""
    try:
        words = str(error.args[0]) if isinstance(error, InvalidArgument) and error.args else f"{type(error).__name__}: {error}".rstrip(": ")
        return Said(cut(words, param.TOOL_RESULT)[0], True)
    except BaseException as second:  # noqa: BLE001 - not even a SystemExit out of its `__str__` may end who offers it
        return Said(f"{type(error).__name__}, whose text cannot be had: {type(second).__name__}", True)
