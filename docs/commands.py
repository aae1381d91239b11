"""Writes the reference of commands in docs/shell.md from the help pages of llmsh: `python docs/commands.py`."""

from pathlib import Path

from llmos.shell.builtins import table

PAGE = Path(__file__).with_name("shell.md")
MARK = "and a test compares. -->\n"


def reference() -> str:
    """The help page of every command, in order of the alphabet."""
    return "".join(f"\n```\n{builtin.page}\n```\n" for _, builtin in sorted(table().items()))


def page() -> str:
    """docs/shell.md as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    return text[: text.index(MARK) + len(MARK)] + reference()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
