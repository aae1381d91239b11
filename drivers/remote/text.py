"""Text of a remote model: a token is its own text, since nobody here knows the endpoint's tokenizer.

    "Hi there" of a user    ->    USER  "Hi t"  "here"         pieces of up to four bytes, an estimate of what a token is
    a reply in pieces       ->    "Hello"  ","  " you"         the pieces as they come: endpoints send a token at a time, mostly

An id is 1 and the bytes of the piece behind it, as one number; below 256 are the roles, each of which begins a message. So a
context holds its chat in full, and can be forked and cut anywhere, and the messages come out of its tokens again. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from llmos.kernel.errno import NotSupported

ROLES: Final = ("system", "user", "assistant", "tool")
GUESS_BYTES: Final = 4
"""Bytes of a token, where that must be guessed."""
WHOLE_BYTES: Final = 32
"""Longest piece of a reply that is taken for one token."""
VOCABULARY: Final = 1 << 8 * (WHOLE_BYTES + 1)
_HEADERS: Final = {role: number for number, role in enumerate(ROLES)}


def pieces_of(text: str) -> list[int]:
    """A text as tokens of about GUESS_BYTES."""
    if text.isascii():
        data = b"".join([b"\1", text.encode()])
        return [int.from_bytes(b"\1" + data[i : i + GUESS_BYTES], "big") for i in range(1, len(data), GUESS_BYTES)]
    found, piece = [], b"\1"
    for character in text:
        data = character.encode(errors="replace")  # half a surrogate pair has no bytes
        if len(piece) > 1 and len(piece) + len(data) > GUESS_BYTES + 1:
            found.append(int.from_bytes(piece, "big"))
            piece = b"\1"
        piece += data
    return [*found, int.from_bytes(piece, "big")] if len(piece) > 1 else found


def tokens_of(text: str) -> list[int]:
    """Part of a reply: one token if it is short enough to be one."""
    data = text.encode(errors="replace")
    if len(data) <= WHOLE_BYTES:
        return [int.from_bytes(b"\1" + data, "big")] if data else []
    return pieces_of(text)


def text_of(tokens: Sequence[int]) -> str:
    """The text of tokens; roles have none."""
    return b"".join([token.to_bytes((token.bit_length() + 7) // 8, "big")[1:] for token in tokens if token > 255]).decode()


def messages_of(tokens: Sequence[int]) -> list[dict[str, str]]:
    """The chat that a context holds. The header of the reply that is wanted, at its end, is no message."""
    starts = [i for i, token in enumerate(tokens) if token < len(ROLES)]
    ends = [*starts[1:], len(tokens)]
    found = [{"role": ROLES[tokens[i]], "content": text_of(tokens[i + 1 : end])} for i, end in zip(starts, ends, strict=True)]
    if found and found[-1] == {"role": "assistant", "content": ""}:
        found.pop()
    return found


class RemoteDecoder:
    """A token is whole characters."""

    def push(self, token: int) -> str:
        return text_of((token,))

    def flush(self) -> str:
        return ""


class RemoteText:
    """See the module. Implements `Text` of syscalls/text.py."""

    stop_ids: frozenset[int] = frozenset()
    private = True

    def __init__(self, name: str) -> None:
        self._name = name

    def encode(self, text: str) -> list[int]:
        raise NotSupported(f"{self._name} runs elsewhere and takes chat messages only, no plain text; its tokens are not known here")

    def decode(self, ids: Sequence[int]) -> str:
        return text_of(ids)

    def decoder(self) -> RemoteDecoder:
        return RemoteDecoder()

    def chat(self, messages: Sequence[Mapping[str, str]], *, after: int = 0, reply: bool = False) -> list[int]:
        tokens: list[int] = []
        for message in messages[after:]:
            tokens += [_HEADERS[message["role"]], *pieces_of(message["content"])]
        return [*tokens, _HEADERS["assistant"]] if reply else tokens
