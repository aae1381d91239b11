"""Tools that every agent file may name, offered by nobody: llmos.calculate, llmos.list_files, llmos.read_file, llmos.search_files.

    tools = ["llmos.calculate"]     run by the agent's own interpreter, in its own process, with its own capabilities

A path that the agent may not read is an error that its model reads. Whatever a tool gives is bounded.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from llmos.syscalls.abi import Cancelled, Fault, Interrupted, InvalidArgument, Panic, QuotaExceeded, ShutDown, ToolInfo, ToolResult

from .calculate import MAX_EXPRESSION, calculate

if TYPE_CHECKING:
    from .process import Process

PREFIX: Final = "llmos."
MAX_SHOWN: Final = 4_000
"""Characters of a file, or of a list, that a model is given."""
MAX_ENTRIES: Final = 200
"""Files of a folder that are listed, or searched in it and below."""
MAX_DEPTH: Final = 8
"""Folders in each other that are searched."""
MAX_SEARCHED: Final = 1 << 20
"""Bytes of a file; a longer one is not searched."""


async def _calculate(me: Process, expression: str) -> str:
    return calculate(expression)


async def _list(me: Process, path: str) -> str:
    lines: list[str] = []
    async for entry in me.files.entries(path):
        if len(lines) == MAX_ENTRIES:
            lines.append("... and more")
            break
        lines.append(f"{entry.name}/" if entry.kind == "folder" else entry.name)
    return "\n".join(lines) or "the folder is empty"


async def _read(me: Process, path: str) -> str:
    data = b""
    async for part in me.files.chunks(path):
        data += part
        if len(data) > 4 * MAX_SHOWN:
            break
    text = data.decode(errors="replace")
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "\n... and more"


async def _search(me: Process, path: str, words: str) -> str:
    if not words.strip():
        raise InvalidArgument("words must not be empty")
    found: list[str] = []
    seen = 0
    folders = [""]
    """Below `path`, with a slash at the end; those that are found are searched after the files beside them."""
    for folder in folders:
        async for entry in me.files.entries(f"{path.rstrip('/')}/{folder}"):
            seen += 1
            if seen > MAX_ENTRIES:
                return "\n".join([*found, "... and files that were not searched"])
            name = folder + entry.name
            if entry.kind == "folder" and name.count("/") < MAX_DEPTH:
                folders.append(f"{name}/")
            if entry.kind != "file" or entry.size > MAX_SEARCHED:
                continue
            text = (await me.files.read(f"{path.rstrip('/')}/{name}")).decode(errors="replace")
            found += [f"{name}:{n}: {line[:200]}" for n, line in enumerate(text.splitlines(), 1) if words.lower() in line.lower()]
    return "\n".join(found) or "no line has these words"


def _schema(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_PATH: Final = {"type": "string", "description": "such as /home", "maxLength": 1_000}
_WORDS: Final = {"type": "string", "maxLength": 200}
_TOOLS: Final[dict[str, tuple[str, dict[str, Any], Callable[..., Awaitable[str]]]]] = {
    "llmos.calculate": (
        "Computes an expression of numbers, + - * / // % ** and parentheses.",
        _schema(expression={"type": "string", "pattern": "^[-(0-9][-+*/%(). 0-9]{0,99}$"}),
        _calculate,
    ),
    "llmos.list_files": ("Lists the files of a folder.", _schema(path=_PATH), _list),
    "llmos.read_file": ("Reads a file.", _schema(path=_PATH), _read),
    "llmos.search_files": (
        "Finds lines with these words in the files of a folder and those below it.",
        _schema(path=_PATH, words=_WORDS),
        _search,
    ),
}
NAMES: Final = tuple(_TOOLS)


def info(name: str) -> ToolInfo:
    """What a model is told of one."""
    description, schema, _ = _TOOLS[name]
    return ToolInfo(name=name, description=description, schema=json.dumps(schema), seconds=0.0, public=False, offerer=0)


class Hands:
    """What an agent calls tools with: built-in ones here, others through the kernel."""

    def __init__(self, me: Process) -> None:
        self._me = me

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | str | None = None, /) -> ToolResult:
        if name not in _TOOLS:
            return await self._me.call_tool(name, arguments)
        _, schema, run = _TOOLS[name]
        try:
            text, wrong = await run(self._me, **_texts(arguments, schema["required"])), False
        except Fault as fault:
            if isinstance(fault, _FATAL):
                raise
            text, wrong = str(fault.args[0]), True
        return ToolResult(text=text[: 2 * MAX_SHOWN], is_error=wrong, missing=max(0, len(text) - 2 * MAX_SHOWN), seconds=0.0)


_FATAL: Final = (Interrupted, Cancelled, ShutDown, QuotaExceeded, Panic)
"""Faults of the process, not of the call."""


def _texts(arguments: Mapping[str, Any] | str | None, keys: list[str]) -> dict[str, str]:
    try:
        found = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, Mapping) or set(found) != set(keys) or not all(isinstance(each, str) for each in found.values()):
        raise InvalidArgument(f"the arguments are {', '.join(keys)}, each a text of at most {MAX_EXPRESSION} characters")
    if any(len(each) > MAX_EXPRESSION for each in found.values()):
        raise InvalidArgument(f"an argument has at most {MAX_EXPRESSION} characters")
    return dict(found)
