"""Refusals: what pydantic says of a bad argument, as an InvalidArgument that names the argument and its bound.

Nothing of the argument but a short scalar is repeated: it may be huge, hostile or secret.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from llmos.kernel.errno import Fault, InvalidArgument, TooLong

from .param import PLACE, TOOL_NAME


def _shown(value: Any) -> str:
    """A short form of a bad value."""
    if isinstance(value, bool | float | None):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() < 80 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= 40 else f"{len(value)} {'characters' if isinstance(value, str) else 'bytes'}"
    if isinstance(value, list | tuple | set | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


_PATTERNS = {
    TOOL_NAME: "must be letters, digits, '_', '-' and '.', with neither of the last two first; only capabilities may end with '*'",
    PLACE: "must begin with '/'",
}


def _bound(kind: str, context: dict[str, Any], message: str) -> str:
    """What would be right."""
    for key, words in (
        ("ge", "must be at least"),
        ("gt", "must be more than"),
        ("le", "must be at most"),
        ("lt", "must be less than"),
    ):
        if key in context:
            bound = context[key]
            return f"{words} {bound:g}" if isinstance(bound, float) else f"{words} {bound}"
    if kind.endswith("too_long"):
        return f"must have a length of at most {context['max_length']}"
    if kind.endswith("too_short"):
        return f"must have a length of at least {context['min_length']}"
    if kind == "literal_error":
        return f"must be one of {context['expected']}"
    if kind == "missing":
        return "is missing"
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], "must not contain control characters")
    if kind == "string_unicode":
        return "must be valid Unicode text"
    if kind == "value_error":
        return str(context["error"])
    return message.replace("Input should be", "must be")


def refusal(error: ErrorDetails) -> str:
    """What is wrong with one value: "must be at most 10, not 11.0"."""
    wrong = _bound(error["type"], error.get("ctx", {}), error["msg"])
    if error["type"] not in ("missing", "value_error"):
        wrong += f", not {_shown(error['input'])}"
    return wrong


def invalid_argument(call: str, error: ValidationError, model: type[BaseModel]) -> Fault:
    """The fault for the first thing wrong. A length above its bound is TooLong, all else InvalidArgument."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = get_close_matches(name[:64], model.model_fields, n=1)
        return InvalidArgument(f"{call} has no argument {name[:64]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    fault = TooLong if first["type"].endswith("too_long") else InvalidArgument
    return fault(f"{call}: {name or 'its arguments'} {refusal(first)}")
