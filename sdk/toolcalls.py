"""Tool calls in text: how a model is told of tools, and what in its reply asks for one.

    <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>     Qwen, Hermes: anywhere in the reply
    {"name": "add", "parameters": {"a": 1}}                           Llama, and plain JSON: the reply is nothing else

A reply is text of a model, which anybody may have written: it is read as JSON and as nothing more, what cannot be read is an error that
the model is told, and in plain JSON only the names of tools that it was told of are calls. Makes no call: see toolloop.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from llmos.syscalls.abi import ToolInfo, param

MOST_CALLS: Final = 32
"""Calls of one reply; those beyond are not made, and the model is told."""
HELD: Final = 1 << 12
"""Characters of a schema that calls are held to: hundreds of properties are more than a grammar can go through in a step."""
OPEN, CLOSE = "<tool_call>", "</tool_call>"
_FENCE = re.compile(r"\A\s*```[a-z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
_TAGGED = re.compile(re.escape(OPEN) + r"(.*?)(?:" + re.escape(CLOSE) + r"|\Z)", re.DOTALL)
_OBJECT = '{"type": "object"}'
_PYTHON = "<|python_tag|>"
"""What Llama may begin with."""

_BEFORE = """\
# Tools

You may call one or more of these functions to answer. Their signatures:
<tools>
"""
_AFTER = f"""
</tools>

To call one, write a JSON object with its name and arguments, in these tags, and nothing after it:
{OPEN}
{{"name": "FUNCTION", "arguments": {{...}}}}
{CLOSE}
What it gives comes in <tool_response> tags. Call no function that is not listed. Answer in plain words when you need none."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One call that a reply asks for."""

    name: str
    arguments: str = "{}"
    """A JSON object, as text."""
    wrong: str = ""
    """Why it cannot be made, if it cannot be read."""


def tools_prompt(tools: Iterable[ToolInfo]) -> str:
    """What a model is told of tools. The same text for the same tools, in whatever order, so that its pages are found again.

    Put it at the very beginning of a context: what comes after may differ, and still shares these pages.
    """
    lines = [
        _dumped({"type": "function", "function": {"name": t.name, "description": t.description, "parameters": json.loads(t.schema)}})
        for t in sorted(tools, key=lambda tool: tool.name)
    ]
    return _BEFORE + "\n".join(lines) + _AFTER if lines else ""


def held_to(tools: Iterable[ToolInfo]) -> dict[str, Any]:
    """Arguments of generate by which what a reply calls is a call of one of these tools.

    None for more tools than a reply may be held to. Schemas longer than HELD are left out, and the longest of those that together would
    be too long: of their tools any object is a call. What does not fit a schema is an error that the model is told in any case.
    """
    schemas = {tool.name: tool.schema if len(tool.schema) <= HELD else _OBJECT for tool in tools}
    if not 0 < len(schemas) <= param.MAX_REPLY_TOOLS:
        return {}
    left = sum(map(len, schemas.values())) - param.MAX_SCHEMA
    for name in sorted(schemas, key=lambda name: len(schemas[name]), reverse=True):
        if left <= 0:
            break
        left -= len(schemas[name]) - len(_OBJECT)
        schemas[name] = _OBJECT
    return {"tools": schemas, "tool_choice": "auto"}


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def calls_in(reply: str, names: Collection[str]) -> list[Wanted]:
    """The calls that a reply asks for, in order; none if it is an answer."""
    found: list[Wanted] = []
    for inner in _TAGGED.findall(reply):
        found += _tagged(inner.strip())
        if len(found) > MOST_CALLS:
            break
    if not found:
        found = _plain(reply, names)
    if len(found) > MOST_CALLS:
        found[MOST_CALLS:] = [Wanted("", wrong=f"a reply may ask for {MOST_CALLS} calls; the others were not made")]
    return found


def _tagged(text: str) -> list[Wanted]:
    """What stands in the tags: an object, or a list of them. What is neither is an error, since it was meant as a call."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return [Wanted("", wrong=f"what is in {OPEN} is no JSON: {str(error)[:200]}")]
    values = value if isinstance(value, list) else [value]
    return [
        _call(each) or Wanted("", wrong=f'a call is {{"name": ..., "arguments": {{...}}}}, not {_dumped(each)[:80]}') for each in values
    ]


def _plain(reply: str, names: Collection[str]) -> list[Wanted]:
    """A reply that is JSON and nothing else: objects, one after another or in a list."""
    text = reply.strip().removeprefix(_PYTHON).strip()
    if fenced := _FENCE.match(text):
        text = fenced[1].strip()
    if not text.startswith(("{", "[")):
        return []
    decoder, found, at = json.JSONDecoder(), list[Wanted](), 0
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        for each in value if isinstance(value, list) else [value]:
            call = _call(each)
            if call is None or call.name not in names:
                return []
            found.append(call)
        while at < len(text) and text[at] in " \t\r\n;,":
            at += 1
    return found


def _call(value: Any) -> Wanted | None:
    """An object as a call, if it is one."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # JSON in JSON, as some write it
        return Wanted(value["name"], arguments)
    return Wanted(value["name"], _dumped(arguments if arguments is not None else {}))


class Screen:
    """Shows of a reply, while it comes, what is no call of a tool.

    What may become a call is held back: from the tag on, and from the beginning if that looks like JSON.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held = ""
        self._begun = self._quiet = False

    def push(self, piece: str) -> str:
        """What may be shown now."""
        self._held += piece
        if self._quiet:
            return ""
        if not self._begun:
            start = self._held.lstrip()
            if not start or any(mark.startswith(start) for mark in ("```", _PYTHON)):
                return ""
            self._begun = True
            self._quiet = start.startswith(("{", "[", "```", _PYTHON))
            if self._quiet:
                return ""
        at = self._held.find(OPEN)
        self._quiet = at >= 0
        if at < 0:
            at = len(self._held) - max((size for size in range(1, len(OPEN)) if self._held.endswith(OPEN[:size])), default=0)
        shown, self._held = self._held[:at], self._held[at:]
        return shown

    def rest(self) -> str:
        """What is left to show at the end: what was held back, if it was no call after all."""
        return "" if calls_in(self._held, self._names) else self._held
