"""tools.toml: what it may say, and what is said of what it may not: the line, the key, the nearest one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos.kernel.errno import BadFormat
from llmos.services.tools.config import load, parse, path_of


def test_what_it_may_say(tmp_path: Path) -> None:
    assert not load(tmp_path)
    path_of(tmp_path).write_text(
        '[mcp.notes]\ncommand = ["python", "-m", "x"]\nenv = { KEY = "value" }\n'
        '[mcp.web]\nurl = "https://example.org/mcp"\nheaders = { Authorization = "Bearer x" }\ntools = ["a"]\nseconds = 5\n'
        '[command.run]\nargv = ["sh", "-c", "{line}"]\nmemory = "1GiB"\nnetwork = true\n[command.run.parameters]\nline = "a shell line"\n'
    )
    found = load(tmp_path)
    assert found
    assert found.mcp["web"].seconds == 5
    assert found.command["run"].memory == 1 << 30
    assert (found.command["run"].holes, found.command["run"].sandbox) == (["line"], True)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[mcp.a\n", "line 1: this is not TOML"),
        ("x = " + "9" * 5000, "too many digits"),
        ('\n[mpc.a]\nurl = "http://x"\n', "line 2: there is no key 'mpc'; did you mean 'mcp'?"),
        ('[mcp.a]\n\nurll = "http://x"\n', r"line 3: there is no key 'urll' in \[mcp.a\]; did you mean 'url'?"),
        ('[command.a]\nargv = ["x"]\nzzzz = 1\n', "line 3: there is no key 'zzzz' in .*; the keys are argv"),
        ("[mcp.a]\nseconds = 5\n", "line 1: .*needs either command"),
        ('[mcp.a]\nurl = "http://x"\ncommand = ["x"]\n', "line 1: .*needs either command"),
        ('[mcp.a]\nurl = "ftp://x"\n', "line 2: 'url' in .* must be http://HOST/PATH"),
        ('[mcp.a]\nurl = "file:///etc/passwd"\n', "line 2: 'url'"),
        ('[mcp.a]\nurl = "http://user:secret@x/"\n', "line 2: 'url'"),
        ('[mcp.a]\ncommand = "x"\n', "line 2: "),
        ("[mcp.a]\ncommand = []\n", "line 2: "),
        ('["mcp"."a b"]\ncommand = ["x"]\n', "has a character"),
        ('[command."../a"]\nargv = ["x"]\n', "has a character"),
        ('[command.a]\nargv = ["x"]\nseconds = -1\n', "line 3: .*must be more than 0"),
        ('[command.a]\nargv = ["x"]\nseconds = inf\n', "line 3: "),
        ('[command.a]\nargv = ["x"]\nmemory = "1KB"\n', "line 3: .*must be at least"),
        ('[command.a]\nargv = ["x"]\nprocesses = 0\n', "line 3: .*must be at least 1"),
        ('[command.a]\nargv = ["x"]\n[command.a.parameters]\nb = "c"\n', "line .*: .*says what 'b' means"),
        ('[command.a]\nargv = ["x\\u0000"]\n', "line 2: "),
    ],
)
def test_what_it_may_not(text: str, wrong: str) -> None:
    with pytest.raises(BadFormat, match=wrong) as raised:
        parse(text, "tools.toml")
    assert "secret" not in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path_of(tmp_path).write_bytes(b"\n\xff")
    with pytest.raises(BadFormat, match="line 2: this is not UTF-8"):
        load(tmp_path)
    path_of(tmp_path).write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(BadFormat, match="longer than"):
        load(tmp_path)
    path_of(tmp_path).unlink()
    path_of(tmp_path).mkdir()
    with pytest.raises(BadFormat, match="cannot be read"):
        load(tmp_path)
