"""Grammars: which tokens may come next, by llguidance. What a reply must look like: a JSON schema, a regular expression, or text in
which each call of a tool is JSON of a schema.

    source -> grammar of llguidance -> trial (judge.py) -> matcher, kept by hash -> a copy for each burst -> a mask for each token

Owns the compiled grammars of one model, of which the least recently used go first, and the threads that find masks. A mask takes
tens of microseconds, and some grammars make one that takes seconds: so it is found beside the device's thread, which waits for it
no longer than a step may (rows.py). Ids that end a text are allowed where the grammar may end, and nowhere else. JSON is written
in one way, with a space after each colon and comma: small models love white space without end. Knows nothing of rows or kernels.
"""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError as NotYet
from hashlib import blake2b
from threading import Lock
from typing import Any, Final, Literal, Protocol, TypeAlias

import llguidance

from llmos.kernel.errno import InvalidArgument, NotSupported, TimedOut

from .judge import Judge, readable

log = logging.getLogger("llmos.drivers")

Kind: TypeAlias = Literal["schema", "regex", "calls"]

LIMITS: Final[dict[str, Any]] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
"""Of llguidance's own. A step's fuel lasts for about 7 ms, its items for one."""
KEPT: Final = 64
"""Compiled grammars of one model."""
THREADS: Final = 2
GIVE_UP: Final = 2.0
"""Seconds after which a mask comes too late for its reply."""
JSON: Final[Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": False}

MOST_OF_A_NUMBER: Final = 32
"""Characters after which a number in JSON goes on only if it must: a float has 17 digits, an integer of 64 bits 19, and small
models do not stop."""
OF_NUMBERS: Final = frozenset(b"0123456789.eE+-")

OPEN, CLOSE = "<tool_call>", "</tool_call>"
"""What a call stands in, within text: as Qwen and Hermes write it, and as models are told (sdk/toolcalls.py)."""
TEXT_AND_CALLS = r"""%llguidance {{}}
start: TEXT | first more*
first: open call
more: NEXT call
call: /[ \n]?/ %json {schema} /[ \n]?/ "{close}"
TEXT: /(.|\n)*/
open[lazy]: TEXT "{open}"
NEXT: /[ \n]{{0,2}}/ "{open}"
"""
"""In Lark's words. A lazy lexeme is over as soon as it matches: text cannot go on past a tag. Behind calls the reply ends: what models
write there is what they imagine the tools to have said."""

Masks: TypeAlias = tuple[bytes, ...]
Spot: TypeAlias = tuple[int, bool, bool, int]
"""How much of OPEN one has just seen, all of it within JSON; and where in that: in a string; behind a backslash there; how long the
number is that one is in."""
_TAG, _WITHIN = OPEN.encode(), len(OPEN)


class Vocabulary(Protocol):
    """What is asked of a model's text."""

    @property
    def stop_ids(self) -> frozenset[int]: ...

    @property
    def size(self) -> int: ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to a text; none for those that are no text."""
        ...

    def encode(self, text: str) -> list[int]: ...


class Wrapped:
    """A vocabulary as llguidance wants it."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, text: Vocabulary, size: int) -> None:
        self._text = text
        self.eos_token_id = min(text.stop_ids)
        known = text.size
        self.tokens: Sequence[bytes] = [text.token_bytes(token) if token < known else b"" for token in range(size)]
        self.special_token_ids: Sequence[int] = [
            token for token, spelled in enumerate(self.tokens) if not spelled or token in text.stop_ids
        ]
        self._known: dict[bytes, int] = {}
        for token in range(size - 1, -1, -1):
            if token not in text.stop_ids:
                self._known[self.tokens[token]] = token
        self._longest = max(map(len, self._known))

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens that a model would write a text with: where nothing else may come, they do."""
        given = text if isinstance(text, bytes) else text.encode()
        try:
            ids = self._text.encode(given.decode())
        except UnicodeDecodeError:
            ids = []
        return ids if b"".join(self.tokens[token] for token in ids) == given else self._greedy(given)

    def _greedy(self, given: bytes) -> list[int]:
        """Of tokenizers that add something at the beginning, and of halves of characters: the longest token, again and again."""
        ids: list[int] = []
        while given:
            length = next((n for n in range(min(self._longest, len(given)), 0, -1) if given[:n] in self._known), 0)
            if not length:
                break
            ids.append(self._known[given[:length]])
            given = given[length:]
        return ids


def spot_after(spot: Spot, said: bytes) -> Spot:
    """Where one is after these bytes more."""
    seen, quoted, escaped, length = spot
    for byte in said:
        if seen < _WITHIN:
            seen = seen + 1 if byte == _TAG[seen] else int(byte == _TAG[0])
        elif quoted:
            quoted, escaped = escaped or byte != 0x22, byte == 0x5C and not escaped
        elif byte == 0x22:
            quoted, length = True, 0
        elif byte == _TAG[0]:  # of CLOSE: there is none in JSON but in strings
            seen = length = 0
        else:
            length = length + 1 if byte in OF_NUMBERS else 0
    return seen, quoted, escaped, length


class Constraint:
    """The grammar of one burst, and how far it has come. Implements `Grammar` of kernel/device.py.

    The matcher goes along with the reply, and back if a step has to be done again: it is used by one thread at a time, since a new
    question waits for the answer to the last.
    """

    def __init__(self, grammars: Grammars, kind: Kind, fresh: llguidance.LLMatcher, before: Sequence[int]) -> None:
        self._grammars = grammars
        self._matcher = fresh.deep_copy()
        self._consumed: list[int] = []
        self._spots: list[Spot] | None = None if kind == "regex" else [(0 if kind == "calls" else _WITHIN, False, False, 0)]
        """Before each token, and after the last."""
        for token in before:
            self._consume(token)
        self._fresh = self._matcher.deep_copy() if before else fresh
        self._consumed.clear()
        if self._spots is not None:
            del self._spots[:-1]
        self._may_free = kind == "calls"
        self._free = False
        """It gave up, and what is called is looked at again: the rest is as the model writes it."""
        self._wanted: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        self._asked: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        self._answer: Future[Masks] | None = None
        self._began = 0.0

    def ask(self, said: tuple[int, ...], guesses: tuple[int, ...]) -> None:
        self._wanted = said, guesses
        if self._answer is None and not self._free:
            self._begin()

    def masks(self, deadline: float) -> Masks | None:
        if not self._free:
            try:
                return self._found(deadline)
            except InvalidArgument as fault:
                if not self._may_free:
                    raise
                log.warning("a reply is held to the schemas of its tools no longer: %s", fault)
                self._free = True
        return (self._grammars.everything,) * (len(self._wanted[1]) + 1)

    def _found(self, deadline: float) -> Masks | None:
        while True:
            if self._answer is None:
                self._begin()
            assert self._answer is not None
            try:
                masks = self._answer.result(max(deadline - time.monotonic(), 0))
            except NotYet:
                if time.monotonic() - self._began > GIVE_UP:
                    raise InvalidArgument(
                        f"the grammar took more than {GIVE_UP:g} s to say which token may come next: simplify it"
                    ) from None
                return None
            self._answer = None
            (said, guesses), (asked_said, asked_guesses) = self._wanted, self._asked
            if said == asked_said and guesses == asked_guesses[: len(guesses)]:
                return masks[: len(guesses) + 1]

    def _begin(self) -> None:
        self._asked, self._began = self._wanted, time.monotonic()
        self._answer = self._grammars.threads.submit(self._find, *self._asked)

    def _find(self, said: tuple[int, ...], guesses: tuple[int, ...]) -> Masks:
        self._follow(said)
        masks = [self._mask()]
        for guess in guesses:
            mask = masks[-1]
            if not mask[guess >> 3] >> (guess & 7) & 1 or guess in self._grammars.stop_ids:
                break  # it will prove wrong, or be the end: what comes after it is not looked at
            self._consume(guess)
            masks.append(self._mask())
        return (*masks, *masks[-1:] * (len(guesses) + 1 - len(masks)))

    def _follow(self, said: tuple[int, ...]) -> None:
        """Bring the matcher to where these tokens lead."""
        keep = len(self._consumed)
        if tuple(self._consumed) != said[:keep]:  # a step is done again
            pairs = enumerate(zip(self._consumed, said, strict=False))
            keep = next((i for i, (ours, theirs) in pairs if ours != theirs), min(keep, len(said)))
        if keep < len(self._consumed) and not self._matcher.rollback(len(self._consumed) - keep):
            self._matcher, keep = self._fresh.deep_copy(), 0
        del self._consumed[keep:]
        if self._spots is not None:
            del self._spots[keep + 1 :]
        for token in said[keep:]:
            self._consume(token)

    def _consume(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            raise _complaint(self._matcher)
        self._consumed.append(token)
        if self._spots is not None:
            self._spots.append(spot_after(self._spots[-1], self._grammars.tokens[token]))

    def _mask(self) -> bytes:
        raw = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise _complaint(self._matcher)
        size = self._grammars.mask_bytes
        mask = raw[:size].ljust(size, b"\0")
        if mask == self._grammars.nothing:
            raise InvalidArgument("no token of this model can go on with the grammar: its vocabulary lacks a character that must come")
        if self._spots is not None and self._spots[-1][3] >= MOST_OF_A_NUMBER:
            shorter = self._grammars.without_numbers(mask)
            return mask if shorter == self._grammars.nothing else shorter
        return mask


class Grammars:
    """The compiled grammars of one model."""

    def __init__(self, text: Vocabulary, vocabulary: int, judge: Judge | None = None) -> None:
        self._text, self._vocabulary = text, vocabulary
        self._judge = judge or Judge()
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._kept: OrderedDict[bytes, llguidance.LLMatcher] = OrderedDict()
        self._lock, self._compiling = Lock(), Lock()
        """Of what is kept, for an instant; and of compiling, for seconds. What is kept already waits for nobody's slow grammar."""
        self.stop_ids = text.stop_ids
        self.tokens: Sequence[bytes] = ()
        """What each adds to a text, from the first compiled grammar on."""
        self._no_numbers: int | None = None
        self.mask_bytes = (vocabulary + 7) // 8
        self.nothing = bytes(self.mask_bytes)
        self.everything = ((1 << vocabulary) - 1).to_bytes(self.mask_bytes, "little")
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="llmos-grammar")

    def compile(self, kind: Kind, source: str, before: Sequence[int] = ()) -> Constraint:
        """For one burst, which goes on with the tokens `before`. Of "calls" the source is a list of schemas: the first that compiles.

        Takes milliseconds to seconds, on any thread. Raises InvalidArgument, TimedOut, NotSupported.
        """
        key = blake2b(f"{kind} {source}".encode(), digest_size=32).digest()
        found = self._recall(key)
        if found is None:
            with self._compiling:
                found = self._recall(key)  # who was before us here may have wanted the same
                if found is None:
                    found = self._calls(source) if kind == "calls" else self._compile(kind, source)
                    self._keep(key, found)
        return Constraint(self, kind, found, before)

    def without_numbers(self, mask: bytes) -> bytes:
        """A mask without the tokens that do nothing but go on with a number."""
        if self._no_numbers is None:
            numbers = sum(1 << token for token, said in enumerate(self.tokens) if said and OF_NUMBERS.issuperset(said))
            self._no_numbers = ~numbers
        return (int.from_bytes(mask, "little") & self._no_numbers).to_bytes(self.mask_bytes, "little")

    def _recall(self, key: bytes) -> llguidance.LLMatcher | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: bytes, matcher: llguidance.LLMatcher) -> None:
        with self._lock:
            self._kept[key] = matcher
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def _calls(self, source: str) -> llguidance.LLMatcher:
        *strict, last = json.loads(source)
        for schema in strict:
            try:
                return self._compile("calls", json.dumps(schema))
            except (InvalidArgument, TimedOut) as fault:
                log.warning("calls of tools are held to less than their schemas: %s", fault)
        return self._compile("calls", json.dumps(last))

    def _compile(self, kind: Kind, source: str) -> llguidance.LLMatcher:
        try:
            if kind == "schema":
                grammar = llguidance.LLMatcher.grammar_from_json_schema(source, overrides=JSON)
            elif kind == "regex":
                grammar = llguidance.LLMatcher.grammar_from_regex(source)
            else:
                schema = json.dumps({**json.loads(source), "x-guidance": {**JSON, "lenient": True}})  # arguments are looked at again
                grammar = llguidance.LLMatcher.grammar_from_lark(TEXT_AND_CALLS.format(open=OPEN, schema=schema, close=CLOSE))
            self._judge.examine(grammar, LIMITS)
            if self._tokenizer is None:
                if not self.stop_ids:
                    raise NotSupported("this model has no token that ends a text, and so cannot end a reply that must have a form")
                wrapped = Wrapped(self._text, self._vocabulary)
                self.tokens = wrapped.tokens
                self._tokenizer = llguidance.LLTokenizer(wrapped, eos_token=sorted(self.stop_ids))  # type: ignore[arg-type]  # it is looked at, not its class
            matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=llguidance.LLParserLimits(**LIMITS))
            if matcher.is_error():
                raise _complaint(matcher)
        except (InvalidArgument, TimedOut) as fault:
            raise type(fault)(f"{kind}: {fault.args[0]}") from None
        except ValueError as error:
            raise InvalidArgument(f"{kind}: {error}") from None
        return matcher

    def close(self) -> None:
        """End the threads and the judge's process. Not on the kernel's thread."""
        self._judge.close()
        self.threads.shutdown(cancel_futures=True)


def _complaint(matcher: llguidance.LLMatcher) -> InvalidArgument:
    return InvalidArgument(f"the grammar cannot go on: {readable(matcher.get_error())}")
