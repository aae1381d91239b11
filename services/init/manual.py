"""The manual of system calls, for `man` in the shell, which may not look at the table itself. Makes no call."""

from __future__ import annotations

from llmos.syscalls.numbers import CALLS


def names() -> list[str]:
    """Every call, in the order of their numbers."""
    return list(CALLS)


def manual() -> dict[str, str]:
    """The page of every call, by its name."""
    from llmos.syscalls.reference import pages  # the table brings pydantic and every handler: 0.3 s that names() does without

    return pages()


def page_of(name: str) -> str:
    """The page of one call, which there must be."""
    from llmos.syscalls.reference import page
    from llmos.syscalls.table import TABLE

    return page(TABLE[name])
