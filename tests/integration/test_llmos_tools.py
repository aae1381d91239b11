"""`llmos tools` and `llmos tools check`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio.to_thread
import pytest

from llmos.shell.command import main

from .conftest import connected

SCRIPT = str(Path(__file__).parents[1] / "support/mcp_server.py")


def write(home: Path, server: list[str]) -> None:
    argv = json.dumps(server)
    (home / "tools.toml").write_text(
        f'[mcp.bad]\ncommand = {argv}\n[command.hello]\nargv = ["echo", "x"]\nsandbox = false\ndescription = "Says x."\n'
    )


def test_without_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tools", "--home", str(tmp_path)]) == 0
    assert "tools.toml" in capsys.readouterr().err
    assert main(["tools", "--json", "--home", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_what_the_file_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, ["server"])
    assert main(["tools", "--home", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "bad.*  not started  server\nhello  not started  Says x.\n"


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, [sys.executable, SCRIPT])
    assert main(["tools", "check", "--home", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "bad.*  ready        7 tools: bad.add" in out
    assert "hello  ready        runs without a sandbox" in out
    write(tmp_path, ["/nowhere/server"])
    assert main(["tools", "check", "--json", "--home", str(tmp_path)]) == 1
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["bad.*"]["state"], rows["hello"]["state"]) == ("wrong", "ready")
    assert "No such file" in rows["bad.*"]["description"]


def test_a_wrong_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tools.toml").write_text("[mcp.a]\ncomand = []\n")
    assert main(["tools", "--home", str(tmp_path)]) == 1
    assert "line 2: there is no key 'comand' in [mcp.a]; did you mean 'command'?" in capsys.readouterr().err


@pytest.mark.anyio
async def test_those_of_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def add(a: int) -> int:
        """Add."""
        return a

    async with connected(home=tmp_path, preload=False) as system, system.offer(add, public=True):
        assert await anyio.to_thread.run_sync(main, ["tools", "--home", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["state"], row["description"]) == ("add", "ready", "Add.")
    assert row["schema"]["required"] == ["a"]
