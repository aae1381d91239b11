"""Words become arguments as in sh: home, variables, splitting, file patterns, and quotes that stop each of them."""

from pathlib import Path

import pytest

from llmos.shell import expansion
from llmos.shell.expansion import TooManyMatches, Values, expand, match
from llmos.shell.parser import parse

VARIABLES = {"HOME": "/home/me", "a": "one", "two": "x y", "edges": " x y ", "blank": "  ", "star": "*.md"}


def arguments(line: str) -> list[str]:
    (command,) = parse(line).commands
    return [each for word in command.words for field in expand(word, Values(VARIABLES.get)) for each in match(field)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x ~", ["x", "/home/me"]),
        ("x ~/notes", ["x", "/home/me/notes"]),
        ("x ~other a~ '~' \\~", ["x", "~other", "a~", "~", "~"]),
        ("x $a$a ${a}b", ["x", "oneone", "oneb"]),
        ("x $none", ["x"]),
        ('x "$none"', ["x", ""]),
        ("x $none''", ["x", ""]),
        ("x $two", ["x", "x", "y"]),
        ('x "$two"', ["x", "x y"]),
        ("x a${two}b", ["x", "ax", "yb"]),
        ("x a${edges}b", ["x", "a", "x", "y", "b"]),
        ("x a${blank}b", ["x", "a", "b"]),
        ("x a${none}b", ["x", "ab"]),
        ("x '$a'", ["x", "$a"]),
    ],
)
def test_home_and_variables(line: str, expected: list[str]) -> None:
    assert arguments(line) == expected


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.md", "a.md", "c.txt", ".hidden.md", "with blank.md"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert arguments("x *.md") == ["x", "a.md", "b.md", "with blank.md"]
    assert arguments("x ?.txt [ab].md") == ["x", "c.txt", "a.md", "b.md"]
    assert arguments("x '*'.md \\*.md \"[ab].md\"") == ["x", "*.md", "*.md", "[ab].md"]
    assert arguments("x France? *.none") == ["x", "France?", "*.none"]
    assert arguments("x $star") == ["x", "a.md", "b.md", "with blank.md"]
    assert arguments('x "$star"') == ["x", "*.md"]


def test_patterns_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (tmp_path / str(number)).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(expansion, "MOST_MATCHES", 4)
    assert len(arguments("x *")) == 5
    (tmp_path / "5").touch()
    with pytest.raises(TooManyMatches, match="quotes"):
        arguments("x *")
