"""llmos new agent and llmos check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmos.sdk.agentfile import load
from llmos.sdk.agentnames import SHIPPED
from llmos.shell.command import main

BAD = 'sytem = "x"\nnice = 99\n\n[limits]\ntoken = 3\n[sampling]\ntemprature = 1\n'


def test_a_new_agent_is_good_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "agent", "poet", "--home", str(tmp_path), "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)["path"])
    assert path == tmp_path / "agents" / "poet.toml"
    assert load(path).prompt == "{input}"
    assert main(["check", "poet", str(path), "--home", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("poet is good") == 2


def test_every_line_that_the_new_file_has_commented_out_is_good_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["new", "agent", "poet", "--home", str(tmp_path)])
    path = tmp_path / "agents" / "poet.toml"
    head, _, rest = path.read_text().partition("# model")
    path.write_text(head + "model" + rest.replace("\n# ", "\n"))
    assert main(["check", str(path)]) == 0, capsys.readouterr().err
    assert load(path).limits.tokens == 2000


def test_a_file_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["new", "agent", "poet", "--home", str(tmp_path)])
    path = tmp_path / "agents" / "poet.toml"
    path.write_text("# mine")
    assert main(["new", "agent", "poet", "--home", str(tmp_path)]) == 1
    assert path.read_text() == "# mine"
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".x", "-", "é", "x" * 65, "a\n"])
def test_a_name_that_is_no_files_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "--home", str(tmp_path), "agent", "--", name]) == 2
    assert "an agent's name is letters" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name(tmp_path: Path) -> None:
    assert main(["new", "agent", "x" * 64, "--home", str(tmp_path)]) == 0


def test_every_mistake_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(BAD)
    assert main(["check", str(path), "chat", "--json"]) == 1
    bad, good = json.loads(capsys.readouterr().out)
    assert [error.removeprefix(f"{path}, ").split(":")[0] for error in bad["errors"]] == ["line 1", "line 2", "line 5", "line 7"]
    assert "did you mean 'temperature'?" in bad["errors"][3]
    assert not bad["ok"]
    assert good["ok"]


def test_a_file_with_ten_thousand_mistakes_is_told_in_few_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("".join(f"key{number} = 1\n" for number in range(10_000)))
    assert main(["check", str(path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 20


def test_what_is_not_there_is_told_beside_what_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "chta", "chat", "--home", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "did you mean 'chat'?" in told.err
    assert "chat is good" in told.out


SPEAKS = """
system = "Use llmos.calculate, or search_files. Who searches files may calculate."
tools = ["llmos.read_file"]

[[examples]]
input = "What is in a?"
call = '{"name": "llmos.list_files", "arguments": {"path": "/home"}}'
result = "a"
output = '<tool_call>{"name": "notes.add", "arguments": {}}</tool_call>'

[[examples]]
input = "Who is it?"
output = '{"name": "Anna", "age": 34}'

[[examples]]
input = "What is in b?"
call = "read_file b"
result = "b"
output = "b"
"""


def test_texts_that_speak_of_tools_the_agent_has_not_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "speaks.toml"
    path.write_text(SPEAKS)
    assert main(["check", str(path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["ok"]
    assert sorted(row["warnings"]) == [
        "example 1 calls 'llmos.list_files', which is not among its tools",
        "example 1 calls 'notes.add', which is not among its tools",
        "system speaks of 'llmos.calculate', which is not among its tools",
        "system speaks of 'llmos.search_files', which is not among its tools",
        "the call of example 3 is no call of a tool: it is JSON with name and arguments",
    ]
    assert main(["check", str(path)]) == 0
    told = capsys.readouterr()
    assert told.err.count("warning: ") == 5
    assert "speaks is good" in told.out


def test_what_comes_with_llmos_and_what_is_new_has_no_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["new", "agent", "poet", "--home", str(tmp_path)])
    capsys.readouterr()
    agents = ["poet", *(path.stem for path in SHIPPED.glob("*.toml"))]
    assert len(agents) > 5
    assert main(["check", *agents, "--home", str(tmp_path), "--json"]) == 0
    assert [row["warnings"] for row in json.loads(capsys.readouterr().out)] == [[]] * len(agents)


def test_what_an_agent_names_and_is_not_here_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "tools.toml").write_text('[mcp.notes]\ncommand = ["x"]\n[command.run]\nargv = ["true"]\n')
    files = {
        "a": 'model = "nope"\ntools = ["nosuch", "run", "notes.add", "llmos.calculate", "other.add"]\nprompt = "Say it."',
        "b": 'each = "chta"',
        "c": 'each = "chat"\nprompt = "Say it."',
        "d": 'input = "none"\nprompt = "Say it."',
    }
    for name, text in files.items():
        (tmp_path / "agents" / f"{name}.toml").write_text(text)
    assert main(["check", *files, "--home", str(tmp_path), "--json"]) == 0
    a, b, c, d = json.loads(capsys.readouterr().out)
    assert a["warnings"] == [
        'the prompt has no {input}: what the agent reads makes no difference; leave prompt out, or say input = "none"',
        "there is no model 'nope' here: llmos models lists those there are, llmos pull fetches one",
        "no tool 'nosuch' is in tools.toml: a program has to offer it, or the agent does not begin",
        "no tool 'other.add' is in tools.toml: a program has to offer it, or the agent does not begin",
    ]
    (warning,) = b["warnings"]
    assert warning.startswith("each: there is no agent 'chta'")
    assert (c["warnings"], d["warnings"]) == ([], [])
    assert c["about"] == "puts each line that it reads to chat, in a process of its own"
    (tmp_path / "tools.toml").write_text("[command.run]\nargw = 1\n")
    assert main(["check", "a", "--home", str(tmp_path), "--json"]) == 0
    assert any("did you mean 'argv'" in each for each in json.loads(capsys.readouterr().out)[0]["warnings"])
