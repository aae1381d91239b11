"""Builtins that tell what there is: help, models."""

from __future__ import annotations

import difflib
import json

from .call import Builtin, Call, Refused, Usage, options

OVERVIEW = """\
A line that is no command is a question to the chat agent, which remembers what was said before.
COMMAND &              run in the background        A | B          B reads what A writes
COMMAND < IN > OUT     read and write files         >> 2>          append; errors
A ; B   A && B   A || B   $?   $VAR   'quotes'      as in sh
Ctrl-C ends a reply or a command, Ctrl-D leaves. help COMMAND tells more."""


async def help_(call: Call) -> int:
    _, words = options(call.args)
    builtins = call.shell.builtins
    if not words:
        width = max(len(name) for name in builtins)
        lines = [f"  {name:<{width}}  {builtin.summary}" for name, builtin in sorted(builtins.items())]
        await call.say("\n".join([*lines, "", OVERVIEW]))
        return 0
    if len(words) > 1:
        raise Usage("it takes one command; to put a question to the model: ask TEXT")
    builtin = builtins.get(words[0])
    if builtin is None:
        near = difflib.get_close_matches(words[0], builtins, n=1)
        raise Refused(f"no command '{words[0]}': " + (f"did you mean {near[0]}?" if near else "help alone lists them"))
    await call.say(builtin.page)
    return 0


async def models(call: Call) -> int:
    found, words = options(call.args, flags=("--json",))
    if words:
        raise Usage("it takes no words; llmos pull and llmos rm change what there is")
    loaded = set()
    if (system := call.shell.connection.ready) is not None:
        loaded = {model.name for model in await system.models() if model.loaded}
    from ..store import stored_models  # the library costs 0.2 s: loaded when it is asked

    rows = stored_models(call.shell.home, call.shell.connection.model, loaded)
    if "--json" in found:
        await call.say(json.dumps(rows))
    elif rows:
        from ..render import models_table

        await call.shell.draw(call.stdout, models_table(rows))
    else:
        await call.complain("there are none yet: llmos pull smollm2")
    return 0


BUILTINS = (
    Builtin("help", "help [COMMAND]", "list the commands, or tell about one", ("help", "help spawn"), help_),
    Builtin(
        "models",
        "models [--json]",
        "list the models on this machine",
        ("models", "models --json"),
        models,
        "llmos pull NAME gets one, llmos rm NAME removes one.",
    ),
)
