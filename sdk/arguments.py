"""Arguments: what a program gave, checked here where it is converted before it crosses the border, or never crosses it.

All else is checked by the ABI. Every refusal is an InvalidArgument that names the argument and says what would be right.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from llmos.syscalls.abi import InvalidArgument, Limits


def encoded(text: Any, what: str) -> bytes:
    """Text, or bytes as they are."""
    if isinstance(text, bytes | bytearray | memoryview):
        return bytes(text)
    if not isinstance(text, str):
        raise InvalidArgument(f"{what} must be text or bytes, not a {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"{what} must be valid Unicode text, and has half a surrogate pair at {error.start}; encode it with errors='replace'"
        ) from None


def listed(values: Any, what: str) -> list[Any]:
    """Several values; one string is one of them."""
    if isinstance(values, str):
        return [values]
    if not isinstance(values, Iterable):
        raise InvalidArgument(f"{what} must be a list, not a {type(values).__name__}")
    return list(values)


def words_of(values: Iterable[Any]) -> str | None:
    """What a prompt program was given, as one text; None if it was given nothing."""
    words: list[str] = []
    for number, value in enumerate(values, 1):
        try:
            words.append(str(value))
        except Exception as error:
            raise InvalidArgument(f"argument {number}, a {type(value).__name__}, has no text: {type(error).__name__}") from error
    return " ".join(words) if words else None


def messages_of(messages: Any) -> list[dict[str, Any]]:
    """Chat messages."""
    given = [] if isinstance(messages, str) else listed(messages, "messages")
    if isinstance(messages, str | Mapping) or not all(isinstance(each, Mapping) for each in given):
        raise InvalidArgument("messages must be a list of {'role': ..., 'content': ...}")
    return [dict(each) for each in given]


def limits_of(limits: Any) -> dict[str, Any]:
    """Limits, as they cross the border."""
    if not isinstance(limits, Limits):
        raise InvalidArgument(f"limits must be llmos.Limits(...), not a {type(limits).__name__}")
    return asdict(limits)


def demand_name(name: Any, what: str) -> None:
    """None, or a name that is text. Its bounds are the ABI's."""
    if name is not None and not (isinstance(name, str) and name):
        raise InvalidArgument(f"{what} must be a name, not {'empty' if name == '' else 'a ' + type(name).__name__}")


def form_of(schema: Any, regex: Any, choice: Any, tools: Any, tool_choice: str) -> dict[str, Any]:
    """What a reply must look like, as it crosses the border."""
    form: dict[str, Any] = {}
    if schema is not None:
        form["json_schema"] = schema_text(schema, "schema")
    if regex is not None:
        form["regex"] = regex
    if choice is not None:
        form["choice"] = listed(choice, "choice")
    if tools is not None:
        if not isinstance(tools, Mapping):
            raise InvalidArgument(f"tools must be a dict of names and schemas, not a {type(tools).__name__}")
        form["tools"] = [{"name": name, "json_schema": schema_text(each, f"schema of tool {name}")} for name, each in tools.items()]
    if tool_choice != "required":
        form["tool_choice"] = tool_choice
    return form


def schema_text(schema: Any, what: str) -> str:
    """A JSON schema as text; of a pydantic model, its own."""
    if isinstance(schema, str):
        return schema
    if hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    if not isinstance(schema, Mapping):
        raise InvalidArgument(f"{what} must be a JSON schema as text or dict, or a pydantic model's class, not a {type(schema).__name__}")
    try:
        return json.dumps(dict(schema), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what} cannot be written as JSON: {error}") from None
