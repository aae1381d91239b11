"""The model asked for a command: `? list what runs` gives one line of llmsh, which nobody has run.

What it writes is taken only if it is one line that llmsh can read and begins with a command that there is. It is text of a
model: shown, and run only when a person says so. A small model is wrong more often than not.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import anyio

from .lexer import BadSyntax
from .parser import parse

if TYPE_CHECKING:
    from llmos import System

    from .builtins.call import Builtin

MOST_TOKENS = 64
MOST_CHARACTERS = 2_000
"""Longest request."""

EXAMPLES = (
    ("ask the model who wrote Hamlet", "ask 'who wrote Hamlet'"),
    ("show the processes", "ps"),
    ("stop process 7 at once", "kill -KILL 7"),
    ("summarise notes.txt into s.txt in the background", "spawn summarise < notes.txt > s.txt &"),
    ("why was process 5 slow", "explain 5"),
    ("which models are there", "models"),
    ("give process 3 less of the machine", "nice 10 3"),
    ("what is running in the background", "jobs"),
    ("continue job 1 in front", "fg %1"),
)


class NoCommand(Exception):
    """What the model wrote is no command of llmsh."""


async def suggest(system: System, request: str, builtins: dict[str, Builtin]) -> str:
    """A command for `request`. Raises NoCommand, or a Fault of the system.

    It goes on with a list of examples, as text: a small model that is asked instead answers with advice. Its form holds it to one
    line that begins with a command.
    """
    usages = "\n".join(f"{builtin.usage}: {builtin.summary}" for _, builtin in sorted(builtins.items()))
    shots = "\n".join(f"request: {said}\ncommand: {command}" for said, command in EXAMPLES)
    names = "|".join(re.escape(name) for name in sorted(builtins) if name.isalpha())
    context = await system.open()
    try:
        reply = await context.generate(
            text=f"The commands of the shell llmsh:\n{usages}\n\n{shots}\nrequest: {' '.join(request.split())}\ncommand:",
            max_tokens=MOST_TOKENS,
            regex=rf" ({names})( [^\n]*)?\n",
        )
    finally:
        with anyio.CancelScope(shield=True):
            await context.close()
    if reply.reason != "stop":
        raise NoCommand(f"the model wrote more than {MOST_TOKENS} tokens and came to no end: half a command is none")
    return command_in(reply.text, builtins)


def command_in(written: str, builtins: dict[str, Builtin]) -> str:
    """The command in what the model wrote. Raises NoCommand."""
    lines = [line.strip() for line in written.strip().split("\n")]
    line = next((each for each in lines if each and not each.startswith("```")), "")
    line = line.removeprefix("command:").strip().removeprefix("$ ").strip("`").strip()
    shown = f"'{line[:200]}'" if line else "nothing"
    if not line or not line.isprintable():
        raise NoCommand(f"the model wrote no command: {ascii(shown)[1:-1] if not line.isprintable() else shown}")
    try:
        script = parse(line)
    except BadSyntax as bad:
        raise NoCommand(f"the model wrote {shown}, which is no command: {bad.message}") from None
    names = [command.words[0].plain for command in script.commands if command.words]
    if not names or any(name not in builtins for name in names):
        raise NoCommand(f"the model wrote {shown}, which is no command of llmsh: see help")
    return line
