"""Regular expressions of strangers, matched in bounded time: pydantic's, which are finite automata (rust-regex).

Such an expression takes a time that grows with its states times the text, and its library holds Python's lock all the while: what
would take longer than a few milliseconds is not matched, and neither is what no automaton can match (look-around). Both are left to
whoever wrote the expression. For worker threads.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

MOST_STATES: Final = 20_000
"""Of an expression: one that has more takes milliseconds to compile."""
MOST_STEPS: Final = 2_000_000
"""States times characters; a step takes 4 ns at most."""
_COUNT = re.compile(r"\{(\d{1,9})(,(\d{0,9}))?\}")
_ESCAPE = re.compile(r"\\([pP]\{[^}]*\}|x\{[^}]*\}|u\{[^}]*\}|.)", re.DOTALL)
_WIDE: Final = {**dict.fromkeys("wWpP", 150), **dict.fromkeys("dDsS", 25), ".": 4}
"""States of what stands for many characters of Unicode: each is as many ranges of bytes."""


def states(pattern: str) -> int:
    """About how many states the automaton of an expression has: what is repeated n times counts n times. MOST_STATES + 1 for more."""
    totals, last, at = [0], 0, 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "(":
            totals.append(0)
            last = 0
            continue
        if character == ")" and len(totals) > 1:
            last = totals.pop()
        elif character == "\\" and (escape := _ESCAPE.match(pattern, at - 1)):
            at = escape.end()
            last = _WIDE.get(escape[1][0], 1)
        elif character == "[":
            end = _end_of_class(pattern, at)
            last = max((_WIDE.get(escape[1][0], 1) for escape in _ESCAPE.finditer(pattern, at, end)), default=4)
            at = end
        elif character == "{" and (count := _COUNT.match(pattern, at - 1)):
            at = count.end()
            times = max(int(count[1]), int(count[3] or 0), 1)
            totals[-1] += last * (times - 1)
            last = min(last * times, MOST_STATES + 1)
            continue
        else:
            last = _WIDE[character] if character == "." else 1
        totals[-1] = min(totals[-1] + last, MOST_STATES + 1)
    return min(sum(totals), MOST_STATES + 1)


def _end_of_class(pattern: str, at: int) -> int:
    """Behind the bracket that closes the class whose first character is at `at`."""
    depth = 1
    at += pattern[at : at + 1] == "^"
    at += pattern[at : at + 1] == "]"  # is itself, at the beginning
    while at < len(pattern) and depth:
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "[":
            depth += 1
        elif pattern[at] == "]":
            depth -= 1
        at += 1
    return at


@lru_cache(maxsize=1024)
def expression(pattern: str) -> tuple[int, Any]:
    """States, and what matches a pattern; None if it cannot be matched in bounded time."""
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    size = states(pattern)
    if size > MOST_STATES:
        return size, None
    try:
        return size, SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError:
        return size, None


def can_tell(pattern: str, length: int = 0) -> bool:
    """Whether a text of this many characters can be matched."""
    size, found = expression(pattern)
    return found is not None and size * length <= MOST_STEPS


def matches(pattern: str, text: str) -> bool:
    """True also if that cannot be told."""
    if not can_tell(pattern, len(text)):
        return True
    from pydantic_core import ValidationError

    try:
        expression(pattern)[1].validate_python(text)
    except ValidationError:
        return False
    return True
