"""Agent files: a prompt program as TOML.

    description = "Writes a summary of what it reads."
    system      = "You summarise texts."
    prompt      = "Summarise this:\\n{input}"      what is asked, with the input in place of {input}
    input       = "all"                           or "line" (a turn for each line), or "none"
    class       = "batch"                         also: name, model, nice, max_turns, separator
    [limits]    tokens, pages, wall_seconds, children
    [sampling]  max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop

A file with an error is refused whole: the message names the line and the key, and the nearest key for one that does not
exist. Runs nothing: see prompt.py.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from llmos.syscalls.abi import (
    Arguments,
    BadFormat,
    ClassName,
    InvalidArgument,
    Limits,
    LimitsArguments,
    Model,
    Name,
    Nice,
    NotFound,
    Sampled,
    Text,
    refusal,
)

MAX_BYTES = 1 << 20
"""Longest agent file that is read."""


class _File(Arguments):
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
    limits: LimitsArguments = LimitsArguments()
    sampling: Sampled = Sampled()


@dataclass(frozen=True, slots=True)
class AgentFile:
    """One agent, as its file says."""

    name: str
    description: str = ""
    model: str | None = None
    """None: the system's default, or its parent's."""
    system: str | None = None
    prompt: str = "{input}"
    input: str = "all"
    """What a turn reads from stdin: a line, or all of it at once; with none there is a single turn."""
    cls: str | None = None
    nice: int | None = None
    max_turns: int | None = None
    separator: str = "\n"
    """Written after each reply. No reply holds one that is a control character other than a newline or tab: see prompt.py."""
    limits: Limits = field(default_factory=Limits)
    sampling: dict[str, Any] = field(default_factory=dict)
    """Arguments of generate."""
    path: str | None = None


def parse(text: str, name: str, source: str) -> AgentFile:
    """An agent from the text of its file. `source` names the file in errors. Raises BadFormat."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        words = re.sub(r"\s*\(at .*\)$", "", str(error))
        line = where[1] if where else str(text.count("\n") + 1)
        raise BadFormat(f"{source}, line {line}: this is not TOML: {words}") from None
    except ValueError:  # what Python says of an integer with thousands of digits
        raise BadFormat(f"{source}: a number in it has too many digits") from None
    except RecursionError:
        raise BadFormat(f"{source}: lists or tables in it are nested too deeply") from None
    try:
        found = _File.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadFormat(f"{source}, line {_line(text, first['loc'])}: {_wrong(first)}") from None
    for hole in re.findall(r"\{(\w{1,32})\}", found.prompt):
        if hole != "input" and get_close_matches(hole, ["input"]):
            raise BadFormat(f"{source}, line {_line(text, ('prompt',))}: prompt has {{{hole}}}; did you mean {{input}}?")
    return AgentFile(
        name=found.name or name,
        description=found.description,
        model=found.model,
        system=found.system,
        prompt=found.prompt,
        input=found.input,
        cls=found.cls,
        nice=found.nice,
        max_turns=found.max_turns,
        separator=found.separator,
        limits=found.limits.to_limits(),
        sampling={key: getattr(found.sampling, key) for key in found.sampling.model_fields_set},
        path=source,
    )


def _keys(section: tuple[str | int, ...]) -> list[str]:
    """The keys that a table of the file may have."""
    models: dict[str, type[BaseModel]] = {"limits": LimitsArguments, "sampling": Sampled}
    model = models.get(str(section[0]), _File) if section else _File
    return [field.alias or name for name, field in model.model_fields.items()]


def _wrong(error: Any) -> str:
    *section, key = error["loc"]
    if error["type"] == "extra_forbidden":
        keys = _keys(tuple(section))
        near = get_close_matches(str(key), keys, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(keys)}"
        return f"there is no key {str(key)[:64]!r}{f' in [{section[0]}]' if section else ''}; {hint}"
    return f"{'.'.join(str(part) for part in error['loc'])!r} {refusal(error)}"


def _line(text: str, place: tuple[str | int, ...]) -> int:
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


def load(path: Path) -> AgentFile:
    """Read an agent file. Raises NotFound, BadFormat."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no agent file {path}") from None
    except OSError as error:
        raise BadFormat(f"agent file {path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise BadFormat(f"agent file {path} is longer than {MAX_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadFormat(f"{path}, line {line}: this is not UTF-8 text; save the file as UTF-8") from None
    return parse(text, path.stem, str(path))


def find(name: str, folders: Iterable[Path]) -> AgentFile:
    """The agent `name` in the first folder that has it; a name that ends in .toml or holds a slash is a path."""
    if not isinstance(name, str) or not name.isprintable():
        shown = repr(name[:64]) if isinstance(name, str) else f"a {type(name).__name__}"
        raise InvalidArgument(f"an agent's name is text without control characters, not {shown}")
    if name.endswith(".toml") or "/" in name:
        try:
            return load(Path(name).expanduser())
        except RuntimeError as error:  # there is no such person
            raise NotFound(f"there is no agent file {name[:80]}: {error}") from None
    folders = list(folders)
    for folder in folders:
        path = folder / f"{name}.toml"
        if _is_file(path):
            return load(path)
    known = names(folders)
    near = get_close_matches(name[:64], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
    raise NotFound(f"there is no agent {name[:64]!r} in {', '.join(map(str, folders))}; {hint}")


def names(folders: Iterable[Path]) -> list[str]:
    """The agents that `find` finds by name, in order of the alphabet."""
    found: set[str] = set()
    for folder in folders:
        try:
            found.update(path.stem for path in folder.glob("*.toml") if _is_file(path))
        except OSError:  # there is no such folder, or it is not ours to look into
            continue
    return sorted(found)


def _is_file(path: Path) -> bool:
    """False also where a name is too long for a file's, or a folder is not ours to look into."""
    try:
        return path.is_file()
    except OSError:
        return False
