"""Text: how a model's token ids and text turn into each other. A seam: drivers implement it, init wires it to a device.

Knows nothing of devices, processes or contexts. Its methods are pure and may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Decoder(Protocol):
    """Turns ids into text one by one; never emits half a UTF-8 character."""

    def push(self, token: int) -> str:
        """The text that this id completes; may be empty."""
        ...

    def flush(self) -> str:
        """What is left at the end, with U+FFFD in place of half a character."""
        ...


class Text(Protocol):
    """Tokenizer and chat template of one model."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a turn or a text."""
        ...

    @property
    def private(self) -> bool:
        """True if its ids mean nothing outside of llmos, and are no model's: then nobody is given any, and none are taken."""
        ...

    def encode(self, text: str) -> list[int]:
        """Plain text: strings that look like special tokens stay text."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def decoder(self) -> Decoder: ...

    def chat(self, messages: Sequence[Mapping[str, str]], *, after: int = 0, reply: bool = False) -> list[int]:
        """The ids that messages[after:] add to a conversation whose first `after` messages are in the context already.

        With `reply`, what asks the model for its turn follows. An assistant's turn at the end is left open, for the model to
        go on with; what closes it comes with the next message.
        """
        ...
