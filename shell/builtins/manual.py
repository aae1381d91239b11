"""The builtin `man`: the pages of commands and of system calls.

section 1   what `help COMMAND` says      section 2   what the table of calls says of itself
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread

from .call import Builtin, Call, Refused, Usage, options

SECTIONS = ("1", "2")
Made = TypeVar("Made")


async def man(call: Call) -> int:
    found, words = options(call.args, flags=("--json",))
    section = words.pop(0) if len(words) > 1 and words[0] in SECTIONS else ""
    if len(words) > 1:
        raise Usage("it takes one command or system call, and perhaps 1 or 2 before it")
    commands = call.shell.builtins
    calls = calls_of_the_system()
    if not words:
        if "--json" in found:
            await call.say(json.dumps({"1": sorted(commands), "2": calls}))
        else:
            await call.say(_list(call, await _in_thread(_pages)))
        return 0
    name = words[0]
    if section != "2" and name in commands:
        page, number = commands[name].page, 1
        page += f"\n\nsee also: man 2 {name}, the system call" if name in calls else ""
    elif section != "1" and name in calls:
        page, number = await _in_thread(lambda: _page(name)), 2
    else:
        near = difflib.get_close_matches(name, [*commands, *calls], n=1)
        raise Refused(f"no page '{name}': " + (f"did you mean {near[0]}?" if near else "man alone lists them"), 1)
    if "--json" in found:
        await call.say(json.dumps({"section": number, "name": name, "page": page}))
    else:
        await call.say(f"{name}({number})\n\n{page}")
    return 0


def calls_of_the_system() -> list[str]:
    """The name of every system call."""
    from llmos.services.init.manual import names

    return names()


def _page(name: str) -> str:
    from llmos.services.init.manual import page_of

    return page_of(name)


def _pages() -> dict[str, str]:
    from llmos.services.init.manual import manual

    return manual()


async def _in_thread(make: Callable[[], Made]) -> Made:
    """The table of calls takes 0.3 s to import."""
    return await anyio.to_thread.run_sync(make, abandon_on_cancel=True)


def _list(call: Call, calls: dict[str, str]) -> str:
    width = max(map(len, [*call.shell.builtins, *calls]))
    lines = ["commands (man 1 NAME, or help NAME)"]
    lines += [f"  {name:<{width}}  {builtin.summary}" for name, builtin in sorted(call.shell.builtins.items())]
    if calls:
        lines += ["", "system calls (man 2 NAME)"]
        lines += [f"  {name:<{width}}  {_summary(page)}" for name, page in calls.items()]
    return "\n".join(lines)


def _summary(page: str) -> str:
    """The first sentence of what a call does, which stands between its head and its arguments."""
    return " ".join(page.partition("\n\n")[2].partition("\n\n")[0].split()).partition(". ")[0].removesuffix(".")


BUILTINS = (
    Builtin(
        "man",
        "man [--json] [1|2] [NAME]",
        "show the page of a command or a system call",
        ("man spawn", "man 2 spawn", "man generate", "man"),
        man,
        "1: commands of llmsh. 2: system calls, which programs make: their arguments, bounds, results and errors.",
    ),
)
