"""docs/attacks.md tells of every class and every attack that is to be withstood, and the tests that it names exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import llmos

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/attacks.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")]
CLASSES = (1, 2, 3, 4, 5, 6, 8, 9, 10)
NAMED = (
    "garbage", "half messages", "oversized messages", "deep nesting", "wrong types and numbers", "a client that stops reading",
    "10,000 connections", "schemas that explode", "regular expressions that explode", "a tool that hangs", "a tool that forks",
    "a tool that prints 10 GB", "a tool that returns what cannot be serialised", "a tool that lies about its schema",
    "an MCP server that dies in a call", "a child that asks for more than its parent", "an approval answered after a change of arguments",
    "path escapes",
)  # fmt: skip


@pytest.mark.parametrize("begins", [*(f"{number}. " for number in CLASSES), *NAMED])
def test_every_attack_has_a_row(begins: str) -> None:
    (row,) = [row for row in ROWS if row[0].startswith(begins)]
    assert len(row) == 3
    assert row[1]


def test_every_row_names_tests_that_exist() -> None:
    functions: dict[str, set[str]] = {}
    for row in ROWS:
        if row[0] in ("class", "attack"):
            continue
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[2])
        assert named, f"{row[0]} names no test"
        for file, name in named:
            if file not in functions:
                tree = ast.parse((ROOT / file).read_text())
                functions[file] = {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
            assert name.startswith("test_")
            assert name in functions[file], f"{file} has no {name}"


def test_nothing_reads_what_could_run() -> None:
    """No module of llmos imports what makes objects of any class out of bytes, nor calls eval."""
    place = Path(llmos.__file__).parent
    files = list(place.rglob("*.py")) + [each for link in place.iterdir() if link.is_symlink() for each in link.resolve().rglob("*.py")]
    assert len(files) > 200
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "eval", file
            assert not {name.partition(".")[0] for name in names} & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}, file
