"""What is allowed in an agent file and seldom meant: texts that speak of tools which the agent is not given, an input without use.

    example 2 calls 'llmos.calculate', which is not among its tools        a model learns to ask for what nobody answers

Reads texts only, and takes no file for wrong: what is wrong is refused in agentkeys.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .agentfile import AgentFile
from .builtin import NAMES, PREFIX
from .toolcalls import CLOSE, OPEN, calls_in

_NAME = re.compile(r'"name"\s*:\s*"([^"\\]{1,128})"')
_ARGUMENTS = re.compile(r'"(?:arguments|parameters)"\s*:')
_TAGGED = re.compile(re.escape(OPEN) + r".*?(?:" + re.escape(CLOSE) + r"|\Z)", re.DOTALL)


def warnings(agent: AgentFile) -> list[str]:
    """A sentence for each, in the order of the keys; none twice."""
    return list(dict.fromkeys(_all(agent)))


def _all(agent: AgentFile) -> Iterator[str]:
    if agent.each is None and agent.input != "none" and agent.asked("input") == agent.asked(""):
        yield 'the prompt has no {input}: what the agent reads makes no difference; leave prompt out, or say input = "none"'
    texts = [("system", agent.system or ""), ("prompt", agent.prompt)]
    for number, example in enumerate(agent.examples, 1):
        where = f"example {number}"
        texts += [(where, text) for text in example]
        if len(example) == 4 and not _called(example[1], anything=True):
            yield f"the call of {where} is no call of a tool: it is JSON with name and arguments"
    for where, text in texts:
        called = _called(text, anything=False)
        if where.startswith("example"):
            for name in called:
                if name not in agent.tools:
                    yield _missing(f"{where} calls", name)
        for name in _mentioned(text):
            if name not in agent.tools and name not in called:
                yield _missing(f"{where} speaks of", name)


def _missing(what: str, name: str) -> str:
    return f"{what} {name!r}, which is not among its tools"


def _called(text: str, *, anything: bool) -> list[str]:
    """Names that a text calls. JSON without arguments may be data that has a name; `anything` takes it for a call."""
    names = set(_NAME.findall(text))
    found = calls_in(text, names) if anything or _ARGUMENTS.search(text) else calls_in("".join(_TAGGED.findall(text)), names)
    return [wanted.name for wanted in found if not wanted.wrong]


def _mentioned(text: str) -> list[str]:
    """Built-in tools that a text names, in full or, where that is no word of English, by what follows the prefix."""
    found = [f"{PREFIX}{name}" for name in re.findall(rf"\b{re.escape(PREFIX)}(\w+)", text)]
    bare = set(re.findall(r"(?<![\w.])\w+", text))  # what follows a dot is a tool of somebody else
    return found + [name for name in NAMES if "_" in name and name.removeprefix(PREFIX) in bare]
