"""Agent files: a prompt program as TOML.

    description = "Writes a summary of what it reads."
    system      = "You summarise texts."
    prompt      = "Summarise this:\\n{input}"      what is asked, with the input in place of {input}
    input       = "all"                           or "line" (a turn for each line), or "none"
    class       = "batch"                         also: name, model, nice, max_turns, separator
    tools       = ["notes.search"]                tools that it may call, and is told of; rounds: so often a turn
    call        = true                            the first reply of a turn is held to a call of one of these tools
    direct      = true                            what a tool gives is the reply: the model says nothing about it
    capabilities = ["llm:*", "file:r:/home/*"]    what it may do, as far as who spawns it may
    [[examples]]    input, output: turns that come before the first; with call and result, what was called between them
    [output_schema] a JSON schema that every reply is held to; also the path of one, or "given": by who spawns it
    [input_schema]  a JSON schema that the input must fit
    each        = "chat"                          a child with this agent for each line of the input, in place of turns
    at_once     = 4                               so many of them, if its class allows it
    [limits]    tokens, pages, wall_seconds, children, tool_calls, tool_seconds, cost
    [sampling]  max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop

A file with an error is refused whole: the message names the line and the key, and the nearest key for one that does not
exist. Runs nothing: see prompt.py.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from llmos.syscalls.abi import BadFormat, InvalidArgument, Limits, NotFound

from .agentnames import SHIPPED, is_file, names
from .arguments import schema_text
from .builtin import NAMES as BUILT_IN

MAX_BYTES = 1 << 20
"""Longest agent file that is read."""
GIVEN = "given"
"""In place of a schema: whoever spawns the agent gives one."""
MOST_AT_ONCE = 32
"""Of all classes: what batch allows."""
_HOLES = re.compile(r"\{(input|schema)\}")


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
    tools: tuple[str, ...] = ()
    """Names of tools that it may call."""
    rounds: int = 8
    """Replies of one turn that may ask for tools."""
    call: bool = False
    """Whether the first reply of a turn is held to a call of a tool."""
    direct: bool = False
    """Whether what the tools give is the reply itself. An error goes to the model while `rounds` are left; the turn fails with the last."""
    capabilities: tuple[str, ...] | None = None
    """None: those of every child."""
    examples: tuple[tuple[str, ...], ...] = ()
    """Turns that come before the first: input and output; or input, call, what the tool gave, and output."""
    limits: Limits = field(default_factory=Limits)
    sampling: dict[str, Any] = field(default_factory=dict)
    """Arguments of generate."""
    output_schema: str | None = None
    """JSON schema, as text, that every reply is held to; or GIVEN."""
    input_schema: str | None = None
    """JSON schema, as text, that the input of a turn must fit as JSON."""
    each: str | None = None
    """The agent that each line of the input is put to, in a child of its own; this one generates nothing."""
    at_once: int | None = None
    """Children of `each` that run at once; None: as many as the class allows, which no file can raise (fanout.AT_ONCE)."""
    path: str | None = None

    def asked(self, text: str) -> str:
        """What the model is asked in a turn, with this input."""
        return _HOLES.sub(lambda hole: text if hole[1] == "input" else self.output_schema or "", self.prompt)

    @property
    def offered(self) -> list[str]:
        """Those of its tools that somebody must offer: all but the built-in ones."""
        return [name for name in self.tools if name not in BUILT_IN]


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
    if Path(source).parent == SHIPPED:
        try:
            return _as_written(raw, name, source)
        except (TypeError, KeyError, AttributeError):  # somebody changed it; they are told below where it is wrong
            pass
    from .agentkeys import checked, line_of, schema_of  # pydantic takes 0.2 s to import

    found = checked(raw, text, source)
    for hole in re.findall(r"\{(\w{1,32})\}", found.prompt):
        near = get_close_matches(hole, ["input", "schema"])
        if hole not in ("input", "schema") and near:
            raise BadFormat(f"{source}, line {line_of(text, ('prompt',))}: prompt has {{{hole}}}; did you mean {{{near[0]}}}?")
    schemas = {key: schema_of(getattr(found, key), key, source, line_of(text, (key,))) for key in ("output_schema", "input_schema")}
    if schemas["output_schema"] is not None and found.tools:
        line = line_of(text, ("output_schema",))
        raise BadFormat(f"{source}, line {line}: a reply that may call tools cannot be held to output_schema: leave out one of them")
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
        tools=tuple(found.tools),
        rounds=found.rounds,
        call=found.call,
        direct=found.direct,
        capabilities=None if found.capabilities is None else tuple(found.capabilities),
        examples=tuple(each.texts for each in found.examples),
        limits=found.limits.to_limits(),
        sampling={key: getattr(found.sampling, key) for key in found.sampling.model_fields_set},
        each=found.each,
        at_once=found.at_once,
        **schemas,
        path=source,
    )


def with_schema(program: Any, schema: Any) -> Any:
    """An agent whose replies are held to a schema that was given with its spawn, if one was. Raises InvalidArgument."""
    if isinstance(program, AgentFile) and schema is None and program.output_schema == GIVEN:
        raise InvalidArgument(
            f"the agent {program.name} writes JSON of a schema that must be given: spawn(..., schema=...), or in llmsh spawn --schema FILE"
        )
    if schema is None:
        return program
    if not isinstance(program, AgentFile):
        raise InvalidArgument("a schema is for agents: give a program what it needs as arguments")
    if program.tools:
        raise InvalidArgument(f"the agent {program.name} may call tools, so its replies cannot be held to a schema")
    return replace(program, output_schema=schema_text(schema, "schema"))


def _as_written(raw: dict[str, Any], name: str, source: str) -> AgentFile:
    """An agent that comes with llmos: a test has checked it, so what checks the others need not be imported before `ask` answers."""
    given: dict[str, Any] = {"name": name}
    given |= {"cls" if key == "class" else key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    keys = ("input", "call", "result", "output")
    given["examples"] = tuple(tuple(each[key] for key in keys if key in each) for each in given.get("examples", ()))
    given["limits"] = Limits(**given.get("limits", {}))
    return AgentFile(**given, path=source)


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
        if is_file(path):
            return load(path)
    known = names(folders)
    near = get_close_matches(name[:64], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
    raise NotFound(f"there is no agent {name[:64]!r} in {', '.join(map(str, folders))}; {hint}")
