"""Makes docs/llmsh.svg: a session of llmsh as it really went, for the README.

    python docs/picture.py [--device dummy]

Types the lines of SESSION into an llmsh on a pseudo-terminal, waits for each to end, and draws what came back.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

import pexpect
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

WIDTH = 100
DOCS = Path(__file__).parent
SESSION = (
    "What is the capital of France?",
    "spawn summarise < notes.txt > summary.txt &",
    "nice -5 4; fork 4; ps",
    "kill 5",
    "wait 4; echo $?",
    "cat summary.txt",
    "explain 4",
)
NOTES = """\
An operating system shares one machine among many programs. It gives each a turn on the processor, keeps their memory
apart, and lets one start, stop and wait for another. The programs do not know of each other unless they want to: they
talk through pipes and files. When a program ends, everything it held is given back.
"""
PROMPT = re.compile(r"llmsh:~\S*\$ ")


def session(arguments: list[str]) -> list[tuple[str, str]]:
    """Every line of SESSION with what the shell answered."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "notes.txt").write_text(NOTES, encoding="utf-8")
        # A dumb terminal moves no cursor, so that its output is the text one sees.
        environment = dict(os.environ) | {"TERM": "dumb", "HOME": folder, "COLUMNS": str(WIDTH)}
        environment.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))  # what is compiled for this machine already
        if "LLMOS_HOME" not in environment:
            from llmos.services.init.settings import read_settings

            environment["LLMOS_HOME"] = str(read_settings().home)
        command = [sys.executable, "-m", "llmos.shell.main", *arguments]
        shell = pexpect.spawn(
            command[0], command[1:], cwd=folder, env=environment, encoding="utf-8", timeout=300, dimensions=(50, WIDTH), echo=False
        )
        shell.expect(PROMPT)
        shown = []
        for line in SESSION:
            shell.sendline(line)
            shell.expect(PROMPT)
            said = "\n".join(each for each in shell.before.replace("\r", "").split("\n") if not each.startswith("loading "))
            shown.append((line, said.strip("\n")))
        shell.sendline("exit")
        shell.expect(pexpect.EOF)
        shell.close()
        return shown


def draw(shown: list[tuple[str, str]], path: Path) -> None:
    """The session as a picture of a terminal."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        for line, said in shown:
            console.print(Text.assemble(("llmsh:~$ ", "bold green"), (line, "bold")))
            if said:
                console.print(Text(said, overflow="fold"))
        console.save_svg(str(path), title="llmsh", theme=MONOKAI)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu, reference or dummy")
    parser.add_argument("--out", type=Path, default=DOCS / "llmsh.svg")
    found = parser.parse_args()
    draw(session(["--device", found.device]), found.out)


if __name__ == "__main__":
    main()
