"""What a reply must look like: from the arguments of generate to a source that drivers compile, and the seam to them.

    a model here         source -> compiled, and every token is masked by it
    one elsewhere        told -> its endpoint holds the reply to it, or says that it cannot -> fit: whatever came is looked at

A schema is JSON of strangers: its size and depth are bounded, and so is what it asks for at least, before anybody compiles it.
A choice becomes a regular expression, the tools of a call one schema. Knows nothing of tokens and masks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from llmos.kernel.device import Grammar
from llmos.kernel.errno import BadFormat, InvalidArgument, NotSupported
from llmos.kernel.slot import Form

from . import param
from .schema import Schema, parse

if TYPE_CHECKING:
    from .abi import Generate
    from .arguments import Tool

Kind: TypeAlias = Literal["schema", "regex", "calls"]

_AT_LEAST = ("minItems", "minLength", "minProperties", "minContains")
_OBJECT: Final = {"type": "object"}
_PLAIN = ("const", "enum", "default", "examples")
"""Keywords that hold values, not schemas."""


class Grammars(Protocol):
    """The grammars of one model. Drivers implement it."""

    def compile(self, kind: Kind, source: str, before: Sequence[int] = ()) -> Grammar:
        """For one burst, which goes on with the tokens `before`. Of "calls" the source is a list of schemas: the first that compiles.

        Takes milliseconds to seconds, on any thread. Raises InvalidArgument, TimedOut, NotSupported.
        """
        ...


def asked(args: Generate) -> bool:
    """The reply must have a form."""
    return any(part is not None for part in (args.json_schema, args.regex, args.choice, args.tools))


def source(args: Generate) -> tuple[Kind, str]:
    """What to compile. Raises InvalidArgument."""
    if args.regex is not None:
        return "regex", args.regex
    if args.choice is not None:
        return "regex", "|".join(map(re.escape, args.choice))
    if args.tools is not None:
        if args.tool_choice == "required":
            return "schema", json.dumps(tool_calls(_schemas_of(args.tools)))
        loose: dict[str, Any] = {tool.name: _OBJECT for tool in args.tools}
        return "calls", json.dumps([tool_calls(_schemas_of(args.tools, instead=_OBJECT)), tool_calls(loose)])
    return "schema", _schema_of(args)


def told(args: Generate, model: str) -> Form:
    """What to tell the endpoint of a model elsewhere: a schema, or each tool's name and schema. Raises InvalidArgument, NotSupported."""
    if args.regex is not None or args.choice is not None:
        raise NotSupported(
            f"{model} runs elsewhere, where no regex and no choice can be asked for: use a schema, such as an enum in an object"
        )
    if args.tools is None:
        text = _schema_of(args)
        _demand_sound(text, "schema")
        return Form("schema", text)
    schemas = _schemas_of(args.tools)
    for name, schema in schemas.items():
        _demand_sound(json.dumps(schema), f"tool {name}")
    return Form("tools", json.dumps(schemas))


def _demand_sound(text: str, what: str) -> None:
    if wrong := Schema(what, text).problem():
        raise InvalidArgument(f"{what}: {wrong}")


def demand_fit(form: Form, reply: str, model: str) -> None:
    """Raises BadFormat for a whole reply that is not what was asked for: not every endpoint holds its model to it. For worker threads."""
    try:
        value, source = parse(reply, "the reply"), form.source
        if form.kind == "tools":
            schemas = json.loads(source)
            if type(value) is not dict or value.keys() != {"name", "arguments"} or value["name"] not in schemas:
                raise InvalidArgument("the reply is no call of one of the tools")
            value, source = value["arguments"], json.dumps(schemas[value["name"]])
        Schema("the reply", source).fit(value)
    except InvalidArgument as fault:
        raise BadFormat(f"{fault.args[0]}; the endpoint of {model} did not hold it to the form: ask again, or another model") from None


def _schema_of(args: Generate) -> str:
    assert args.json_schema is not None
    parse_schema(args.json_schema, "schema")
    return args.json_schema


def _schemas_of(tools: Sequence[Tool], instead: Any = None) -> dict[str, Any]:
    """Name -> schema, or for one that is out of bounds `instead`. Raises InvalidArgument."""
    if len({tool.name for tool in tools}) < len(tools):
        raise InvalidArgument("two tools have one name: a call must say which it means")
    size = sum(len(tool.json_schema) for tool in tools)
    if size > param.MAX_SCHEMA:
        raise InvalidArgument(f"the schemas of the tools have {size} characters in all, more than {param.MAX_SCHEMA}: offer fewer")
    found = {}
    for tool in tools:
        try:
            found[tool.name] = parse_schema(tool.json_schema, f"tool {tool.name}")
        except InvalidArgument:
            if instead is None:
                raise
            found[tool.name] = instead
    return found


def parse_schema(text: str, what: str) -> Any:
    """A JSON schema within bounds. Raises InvalidArgument."""
    try:
        schema = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidArgument(f"{what}: not JSON: {reason}") from None
    if not isinstance(schema, dict):
        raise InvalidArgument(f'{what}: a JSON schema is an object, such as {{"type": "object"}}')
    layer: list[Any] = [schema]
    for _ in range(param.MAX_SCHEMA_DEPTH):
        for part in layer:
            _demand_modest(part, what)
        layer = [inner for part in layer for inner in _inside(part) if isinstance(inner, dict | list)]
        if not layer:
            return schema
    raise InvalidArgument(f"{what}: nested more than {param.MAX_SCHEMA_DEPTH} deep; name its parts in $defs and refer to them")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _inside(part: Any) -> Iterable[Any]:
    return part.values() if isinstance(part, dict) else part


def _demand_modest(part: Any, what: str) -> None:
    for key in _AT_LEAST:
        least = part.get(key) if isinstance(part, dict) else None
        if isinstance(least, int | float) and least > param.MAX_SCHEMA_COUNT:
            raise InvalidArgument(f"{what}: {key} is {least}, and no reply is as long; {param.MAX_SCHEMA_COUNT} at most")


def tool_calls(schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a call of any of these tools: name -> schema of its arguments.

    Each schema becomes a definition, and what it refers to in itself is looked for there.
    """
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{number}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for number, name in enumerate(schemas)
    ]
    definitions = {str(number): _moved(schema, f"#/$defs/{number}") for number, schema in enumerate(schemas.values())}
    return {"anyOf": calls, "$defs": definitions}


def _moved(part: Any, place: str) -> Any:
    """A schema whose references to itself begin at `place`."""
    if isinstance(part, list):
        return [_moved(inner, place) for inner in part]
    if not isinstance(part, dict):
        return part
    return {
        key: place + inner[1:]
        if key == "$ref" and isinstance(inner, str) and inner.startswith("#")
        else inner
        if key in _PLAIN
        else _moved(inner, place)
        for key, inner in part.items()
        if key not in ("$schema", "$id")
    }
