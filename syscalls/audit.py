"""Audit: what is to be written down of every call, whatever becomes of it.

An entry is made when a call ends, or is refused at the door, on the kernel's thread, where it costs a few microseconds: it refers to the
arguments, which nobody changes any more; another thread turns them into text (`plain`). Where that goes is the Auditor's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llmos.kernel.errno import Fault

from .call import REFUSED

if TYPE_CHECKING:
    from .abi import Arguments


_MOST, _LONGEST = 8, 512
"""Capabilities of one call that are written down, and characters of each."""


class Auditor(Protocol):
    """Takes entries on the kernel's thread and returns at once."""

    def put(self, entry: Entry) -> None: ...

    def stuck(self) -> Fault | None:
        """Why a call that changes the world must not be made now: it could not be written down."""
        ...


@dataclass(slots=True)
class Entry:
    """One call. Never changed once it was put."""

    at: float
    """When it ended, in seconds since 1970."""
    pid: int
    name: str
    """Of the process; empty if there is none, as for a pid that was made up."""
    user: str
    call: str
    arguments: Arguments | None
    """None if they made no sense."""
    permits: dict[str, int]
    """See Call.permits."""
    error: str
    """The errno it ended with; empty if it was done."""
    seconds: float
    """From its entry to its end."""
    spare: bool = False
    """Nothing was done: the call was refused, or only looked. Its record gives way where there is little room for those of others."""

    def plain(self, *, full: bool) -> dict[str, Any]:
        """What JSON can carry. With `full` contents too; secrets never."""
        from .digest import brief  # arguments are pydantic's: what only makes calls does without

        told: dict[str, Any] = {
            "time": round(self.at, 6), "pid": self.pid, "name": self.name, "user": self.user, "call": self.call,
            "arguments": None if self.arguments is None else brief(self.arguments, full=full),
        }  # fmt: skip
        if self.permits:
            told["capabilities"] = [each[:_LONGEST] for each in list(self.permits)[:_MOST]]
        if approvers := sorted({by for by in self.permits.values() if by > 0}):
            told["approved_by"] = approvers
        if deniers := sorted({-by for by in self.permits.values() if by < REFUSED}):
            told["denied_by"] = deniers
        told["outcome"] = self.error or "ok"
        told["seconds"] = round(self.seconds, 6)
        return told
