"""Builtins that need no system: echo, cd, pwd, sleep, true, false, exit, history."""

from __future__ import annotations

import json
import os

import anyio

from ..terminal import TerminalSink
from .call import Builtin, Call, Leave, Refused, Usage, number, options

MOST_SECONDS = 10**9


async def echo(call: Call) -> int:
    args = call.args
    newline = not (args and args[0] == "-n")
    await call.stdout.write(" ".join(args if newline else args[1:]) + ("\n" if newline else ""))
    return 0


async def cd(call: Call) -> int:
    if len(call.args) > 1:
        raise Usage("one directory, please: quote a name that has blanks")
    before = os.getcwd()
    target = call.args[0] if call.args else call.shell.variables.get("HOME", "")
    if target == "-":
        target = call.shell.variables.get("OLDPWD", "")
    if not target:
        raise Refused("there is nowhere to go: name a directory")
    os.chdir(target)
    call.shell.variables.update(OLDPWD=before, PWD=os.getcwd())
    return 0


async def pwd(call: Call) -> int:
    if call.args:
        raise Usage("it takes no words")
    await call.say(os.getcwd())
    return 0


async def sleep(call: Call) -> int:
    try:
        seconds = float(call.args[0]) if len(call.args) == 1 else -1.0
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MOST_SECONDS:
        raise Usage("it takes one number of seconds")
    await anyio.sleep(seconds)
    return 0


async def true(call: Call) -> int:
    return 0


async def false(call: Call) -> int:
    return 1


async def clear(call: Call) -> int:
    if isinstance(call.stdout, TerminalSink) and call.shell.terminal.is_tty and not call.shell.terminal.dumb:
        await call.stdout.write_styled("\x1b[H\x1b[2J\x1b[3J")
    return 0


async def leave(call: Call) -> int:
    if len(call.args) > 1:
        raise Usage("it takes one status")
    status = number(call.args[0], "status: a status is a number from 0 to 255") if call.args else call.shell.status
    if status > 255:
        raise Usage(f"{status} is no status: a status is a number from 0 to 255")
    running = call.shell.jobs.running
    if call.alone and call.shell.warn_of_jobs and running:
        call.shell.warn_of_jobs = False
        raise Refused(f"{len(running)} job{'s' * (len(running) > 1)} still running, to end with the shell: see jobs, or exit again")
    raise Leave(status)


async def history(call: Call) -> int:
    found, words = options(call.args, flags=("--json", "-c"))
    if len(words) > 1 or (words and "-c" in found):
        raise Usage("it takes one number of lines, or -c")
    if "-c" in found:
        if call.shell.forget is not None:
            call.shell.forget()
        return 0
    lines = call.shell.history()
    first = max(0, len(lines) - number(words[0], "number of lines")) if words else 0
    if "--json" in found:
        await call.say(json.dumps([{"number": place + 1, "line": lines[place]} for place in range(first, len(lines))]))
    else:
        await call.stdout.write("".join(f"{place + 1:5}  {lines[place]}\n" for place in range(first, len(lines))))
    return 0


BUILTINS = (
    Builtin("echo", "echo [-n] [WORD]...", "write words, with blanks between", ("echo hello", "echo $?"), echo),
    Builtin("cd", "cd [DIRECTORY]", "change the current directory; `cd -` goes back", ("cd ~/notes",), cd),
    Builtin("pwd", "pwd", "write the current directory", ("pwd",), pwd),
    Builtin("sleep", "sleep SECONDS", "wait", ("spawn summarise < a.txt & sleep 2; ps",), sleep),
    Builtin("clear", "clear", "clear the screen; so does Ctrl-L", ("clear",), clear),
    Builtin("true", "true", "do nothing, status 0", ("spawn chat hello || true",), true),
    Builtin("false", "false", "do nothing, status 1", ("false || echo failed",), false),
    Builtin("exit", "exit [STATUS]", "leave the shell; so does Ctrl-D", ("exit", "exit 1"), leave),
    Builtin(
        "history",
        "history [--json] [-c] [N]",
        "list the lines typed before, or the last N; -c forgets them",
        ("history 5", "history -c"),
        history,
        "They are kept in the home, in `history`, for its owner alone.",
    ),
)
