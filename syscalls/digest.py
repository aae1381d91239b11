"""Arguments of a call as a digest, as a person is shown them, and as the audit log keeps them.

`digest` says exactly which call it is: another byte anywhere is another digest. `shown` is for whoever has to decide: all of it, as
far as a screen goes, with nothing in it that a terminal would obey or that would be seen in another order than it is. `brief` is for a
log: content is length and digest, and what is secret by its name is not there at all. Holds no state.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from pydantic import BaseModel

from . import param

_CONTENT = frozenset({"arguments", "content", "data", "input", "messages", "prompt", "reason", "stdin", "text", "tokens", "value"})
"""Fields that hold what people and models say."""
_SECRET = re.compile(r"(?i)(^|[_-])(api)?((key|password|passphrase|secret|credential|cookie)s?|auth|authorization|bearer|token)$")
_LONGEST = 256
"""Characters of a word that a log keeps as it is."""
_MOST = 16
"""Entries of a list that it does."""


def _odd(value: Any) -> Any:
    """What JSON has no form for."""
    if isinstance(value, BaseModel):
        return dict(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": bytes(value).hex()}
    return repr(value)


_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_odd).encode
"""One text for one value, whatever the order in which its keys came."""


def digest(pid: int, name: str, capability: str, arguments: BaseModel) -> str:
    """Which call this is: of which process, with which arguments, for which capability."""
    return blake2b(_json([pid, name, capability, arguments]).encode(), digest_size=16).hexdigest()


def shown(arguments: BaseModel) -> tuple[str, int]:
    """The arguments on one line of JSON, as far as MAX_SHOWN characters go, and how many there are in all."""
    text = json.dumps(dict(arguments), ensure_ascii=False, default=_for_people)
    return "".join(map(_visible, text[: param.MAX_SHOWN])), len(text)


def _for_people(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return _odd(value)


def _visible(character: str) -> str:
    """Control characters, and those that turn the direction of what is read, by their numbers."""
    return character if character.isprintable() else f"\\u{ord(character):04x}"


def cut(text: str, most: int, length: int) -> str:
    """At most `most` characters of a text that had so many, and how many there are in all if some are missing."""
    return text if length <= most else f"{text[:most]}... (cut: {length} characters in all)"


def brief(arguments: BaseModel, *, full: bool) -> dict[str, Any]:
    """What a log keeps of arguments. With `full` also their content, as far as it is short; never what is secret by its name."""
    kept = {name: _kept(name, value, full) for name, value in arguments if value is not None}
    if len(text := _json(kept)) > param.MAX_BRIEF:
        return {"length": len(text), "digest": blake2b(text.encode(), digest_size=16).hexdigest()}
    return kept


@lru_cache(maxsize=1024)
def _secret(name: str) -> bool:
    return _SECRET.search(name) is not None


def _kept(name: str, value: Any, full: bool) -> Any:
    if _secret(name):
        return {"secret": True}
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, BaseModel):
        return {key: _kept(key, part, full) for key, part in value if part is not None}
    if name in _CONTENT and not full:
        return _measured(value)
    if isinstance(value, str) and len(value) <= (param.MAX_BRIEF if full else _LONGEST):
        return value
    if isinstance(value, list | tuple) and len(value) <= _MOST:
        return [_kept(name, part, full) for part in value]
    if isinstance(value, dict) and len(value) <= _MOST:
        return {str(key)[:_LONGEST]: _kept(str(key), part, full) for key, part in value.items()}
    if full and isinstance(value, bytes) and len(value) <= param.MAX_BRIEF:
        return value.decode("utf-8", "backslashreplace")
    return _measured(value)


def _measured(value: Any) -> dict[str, Any]:
    """How long it is, and a digest of it."""
    data = bytes(value) if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass") if isinstance(value, str) else None
    return {
        "length": len(value),
        "digest": blake2b(_json(value).encode() if data is None else data, digest_size=16).hexdigest(),
    }
