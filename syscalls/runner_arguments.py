"""The arguments of the calls about runners. Given out by abi.py, like those of arguments.py."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from . import param
from .arguments import Arguments, Handle, Model, Pid

Place: TypeAlias = Annotated[str, Field(min_length=1, max_length=param.MAX_PLACE, pattern=param.PLACE)]
"""An absolute path on the machine."""


class Run(Arguments):
    """A program, and the child in which it is to run."""

    pid: Pid
    kind: Literal["python", "agent"] = "python"
    """python: "module:function" or "/path/file.py:function". agent: `program` is the agent's name, and it is among the arguments."""
    program: Annotated[str, Field(min_length=1, max_length=param.MAX_PROGRAM, pattern=r"^[^\x00-\x1f\x7f]+$")]
    arguments: Annotated[bytes, Field(max_length=param.MAX_ARGUMENTS)] = b""
    """A list as msgpack; empty for none."""
    stdin: Handle
    stdout: Handle
    stderr: Handle
    model: Model | None = None
    folder: Place | None = None
    """Where it runs; None: the root."""
    path: Annotated[list[Place], Field(max_length=param.MAX_PLACES, fail_fast=True)] = Field(default_factory=list)
    """Where its modules are looked for, before the daemon's own places."""
    folders: Annotated[list[Place], Field(max_length=param.MAX_PLACES, fail_fast=True)] = Field(default_factory=list)
    """Where agents are looked for."""
    detached: bool = False
    """It outlives the client that spawned it."""
    memory: Annotated[int, Field(ge=64 << 20, le=1 << 46)] | None = None
    """Bytes that each of its OS processes may have; None: as the daemon's settings say. The same for the other."""
    cpu_seconds: Annotated[int, Field(ge=1, le=10**9)] | None = None


class Begun(Arguments):
    """Whether the program was found; 0 says that it was."""

    errno: Annotated[int, Field(ge=0, le=4096)] = 0
    message: Annotated[str, Field(max_length=param.MAX_REASON)] = ""
