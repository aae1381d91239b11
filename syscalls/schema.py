"""Schemas: do the arguments of a call fit what the tool says of them? JSON text in, a fault that names the field out.

The schema was written by a stranger, and so perhaps were the arguments. So what jsonschema does is bounded: every keyword that is
applied is counted, and the processor's time with them, a regular expression is matched in bounded time (pattern.py), a reference leads
nowhere but into the schema itself, and what cannot be bounded (`unevaluated...`, `$dynamicRef`, look-around) is left to the tool.
For worker threads: knows no kernel and no other thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from threading import Lock
from typing import Any

from llmos.kernel.errno import BadFormat, Fault, InvalidArgument

from . import param
from .pattern import can_tell, matches

_LEFT: ContextVar[list[float]] = ContextVar("llmos_schema_left")
"""How many keywords may still be applied in this check, and until when by the clock of this thread's own time."""
_SECONDS = 1.0
"""Of the processor, for one check: a keyword may have more to do than to count shows."""
_REFERENCE = 10
"""What following a reference costs, in such keywords."""
_MOST_SHOWN = 200
"""Characters of what jsonschema says of a value."""


class _Exhausted(Exception):
    """The check takes too long."""


class Schema:
    """One schema. Read when it is first needed: a server may list a thousand tools that nobody calls."""

    __slots__ = ("_lock", "_validator", "text", "tool", "wrong")

    def __init__(self, tool: str, text: str) -> None:
        self.tool, self.text = tool, text
        self._validator: Any = None
        self.wrong = ""
        """What is wrong with the schema itself, once that is known."""
        self._lock = Lock()

    def problem(self) -> str:
        """What is wrong with the schema itself; nothing if it is one."""
        with self._lock:
            if self._validator is None and not self.wrong:
                self._read()
        return self.wrong

    def check(self, arguments: str) -> None:
        """Raises InvalidArgument if the arguments do not fit; BadFormat if the schema is none."""
        value = parse(arguments, "the arguments")
        if type(value) is not dict:
            raise InvalidArgument(f"{self.tool}: the arguments must be a JSON object, not {_kind(value)}")
        self.fit(value)

    def fit(self, value: Any) -> None:
        """Raises InvalidArgument if a value does not fit; BadFormat if the schema is none."""
        if self.problem():
            raise BadFormat(f"the schema of {self.tool} is wrong, so it cannot be used: {self.wrong}; tell who offers it")
        token = _LEFT.set([param.MAX_TOOL_CHECKS, time.thread_time() + _SECONDS])
        try:
            error = next(self._validator.iter_errors(value), None)
        except (_Exhausted, RecursionError):
            raise BadFormat(f"{self.tool}: its schema takes too long to check; tell who offers it") from None
        except Exception as broken:  # noqa: BLE001 - a stranger's schema can break the library in any way
            raise BadFormat(f"the schema of {self.tool} cannot be used: {_short(f'{type(broken).__name__}: {broken}')}") from None
        finally:
            _LEFT.reset(token)
        if error is not None:
            raise InvalidArgument(f"{self.tool}: {_where(error.absolute_path)}{_short(error.message)}")

    def _read(self) -> None:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match
        from referencing import Registry

        try:
            schema = parse(self.text, "it")
            if type(schema) is not dict:
                raise InvalidArgument("it is no JSON object")
            error = best_match(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema))
            if error is not None:
                raise InvalidArgument(f"{_where(error.absolute_path)}{_short(error.message)}")
            schema.pop("$schema", None)  # all are read as the draft of 2020
            self._validator = _bounded()(schema, registry=Registry())
        except Fault as fault:
            self.wrong = str(fault.args[0])
        except Exception as broken:  # noqa: BLE001 - as above
            self.wrong = _short(f"{type(broken).__name__}: {broken}")


def parse(text: str, what: str) -> Any:
    """JSON text as a value. Raises InvalidArgument, also for NaN, numbers without end, and what is nested too deeply."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what} cannot be read as JSON: {_short(str(error) or type(error).__name__)}") from None
    if _too_deep(value):
        raise InvalidArgument(f"{what}: lists and objects are nested more than {param.MAX_TOOL_DEPTH} deep")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(param.MAX_TOOL_DEPTH + 1):
        inner: list[Any] = []
        for each in level:
            if type(each) is dict:
                inner += each.values()
            elif type(each) is list:
                inner += each
        if not inner:
            return False
        level = inner
    return True


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _short(message: str) -> str:
    return message if len(message) <= _MOST_SHOWN else message[: _MOST_SHOWN - 4] + " ..."


def _where(path: Any) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return f"{_short(place)}: " if place else ""


# --- jsonschema, bounded


@cache
def _bounded() -> Any:
    """The validator of the draft of 2020, with every keyword counted."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    own = {"pattern": _pattern, "patternProperties": _pattern_properties, "additionalProperties": _additional, "uniqueItems": _unique}
    left_out = {"unevaluatedProperties", "unevaluatedItems", "$dynamicRef"}
    keywords = {name: _counted(own.get(name, check)) for name, check in Draft202012Validator.VALIDATORS.items() if name not in left_out}
    extended = extend(Draft202012Validator, keywords)
    for name in left_out:
        del extended.VALIDATORS[name]
    return extended


def _counted(check: Any) -> Any:
    cost = _REFERENCE if check.__name__ == "ref" else 1

    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        left = _LEFT.get()
        left[0] -= cost + (len(instance) if type(instance) in (list, dict) else 0) + (len(value) if type(value) in (list, dict) else 0)
        if left[0] < 0 or time.thread_time() > left[1]:
            raise _Exhausted
        yield from check(validator, value, instance, schema) or ()

    return counted


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(instance, "string") and not matches(pattern, instance):
        yield _error(f"{_short(repr(instance))} does not match {_short(repr(pattern))}")


def _pattern_properties(validator: Any, patterns: dict[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, subschema in patterns.items():
        if not can_tell(pattern):
            continue
        for key, value in instance.items():
            if matches(pattern, key):
                yield from validator.descend(value, subschema, path=key, schema_path=pattern)


def _additional(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not validator.is_type(instance, "object"):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    extra = [key for key in instance if key not in known and not any(matches(pattern, key) for pattern in patterns)]
    if validator.is_type(allowed, "object"):
        for key in extra:
            yield from validator.descend(instance[key], allowed, path=key)
    elif allowed is False and extra:
        yield _error(f"there is no argument {_short(repr(extra[0]))}; there are {', '.join(known) or 'none'}")


def _unique(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """By their text: comparing each with each takes a time that is the square of their number."""
    if wanted and type(instance) is list and len({json.dumps(each, sort_keys=True) for each in instance}) < len(instance):
        yield _error("its items are not all different")


def _error(message: str) -> Any:
    from jsonschema.exceptions import ValidationError

    return ValidationError(message)
