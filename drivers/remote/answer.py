"""What an endpoint says, made sense of: the parts of a stream, and refusals as faults. Nothing it says is trusted.

Wrong types, numbers out of all reason and text that is none end in DeviceFailed, or are taken for not said. Whatever of it gets
into a message is cut short, has no control characters, and never holds the key. Knows no sockets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from llmos.kernel.errno import DeviceFailed, Fault, InvalidArgument, NotFound, NotPermitted, QuotaExceeded, TooLong, TryAgain
from llmos.kernel.slot import Counted

MAX_SAID: Final = 300
"""Characters of an endpoint's own words in a message of ours."""
OVERHEAD: Final = 65_536
"""Tokens of a prompt that need not be in the request's bytes: what the endpoint puts before it."""
RETRIED: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""Statuses after which the same request may do better."""
_LENGTHS: Final = ("context_length_exceeded", "string_above_max_length", "exceed_context_size_error")


@dataclass(frozen=True, slots=True)
class CallPart:
    """Part of a call of a function."""

    index: int
    """Which call of the reply it is of."""
    name: str = ""
    """Comes with the first part."""
    arguments: str = ""
    """JSON, in pieces."""


@dataclass(frozen=True, slots=True)
class Part:
    """One event of a stream."""

    text: str = ""
    calls: tuple[CallPart, ...] = ()
    alive: bool = False
    """The model is at work, though nothing of the reply may have come: it thinks aloud, say."""
    reason: str = ""
    """stop or length, with the end of the reply."""
    counted: Counted | None = None


def part_of(data: bytes, most_prompt: int, most_output: int, key: str) -> Part:
    """Read one event. Counts over the bounds are taken for not said. Raises DeviceFailed."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        raise DeviceFailed(f"the endpoint sent what is no JSON: {_quoted(data.decode(errors='replace'), key)}") from None
    if not isinstance(said, dict):
        raise DeviceFailed(f"the endpoint sent a {type(said).__name__} where an object belongs")
    if said.get("error"):
        raise DeviceFailed(f"the endpoint broke off: {_quoted(_error(said)[1], key)}")
    counted = _counted(said.get("usage"), most_prompt, most_output)
    choices = said.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    if not isinstance(choice, dict) or not isinstance(delta := choice.get("delta") or {}, dict):
        raise DeviceFailed("the endpoint sent a choice that is none: is it an OpenAI-compatible endpoint?")
    text = delta.get("content") or ""
    if not isinstance(text, str):
        raise DeviceFailed(f"the endpoint sent a {type(text).__name__} where text belongs")
    if isinstance(refused := delta.get("refusal"), str) and refused:
        raise DeviceFailed(f"the endpoint's model refuses: {_quoted(refused, key)}")
    calls = _calls(delta.get("tool_calls") or [])
    reason = choice.get("finish_reason") or ""
    if reason == "content_filter":
        raise DeviceFailed("the endpoint's filter cut the reply off: put it another way")
    alive = bool(text or calls or delta.get("reasoning_content") or delta.get("reasoning"))
    return Part(text, calls, alive, ("length" if reason == "length" else "stop") if reason else "", counted)


def _calls(said: Any) -> tuple[CallPart, ...]:
    """Raises DeviceFailed."""
    try:
        found = tuple(CallPart(each["index"], each["function"].get("name") or "", each["function"].get("arguments") or "") for each in said)
        if all(type(each.index) is int and type(each.name) is str and type(each.arguments) is str for each in found):
            return found
    except (TypeError, KeyError, AttributeError):
        pass
    raise DeviceFailed("the endpoint sent a call of a function that is none")


def _counted(usage: Any, most_prompt: int, most_output: int) -> Counted | None:
    if not isinstance(usage, dict):
        return None
    prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(output) is not int:
        return None
    return Counted(prompt, output) if 0 <= prompt <= most_prompt + OVERHEAD and 0 <= output <= most_output else None


def refusal(status: int, body: bytes, key: str) -> Fault:
    """The fault that a status other than 200 is."""
    try:
        code, words = _error(json.loads(body))
    except (ValueError, RecursionError):
        code, words = "", body.decode(errors="replace")
    said = f"the endpoint answered {status}: {_quoted(words, key)}"
    if code == "insufficient_quota" or status == 402:
        return QuotaExceeded(f"{said}; see to the account that the key belongs to")
    if code in _LENGTHS or status == 413:
        return TooLong(f"{said}; shorten the prompt, or truncate the context")
    if status in (401, 403):
        return NotPermitted(f"{said}; see to the key, in the file or variable that `llmos models --json` names")
    if status == 404:
        return NotFound(f"{said}; see to the URL and the model's name there: `llmos models --json` shows both")
    if 300 <= status < 400:
        return DeviceFailed(f"the endpoint answered {status}, which leads elsewhere and is not followed: add the model with the final URL")
    if status == 429:
        return TryAgain(f"{said}; it takes no more requests now: try later, or give the model fewer slots")
    return InvalidArgument(said) if status < 500 else DeviceFailed(said)


def final(status: int, body: bytes) -> bool:
    """True if no retry can help."""
    if status not in RETRIED:
        return True
    try:
        return _error(json.loads(body))[0] == "insufficient_quota"
    except (ValueError, RecursionError):
        return False


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the endpoint wants to be left alone; 0 if it does not say so in a way that can be read."""
    text = headers.get("retry-after", "").strip()[:64]
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return 0.0
        seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds else 0.0


def _error(said: Any) -> tuple[str, str]:
    """(code, message) of an error, in the shapes that there are."""
    error = said.get("error", said) if isinstance(said, dict) else said
    if isinstance(error, dict):
        code = error.get("code") or error.get("type") or ""
        return str(code)[:64], str(error.get("message") or error.get("detail") or "")
    return "", error if isinstance(error, str) else ""


def _quoted(text: str, key: str) -> str:
    """Words of an endpoint, fit for a message."""
    if key:
        text = text.replace(key, "***")  # before it is cut, or half of it would be left
    text = "".join(character if character.isprintable() else " " for character in text[: 2 * MAX_SAID])
    text = " ".join(text.split())
    return (text[:MAX_SAID] + "..." if len(text) > MAX_SAID else text) or "it says no more"
