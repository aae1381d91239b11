"""Agent files for those who write them: a new one to begin with, and what is wrong with one.

Nothing here runs an agent, and nothing is written over: a file that is there stays.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmos import AgentFile, AlreadyExists, Fault, InvalidArgument
from llmos.sdk import agentfile
from llmos.sdk.agentnames import SHIPPED
from llmos.sdk.agentwarnings import warnings
from llmos.services.init.place import folders_of, home_of

from .terminal import complain

TEMPLATE = """\
# An agent: `llmsh -c 'spawn {name} < FILE'` runs it, `llmos check {file}` says what is wrong with this file.
description = "Says what it does, in a line."
system = "You are an assistant. You answer briefly."

# What is asked in a turn. {{input}} stands for what was read: "all" of standard input, a "line" a turn, or "none".
prompt = "{{input}}"
input = "all"

# model = "smollm2"        # else its parent's, or the default
# class = "batch"          # interactive, normal, batch or idle
# nice = 5                 # from -20, most favoured, to 19
# max_turns = 10
# tools = ["llmos.calculate"]   # also llmos.list_files, read_file, search_files, and those of tools.toml
# capabilities = ["llm:*", "file:r:/home/*"]

# [limits]
# tokens = 2000
# wall_seconds = 60

# [[examples]]             # turns that come before the first; call and result, what a tool was asked and gave
# input = "What is asked."
# output = "What is to be said."

[sampling]
max_tokens = 256
temperature = 0.0
"""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def new(found: argparse.Namespace) -> int:
    """`llmos new agent NAME`: write the file, and say where."""
    name = found.name
    if not NAME.fullmatch(name):
        raise InvalidArgument(
            f"an agent's name is letters, digits, - and _, at most 64, and begins with a letter or digit; not {name[:80]!r}"
        )
    folder = Path("agents") if found.here else home_of(found.home) / "agents"
    path = folder / f"{name}.toml"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise AlreadyExists(f"{path} is there already: edit it, or take another name") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(TEMPLATE.format(name=name, file=path))
    if (SHIPPED / f"{name}.toml").exists():
        complain("llmos: new", f"llmos has an agent {name} of its own; this one takes its place")
    print(json.dumps({"agent": name, "path": str(path)}) if found.json else f"{path} is there: edit it, then llmos check {path}")
    return 0


def check(found: argparse.Namespace) -> int:
    """`llmos check FILE...`: every mistake of every file, with its line; status 1 if there is one. Warnings leave it at 0."""
    home = home_of(found.home)
    folders = folders_of(home)
    rows: list[dict[str, Any]] = []
    for given in found.files:
        try:
            agent = agentfile.find(given, folders)
        except Fault as fault:
            rows.append({"file": given, "ok": False, "errors": str(fault.args[0]).splitlines(), "warnings": []})
        else:
            doubts = [*warnings(agent), *_missing(agent, home, folders)]
            rows.append({"file": agent.path, "ok": True, "errors": [], "warnings": doubts, "agent": agent.name, "about": _about(agent)})
    if found.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            for line in row["errors"]:
                complain("llmos: check", line)
            for line in row["warnings"]:
                complain("llmos: check", f"{row['file']}: warning: {line}")
            if row["ok"]:
                print(f"{row['file']}: {row['agent']} is good: {row['about']}")
    return 0 if all(row["ok"] for row in rows) else 1


def _missing(agent: AgentFile, home: Path, folders: tuple[Path, ...]) -> Iterator[str]:
    """What it names and is not here now. It may be by the time that it runs: a model is pulled, a tool offered by a program."""
    if agent.model is not None:
        from .store import stored_models

        models = stored_models(home, agent.model, set())
        if agent.model not in {name for row in models for name in (row["name"], f"{row['name']}:{row['tag']}")}:
            yield f"there is no model {agent.model!r} here: llmos models lists those there are, llmos pull fetches one"
    if agent.each is not None:
        try:
            agentfile.find(agent.each, folders)
        except Fault as fault:
            yield f"each: {fault.args[0]}"
    if agent.offered:
        from llmos.services.tools.config import load

        try:
            file = load(home)
        except Fault as fault:
            yield f"tools: {fault.args[0]}"
            return
        for name in agent.offered:
            if name not in file.command and name.partition(".")[0] not in file.mcp:
                yield f"no tool {name!r} is in tools.toml: a program has to offer it, or the agent does not begin"


def _about(agent: AgentFile) -> str:
    """What it is, in a line."""
    if agent.each is not None:
        return f"puts each line that it reads to {agent.each}, in a process of its own"
    reads = {"line": "a turn for each line it reads", "all": "one turn over all it reads", "none": "one turn, and reads nothing"}
    parts = [f"model {agent.model or 'as its parent has'}", reads[agent.input]]
    if agent.cls is not None:
        parts.append(f"class {agent.cls}")
    return ", ".join(parts)
