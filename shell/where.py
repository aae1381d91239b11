"""Where: which file a word on the command line means.

    notes.txt  ../a  ~/a  /etc/fstab     of the machine: where the shell is
    /home/a  /tmp/a  /proc/7/status      of the system: what begins with one of its mounts
    host:/home/me/a  host:a              of the machine in any case, as the system reaches it, with its capability

A path below $HOME is of the machine, since that is what ~ becomes. Behind < and > so is /tmp. Reads no file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

HOST = "host:"
MOUNTS = ("home", "models", "output", "proc", "tmp", "tools")


@dataclass(frozen=True, slots=True)
class Where:
    word: str
    """As it was written."""
    path: str
    """As the system takes it."""
    plain: bool
    """A file of the machine that was named without host:, as in a redirection: the shell may open it itself."""

    @property
    def name(self) -> str:
        """The last part, as a copy of it is called."""
        return self.path.rstrip("/").rpartition("/")[2]

    def inside(self, name: str) -> Where:
        """What is called so in this folder."""
        return Where(f"{self.word.rstrip('/')}/{name}" if self.word != "." else name, f"{self.path.rstrip('/')}/{name}", self.plain)


def where(word: str, variables: Mapping[str, str]) -> Where:
    """What a word means here and now."""
    if word.startswith(HOST):
        return Where(word, HOST + os.path.abspath(word.removeprefix(HOST)), False)
    home = variables.get("HOME", "").rstrip("/")
    of_machine = home and (word == home or word.startswith(home + "/"))
    if word.startswith("/") and not of_machine and word.lstrip("/").partition("/")[0] in (*MOUNTS, ""):
        return Where(word, word, False)
    return Where(word, HOST + os.path.abspath(word), True)


def where_to(word: str, variables: Mapping[str, str]) -> Where:
    """What a word behind < or > means: the same, but /tmp is the machine's: the system's ends with the system."""
    found = where(word, variables)
    if found.plain or word.startswith(HOST) or word.lstrip("/").partition("/")[0] != "tmp":
        return found
    return Where(word, HOST + os.path.abspath("/" + word.lstrip("/")), True)
