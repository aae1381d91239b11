"""Forms: what an endpoint is told of how a reply is to look, and a call of a function as the text that it would be of a model here.

    schema    response_format: json_schema          the reply is its text
    tools     tools, and that one must be called    {"name": "add", "arguments": {"a": 1}}

Whether an endpoint holds its model to that is its own affair: syscalls/grammar.py looks at what came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from llmos.kernel.slot import Form

from .answer import CallPart

_UNFIT = re.compile(r"[^a-zA-Z0-9_-]")
MAX_FUNCTION: Final = 64
"""Characters of a function's name in OpenAI's interface, which takes letters, digits, _ and - only."""
_STRICT: Final = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$defs", "$ref", "title", "description"}
)
"""Keywords that a strict schema may have everywhere: one with others is refused by some endpoints, and by others followed."""


def fields_of(form: Form) -> dict[str, Any]:
    """What a request says besides."""
    source = json.loads(form.source)
    if form.kind == "schema":
        told: dict[str, Any] = {"name": "reply", "schema": source}
        if _is_strict(source) and source.get("type") == "object":
            told["strict"] = True
        return {"response_format": {"type": "json_schema", "json_schema": told}}
    functions = [{"name": alias, "parameters": source[name]} for alias, name in aliases_of(form).items()]
    return {
        "tools": [{"type": "function", "function": function} for function in functions],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }


def aliases_of(form: Form) -> dict[str, str]:
    """The names of functions as an endpoint takes them -> as they are."""
    found: dict[str, str] = {}
    for name in json.loads(form.source):
        plain, number = _UNFIT.sub("_", name)[:MAX_FUNCTION], 1
        alias = plain
        while alias in found:
            number += 1
            alias = f"{plain[: MAX_FUNCTION - 4]}_{number}"
        found[alias] = name
    return found


def _is_strict(schema: Any) -> bool:
    """Whether a schema is one that OpenAI's strict mode takes: every object closed, and all of its properties required."""
    if not isinstance(schema, Mapping) or not schema.keys() <= _STRICT:
        return False
    properties = schema.get("properties", {})
    if (properties or schema.get("type") == "object") and (
        schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties)
    ):
        return False
    inner = [*properties.values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", ())]
    return all(map(_is_strict, [*inner, schema["items"]] if "items" in schema else inner))


class CallText:
    """Makes text of the first call of a reply, as it comes; what else an endpoint calls was not asked for."""

    def __init__(self, form: Form) -> None:
        self._aliases = aliases_of(form)
        self._name, self._written = "", False

    def push(self, parts: tuple[CallPart, ...]) -> str:
        return "".join([self._one(part) for part in parts if part.index == 0])

    def _one(self, part: CallPart) -> str:
        before = ""
        if part.name and not self._name:
            self._name = part.name
            before = f'{{"name": {json.dumps(self._aliases.get(part.name, part.name))}, "arguments": '
        if not self._name:
            return ""
        self._written = self._written or bool(part.arguments)
        return before + part.arguments

    def end(self) -> str:
        """What is left to write at the end of a reply that is whole."""
        return "" if not self._name else "}" if self._written else "{}}"
