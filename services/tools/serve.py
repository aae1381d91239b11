"""Serve: the process `tools`, which offers to all what a home's tools.toml names, until it is cancelled."""

from __future__ import annotations

import anyio

from llmos.sdk.system import System

from . import command
from .config import ToolsFile


async def serve(system: System, file: ToolsFile) -> None:
    """Raises the fault that the system ends with."""
    async with anyio.create_task_group() as tasks:
        if file.command:
            tasks.start_soon(_commands, system, file)
        if file.mcp:
            from .server import keep  # the SDK of MCP takes its time to import, and only those who have servers need it

            for name, server in file.mcp.items():
                tasks.start_soon(keep, system, name, server)


async def _commands(system: System, file: ToolsFile) -> None:
    async with system.offer(*(command.tool(name, each) for name, each in file.command.items()), public=True):
        await anyio.sleep_forever()
