"""Jobs: what a runner is told of a program, so that it finds there what the client would have found here.

A reference goes as it is, with the folders in which this client looks for modules; an agent goes whole. Nothing is imported here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmos.syscalls.abi import InvalidArgument, param

from .agentfile import AgentFile
from .arguments import words_of

_TO_SPAWN = ("proc:spawn", "pipe:*")


def job_of(program: str | AgentFile, args: tuple[Any, ...], folders: tuple[Path, ...]) -> dict[str, Any]:
    """Arguments of the run call. Raises InvalidArgument for what does not cross to another OS process, TooLong."""
    from llmos.syscalls.wire import pack_arguments

    if isinstance(program, AgentFile):
        kind, name = "agent", program.name
        packed = pack_arguments((asdict(program), words_of(args)), param.MAX_ARGUMENTS)
    else:
        kind, name = "python", _absolute(program)
        packed = pack_arguments(args, param.MAX_ARGUMENTS)
    return {
        "kind": kind,
        "program": name,
        "arguments": packed,
        "folder": _here(),
        "path": _places(sys.path),
        "folders": _places(map(str, folders)),
    }


async def rights(program: Any, find: Callable[[str], Awaitable[Any]]) -> tuple[list[str] | None, set[str]]:
    """Capabilities and tools of an agent, as its file says; None if it says nothing of capabilities.

    One that puts lines to another (`each`) must hold what that one is to hold, to give it. Raises what `find` raises.
    """
    capabilities: list[str] | None = None
    tools: set[str] = set()
    chain: list[str] = []
    while isinstance(program, AgentFile):
        tools.update(program.offered)
        if capabilities is None and program.capabilities is not None:
            capabilities = list(dict.fromkeys([*program.capabilities, *(_TO_SPAWN if chain else ())]))
        if program.each is None or program.each in chain:
            break
        chain.append(program.each)
        program = await find(program.each)
    return capabilities, tools


def demand_bound(value: Any, what: str) -> None:
    """None, or a whole number. Its bounds are the ABI's."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise InvalidArgument(f"{what} must be a whole number, not a {type(value).__name__}")


def _absolute(reference: str) -> str:
    place, _, name = reference.rpartition(":")
    if place == "__main__":
        raise InvalidArgument(
            f"{reference} cannot be run in another OS process, whose __main__ is another: name its file, as in file.py:{name}"
        )
    return f"{Path(place).expanduser().absolute()}:{name}" if place.endswith(".py") else reference


def _here() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _places(places: Any) -> list[str]:
    """Folders as absolute paths, each once; what is none is left out, and so is this Python's own: the runner's may be another."""
    here, own = _here() or "/", os.path.dirname(os.__file__)
    found = dict.fromkeys(os.path.join(here, place) for place in places)
    for place in (own, os.path.join(own, "lib-dynload")):
        found.pop(place, None)
    return [place for place in found if len(place) <= param.MAX_PLACE and os.path.isdir(place)][: param.MAX_PLACES]
