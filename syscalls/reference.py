"""The reference of system calls, as text: made from the table, so that it cannot say what the system does not do.

    table row --JSON schema of its arguments--> names, types, defaults, bounds
              --fields of its result---------> names, types, and what stands below each in the source

`page` is what `man CALL` shows, `reference` the whole of docs/syscalls.md. Both are the same for the same source. Makes no call.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any

from .table import ROWS, Row

WIDTH = 120

COMMON = """\
Any call may also end with EINVAL (an argument is missing, unknown, of the wrong type or out of its bounds: nothing is converted), ESRCH
(the caller has ended), ESHUTDOWN (the system is going down), ECANCELED (the caller took it back), and, unless it goes through with a signal
pending, EINTR (a signal ended it) or EDQUOT (a limit of the caller was passed). One that needs a capability ends with EPERM where the
caller does not hold it when the call executes."""

HEAD = f"""\
# System calls

Everything that a process does to the world is one of these. Programs make them through `llmos.System` and `llmos.Process`; over a socket
each goes by its number, as docs/decisions/0014-the-wire.md says. `man CALL` in llmsh shows the same pages.

*Replayable*: making it again changes nothing in the world, so a recorded result need not wait for the disk. *Sleeps*: it may take long, and
the caller's pages can be reclaimed meanwhile.

{COMMON}

<!-- `python docs/calls.py` writes this page from syscalls/table.py, and a test compares. -->
"""

KINDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null", "object": "map"}


def page(row: Row) -> str:
    """What there is to know of one call, for a terminal."""
    needs = [each for each in (row.capability, row.asks) if each]
    facts = [f"number {row.number}", f"needs {'; '.join(needs)}" if needs else "needs no capability"]
    facts += ["replayable" if row.replayable else "not replayable"]
    facts += ["sleeps"] if row.sleeps else []
    facts += ["goes through with a signal pending"] if row.always else []
    parts = [_wrap(signature(row), ""), _flow(", ".join(facts)), "", _flow(row.doc)]
    parts += ["", "arguments", *(_arguments(row) or ["  none"])]
    parts += ["", f"result: {row.result.__name__}", *_result(row.result)]
    return "\n".join(parts)


def signature(row: Row) -> str:
    """The call as one would write it: `kill(pid, signal="TERM", tree=false) -> Done`."""
    schema = _schema(row)
    required = schema.get("required", [])
    given = [*required]
    given += [f"{name}={_value(field.get('default'))}" for name, field in schema.get("properties", {}).items() if name not in required]
    return f"{row.name}({', '.join(given)}) -> {row.result.__name__}"


def pages() -> dict[str, str]:
    """The page of every call, by name, in the order of the table."""
    return {row.name: page(row) for row in ROWS}


def reference() -> str:
    """docs/syscalls.md."""
    families: dict[str, list[Row]] = {}
    for row in ROWS:
        families.setdefault(row.handler.__module__.rpartition(".")[2], []).append(row)
    listed = "".join(f"| {row.number} | [{row.name}](#{row.name}) | {row.doc.splitlines()[0]} |\n" for row in ROWS)
    parts = [HEAD, "| number | call | |\n|---|---|---|\n" + listed]
    for family, rows in families.items():
        parts.append(f"## The family of {family}\n")
        parts += [f"### {row.name}\n\n```\n{page(row)}\n```\n" for row in rows]
    return "\n".join(parts)


# --- arguments ----------------------------------------------------------------------------------------------------


def _schema(row: Row) -> dict[str, Any]:
    return row.arguments.model_json_schema(by_alias=False)


def _arguments(row: Row) -> list[str]:
    schema = _schema(row)
    return _properties(schema, schema.get("$defs", {}), row.arguments, "  ", ())


def _properties(schema: dict[str, Any], known: dict[str, Any], model: type[Any] | None, indent: str, above: tuple[str, ...]) -> list[str]:
    """A line for each argument; below it what the source says of it, and the fields of what it holds."""
    lines: list[str] = []
    said: dict[str, str] = _documented(model) if model is not None else {}
    for name, field in schema.get("properties", {}).items():
        optional = "" if name in schema.get("required", ()) else f"; default {_value(field.get('default'))}"
        lines.append(_wrap(f"{name}: {_kind(field, known)}{optional}", indent))
        if name in said:
            lines.append(_note(said[name], indent))
        for inner in _named(field):
            if inner not in above and "properties" in known.get(inner, {}):
                lines += _properties(known[inner], known, _class(model, inner), indent + "    ", (*above, inner))
    return lines


def _named(field: dict[str, Any]) -> list[str]:
    """The models that a type is made of, by their names in the schema."""
    if "$ref" in field:
        return [field["$ref"].rpartition("/")[2]]
    inner = [*field.get("anyOf", ()), *field.get("oneOf", ()), *([field["items"]] if isinstance(field.get("items"), dict) else [])]
    return [name for each in inner for name in _named(each)]


def _kind(field: dict[str, Any], known: dict[str, Any]) -> str:
    """A type in words, with its bounds."""
    if "$ref" in field:
        target = known.get(field["$ref"].rpartition("/")[2], {})
        return f"a map, {target.get('title', 'as below')}" if "properties" in target else _kind(target, known)
    if choices := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(_kind(each, known) for each in choices)
    if "enum" in field:
        return "one of " + ", ".join(map(_value, field["enum"]))
    if "const" in field:
        return _value(field["const"])
    kind = field.get("type")
    if kind == "array":
        inner = _kind(field["items"], known) if isinstance(field.get("items"), dict) and field["items"] else "anything"
        return f"list of {inner}{_range(field.get('minItems'), field.get('maxItems'), ', {} of them')}"
    if kind == "string":
        unit = "bytes" if field.get("format") == "binary" else "characters"
        name = "bytes" if unit == "bytes" else "text"
        shape = f", matching {field['pattern']}" if "pattern" in field else ""
        return f"{name}{_range(field.get('minLength'), field.get('maxLength'), ', {} ' + unit)}{shape}"
    if kind in ("integer", "number"):
        least, most = field.get("minimum"), field.get("maximum")
        bounds = _range(least, most, ", {}")
        above, below = field.get("exclusiveMinimum"), field.get("exclusiveMaximum")
        return (
            KINDS[kind]
            + bounds
            + (f", above {_value(above)}" if above is not None else "")
            + (f", below {_value(below)}" if below is not None else "")
        )
    return KINDS.get(str(kind), "anything")


def _range(least: Any, most: Any, shape: str) -> str:
    if least is None and most is None:
        return ""
    if most is None:
        return shape.format(f"at least {_value(least)}")
    return shape.format(f"at most {_value(most)}" if least is None else f"{_value(least)} to {_value(most)}")


def _value(value: Any) -> str:
    """As the documents write values: true, null, "text", 65536."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_value(each)}" for name, each in value.items() if each is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int) and value >= 2**31 and (value & (value + 1)) == 0:
        return f"2^{value.bit_length()}-1"
    return f"2^{value.bit_length() - 1}" if isinstance(value, int) and value >= 2**31 and (value & (value - 1)) == 0 else str(value)


# --- results ------------------------------------------------------------------------------------------------------


def _result(kind: type[Any], indent: str = "  ", above: tuple[type[Any], ...] = ()) -> list[str]:
    """The fields of a result, and of what they hold, each type once."""
    own = _first_paragraph(kind)
    lines = [textwrap.indent(_flow(own), indent)] if own else []
    if not is_dataclass(kind):
        return lines or [f"{indent}{kind.__name__}"]
    said = _documented(kind)
    for field in fields(kind):
        shown = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        lines.append(_wrap(f"{field.name}: {shown}", indent))
        if field.name in said:
            lines.append(_note(said[field.name], indent))
        for word in re.findall(r"[A-Z]\w+", shown):
            inner = _class(kind, word)
            if inner is not None and is_dataclass(inner) and inner not in (*above, kind):
                lines += _result(inner, indent + "    ", (*above, kind))
    return lines


def _class(near: type[Any] | None, name: str) -> type[Any] | None:
    """The class that `name` means in the module of another, or in those of its bases."""
    for each in near.__mro__ if near is not None else ():
        found = getattr(sys.modules.get(each.__module__), name, None)
        if isinstance(found, type):
            return found
    return None


def _first_paragraph(kind: type[Any]) -> str:
    """The docstring of a class; dataclass puts a signature where there is none."""
    text = kind.__dict__.get("__doc__") or ""
    return "" if text.startswith(f"{kind.__name__}(") else " ".join(text.strip().split("\n\n")[0].split())


def _documented(kind: type[Any]) -> dict[str, str]:
    """What stands as a string below each field in the source, of the class and those it is made from."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if each.__module__.partition(".")[0] in ("builtins", "pydantic"):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, text in pairwise(body):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
                found[field.target.id] = " ".join(text.value.value.split())
    return found


def _wrap(text: str, indent: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False, break_long_words=False
    )


def _note(text: str, indent: str) -> str:
    """What the source says of a field, below it."""
    return textwrap.fill(text, WIDTH, initial_indent=indent + "    ", subsequent_indent=indent + "    ", break_on_hyphens=False)


def _flow(doc: str) -> str:
    """A docstring with its paragraphs filled."""
    return "\n\n".join(textwrap.fill(" ".join(part.split()), WIDTH, break_on_hyphens=False) for part in inspect.cleandoc(doc).split("\n\n"))
