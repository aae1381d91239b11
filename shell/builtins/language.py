"""Builtins over the shell's own language: variables, settings, aliases, the arguments of a script, and `.`."""

from __future__ import annotations

import json
import re
import shlex

from ..lexer import BadSyntax, lex
from .call import Builtin, Call, Refused, Usage, number, options

SETTINGS = {"e": "errexit", "f": "noglob", "u": "nounset", "x": "xtrace"}
MOST_ALIASES = 1_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ALIAS = re.compile(r"[^\s'\"\\$`|&;<>()=#]+")


def _assignments(words: list[str]) -> list[tuple[str, str | None]]:
    """NAME and NAME=VALUE."""
    found: list[tuple[str, str | None]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not _NAME.fullmatch(name):
            raise Usage(f"'{name}' is no name: letters, digits and _, and no digit first")
        found.append((name, value if equals else None))
    return found


async def set_(call: Call) -> int:
    """Everything it is asked is checked before anything is changed."""
    shell, words = call.shell, list(call.args)
    if not words or words == ["--json"]:
        if words:
            await call.say(json.dumps(dict(sorted(shell.variables.items()))))
        else:
            await call.stdout.write("".join(f"{name}={shlex.quote(value)}\n" for name, value in sorted(shell.variables.items())))
        return 0
    settings, arguments = set(shell.settings), None
    while words and arguments is None:
        word = words.pop(0)
        if word == "--":
            arguments, words = words, []
        elif word in ("-o", "+o") and not words:
            shown = "".join(f"{name:<8} {'on' if name in shell.settings else 'off'}\n" for name in SETTINGS.values())
            await call.stdout.write(
                shown if word == "-o" else "".join(f"set {'-' if n in settings else '+'}o {n}\n" for n in SETTINGS.values())
            )
            return 0
        elif word[:1] in ("-", "+") and len(word) > 1:
            names = [words.pop(0)] if word[1:] == "o" else [SETTINGS.get(letter, letter) for letter in word[1:]]
            for name in names:
                if name not in SETTINGS.values():
                    known = ", ".join(f"-{letter} {each}" for letter, each in SETTINGS.items())
                    raise Usage(f"there is no setting '{name}': there are {known}")
            settings = settings | set(names) if word[0] == "-" else settings - set(names)
        else:
            arguments, words = [word, *words], []
    shell.settings = settings
    if arguments is not None:
        shell.arguments = arguments
    return 0


async def unset(call: Call) -> int:
    _, words = options(call.args)
    for name, value in _assignments(words):
        if value is not None:
            raise Usage(f"'{name}={value}' is no name")
        call.shell.variables.pop(name, None)
        call.shell.exported.discard(name)
    return 0


async def export(call: Call) -> int:
    found, words = options(call.args, flags=("--json",))
    shell = call.shell
    if not words:
        shown = {name: shell.variables[name] for name in sorted(shell.exported) if name in shell.variables}
        if "--json" in found:
            await call.say(json.dumps(shown))
        else:
            await call.stdout.write("".join(f"export {name}={shlex.quote(value)}\n" for name, value in shown.items()))
    for name, value in _assignments(words):
        shell.exported.add(name)
        if value is not None:
            shell.variables[name] = value
    return 0


async def shift(call: Call) -> int:
    if len(call.args) > 1:
        raise Usage("it takes one number")
    count = number(call.args[0], "number of arguments") if call.args else 1
    if count > len(call.shell.arguments):
        raise Refused(f"there are only {len(call.shell.arguments)} arguments")
    call.shell.arguments = call.shell.arguments[count:]
    return 0


async def alias(call: Call) -> int:
    found, words = options(call.args, flags=("--json",))
    aliases = call.shell.aliases
    if not words:
        if "--json" in found:
            await call.say(json.dumps(dict(sorted(aliases.items()))))
        else:
            await call.stdout.write("".join(_shown(name, value) for name, value in sorted(aliases.items())))
        return 0
    status = 0
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            if name in aliases:
                await call.stdout.write(_shown(name, aliases[name]))
            else:
                await call.complain(f"there is no alias '{name}': alias alone lists them")
                status = 1
            continue
        if not _ALIAS.fullmatch(name):
            raise Usage(f"'{name}' can be no alias: it is one word without quotes and operators")
        try:
            lex(value)
        except BadSyntax as bad:
            raise Refused(f"{name}: its text is no part of a command: {bad.message}", 2) from None
        if len(aliases) >= MOST_ALIASES and name not in aliases:
            raise Refused(f"there are {MOST_ALIASES} aliases already: unalias some")
        aliases[name] = value
    return status


def _shown(name: str, value: str) -> str:
    return f"alias {name}={shlex.quote(value)}\n"


async def unalias(call: Call) -> int:
    found, words = options(call.args, flags=("-a",))
    if not words and not found:
        raise Usage("which alias? -a for all")
    status = 0
    if found:
        call.shell.aliases.clear()
    for name in words:
        if call.shell.aliases.pop(name, None) is None:
            await call.complain(f"there is no alias '{name}': alias alone lists them")
            status = 1
    return status


async def dot(call: Call) -> int:
    if len(call.args) != 1:
        raise Usage("it takes one file")
    if not call.alone or call.redirected or call.shell.source is None:
        raise Refused("only a command of its own, without pipes, can change this shell")
    return await call.shell.source(call.args[0])


BUILTINS = (
    Builtin(
        "set",
        "set [--json] [-efux] [+efux] [-o NAME] [--] [ARG]...",
        "list the variables, or change how the shell behaves",
        ("set", "set -ex", "set +x", "set -o", "set -- one two; echo $2"),
        set_,
        """\
  -e  errexit   leave at the first failure that no && || or ! asks about
  -f  noglob    * and its kin are no file patterns
  -u  nounset   a variable without a value is an error
  -x  xtrace    write each command, after +, before it runs
+ turns them off, -o lists them. Other words become $1, $2, ...""",
    ),
    Builtin("unset", "unset NAME...", "forget variables", ("unset X",), unset),
    Builtin(
        "export",
        "export [--json] [NAME[=VALUE]]...",
        "let commands of the host see variables, or list those that they see",
        ("export PAGER=less", "export"),
        export,
    ),
    Builtin("shift", "shift [N]", "forget the first N arguments of a script", ("shift; echo $1",), shift),
    Builtin(
        "alias",
        "alias [--json] [NAME[=TEXT]]...",
        "give a command another name, or list those names",
        ("alias k='kill -TERM'", "alias say='spawn chat'", "alias"),
        alias,
        """\
It counts from the next line on, where it is the first word of a command; where its text ends with a blank, also the word after.
In llmshrc they are there whenever llmsh starts at a terminal. A script (FILE, -c) is read as a whole before an alias in it counts.""",
    ),
    Builtin("unalias", "unalias -a | NAME...", "forget such names", ("unalias k", "unalias -a"), unalias),
    Builtin(
        ".",
        ". FILE",
        "run the lines of a file in this shell",
        (". ~/setup.llmsh",),
        dot,
        "What it sets stays set. An error in one line does not keep the next from running.",
    ),
)
