"""The arguments of the calls of the tool family. Schemas and arguments of tools cross as JSON text: one string, however deep.

Given out by abi.py, as those of arguments.py are.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from . import param
from .arguments import Arguments, Capability, Count, Handle, ToolName

Seconds: TypeAlias = Annotated[float, Field(gt=0, le=param.MAX_TOOL_SECONDS)]


class ToolSpec(Arguments):
    """What is said of a tool that is offered."""

    name: ToolName
    description: Annotated[str, Field(max_length=param.MAX_TOOL_DESCRIPTION)] = ""
    schema_: Annotated[str, Field(max_length=param.MAX_TOOL_SCHEMA, alias="schema")]
    """JSON schema of its arguments, an object."""
    seconds: Seconds = param.TOOL_SECONDS
    """How long a call may take."""
    needs: Annotated[list[Capability], Field(max_length=param.MAX_TOOL_NEEDS, fail_fast=True)] = []  # noqa: RUF012 - pydantic copies it
    """What a caller must hold besides tool:NAME, such as net:HOST for what it reaches."""


class ToolListArguments(Arguments):
    """A page of the tools: those whose names come after this one."""

    after: Annotated[str, Field(max_length=param.MAX_TOOL_NAME)] = ""
    limit: Annotated[int, Field(ge=1, le=param.MAX_TOOLS)] = param.MAX_TOOLS


class ToolCall(Arguments):
    name: ToolName
    arguments: Annotated[str, Field(max_length=param.MAX_TOOL_ARGUMENTS)] = "{}"
    """A JSON object."""
    seconds: Seconds | None = None
    """None: what the tool's offer says. Never more than that."""
    most: Annotated[int, Field(ge=256, le=param.MAX_TOOL_RESULT)] = param.TOOL_RESULT
    """Bytes of the result; what is beyond is cut out of its middle."""


class ToolOffer(Arguments):
    tools: Annotated[list[ToolSpec], Field(max_length=param.MAX_TOOLS, fail_fast=True)]
    offer: Handle | None = None
    """An offer of the caller's whose tools these replace; calls under way go on."""
    public: bool = False
    """For every process, not only the caller and those below it."""


class OfOffer(Arguments):
    offer: Handle


class ToolNext(Arguments):
    offer: Handle
    most: Annotated[int, Field(ge=1, le=param.TOOL_BATCH)] = param.TOOL_BATCH


class ToolAnswer(Arguments):
    offer: Handle
    call: Count
    text: Annotated[str, Field(max_length=param.MAX_TEXT)]
    is_error: bool = False
    missing: Count = 0
    """Bytes that were cut out of the text before it was sent."""
