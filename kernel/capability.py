"""Capabilities: what a process may ask for. A child never holds more than its parent.

    family:object      tool:send_mail   llm:smollm2   proc:spawn   net:example.com
    family:prefix*     tool:git*        whatever begins so
    file:MODE:PATH     file:rw:/home/a.txt, or file:r:/home/notes/*: all below that folder. MODE is r, w or rw
    *                  everything
    ask:PATTERN        the same, but a person is asked each time

What is held says of every capability one of three things, DENIED < ASKED < HELD. An ask rule wins over a plain pattern that
covers the same: {tool:*, ask:tool:send_mail} asks for send_mail and for nothing else. Reading and writing are judged apart, and
rw is as good as the worse of the two: {file:r:/home/*, ask:file:w:/home/*} reads freely and asks before it writes.

Invariant (tests/property/test_capabilities.py): for every capability, what a child holds says no more than what its parent holds.
Any two patterns either meet in a third or have nothing in common, so that the lesser of two sets is a set of patterns again.
Checks happen when a call executes. Knows no call and no person; syscalls/permit.py asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum
from functools import lru_cache

from .errno import InvalidArgument

ALL = frozenset({"*"})

DEFAULT = frozenset({"llm:*", "proc:spawn", "pipe:*", "file:r:/proc/*", "file:r:/models/*", "file:r:/tools/*"})
"""What a process spawned without a word about capabilities holds, as far as its parent holds it."""

ASK = "ask:"

FAMILIES = {
    "approve": "answer what other processes ask: approve:tool:NAME, approve:*",
    "file": "files: file:r:PATH, file:w:PATH, file:rw:PATH, and of this machine file:rw:host:PATH",
    "ipc": "mail beyond one's own tree: ipc:send",
    "llm": "models: llm:MODEL",
    "net": "the network: net:HOST",
    "pipe": "pipes: pipe:new",
    "proc": "processes: proc:spawn, proc:kill, proc:fork, proc:nice, proc:limits",
    "recall": "long-term memory: recall:NAME",
    "tool": "tools: tool:NAME",
    "tools": "offering tools to all: tools:public",
    "user": "being another user: user:NAME",
}
"""Family -> what is in it."""

_PATHS = frozenset({"file"})
"""Families whose objects are a mode and a path."""
_MACHINE = "host:"
"""Before a path that is not of the system but of this machine."""
_MODES = {"r": 1, "w": 2, "rw": 3}
_BITS = (1, 2)


class Verdict(IntEnum):
    """What is held says of a capability."""

    DENIED = 0
    ASKED = 1
    """Granted if a person says so, this once."""
    HELD = 2


@dataclass(frozen=True, slots=True)
class Pattern:
    """A set of capabilities: one text, or all that begin with it. That of a folder ends in a slash, so that no name is cut in two."""

    rights: int
    """Bits of reading (1) and writing (2); in families without modes both."""
    text: str
    open: bool

    def covers(self, other: Pattern) -> bool:
        """Whether every text of `other` is one of these; says nothing of rights."""
        return other.text.startswith(self.text) if self.open else not other.open and self.text == other.text

    def meet(self, other: Pattern) -> Pattern | None:
        """What both cover, rights included."""
        rights = self.rights & other.rights
        narrow = other if self.covers(other) else self if other.covers(self) else None
        return None if not rights or narrow is None else Pattern(rights, narrow.text, narrow.open)

    def __str__(self) -> str:
        family, _, rest = self.text.partition(":")
        if family not in _PATHS or not (rest or self.open):
            return self.text + "*" * self.open
        mode = next(name for name, bits in _MODES.items() if bits == self.rights)
        return f"{family}:{mode}:{rest}{'*' * self.open}"


@lru_cache(maxsize=1024)
def _parse(capability: str) -> Pattern:
    """What a capability without its "ask:" covers. One that has not the form of its family covers itself only."""
    family, _, rest = capability.partition(":")
    if family in _PATHS and rest:
        mode, _, path = rest.partition(":")
        if rest == "*" or (mode in _MODES and path == "*"):
            return Pattern(_MODES.get(mode, 3), family + ":", True)
        below = path.endswith("/*")
        folder = path[:-1] if below else path
        if mode not in _MODES or not _plain(folder):
            return Pattern(3, capability, False)
        return Pattern(_MODES[mode], f"{family}:{folder}", below)
    if capability.endswith("*") and (family != "net" or rest == "*"):
        return Pattern(3, capability[:-1], True)
    return Pattern(3, capability, False)


def _plain(path: str) -> bool:
    """An absolute path, maybe with a slash at its end, in which every name stands for itself."""
    path = path.removeprefix(_MACHINE)
    return path == "/" or (path[:1] == "/" and not {"", ".", ".."} & set(path[1:].removesuffix("/").split("/")))


@dataclass(frozen=True, slots=True)
class _Rules:
    """What is held, read once."""

    plain: tuple[Pattern, ...]
    asks: tuple[Pattern, ...]

    @property
    def every(self) -> tuple[Pattern, ...]:
        return self.plain + self.asks

    def judge(self, wanted: Pattern) -> Verdict:
        """The least that is said of anything in `wanted`."""
        verdict = Verdict.HELD
        for bit in _BITS:
            if wanted.rights & bit:
                if not any(each.rights & bit and each.covers(wanted) for each in self.every):
                    return Verdict.DENIED
                if any(each.rights & bit and each.meet(wanted) is not None for each in self.asks):
                    verdict = Verdict.ASKED
        return verdict


@lru_cache(maxsize=256)
def _rules(held: frozenset[str]) -> _Rules:
    plain = tuple(_parse(each) for each in sorted(held) if not each.startswith(ASK))
    asks = tuple(_parse(each.removeprefix(ASK)) for each in sorted(held) if each.startswith(ASK))
    return _Rules(plain, asks)


@lru_cache(maxsize=1024)
def judge(held: frozenset[str], wanted: str) -> Verdict:
    """What `held` says of a capability or a pattern: of a pattern, the least that it says of anything in it."""
    return _rules(held).judge(_parse(wanted))


def covers(held: Iterable[str], wanted: str) -> bool:
    """True if `held` grants `wanted` outright, without asking. An ask rule that is wanted is covered by what grants it at all."""
    if wanted.startswith(ASK):
        return judge(frozenset(held), wanted.removeprefix(ASK)) >= Verdict.ASKED
    return judge(frozenset(held), wanted) is Verdict.HELD


def attenuate(held: Iterable[str], wanted: Iterable[str]) -> frozenset[str]:
    """For every capability, the lesser of what `held` and `wanted` say: where either asks, so does the result."""
    ours, theirs = _rules(frozenset(held)), _rules(frozenset(wanted))
    asks = _meets(ours.asks, theirs.every) | _meets(ours.plain, theirs.asks)
    plain = {each for each in _meets(ours.plain, theirs.plain) if not _within(each, asks)}
    return frozenset({*map(str, _maximal(plain)), *(ASK + str(each) for each in _maximal(asks))})


def _meets(one: tuple[Pattern, ...], other: tuple[Pattern, ...]) -> set[Pattern]:
    return {met for a in one for b in other if (met := a.meet(b)) is not None}


def _within(pattern: Pattern, others: Iterable[Pattern]) -> bool:
    """Whether some other pattern covers it, rights included."""
    return any(each.rights & pattern.rights == pattern.rights and each.covers(pattern) for each in others)


def _maximal(patterns: set[Pattern]) -> list[Pattern]:
    """Those that no other covers."""
    return [each for each in patterns if not _within(each, patterns - {each})]


def check(capability: str) -> str:
    """A capability that came from outside, if it has a form that means something. Raises InvalidArgument, which says what would."""
    pattern = capability.removeprefix(ASK)
    if pattern == "*":
        return capability
    family, colon, rest = pattern.partition(":")
    if family not in FAMILIES:
        near = get_close_matches(family[:64], [*FAMILIES, "ask"], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the families are {', '.join(FAMILIES)}"
        raise InvalidArgument(f"capability {capability!r}: there is no family {family!r}; {hint}")
    if not colon or not rest:
        raise InvalidArgument(f"capability {capability!r} names nothing; write {FAMILIES[family]}")
    if "*" in rest[:-1]:
        raise InvalidArgument(f"capability {capability!r}: a * stands at the end, or nowhere")
    if family in _PATHS and rest != "*":
        _check_path(capability, rest)
    elif family == "net" and rest.endswith("*") and rest != "*":
        raise InvalidArgument(f"capability {capability!r}: name a host, or net:* for all; {rest} would fit hosts of strangers too")
    return capability


def _check_path(capability: str, rest: str) -> None:
    mode, _, path = rest.partition(":")
    if mode not in _MODES:
        raise InvalidArgument(f"capability {capability!r}: the mode is r, w or rw, not {mode!r}")
    if path == "*":
        return
    if path.endswith("*") and not path.endswith("/*"):
        raise InvalidArgument(f"capability {capability!r}: it is one path, or a folder and all below it: .../NAME/*")
    if not _plain(path[:-1] if path.endswith("/*") else path) or (path.endswith("/") and path.removeprefix(_MACHINE) != "/"):
        raise InvalidArgument(f"capability {capability!r}: a path is absolute, with no empty name, '.' or '..' in it")
