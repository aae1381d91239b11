"""Builtins that show processes as a picture: tree, and top, which fills the screen and goes on."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from typing import Any

import anyio

from ..family import branches
from ..terminal import TerminalSink
from .call import Builtin, Call, Refused, Usage, number, options

LEAST, MOST = 0.1, 3600.0
"""Seconds between two pictures."""
PLAIN_WIDTH = 120


async def tree(call: Call) -> int:
    found, words = options(call.args, flags=("--json",))
    if words:
        raise Usage("it takes no words: explain PID tells more of one process")
    drawn = branches(await (await call.system()).ps())
    from ..render import class_name, tree_table  # rich costs 0.1 s: loaded when a table is drawn

    if "--json" in found:
        rows = [asdict(each) | {"cls": class_name(each)} for _, each in drawn]
        nodes: dict[int, dict[str, Any]] = {row["pid"]: row | {"children": []} for row in rows}
        roots: list[dict[str, Any]] = []
        for row in rows:
            parent = nodes.get(row["parent"]) if row["parent"] != row["pid"] else None
            (roots if parent is None else parent["children"]).append(nodes[row["pid"]])
        await call.say(json.dumps(roots))
    else:
        await call.shell.draw(call.stdout, tree_table(drawn))
    return 0


def _interval(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not LEAST <= value <= MOST:
        raise Usage(f"'{text}' is no number of seconds from {LEAST:g} to {MOST:g}")
    return value


async def top(call: Call) -> int:
    found, words = options(call.args, flags=("--json",), values=("-n", "-d"))
    if words:
        raise Usage("it takes no words: -n COUNT, -d SECONDS")
    every = _interval(found.get("-d", "1"))
    times = number(found["-n"], "number of pictures", least=1) if "-n" in found else 1 if "--json" in found else None
    terminal = call.shell.terminal
    full = isinstance(call.stdout, TerminalSink) and terminal.is_tty and not terminal.dumb and os.isatty(0) and call.alone
    if times is None and not (full and call.job.foreground):
        raise Refused("a live picture needs a terminal with cursor control, and top in front: top -n 1 prints one, top --json for scripts")
    system = await call.system()
    from ..board import Board  # rich and prompt_toolkit cost 0.2 s: loaded when they are wanted
    from ..top import sample, show

    board = Board()
    await sample(system, board)
    if times is None:
        await show(system, terminal, board, every)
        return 0
    for turn in range(times):
        if turn:
            await anyio.sleep(every)
            await sample(system, board)
        if "--json" in found:
            await call.say(json.dumps({"summary": board.summary(), "processes": [row.plain() for row in board.ordered()]}))
        else:
            await call.say("\n".join([*([""] if turn else []), *board.plain(PLAIN_WIDTH)]))
    return 0


BUILTINS = (
    Builtin("tree", "tree [--json]", "list the processes below those that started them", ("tree", "tree --json"), tree),
    Builtin(
        "top",
        "top [-d SECONDS] [-n COUNT] [--json]",
        "watch the processes: who computes, how fast, with how many pages",
        ("top", "top -d 5", "top -n 1", "top --json"),
        top,
        """\
The arrow keys choose a process, k sends it a signal, n sets its nice value, < and > choose the column to order by, ? lists all keys.
TOKENS are its own, without those of its children; TOK/S and SHARE are of the last while, of the first picture since it began.
-n prints that many pictures and ends, --json one in JSON; a live one needs a terminal.""",
    ),
)
