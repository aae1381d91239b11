"""Transcripts: which chat messages the tokens of a context are.

    tokens   <system ......|<user ......|<assistant   pre|generated so far
    turns    begin     end  begin    end begin      start             end        given text lies in begin..start

An assistant's turn is left open: what closes it in the model's template comes with the next message. The text of a
generated part is not kept but decoded from the context's tokens, so a fork or a truncation in its middle needs no
bookkeeping. Tokens and plain text appended in between belong to no turn. Knows no template: that is Text's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace


@dataclass(slots=True)
class Turn:
    role: str
    given: str
    """Text that was appended; empty for a turn that was only generated."""
    begin: int
    """Position of its first token, header included."""
    start: int
    """Position of its first generated token."""
    end: int
    """Position after its last token; `start` if nothing was generated."""
    settled: bool
    """Complete: nothing may be added to it."""
    known: tuple[int, str] = (-1, "")
    """(end, generated text) when it was last decoded."""


@dataclass(slots=True)
class Transcript:
    pid: int
    """The process whose context this is."""
    turns: list[Turn] = field(default_factory=list)
    busy: bool = False
    """A call is adding to the context."""

    def messages(self, decode: Callable[[int, int], str]) -> list[dict[str, str]]:
        """The turns as chat messages. `decode(start, end)` gives the text of a range of the context's tokens."""
        found = []
        for turn in self.turns:
            if turn.known[0] != turn.end:
                turn.known = (turn.end, decode(turn.start, turn.end) if turn.end > turn.start else "")
            found.append({"role": turn.role, "content": turn.given + turn.known[1]})
        return found

    def add(self, messages: Sequence[tuple[str, str]], begin: int, end: int) -> None:
        """Messages that were appended together as the tokens from begin to end."""
        for i, (role, content) in enumerate(messages):
            last = i == len(messages) - 1
            self.turns.append(Turn(role, content, begin, end, end, settled=role != "assistant" or not last))

    def last(self, length: int) -> Turn | None:
        """The turn at the very end of a context of `length` tokens; None if something else came after it."""
        return self.turns[-1] if self.turns and self.turns[-1].end == length else None

    def reply(self, begin: int, start: int) -> Turn:
        """A turn to be generated: its header lies in begin..start."""
        turn = Turn("assistant", "", begin, start, start, settled=False)
        self.turns.append(turn)
        return turn

    def truncate(self, length: int) -> None:
        """The context keeps its first `length` tokens: turns cut in what was given are gone, generated parts are shortened."""
        while self.turns and self.turns[-1].end > length:
            turn = self.turns[-1]
            if turn.role == "assistant" and turn.start <= length:
                turn.end, turn.settled = length, False
                return
            self.turns.pop()

    def fork(self, pid: int, length: int) -> Transcript:
        """The twin's transcript. A reply under way has the tokens that are in the context now."""
        twin = Transcript(pid, [replace(turn) for turn in self.turns])
        if self.busy and twin.turns and (turn := twin.turns[-1]).role == "assistant" and not turn.settled:
            turn.end = max(length, turn.start)
        return twin
