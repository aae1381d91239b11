"""docs/shell.md says what the commands say of themselves."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_is_what_help_says() -> None:
    page = runpy.run_path(str(DOCS / "commands.py"))["page"]
    assert (DOCS / "shell.md").read_text(encoding="utf-8") == page(), "run `python docs/commands.py`"
