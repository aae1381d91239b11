"""An MCP server by hand that says what no SDK would: `python rude_mcp.py`. Its tool `be` takes how, and how often."""

from __future__ import annotations

import json
import sys
from typing import Any


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")


def be(how: str, times: int, id: Any) -> None:
    """Misbehave in one way."""
    for number in range(times):
        if how == "notify":
            say(method="notifications/progress", params={"progressToken": "x", "progress": number})
        elif how == "changed":
            say(method="notifications/tools/list_changed")
        elif how == "shout":
            sys.stderr.write(f"line {number} \x1b[2J{'x' * 90}\n")
        elif how == "shout-on":
            sys.stderr.write("x" * 1_000)
    if how == "wrong":
        say(id=id, result="no object")
    elif how == "wrong-content":
        say(id=id, result={"content": 7})
    elif how == "no-result":
        say(id=id)
    else:
        say(id=id, result={"content": [{"type": "text", "text": f"{how} done"}]})


listed = 0
SCHEMA = {"type": "object", "properties": {"how": {"type": "string"}, "times": {"type": "integer"}}}
for line in sys.stdin:
    asked = json.loads(line)
    method, id = asked.get("method"), asked.get("id")
    if id is None:
        continue
    if method == "initialize":
        told = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {"tools": {"listChanged": True}}}
        say(id=id, result={**told, "serverInfo": {"name": "rude", "version": "1"}})
    elif method == "tools/list":
        listed += 1
        say(id=id, result={"tools": [{"name": "be", "description": f"listed {listed}", "inputSchema": SCHEMA}]})
    elif method == "tools/call":
        given = asked["params"]["arguments"]
        be(given["how"], given.get("times", 0), id)
    else:
        say(id=id, error={"code": -32601, "message": "no such method"})
    sys.stdout.flush()
