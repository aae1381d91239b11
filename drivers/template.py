"""Chat templates: from messages to marked text, and what a message adds to a conversation.

Owns the way from messages to text in which the template's own special tokens and everybody else's words are told
apart. Invariant: a special-token string inside a message never becomes a special token. How: before rendering, each
such string is broken by a marker, a character that occurs nowhere in the messages or the template; afterwards the
rendered text is cut at the special tokens that are still whole, which only the template can have written, and the
markers are taken out of the rest.

A conversation grows by appending; its tokens are never rewritten. So `added` finds what new messages add to those in
the context already, from templates that only know how to render whole conversations:

    messages       system  user  assistant          user     reply?
    rendered       ....... ..... ...sentinel|<|im_end|> ....  <|im_start|>assistant
                                            ^ what the context lacks begins here

The last message in the context gets a sentinel as its text, and what follows it is new. If that message is an
assistant's, the context ends with its last word, as a model leaves it that stopped, and what closes its turn is new
too; so a conversation that ends with an assistant's message is rendered without that closing. The closing of any
other message is in the context, and is taken off. Whatever a template does to what came before (a default system
prompt, trimming, dropping old thoughts) then does not matter. Knows nothing of token ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from jinja2 import Template

from llmos.kernel.errno import InvalidArgument, NotSupported

from .sandbox import Sandbox

PLAIN = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% elif message.role == 'user' %}User: {{ message.content }}\n"
    "{% else %}Assistant: {{ message.content }}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For a model that has no chat template: it was not trained to chat, and will do what text like this suggests."""

MAX_MESSAGES = 10_000
_PRIVATE = range(0xE000, 0xF8FF)

Piece = tuple[bool, str]
"""(True, a special token of the template) or (False, text)."""


class ChatTemplate:
    """One compiled template. `specials` are the strings of all special tokens; `names` those that templates call by name."""

    def __init__(self, source: str | None, specials: Iterable[str], names: Mapping[str, str]) -> None:
        self._sandbox = Sandbox()
        self._source = PLAIN if source is None else source
        self._template: Template | None = None
        # Longest first, as tokenizers match.
        self._specials = sorted({text for text in specials if len(text) > 1}, key=len, reverse=True)  # one character cannot be broken
        self._special = re.compile("|".join(map(re.escape, self._specials)) or r"(?!)")
        self._names = {"bos_token": "", "eos_token": "", **names}

    def added(self, messages: Sequence[Mapping[str, str]], after: int, reply: bool) -> tuple[bool, list[Piece]]:
        """What messages[after:] add to a context made of messages[:after] and, if `reply`, of the prompt for an answer.

        Gives also whether it is the beginning of the context (some tokenizers write that differently).
        A system message that the template can only write into the next message (or refuses alone) adds nothing by
        itself; the next one adds both.
        """
        checked = _checked(messages)
        if not 0 <= after <= len(checked):
            raise InvalidArgument(f"after is {after}; it must be in 0..{len(checked)}, the number of messages")
        marker, broken = self._break(checked)
        if after and self._waits(broken[:after], marker):
            after = 0
        sentinel = _sentinel(marker)
        if not after:
            waits = not reply and self._waits(broken, marker)
            return True, [] if waits else self._cut(self._whole(broken, reply, sentinel), marker)
        if after == len(broken) and not reply:
            return False, []
        marked = [*broken[: after - 1], {**broken[after - 1], "content": sentinel}]
        text = self._after(self._whole([*marked, *broken[after:]], reply, sentinel), sentinel)
        if broken[after - 1]["role"] != "assistant":
            closing = self._after(self._render(marked, False), sentinel)
            if not text.startswith(closing):
                raise NotSupported("the chat template of this model rewrites earlier messages; start a new context instead")
            text = text[len(closing) :]
        return False, self._cut(text, marker)

    def _whole(self, broken: list[dict[str, str]], reply: bool, sentinel: str) -> str:
        """A conversation as text; the last turn stays open if it is an assistant's."""
        text = self._render(broken, reply)
        if reply or broken[-1]["role"] != "assistant":
            return text
        return text.removesuffix(self._after(self._render([*broken[:-1], {**broken[-1], "content": sentinel}], False), sentinel))

    def _waits(self, broken: Sequence[dict[str, str]], marker: str) -> bool:
        """Nothing but system messages, which the template refuses or drops as long as no other follows."""
        if any(message["role"] != "system" for message in broken):
            return False
        sentinel = _sentinel(marker)
        try:
            return sentinel not in self._render([*broken[:-1], {**broken[-1], "content": sentinel}], False)
        except InvalidArgument:
            return True

    def _after(self, text: str, sentinel: str) -> str:
        _, found, rest = text.rpartition(sentinel)
        if not found:
            raise NotSupported("the chat template of this model drops messages; start a new context instead")
        return rest

    def _render(self, messages: Sequence[Mapping[str, str]], reply: bool) -> str:
        if self._template is None:
            self._template = self._sandbox.compile_chat(self._source)
        variables = {**self._names, "messages": list(messages), "tools": None, "documents": None, "add_generation_prompt": reply}
        return self._sandbox.render(self._template, variables, sum(len(text) for message in messages for text in message.values()))

    def _break(self, messages: Sequence[Mapping[str, str]]) -> tuple[str, list[dict[str, str]]]:
        """The messages with every special-token string broken after its first character, and the marker that does it."""
        used = {character for message in messages for text in message.values() for character in text if "\ue000" <= character <= "\uf8ff"}
        used |= set(self._source) | {character for special in self._specials for character in special}
        marker = next((chr(code) for code in _PRIVATE if chr(code) not in used), None)
        if marker is None:
            raise InvalidArgument("the messages use every private character of Unicode; leave one of U+E000..U+F8FE out")
        broken = []
        for message in messages:
            fields = {}
            for key, text in message.items():
                # Until none is whole: breaking one can leave another, as in <|a<|b|>|>.
                while (pieces := self._special.sub(lambda found: found[0][0] + marker + found[0][1:], text)) != text:
                    text = pieces
                fields[key] = text
            broken.append(fields)
        return marker, broken

    def _cut(self, text: str, marker: str) -> list[Piece]:
        pieces: list[Piece] = []
        end = 0
        for found in self._special.finditer(text):
            pieces += [(False, text[end : found.start()].replace(marker, "")), (True, found[0])]
            end = found.end()
        pieces.append((False, text[end:].replace(marker, "")))
        return [piece for piece in pieces if piece[1]]


def _sentinel(marker: str) -> str:
    """A word that no message holds (the marker is in none) and that no template trims, splits or looks for."""
    return f"x{marker}{marker}x"


def _checked(messages: Sequence[Mapping[str, str]]) -> Sequence[Mapping[str, str]]:
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidArgument(f"there are {len(messages)} messages; a chat has 1..{MAX_MESSAGES}")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not all(isinstance(key, str) and isinstance(text, str) for key, text in message.items()):
            raise InvalidArgument(f"message {number} must map names to text")
        if "role" not in message or "content" not in message:
            raise InvalidArgument(f"message {number} needs a role and a content")
    return messages
