"""What the README shows is what happens: its program runs, and the commands it names are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import llmos

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def run(home: Path, *command: str) -> str:
    """What a command prints, with the llmos of this interpreter, the dummy device, and a home of its own."""
    path = os.pathsep.join(filter(None, (str(Path(llmos.__file__).parent.parent), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "LLMOS_DEVICE": "dummy", "LLMOS_HOME": str(home)}
    done = subprocess.run([sys.executable, *command], cwd=home, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_of_the_readme_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "program.py").write_text(program)
    told, _, value = run(tmp_path, "program.py").partition("\n-- ")
    assert told
    assert value.strip() not in ("", "None")


def test_the_targets_that_the_readme_names_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", README)) <= targets


def test_the_commands_of_the_readme_are_commands_of_the_shell(tmp_path: Path) -> None:
    lines = re.findall(r"^llmsh:~\$ ([a-z]+)\b", README, re.MULTILINE)
    assert {"spawn", "ps", "explain"} <= set(lines)
    helped = run(tmp_path, "-m", "llmos.shell.main", "-c", "help")
    for command in lines:
        assert re.search(rf"\b{command}\b", helped), f"{command} is in the README and not in help"
