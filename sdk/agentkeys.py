"""The keys of an agent file: which there are, their bounds, and what is said of one that is wrong: its line, and the nearest key.

Apart from agentfile.py because a file is checked by pydantic, which a program that starts no agent need not import.
"""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from llmos.syscalls.abi import (
    Arguments,
    BadFormat,
    Capability,
    ClassName,
    LimitsArguments,
    Model,
    Name,
    Nice,
    Sampled,
    Text,
    ToolName,
    param,
    refusal,
)
from llmos.syscalls.schema import Schema

from .agentfile import GIVEN, MOST_AT_ONCE
from .builtin import NAMES, PREFIX

MOST_MISTAKES = 20
"""Told of one file."""


def _there(name: str) -> str:
    """A name that begins as those of built-in tools do is one of them."""
    if name.startswith(PREFIX) and name not in NAMES:
        near = get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(NAMES)}"
        raise ValueError(f"there is no built-in tool {name!r}; {hint}")
    return name


class Example(Arguments):
    """A turn that comes before the first."""

    input: Text
    output: Text
    call: Text | None = None
    result: Text | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.call is None) != (self.result is None):
            raise ValueError("of call and result there are both or none")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        """In the order in which they were said."""
        return (self.input, self.output) if self.call is None or self.result is None else (self.input, self.call, self.result, self.output)


class Keys(Arguments):
    """The keys of a file and their bounds."""

    name: Name | None = None
    description: Annotated[str, Field(max_length=1_000)] = ""
    model: Model | None = None
    system: Text | None = None
    prompt: Text = "{input}"
    input: Literal["line", "all", "none"] = "all"
    cls: Annotated[ClassName | None, Field(alias="class")] = None
    nice: Nice | None = None
    max_turns: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    separator: Annotated[str, Field(max_length=64)] = "\n"
    tools: Annotated[list[Annotated[ToolName, AfterValidator(_there)]], Field(max_length=64)] = []  # noqa: RUF012 - pydantic copies it
    call: bool = False
    direct: bool = False
    capabilities: Annotated[list[Capability], Field(max_length=param.MAX_CAPABILITIES)] | None = None
    examples: Annotated[list[Example], Field(max_length=64)] = []  # noqa: RUF012 - as above
    rounds: Annotated[int, Field(ge=1, le=1_000)] = 8
    limits: LimitsArguments = LimitsArguments()
    sampling: Sampled = Sampled()
    output_schema: dict[str, Any] | Annotated[str, Field(max_length=param.MAX_FILE_PATH)] | None = None
    input_schema: dict[str, Any] | Annotated[str, Field(max_length=param.MAX_FILE_PATH)] | None = None
    each: Name | None = None
    at_once: Annotated[int, Field(ge=1, le=MOST_AT_ONCE)] | None = None


def checked(raw: dict[str, Any], text: str, source: str) -> Keys:
    """What TOML made of a text, if it is an agent. Raises BadFormat with a line for each mistake."""
    try:
        return Keys.model_validate(raw)
    except ValidationError as error:
        wrong = [(line_of(text, each["loc"]), _wrong(each)) for each in error.errors(include_url=False)[:MOST_MISTAKES]]
        raise BadFormat("\n".join(f"{source}, line {line}: {what}" for line, what in sorted(wrong))) from None


def schema_of(given: dict[str, Any] | str | None, key: str, source: str, line: int) -> str | None:
    """A JSON schema, as text, from a table, or the path of a file beside the agent's. Raises BadFormat."""
    if given is None or (given == GIVEN and key == "output_schema"):
        return given
    try:
        if isinstance(given, str):
            with (Path(source).parent / Path(given).expanduser()).open("rb") as file:
                text = file.read(param.MAX_SCHEMA * 4 + 1).decode()
        else:
            text = json.dumps(given, allow_nan=False)
        if len(text) > param.MAX_SCHEMA:
            raise ValueError(f"it is longer than {param.MAX_SCHEMA} characters")
        wrong = Schema(key, text).problem()
    except OSError as error:
        wrong = f"{given} cannot be read: {error.strerror}"
    except (TypeError, ValueError, RuntimeError) as error:
        wrong = str(error)
    if wrong:
        raise BadFormat(f"{source}, line {line}: {key} is no JSON schema: {wrong}")
    return text


def _keys(section: tuple[str | int, ...]) -> list[str]:
    """The keys that a table of the file may have."""
    models: dict[str, type[BaseModel]] = {"limits": LimitsArguments, "sampling": Sampled, "examples": Example}
    model = models.get(str(section[0]), Keys) if section else Keys
    return [field.alias or name for name, field in model.model_fields.items()]


def _wrong(error: Any) -> str:
    *section, key = error["loc"]
    if error["type"] == "extra_forbidden":
        keys = _keys(tuple(section))
        near = get_close_matches(str(key), keys, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(keys)}"
        return f"there is no key {str(key)[:64]!r}{f' in [{section[0]}]' if section else ''}; {hint}"
    return f"{'.'.join(str(part) for part in error['loc'])!r} {refusal(error)}"


def line_of(text: str, place: tuple[str | int, ...]) -> int:
    """The line, from 1, on which a key stands; its table's if it cannot be told."""
    section, key = (str(place[0]), str(place[1])) if len(place) > 1 and isinstance(place[1], str) else ("", str(place[0]))
    table, best, quote = "", 1, ""
    for number, line in enumerate(text.splitlines(), 1):
        if quote:  # inside a string of several lines nothing is a key
            quote = "" if quote in line else quote
            continue
        header = re.match(r"\s*\[+\s*['\"]?([^'\"\]]+?)['\"]?\s*\]+", line)
        if header:
            table = header[1]
            if table in (section or key, f"{section}.{key}"):
                best = number
            continue
        start = re.match(r"\s*(['\"]?)([^'\"=.]+?)\1\s*(?:\.\s*(['\"]?)([^'\"=]+?)\3\s*)?=\s*(.*)", line)
        if not start:
            continue
        names = (start[2], start[4])
        if (table == section and names[0] == key) or (not table and names == (section, key)):
            return number
        if not table and names[0] == (section or key):
            best = number
        for mark in ('"""', "'''"):
            if start[5].startswith(mark) and mark not in start[5][3:]:
                quote = mark
    return best
