"""docs/tour.md names every file of the package, and every file keeps to the rules of the house."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("kernel", "drivers", "syscalls", "sdk", "services", "shell", "src/llmos")
MOST_LINES = 400
LONGER: dict[str, str] = {}
"""File -> why it may have more lines."""


def only_a_guard(path: Path) -> bool:
    """A folder's __init__.py that has a docstring and the guard against its bare name, and nothing else."""
    return path.name == "__init__.py" and all(isinstance(node, ast.Expr | ast.If) for node in ast.parse(path.read_text()).body)


def package() -> list[Path]:
    own = [path for folder in FOLDERS[:-1] for path in (ROOT / folder).rglob("*.py")]
    return sorted([*own, *(ROOT / "src/llmos").glob("*.py")])


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_tour_names_every_file_and_no_other() -> None:
    named = set(re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w/]+\.py)`", (ROOT / "docs/tour.md").read_text()))
    there = {relative(path) for path in package()}
    assert sorted(named - there) == [], "the tour names files that are not there"
    guards = {relative(path) for path in package() if only_a_guard(path)}
    assert sorted(there - named - guards) == [], "the tour leaves out files"


@pytest.mark.parametrize("path", package(), ids=relative)
def test_no_file_is_too_long(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES or relative(path) in LONGER, f"{relative(path)} has {lines} lines; split it at a noun"


@pytest.mark.parametrize("path", package(), ids=relative)
def test_every_file_says_what_it_owns(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{relative(path)} has no module docstring"
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    vague = [name for name in names if re.search(r"(Manager|Helper|Utils?)$|^Base[A-Z]", name)]
    assert not vague, f"{relative(path)}: {vague} is no noun of the field"


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{relative(document)} links to {target}, which is not there"


def test_every_decision_has_a_number_of_its_own() -> None:
    numbers = [path.name[:5] for path in (ROOT / "docs/decisions").glob("*.md")]
    assert all(re.fullmatch(r"\d{4}-", number) for number in numbers)
    assert len(numbers) == len(set(numbers))


def test_ci_runs_the_command_that_the_readme_gives() -> None:
    assert re.search(r"^make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert re.search(r"\bcheck test\b", (ROOT / ".ci/run").read_text())
