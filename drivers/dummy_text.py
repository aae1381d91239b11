"""Text for the dummy device: bytes are tokens, and a chat turn is wrapped in two special ids.

    256 <turn> begins a turn, followed by the first letter of its role; 257 <end> ends it; 258 <text> pads
    user "hi" -> 256 'u' 'h' 'i' 257, and a reply is asked for by 256 'a'

Ids from 259 on, which a device with a larger vocabulary may sample, decode to nothing.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Mapping, Sequence
from typing import Final

TURN: Final = 256
END: Final = 257
PAD: Final = 258


class DummyDecoder:
    """Bytes to text, whole characters only."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(bytes([token])) if token < 256 else ""

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class DummyText:
    """See the module."""

    stop_ids: frozenset[int] = frozenset({END})
    private = False
    size = PAD + 1

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token < 256).decode(errors="replace")

    def decoder(self) -> DummyDecoder:
        return DummyDecoder()

    def chat(self, messages: Sequence[Mapping[str, str]], *, after: int = 0, reply: bool = False) -> list[int]:
        tokens: list[int] = []
        if after and messages[after - 1]["role"] == "assistant":
            tokens.append(END)
        for message in messages[after:]:
            tokens += [TURN, *message["role"][0].encode(), *message["content"].encode(), END]
        if reply:
            tokens += [TURN, *b"a"]
        elif messages[after:] and messages[-1]["role"] == "assistant":
            tokens.pop()  # a turn that the model may go on with
        return tokens
