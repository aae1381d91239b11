"""A real MCP server, of the official SDK, that is as bad as it is told to be. `python mcp_server.py stdio | http PORT [how]`"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.tools import Tool

server = MCPServer("bad")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
async def sleep(seconds: float, mark: str) -> str:
    """Sleep; leave a mark at the beginning, and another if cancelled."""
    Path(mark + ".begun").touch()
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        Path(mark + ".cancelled").touch()
        raise
    return "slept"


@server.tool()
def die() -> str:
    """End the server's process."""
    os._exit(3)


@server.tool()
def fail() -> str:
    """Raise."""
    raise ValueError("it went wrong")


@server.tool()
def much(size: int) -> str:
    """Much text."""
    return "x" * size


@server.tool()
def picture() -> Image:
    """No text."""
    return Image(data=b"\x89PNG" + bytes(1000), format="png")


@server.tool()
def pid() -> int:
    """The server's pid."""
    return os.getpid()


def many(count: int) -> None:
    """Add tools, of which reading one signature each would take half a minute."""
    global server
    model = Tool.from_function(add)
    server = MCPServer("many", tools=[model.model_copy(update={"name": f"add{number}"}) for number in range(count)])


def main() -> None:
    how = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    if "log" in how:
        with open(how["log"], "a") as file:
            file.write(f"{os.getpid()}\n")
    if "many" in how:
        many(int(how["many"]))
    if "slow" in how:
        time.sleep(float(how["slow"]))
    if "endless" in how:
        while True:
            sys.stdout.write("x" * 65536)
    if "garbage" in how:
        print("this is no message\n" * int(how["garbage"]), flush=True)
    if "port" in how:
        server.run("streamable-http", port=int(how["port"]))
    else:
        server.run("stdio")


if __name__ == "__main__":
    main()
