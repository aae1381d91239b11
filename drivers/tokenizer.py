"""Text to token ids and back, for one model.

Owns the tokenizer of a model, its chat template and the ids that end a turn. Invariants: `encode` never gives a special
token, whatever the text says; `chat` gives those that the template writes and no others; a decoder never gives half
a character, and what it gives adds up to `decode` of the whole. Uses the `tokenizers` library for the work.
Knows nothing of weights, contexts or processes. Its methods may be called from any thread.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import tokenizers

from llmos.kernel.errno import BadFormat, Fault, InvalidArgument, NotSupported, TooLong

from .files import file_errors, read_json, read_text, stamp_of, write_whole
from .gguf import read_gguf
from .template import ChatTemplate, Piece
from .vocabulary import tokenizer_json, tokenizer_settings

MAX_TEXT = 1 << 24
"""Most characters to encode at once."""

_END_OF_TURN = frozenset(
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<|end_of_turn|>", "<end_of_turn>", "</s>"]
)
_LOOKS_CONTROL = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class Special:
    """A token that no text can make."""

    id: int
    lstrip: bool
    """It swallows white space before it."""
    rstrip: bool


class Decoder:
    """Ids to text, one at a time. Made by `Tokenizer.decoder`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = tokenizer.strips_first_space

    def push(self, token: int) -> str:
        """The characters that are complete now; often none."""
        return self._first(self._utf8.decode(self._tokenizer.token_bytes(token)))

    def flush(self) -> str:
        """What is left at the end: a replacement character for bytes that never became one. The decoder is as new then."""
        text = self._first(self._utf8.decode(b"", final=True))
        self._strip = self._tokenizer.strips_first_space
        return text

    def _first(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text


class Tokenizer:
    """One model's way with text. Implements the `Text` protocol of syscalls/text.py.

    `description` is the content of a tokenizer.json, `settings` that of a tokenizer_config.json, `ends` more ids that end a turn.
    """

    def __init__(self, description: dict[str, Any], settings: Mapping[str, Any], ends: frozenset[int] = frozenset()) -> None:
        names = {key: _content(value) for key, value in settings.items() if key.endswith("_token") and _content(value)}
        self._description = _prepared(description, frozenset(names.values()))
        self._tokenizer = _load(self._description)
        pre_tokenizer = self._description.get("pre_tokenizer")
        later = _continued(pre_tokenizer)
        self._later = self._tokenizer if later == pre_tokenizer else _load({**self._description, "pre_tokenizer": later})
        self.specials = {
            token["content"]: Special(identity, token["lstrip"], token["rstrip"])
            for token in self._description["added_tokens"]
            if token["special"] and token["content"] and (identity := self._tokenizer.token_to_id(token["content"])) is not None
        }
        self._unknown = self._tokenizer.token_to_id(names.get("unk_token", "")) if "unk_token" in names else None
        self._special_ids = frozenset(special.id for special in self.specials.values())
        self._specials_in = re.compile("|".join(re.escape(text) for text in self.specials if len(text) > 1) or r"(?!)")
        self._template = ChatTemplate(_template(settings), self.specials, names)
        self._byte_level, self.strips_first_space = _decoder_kind(self._description.get("decoder"))
        self._bytes: dict[int, bytes] = {}
        begin = names.get("bos_token") if settings.get("add_bos_token") else None
        self.begin_id = self._tokenizer.token_to_id(begin) if begin else None
        """The id that the model expects before any plain text (a chat template writes its own), or None."""
        last = [names.get("eos_token"), *settings.get("end_tokens", ()), *(_END_OF_TURN & self.specials.keys())]
        found = (self._tokenizer.token_to_id(text) for text in last if isinstance(text, str))
        self.private = False
        self.stop_ids = ends | {identity for identity in found if identity is not None}
        """The ids that end a turn or a text."""

    @property
    def size(self) -> int:
        """Every id is below this."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str) -> list[int]:
        """Plain text: special-token strings inside stay text. Raises InvalidArgument for text that is not Unicode, TooLong."""
        return self._plain(text, first=True)

    def chat(self, messages: Sequence[Mapping[str, str]], *, after: int = 0, reply: bool = False) -> list[int]:
        """The ids that messages[after:] add to a context that holds messages[:after] and, if `reply`, the prompt for an answer.

        An assistant's turn is left open at the end, as a model leaves it, and closed by what is added next. Otherwise,
        with after=0, equal to transformers' apply_chat_template if no message holds a special-token string. Without
        a chat template the plain form of template.PLAIN is used. Raises InvalidArgument, NotSupported, TooLong.
        """
        first, pieces = self._template.added(messages, after, reply)
        return self._pieces(pieces, first)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Special tokens have none; bytes that are no UTF-8 become replacement characters."""
        text = b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")
        return text.removeprefix(" ") if self.strips_first_space else text

    def decoder(self) -> Decoder:
        return Decoder(self)

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of one token, perhaps a part of a character. None for special tokens and ids without a token."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._find_bytes(token)
        return known

    def _find_bytes(self, token: int) -> bytes:
        text = self._tokenizer.id_to_token(token) if 0 <= token < 1 << 32 else None
        if text is None or token in self._special_ids:
            return b""
        if self._byte_level:
            try:
                return bytes(map(_CHARACTER_BYTES.__getitem__, text))
            except KeyError:  # an added token is written as it is
                return text.encode()
        byte = _BYTE_TOKEN.fullmatch(text)
        return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()

    def _pieces(self, pieces: Sequence[Piece], first: bool) -> list[int]:
        ids: list[int] = []
        for number, (special, text) in enumerate(pieces):
            if special:
                ids.append(self.specials[text].id)
                continue
            if number and self.specials[pieces[number - 1][1]].rstrip:
                text = text.lstrip()
            if number + 1 < len(pieces) and self.specials[pieces[number + 1][1]].lstrip:
                text = text.rstrip()
            ids += self._plain(text, first=first and number == 0)
        return ids

    def _plain(self, text: str, first: bool) -> list[int]:
        if len(text) > MAX_TEXT:
            raise TooLong(f"the text has {len(text)} characters, more than {MAX_TEXT}; split it")
        if not text:
            return []
        ids = self._ids(text, first)
        return ids if self._special_ids.isdisjoint(ids) else self._without_specials(text, first)

    def _ids(self, text: str, first: bool) -> list[int]:
        """What the library makes of a text. A regular expression of the model's that gives up on it is the model's fault, not ours.

        Its `encode` keeps Python's lock all the while, half a second for a million characters, in which no thread of this system runs.
        That for a batch does not, and leaves out offsets, which nobody asks for.
        """
        tokenizer = self._tokenizer if first else self._later
        try:
            return list(tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids)
        except (UnicodeEncodeError, TypeError):  # the library says TypeError to lone surrogates
            raise InvalidArgument("the text holds half of a surrogate pair, which is no character; decode it properly first") from None
        except BaseException as error:
            # The library is written in Rust, whose panics are no Exceptions and have no class that one could import.
            if type(error).__name__ != "PanicException":
                raise
            raise InvalidArgument(
                f"the tokenizer of this model gives up on this text ({str(error)[:120]}); "
                "change the text, or pull another form of this model"
            ) from None

    def _without_specials(self, text: str, first: bool) -> list[int]:
        """For vocabularies whose merges can spell a special token: cut the text inside each such string.

        Should a vocabulary still make one (its normalizer turns other characters into those), it is left out.
        """
        cuts = [0, *(found.start() + 1 for found in self._specials_in.finditer(text)), len(text)]
        ids: list[int] = []
        for number, (start, end) in enumerate(pairwise(cuts)):
            ids += self._ids(text[start:end], first and number == 0)
        return [identity for identity in ids if identity == self._unknown or identity not in self._special_ids]


def load_text(path: Path, cache: Path | None = None) -> Tokenizer:
    """The tokenizer of a model: of a directory with tokenizer.json, or built from the metadata of a GGUF file.

    `cache` is a folder for what is built (tokenizer.json, tokenizer_config.json), so that it is built once. Raises NotFound,
    BadFormat, NotSupported, NoSpace, NotPermitted.
    """
    with file_errors(path):
        if path.is_dir():
            return _from_directory(path)
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
            built = _from_cache(path, cache)
            if built is not None:
                return built
        metadata = read_gguf(path).metadata
        description, settings = tokenizer_json(metadata), tokenizer_settings(metadata)
        tokenizer = Tokenizer(description, settings)
        if cache is not None:
            # The settings come last and carry the stamp: they say that the description beside them is whole.
            write_whole(cache / "tokenizer.json", json.dumps(description, ensure_ascii=False))
            write_whole(cache / "tokenizer_config.json", json.dumps({**settings, "stamp": stamp_of(path)}, ensure_ascii=False))
        return tokenizer


def _from_cache(path: Path, cache: Path) -> Tokenizer | None:
    try:
        settings = read_json(cache / "tokenizer_config.json")
        if settings.get("stamp") != stamp_of(path):
            return None
        return Tokenizer(read_json(cache / "tokenizer.json"), settings)
    except FileNotFoundError:
        path.stat()  # the model itself must exist, or say so
        return None
    except Fault:
        return None  # damaged: build it again


def _from_directory(path: Path) -> Tokenizer:
    if not (path / "tokenizer.json").exists():
        raise NotSupported(f"{path.name} has no tokenizer.json; pull a model that has one, or a GGUF file, which carries its own")
    optional = {name: read_json(path / name) if (path / name).exists() else {} for name in _SETTINGS}
    settings = {**optional["special_tokens_map.json"], **optional["tokenizer_config.json"]}
    if settings.get("auto_map"):
        raise NotSupported(
            "tokenizer_config.json asks to run code that comes with the model (auto_map): llmos never does; pull a model without it"
        )
    if (path / "chat_template.jinja").exists():
        settings["chat_template"] = read_text(path / "chat_template.jinja")
    elif "chat_template" in optional["chat_template.json"]:
        settings["chat_template"] = optional["chat_template.json"]["chat_template"]
    description = read_json(path / "tokenizer.json")
    if "add_bos_token" not in settings:
        settings["add_bos_token"] = _begins(description.get("post_processor"), _content(settings.get("bos_token")))
    ends: set[int] = set()
    for file in ("generation_config.json", "config.json"):
        found = optional[file].get("eos_token_id")
        ends.update(identity for identity in (found if isinstance(found, list) else [found]) if type(identity) is int and identity >= 0)
    return Tokenizer(description, settings, frozenset(ends))


_SETTINGS = ("special_tokens_map.json", "tokenizer_config.json", "chat_template.json", "generation_config.json", "config.json")


def _begins(post_processor: object, begin: str) -> bool:
    """The post-processor of tokenizer.json puts the begin token before a single text."""
    if not isinstance(post_processor, dict):
        return False
    if post_processor.get("type") == "Sequence":
        return any(_begins(part, begin) for part in post_processor.get("processors", ()))
    single = post_processor.get("single") or [{}]
    return bool(begin) and isinstance(single[0], dict) and single[0].get("SpecialToken", {}).get("id") == begin


def _content(value: object) -> str:
    """A token of the settings: a string, or an object with its content."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _template(settings: Mapping[str, Any]) -> str | None:
    found = settings.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = next((entry.get("template") for entry in found if isinstance(entry, dict) and entry.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _prepared(description: dict[str, Any], named: frozenset[str]) -> dict[str, Any]:
    """A tokenizer.json that cuts nothing off and knows every control token as special.

    Some files list control tokens as ordinary added ones. Those that begin or end texts, or look like <|this|>, are
    special here: text must never turn into them.
    """
    added = description.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) and isinstance(token.get("content"), str) for token in added):
        raise BadFormat("added_tokens in tokenizer.json is malformed; fetch the model again")
    tokens = []
    for token in added:
        text = token["content"]
        special = bool(token.get("special")) or text in named or text in _END_OF_TURN or _LOOKS_CONTROL.fullmatch(text) is not None
        tokens.append({"lstrip": False, "rstrip": False, **token, "special": special})
    return {**description, "added_tokens": tokens, "truncation": None, "padding": None}


def _load(description: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """A tokenizer that lets text be text. Raises BadFormat if the description is not sound."""
    model, added = description.get("model"), description["added_tokens"]
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else None
        raise NotSupported(
            f"tokenizer.json holds a {str(kind)[:40]} model; the families llmos runs use BPE: pull another form of this model"
        )
    try:
        # Everything but the vocabulary as the library reads it, the vocabulary by hand: three times as fast.
        empty = {**description, "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(empty))
        options = {key: model[key] for key in _BPE_OPTIONS if model.get(key) is not None}
        merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        tokenizer.model = tokenizers.models.BPE(vocab=model["vocab"], merges=merges, **options)
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        tokenizer.add_tokens(
            [tokenizers.AddedToken(token["content"], **{flag: bool(token.get(flag)) for flag in flags}) for token in added]
        )
    except Exception as error:  # noqa: BLE001  # the library raises plain Exception for every malformed file
        raise BadFormat(f"tokenizer.json is not one llmos can use ({str(error)[:120]}); fetch the model again") from None
    for token in added:
        if token["content"] and tokenizer.token_to_id(token["content"]) != token.get("id"):
            raise BadFormat(
                f"tokenizer.json gives {token['content'][:40]!r} the id {str(token.get('id'))[:20]}, which its vocabulary does not"
            )
    tokenizer.encode_special_tokens = True
    return tokenizer


_BPE_OPTIONS = ("unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges")


def _continued(step: Any) -> Any:
    """A pre-tokenizer as it is past the beginning of a context: without the space that only a beginning gets."""
    if isinstance(step, list):
        return [_continued(part) for part in step]
    if not isinstance(step, dict):
        return step
    if step.get("type") == "Metaspace" and step.get("prepend_scheme") == "first":
        return {**step, "prepend_scheme": "never"}
    return {key: _continued(value) for key, value in step.items()}


def _decoder_kind(decoder: object) -> tuple[bool, bool]:
    """(bytes are written as characters, the first space is dropped). Raises NotSupported for what no supported family uses."""
    kind = decoder.get("type") if isinstance(decoder, dict) else None
    steps: list[Any] = decoder.get("decoders", []) if isinstance(decoder, dict) and kind == "Sequence" else [decoder]
    names = [step.get("type") for step in steps if isinstance(step, dict)]
    if names == ["ByteLevel"]:
        return True, False
    if names == ["Metaspace"]:
        return False, steps[0].get("prepend_scheme", "always") != "never"
    if names[:3] == ["Replace", "ByteFallback", "Fuse"] and names[3:] in ([], ["Strip"]):
        return False, bool(names[3:])
    raise NotSupported(
        f"tokenizer.json decodes by {names or kind}, which llmos does not know; byte-level and SentencePiece tokenizers work"
    )


def _byte_characters() -> dict[str, int]:
    """GPT-2's way to write bytes: printable ones as themselves, the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}


_CHARACTER_BYTES = _byte_characters()
