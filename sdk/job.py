"""Jobs: what a runner is told of a program, so that it finds there what the client would have found here.

A reference goes as it is, with the folders in which this client looks for modules; an agent goes whole. Nothing is imported here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmos.syscalls.abi import InvalidArgument, param

from .agentfile import AgentFile
from .arguments import listed, words_of


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


def granted(capabilities: Iterable[str] | None, agent: AgentFile | None) -> list[str] | None:
    """What a child is to hold, as its spawner says, or else as its file says; None if neither does."""
    if capabilities is None:
        return None if agent is None or agent.capabilities is None else list(agent.capabilities)
    return listed(capabilities, "capabilities")


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
