"""Writes the reference of system calls, docs/syscalls.md, from the table: `python docs/calls.py`."""

from pathlib import Path

from llmos.syscalls.reference import reference

PAGE = Path(__file__).with_name("syscalls.md")

if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
