"""The manual of system calls, for `man` in the shell, which may not look at the table itself. Makes no call."""

from __future__ import annotations

from llmos.syscalls.reference import pages


def manual() -> dict[str, str]:
    """The page of every call, by its name."""
    return pages()
