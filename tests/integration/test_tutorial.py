"""The tutorial and the how-to pages: what they show is run, in order, in a folder and a home of each page's own.

    ```console      `$ COMMAND` is run by sh, `llmsh$ LINE` by llmsh, `> ` goes on with the line before; what follows is what it prints
    ```python       is written to the file that its first line names, as in `# debate.py`; so are toml and json
    ```text, sh     is for the reader

Every command succeeds, but for one that is shown to be refused. `...` in what is printed stands for anything, on a line of its own for
any lines. The dummy device stands for a model: what one would say is shown as text.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import llmos
from llmos.services.init.place import daemon_pid

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [DOCS / "tutorial.md", *sorted((DOCS / "howto").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = {"python": "# ", "toml": "# ", "json": "// "}
MARK = "@@@ llmos test @@@"

pytestmark = pytest.mark.timeout(180)


@dataclass
class Step:
    """One command, who runs it, and the lines it prints."""

    shell: str
    command: str
    prints: list[str] = field(default_factory=list)


def steps_of(block: str) -> list[Step]:
    steps: list[Step] = []
    for line in block.splitlines():
        if prompt := re.match(r"(\$|llmsh\$) (.*)", line):
            steps.append(Step(prompt[1], prompt[2]))
        elif line.startswith("> ") and steps and not steps[-1].prints:
            steps[-1].command += "\n" + line[2:]
        else:
            assert steps, f"{line!r} comes before any command"
            steps[-1].prints.append(line)
    return steps


def matches(expected: list[str], printed: str) -> bool:
    """Whether this is what was to be printed."""
    pattern = ""
    for line in expected:
        pattern += r"(?:.*\n)*?" if line == "..." else ".*?".join(map(re.escape, line.split("..."))) + r"\n"
    return re.fullmatch(pattern, printed if printed.endswith("\n") or not printed else printed + "\n") is not None


class Reader:
    """Somebody who tries what a page says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder / "work", folder / "home"
        self.folder.mkdir()
        binaries = folder / "bin"
        binaries.mkdir()
        for name, options in (("llmos", "-m llmos"), ("llmsh", "-m llmos.shell.main"), ("python", "")):
            (binaries / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {options} "$@"\n')
            (binaries / name).chmod(0o755)
        package = os.pathsep.join(filter(None, (str(Path(llmos.__file__).parent.parent), os.environ.get("PYTHONPATH"))))
        self.environment = {
            **os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": package,
            "LLMOS_HOME": str(self.home), "LLMOS_DEVICE": "dummy", "NO_COLOR": "1", "HOME": str(self.folder), "COLUMNS": "120",
        }  # fmt: skip

    def file(self, language: str, text: str) -> None:
        first, _, rest = text.partition("\n")
        name = first.removeprefix(FILES[language])
        assert re.fullmatch(r"[\w./-]+\.\w+", name), f"a {language} block must begin with the name of its file, not {first!r}"
        path = (self.folder / name).resolve()
        assert path.is_relative_to(self.folder.resolve())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rest if language == "json" else text)

    def run(self, steps: list[Step]) -> None:
        """A block: its lines of llmsh are one session."""
        for shell in ("sh", "llmsh"):
            mine = [step for step in steps if (step.shell == "llmsh$") == (shell == "llmsh")]
            if not mine:
                continue
            assert len(mine) == len(steps), "a block is for one shell"
            script = "".join(f"{step.command}\necho '{MARK}' $?\n" for step in mine)
            done = subprocess.run(
                [shell, "-c" if shell == "sh" else "/dev/stdin", *([script] if shell == "sh" else [])],
                input=None if shell == "sh" else script, cwd=self.folder, env=self.environment,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
            )  # fmt: skip
            *printed, rest = re.split(rf"{re.escape(MARK)} (\d+)\n", done.stdout)
            for step, text, status in zip(mine, printed[::2], printed[1::2], strict=False):
                expected = "\n".join(step.prints)
                assert matches(step.prints, text), f"{step.command}\nprinted:\n{text}\nand not:\n{expected}"
                refused = any(line.startswith(("llmos: ", "llmsh: ")) for line in step.prints)
                assert (status == "0") != refused, f"{step.command}: status {status}"
            assert (len(printed), rest) == (2 * len(mine), ""), f"it ended early: {done.stdout}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_is_what_happens(page: Path, tmp_path: Path) -> None:
    if "bubblewrap" in page.read_text() and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not here")
    reader = Reader(tmp_path)
    try:
        for language, text in BLOCK.findall(page.read_text()):
            if language == "console":
                reader.run(steps_of(text))
            elif language in FILES:
                reader.file(language, text)
            else:
                assert language in ("text", "sh"), f"nothing is done with a block of {language}"
    finally:
        if (pid := daemon_pid(reader.home)) is not None:
            subprocess.run(["llmos", "down"], env=reader.environment, capture_output=True, timeout=60, check=False)
            assert daemon_pid(reader.home) is None, f"the daemon {pid} is still there"


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        (["a", "b"], "a\nb\n", True), (["a"], "a\nb\n", False), (["a", "..."], "a\nb\nc\n", True), (["...", "c"], "a\nb\n", False),
        (["pid ... of ..."], "pid 7 of 9\n", True), (["pid ... of ..."], "pid 7 on 9\n", False), ([], "", True), ([], "x\n", False),
    ],
)  # fmt: skip
def test_what_is_compared(expected: list[str], printed: str, same: bool) -> None:
    assert matches(expected, printed) is same


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w/.-]+\.md)\)", (DOCS / "README.md").read_text()))
    pages = {str(page.relative_to(DOCS)) for page in (*DOCS.glob("*.md"), *(DOCS / "howto").glob("*.md"))} - {"README.md"}
    assert pages <= linked, "docs/README.md leaves out pages"
    assert all((DOCS / name).exists() for name in linked)
