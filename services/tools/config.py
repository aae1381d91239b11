"""tools.toml: the file in a home that says which tools there are besides those that programs offer.

    [mcp.notes]                                         a server that speaks MCP; its tools are called notes.NAME
    command = ["python", "-m", "notes_server"]          started here, or:  url = "http://127.0.0.1:8000/mcp"

    [command.run]                                       one tool: a command in a sandbox
    argv = ["sh", "-c", "{line}"]                       {line} becomes a parameter
    description = "Runs a shell line in an empty folder, without network."
    seconds = 30                                        also: network, memory, processes, folder, read, stdin, env, sandbox

A file with an error is refused whole: the message names the line and the key, and the nearest key for one that does not exist.
"""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, model_validator

from llmos.sdk.agentkeys import line_of
from llmos.syscalls.abi import BadFormat, ToolName, param, refusal

MAX_BYTES = 1 << 20
MAX_ENTRIES = 64
"""Servers, and commands."""
HOLE = re.compile(r"\{([a-z_][a-z0-9_]{0,31})\}")
"""What in a command's arguments is a parameter."""

Word: TypeAlias = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]
Words: TypeAlias = Annotated[list[Word], Field(min_length=1, max_length=64)]
ServerName: TypeAlias = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9_-]+$")]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=param.MAX_TOOL_SECONDS)]
Texts: TypeAlias = Annotated[dict[Word, Word], Field(max_length=64)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Server(_Table):
    """A server that speaks MCP."""

    command: Words | None = None
    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://[^\s/@]+(/\S*)?$")] | None = None
    """Of streamable HTTP. Redirects away from it are not followed."""
    env: Texts = {}
    """Added to the few variables that the server is given; for a command."""
    folder: Word | None = None
    headers: Texts = {}
    """Sent with every request, for a url."""
    tools: Annotated[list[Word], Field(max_length=param.MAX_TOOLS)] | None = None
    """Only these."""
    seconds: Seconds = param.TOOL_SECONDS
    start_seconds: Seconds = 30.0

    @model_validator(mode="after")
    def _one_way(self) -> Server:
        if (self.command is None) == (self.url is None):
            raise ValueError('needs either command = [...] or url = "..."')
        if self.url is not None and not self.host:
            raise ValueError("has a url without a host")
        return self

    @property
    def host(self) -> str:
        """Where its url leads; nothing for a command."""
        return urlsplit(self.url or "").hostname or ""  # raises ValueError for half an address in brackets


class Command(_Table):
    """A command in a sandbox."""

    argv: Words
    description: Annotated[str, Field(max_length=param.MAX_TOOL_DESCRIPTION)] = ""
    parameters: Texts = {}
    """What each parameter means."""
    stdin: Annotated[str, Field(max_length=65_536)] = ""
    network: bool = False
    memory: Annotated[ByteSize, Field(ge=16 << 20, le=1 << 46)] = ByteSize(512 << 20)
    """Of all its processes together, and of its private folders each."""
    processes: Annotated[int, Field(ge=1, le=32_768)] = 64
    seconds: Seconds = 30.0
    folder: Word | None = None
    """Its work folder, which it may write to; None: an empty one in memory, gone afterwards."""
    read: Annotated[list[Word], Field(max_length=64)] = []
    """Other folders that it may read."""
    env: Texts = {}
    sandbox: bool = True
    """False: it runs as any program of this user does. Only time, memory and the number of processes are bounded then."""

    @property
    def holes(self) -> list[str]:
        """The names of its parameters, in the order of their first use."""
        return list(dict.fromkeys(name for part in (*self.argv, self.stdin) for name in HOLE.findall(part)))

    @model_validator(mode="after")
    def _known(self) -> Command:
        for name in self.parameters:
            if name not in self.holes:
                raise ValueError(f"says what {name!r} means, but {{{name}}} is not in argv or stdin")
        return self


class ToolsFile(_Table):
    mcp: Annotated[dict[ServerName, Server], Field(max_length=MAX_ENTRIES)] = {}
    command: Annotated[dict[ToolName, Command], Field(max_length=MAX_ENTRIES)] = {}

    def __bool__(self) -> bool:
        return bool(self.mcp or self.command)


def path_of(home: Path) -> Path:
    return home / "tools.toml"


def load(home: Path) -> ToolsFile:
    """What the file of a home says; nothing if there is none. Raises BadFormat."""
    path = path_of(home)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return ToolsFile()
    except OSError as error:
        raise BadFormat(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise BadFormat(f"{path} is longer than {MAX_BYTES} bytes")
    try:
        return parse(data.decode(), str(path))
    except UnicodeDecodeError as error:
        raise BadFormat(f"{path}, line {data[: error.start].count(10) + 1}: this is not UTF-8 text") from None


def parse(text: str, source: str) -> ToolsFile:
    """Raises BadFormat."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\(at line (\d+)", str(error))
        words = re.sub(r"\s*\(at .*\)$", "", str(error))
        raise BadFormat(f"{source}, line {where[1] if where else text.count(chr(10)) + 1}: this is not TOML: {words}") from None
    except (ValueError, RecursionError):
        raise BadFormat(f"{source}: a number in it has too many digits, or lists are nested too deeply") from None
    try:
        return ToolsFile.model_validate(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])  # why another key is missing
        place = [str(part) for part in first["loc"] if part != "[key]"]
        line = line_of(text, (".".join(place[:2]), place[2]) if len(place) > 2 else (".".join(place),))
        if len(place) == 1 and (found := re.search(rf"^\s*\[*\s*[\"']?{re.escape(place[0])}\b", text, re.MULTILINE)):
            line = text.count("\n", 0, found.end()) + 1
        raise BadFormat(f"{source}, line {line}: {_wrong(first, place)}") from None


def _wrong(error: Any, place: list[str]) -> str:
    table = f" in [{'.'.join(place[:2])}]" if len(place) > 1 else ""
    if error["type"] == "extra_forbidden":
        model: type[BaseModel] = ToolsFile if len(place) < 3 else Server if place[0] == "mcp" else Command
        keys = list(model.model_fields)
        near = get_close_matches(place[-1], keys, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(keys)}"
        return f"there is no key {place[-1][:64]!r}{table if len(place) > 2 else ''}; {hint}"
    if error["type"] == "string_pattern_mismatch":
        what = {
            "url": "must be http://HOST/PATH or https://, without a user in it",
        }.get(place[-1], "has a character that may not be in it")
        return f"{place[-1]!r}{table} {what}"
    return f"{'.'.join(place[2:]) or place[-1]!r}{table} {refusal(error)}"
