"""Twenty JSON schemas of the kinds people ask models for, three tools, and a validator of our own.

The validator knows the keywords that these schemas use and refuses others: it shares no code with what enforces them. Most strings
have a maxLength, as they should with a small model: one without may go on until max_tokens.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Any


def text(most: int, **more: Any) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most, **more}


def record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def several(items: Any, most: int, least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def number(low: float, high: float, kind: str = "integer") -> dict[str, Any]:
    return {"type": kind, "minimum": low, "maximum": high}


DAY = {"type": "string", "format": "date"}
FLAG = {"type": "boolean"}
PERSON = record(name=text(40), age=number(0, 120), email={"type": "string", "pattern": r"^[a-z]{1,12}@[a-z]{1,12}\.(com|org)$"})
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {"node": record(label=text(20), children={"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 3}),
              "leaf": record(label=text(20))},
}  # fmt: skip

SCHEMAS: dict[str, tuple[str, Any]] = {
    "person": ("Describe a person.", PERSON),
    "people": ("List some people.", record(people=several(PERSON, 3))),
    "sentiment": (
        "Give the sentiment of a review.",
        record(sentiment={"enum": ["positive", "negative", "neutral"]}, confidence=number(0, 1, "number")),
    ),
    "invoice": (
        "Write an invoice.",
        record(
            number={"type": "string", "pattern": "^INV-[0-9]{4}$"},
            date=DAY,
            lines=several(record(item=text(30), count=number(1, 99), price=number(0, 9999, "number")), 3),
        ),
    ),
    "recipe": (
        "Write a short recipe.",
        record(title=text(50), minutes=number(1, 240), ingredients=several(text(30), 5, 2), steps=several(text(80), 4, 2)),
    ),
    "event": ("Invent an event.", record(title=text(50), day=DAY, place=text(40), public=FLAG)),
    "ticket": (
        "Write a bug report.",
        record(
            title=text(60),
            severity={"enum": ["low", "medium", "high", "critical"]},
            labels=several({"enum": ["ui", "api", "docs"]}, 3),
            body=text(160),
        ),
    ),
    "point": ("Give coordinates.", record(latitude=number(-90, 90, "number"), longitude=number(-180, 180, "number"))),
    "nullable": (
        "Describe a book; its subtitle may be missing.",
        record(title=text(50), subtitle={"anyOf": [text(50), {"type": "null"}]}, pages=number(1, 2000)),
    ),
    "optional": ("Describe a product.", {**record(name=text(40), price=number(0, 999, "number")), "required": ["name"]}),
    "tree": ("Draw a small tree of topics.", TREE),
    "answer": ("Answer with a reason.", record(reason=text(160), answer=text(60))),
    "score": ("Rate it from 1 to 5.", record(score=number(1, 5), comment=text(100))),
    "triples": ("Extract facts.", several(record(subject=text(25), relation=text(25), object=text(25)), 4)),
    "matrix": ("Write a matrix of numbers.", several(several(number(-9, 9), 3, 3), 3, 3)),
    "palette": ("Choose colours.", record(colours=several({"type": "string", "pattern": "^#[0-9a-f]{6}$"}, 4, 2), dark=FLAG)),
    "address": (
        "Invent an address.",
        record(
            street=text(40),
            number=number(1, 999),
            city=text(30),
            country={"enum": ["NO", "DE", "NG", "AT", "US"]},
            post_code={"type": "string", "pattern": "^[0-9]{4,5}$"},
        ),
    ),
    "shape": (
        "Describe a circle or a rectangle.",
        {
            "anyOf": [
                record(kind={"const": "circle"}, radius=number(0, 100, "number")),
                record(kind={"const": "rectangle"}, width=number(0, 100, "number"), height=number(0, 100, "number")),
            ]
        },
    ),
    "plan": (
        "Plan three steps.",
        record(goal=text(80), steps=several(record(do=text(60), tool={"enum": ["search", "read", "write"]}, minutes=number(1, 60)), 3)),
    ),
    "keywords": ("Give keywords.", several(text(20), 6, 3)),
}

TOOLS: dict[str, Any] = {
    "search": record(query=text(60), limit=number(1, 20)),
    "remind": record(what=text(60), day=DAY, urgent=FLAG),
    "convert": record(value=number(-1000, 1000, "number"), source={"$ref": "#/$defs/unit"}, target={"$ref": "#/$defs/unit"})
    | {"$defs": {"unit": {"enum": ["metre", "foot", "mile"]}}},
}

_TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None), "array": list, "object": dict}
_KNOWN = frozenset(
    ["type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "minLength", "maxLength", "pattern",
     "format", "minimum", "maximum", "enum", "const", "anyOf", "$ref", "$defs"]
)  # fmt: skip


def problem(value: Any, schema: Any, root: Any = None) -> str | None:
    """Why a value does not match a schema; None if it does. Raises ValueError for a keyword it does not know."""
    root = schema if root is None else root
    if unknown := schema.keys() - _KNOWN:
        raise ValueError(f"keywords {sorted(unknown)}")
    if "$ref" in schema:
        return problem(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if "anyOf" in schema:
        return None if any(problem(value, each, root) is None for each in schema["anyOf"]) else f"{value!r} is none of anyOf"
    if "enum" in schema or "const" in schema:
        return None if value in schema.get("enum", [schema.get("const")]) else f"{value!r} is not in the enum"
    kind = schema["type"]
    if not isinstance(value, _TYPES[kind]) or (kind in ("integer", "number") and isinstance(value, bool)):
        return f"{value!r} is no {kind}"
    if kind in ("integer", "number"):
        return None if schema.get("minimum", value) <= value <= schema.get("maximum", value) else f"{value} is out of bounds"
    if kind == "string":
        return _of_text(value, schema)
    if kind == "array":
        fits = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return next((found for each in value if (found := problem(each, schema["items"], root))), None) if fits else f"{len(value)} items"
    if kind == "object":
        if not set(schema["required"]) <= value.keys() <= schema["properties"].keys():
            return f"keys {sorted(value)}"
        return next((found for key, each in value.items() if (found := problem(each, schema["properties"][key], root))), None)
    return None


def _of_text(value: str, schema: Any) -> str | None:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return f"{len(value)} characters"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return f"{value!r} does not match {schema['pattern']}"
    if schema.get("format") == "date":
        try:
            date.fromisoformat(value)
        except ValueError as error:
            return str(error)
    return None
