"""Signatures: a function's parameters as a JSON schema, and JSON as its arguments.

    def search(words: str, most: int = 10) -> list[str]:
        \"\"\"Find notes.

        Args:
            words: what to look for          also ":param words: what to look for"
        \"\"\"

Types are pydantic's: what it can read out of JSON may be a parameter. Apart from tool.py because pydantic takes 0.2 s to import.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError

from llmos.syscalls.abi import InvalidArgument, refusal

_SECTION = re.compile(r"^(args|arguments|parameters|returns?|raises|yields?|examples?|notes?):\s*$", re.IGNORECASE)
_FIELD = re.compile(r"^:(\w+)(?:\s+[^:]*?)?:")
_GOOGLE = re.compile(r"^(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")
_SPHINX = re.compile(r"^:param\s+(?:[^:]*\s)?(\w+):\s*(.*)$")


class Signature:
    """What can be read off a function. Raises InvalidArgument if that is not enough for a schema."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = str(getattr(function, "__name__", type(function).__name__))
        self.description, words = _docstring(inspect.getdoc(function) or "")
        self._names: list[str] = []
        self._model = self._build(function, words)
        try:
            self.schema = _plain_schema(self._model.model_json_schema(by_alias=True))
        except PydanticUserError as error:
            raise InvalidArgument(f"{self._name} cannot be a tool: {_first_line(error)}") from None

    def _build(self, function: Callable[..., Any], words: dict[str, str]) -> type[BaseModel]:
        try:
            parameters = inspect.signature(function).parameters.values()
            target: Any = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
            hints = get_type_hints(getattr(function, "func", target), include_extras=True)
        except (ValueError, TypeError, NameError) as error:
            raise InvalidArgument(f"{self._name} cannot be a tool: its signature cannot be read: {error}") from None
        fields: dict[str, Any] = {}
        for number, parameter in enumerate(parameters):
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise InvalidArgument(
                    f"{self._name} cannot be a tool: the parameter {parameter} has no name to give it by; "
                    "use plain parameters, without *, ** and /"
                )
            self._names.append(parameter.name)
            hint = hints.get(parameter.name, Any)
            default = ... if parameter.default is parameter.empty else parameter.default
            # By an alias: a parameter may have any name, a field of a pydantic model may not.
            more = Field(default, alias=parameter.name, description=words.get(parameter.name))
            fields[f"p{number}"] = (Annotated[hint, Field()], more)
        try:
            return create_model(self._name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields)
        except PydanticUserError as error:
            raise InvalidArgument(f"{self._name} cannot be a tool: {_first_line(error)}") from None

    def read(self, arguments: str) -> dict[str, Any]:
        """JSON as keyword arguments. Raises InvalidArgument that names the first that is wrong."""
        try:
            found = self._model.model_validate_json(arguments)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InvalidArgument(f"{'.'.join(map(str, first['loc'])) or 'the arguments'} {refusal(first)}") from None
        given = found.model_fields_set
        return {name: getattr(found, f"p{number}") for number, name in enumerate(self._names) if f"p{number}" in given}


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _plain_schema(schema: Any) -> Any:
    """A schema without the titles that pydantic makes up: a model reads every word of it."""
    if not isinstance(schema, dict):
        return [_plain_schema(each) for each in schema] if isinstance(schema, list) else schema
    plain: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key in ("properties", "$defs", "patternProperties"):  # their keys are names
            plain[key] = {name: _plain_schema(each) for name, each in value.items()}
        elif key in ("default", "enum", "const", "examples"):
            plain[key] = value
        else:
            plain[key] = _plain_schema(value)
    return plain


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """What a docstring says of the function, and of each of its arguments."""
    description: list[str] = []
    words: dict[str, str] = {}
    section, last = "", ""
    for line in text.splitlines():
        bare = line.strip()
        if header := _SECTION.match(bare):
            section, last = header[1].lower(), ""
        elif sphinx := _SPHINX.match(bare):
            section, last = "param", sphinx[1]
            words[last] = sphinx[2]
        elif _FIELD.match(bare):
            section, last = "field", ""
        elif not section:
            description.append(line)
        elif section in ("args", "arguments", "parameters", "param") and bare:
            if section != "param" and (google := _GOOGLE.match(bare)) and not line.startswith(" " * 8):
                last = google[1]
                words[last] = google[2]
            elif last:
                words[last] = f"{words[last]} {bare}".strip()
    return "\n".join(description).strip(), words
