"""`llmos tools`: the tools of the system that runs, else those that its tools.toml names; and `llmos tools check`, which tries them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

import llmos
from llmos.services.init.place import daemon_pid, home_of
from llmos.services.tools import ToolsFile, load, path_of


def show(found: argparse.Namespace) -> int:
    """List tools."""
    home = home_of(found.home)
    if daemon_pid(home) is not None:
        rows = anyio.run(_running, home, backend="asyncio")
    else:
        rows = [{"name": name, "state": "not started", "description": words} for name, words in _named(load(home))]
    _print(found, rows, f"there are none: name some in {path_of(home)}, or offer functions from a program")
    return 0


async def _running(home: Path) -> list[dict[str, Any]]:
    async with llmos.connect(home=home, name="llmos tools") as system:
        return [
            {
                "name": tool.name,
                "state": "ready",
                "description": tool.description,
                "schema": json.loads(tool.schema),
                "seconds": tool.seconds,
                "offered by": tool.offerer,
                "needs": list(tool.needs),
            }
            for tool in await system.tools()
        ]


def _named(file: ToolsFile) -> list[tuple[str, str]]:
    commands = [(name, command.description or " ".join(command.argv)) for name, command in file.command.items()]
    return sorted([*commands, *((f"{name}.*", server.url or " ".join(server.command or ())) for name, server in file.mcp.items())])


def check(found: argparse.Namespace) -> int:
    """Try every server and command."""
    home = home_of(found.home)
    rows = anyio.run(_tried, load(home), backend="asyncio")
    _print(found, rows, f"there is nothing in {path_of(home)}")
    return int(any(row["state"] != "ready" for row in rows))


async def _tried(file: ToolsFile) -> list[dict[str, Any]]:
    from llmos.services.tools.command import check as check_command

    rows: dict[str, dict[str, Any]] = {}

    async def one(name: str, look: Callable[[], Any]) -> None:
        state, words = "ready", ""
        try:
            words = await look()
        except llmos.Fault as fault:
            state, words = "wrong", str(fault.args[0])
        rows[name] = {"name": name, "state": state, "description": words}

    async with anyio.create_task_group() as tasks:
        if file.mcp:
            from llmos.services.tools.server import check as check_server

            for name, server in file.mcp.items():
                tasks.start_soon(one, f"{name}.*", lambda name=name, server=server: check_server(name, server))
        for name, command in file.command.items():
            tasks.start_soon(one, name, lambda command=command: anyio.to_thread.run_sync(check_command, command))
    return [rows[name] for name in sorted(rows)]


def _print(found: argparse.Namespace, rows: list[dict[str, Any]], none: str) -> None:
    if found.json:
        print(json.dumps(rows))
    elif not rows:
        print(f"llmos: tools: {none}", file=sys.stderr)
    else:
        from .terminal import VISIBLE

        width = max(len(row["name"]) for row in rows)
        for row in rows:
            first = row["description"].strip().partition("\n")[0]
            print(f"{row['name']:{width}}  {row['state']:11}  {first}".translate(VISIBLE).rstrip())
