"""A tokenizer out of GGUF metadata, in the form of Hugging Face's files.

Owns the translation: `tokenizer_json` (vocabulary, merges, pre-tokenizer, decoder, added tokens) and `tokenizer_settings`
(begin and end tokens, chat template). GGUF names a pre-tokenizer by a word where a tokenizer.json spells it out; the
words known here are those of the families llmos runs. Invariant: what is produced is data that the `tokenizers` library
loads, with token ids equal to the positions in GGUF's list. Does not encode or decode anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmos.kernel.errno import BadFormat, NotSupported

MAX_TOKENS = 1 << 21
MAX_TOKEN_LENGTH = 1 << 9
MAX_WAYS = 32
"""Merges per token, on the average. Vocabularies have two or three; one of all prefixes of a long word would have as many as it is long."""

_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6

_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # Llama 3
_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def _split(pattern: str) -> list[dict[str, Any]]:
    return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, _byte_level(False)]


def _pre_tokenizer(word: str) -> tuple[list[dict[str, Any]], bool, bool]:
    """(steps, whole words found in the vocabulary skip the merges, text is normalized to NFC)."""
    if word in ("default", "gpt-2", "gpt2", "phi-2", "olmo"):
        return [_byte_level(True)], False, False
    if word in ("smollm", "starcoder", "refact", "codeshell", "command-r", "exaone"):
        return [{"type": "Digits", "individual_digits": True}, _byte_level(True)], False, False
    if word in ("llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2"):
        return _split(_LLAMA3), True, False
    if word in ("smaug-bpe", "dbrx"):
        return _split(_LLAMA3), False, False
    if word in ("qwen2", "deepseek-r1-qwen", "megrez"):
        return _split(_QWEN2), False, True
    if word == "tekken":
        return _split(_TEKKEN), True, False
    raise NotSupported(
        f"the GGUF file splits text by rules called {word[:40]!r}, which llmos does not know "
        "(it knows gpt-2, smollm, llama-bpe, qwen2 and tekken); pull the safetensors of this model instead"
    )


def _list(metadata: Mapping[str, Any], key: str, kind: type, length: int | None = None) -> list[Any]:
    values = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(values, list) or not all(type(value) is kind for value in values) or len(values) != (length or len(values)):
        raise BadFormat(
            f"tokenizer.ggml.{key} in the GGUF file is missing or malformed; fetch it again, or pull another file of this model"
        )
    return values


def tokenizer_json(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a tokenizer.json. Raises NotSupported for a kind llmos does not know, BadFormat for what is damaged."""
    tokens = _list(metadata, "tokens", str)
    if not 1 <= len(tokens) <= MAX_TOKENS or max(map(len, tokens)) > MAX_TOKEN_LENGTH:
        raise BadFormat(f"the GGUF file has {len(tokens)} tokens, or one that is too long to be one")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        # Paddings repeat in some files. The last would win; the first is the one text means.
        for index in range(len(tokens) - 1, -1, -1):
            vocabulary[tokens[index]] = index
    kinds = _list(metadata, "token_type", int, len(tokens)) if "tokenizer.ggml.token_type" in metadata else [1] * len(tokens)
    added = [
        {
            "id": index, "content": token, "special": kind == _CONTROL,
            "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
        }
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _USER_DEFINED) and token and vocabulary[token] == index
    ]  # fmt: skip
    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        body = _byte_level_bpe(metadata, vocabulary)
    elif model == "llama":
        body = _sentencepiece_bpe(metadata, tokens, kinds, vocabulary)
    else:
        raise NotSupported(
            f"the GGUF file has a tokenizer of the kind {str(model)[:40]!r}; gpt2 and llama work: pull another form of this model"
        )
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "post_processor": None, **body}


def _byte_level_bpe(metadata: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """GPT-2's kind: bytes are written as printable characters, and merges are listed."""
    steps, ignore_merges, nfc = _pre_tokenizer(str(metadata.get("tokenizer.ggml.pre", "default")))
    merges = _merges(metadata, vocabulary)
    return {
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": _byte_level(True),
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges, "vocab": vocabulary, "merges": merges,
        },
    }  # fmt: skip


def _merges(metadata: Mapping[str, Any], vocabulary: Mapping[str, int]) -> list[list[str]]:
    merges = [line.split(" ") for line in _list(metadata, "merges", str)]
    for merge in merges:
        if len(merge) != 2 or merge[0] not in vocabulary or merge[1] not in vocabulary or merge[0] + merge[1] not in vocabulary:
            raise BadFormat(f"the merge {' '.join(merge)[:60]!r} in the GGUF file joins what is no token; fetch it again")
    return merges


def _sentencepiece_bpe(
    metadata: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int], vocabulary: Mapping[str, int]
) -> dict[str, Any]:
    """SentencePiece's kind: a space is written as ▁, unknown characters fall back to bytes, a token's score says when it is merged."""
    if "tokenizer.ggml.merges" in metadata:
        merges = _merges(metadata, vocabulary)
    else:
        scores = _list(metadata, "scores", float, len(tokens))
        text = {
            token: score
            for token, score, kind in zip(tokens, scores, kinds, strict=True)
            if kind not in (_UNKNOWN, _CONTROL, _UNUSED, _BYTE)
        }
        merges = _merges_from_scores(text, vocabulary)
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", kinds.index(_UNKNOWN) if _UNKNOWN in kinds else None)
    if unknown is not None and (type(unknown) is not int or not 0 <= unknown < len(tokens)):
        raise BadFormat("the GGUF file's unknown token is not in its vocabulary; fetch it again")
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True) is not False
    decoder: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first" if prefix else "never", "split": False},
        "decoder": {"type": "Sequence", "decoders": decoder},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None if unknown is None else tokens[unknown],
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
            "ignore_merges": False, "vocab": vocabulary, "merges": merges,
        },
    }  # fmt: skip


def _merges_from_scores(scores: Mapping[str, float], vocabulary: Mapping[str, int]) -> list[list[str]]:
    """SentencePiece merges the neighbours whose union scores highest: so a merge's rank is its result's score.

    Among the ways to split one result, longer parts first, as transformers orders them. Control tokens, bytes and the
    unknown token are never the result or a part of a merge: text that spells one stays text.
    """
    found: list[tuple[float, str, str]] = []
    whole = {token: token for token in scores}  # the vocabulary's own strings, not copies of them in every merge
    for token, score in scores.items():
        splits = ((whole.get(token[:at]), whole.get(token[at:])) for at in range(1, len(token)))
        ways = [(left, right) for left, right in splits if left is not None and right is not None]
        ways.sort(key=lambda way: (vocabulary[way[0]], vocabulary[way[1]]))
        found += [(score, left, right) for left, right in ways]
        if len(found) > MAX_WAYS * len(scores):
            raise BadFormat(f"the tokens of the GGUF file can be merged in more than {MAX_WAYS} ways each: it is no model's vocabulary")
    found.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return [[left, right] for _, left, right in found]


def tokenizer_settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a tokenizer_config.json: the tokens that begin and end a text, and the chat template."""
    tokens = _list(metadata, "tokens", str)
    settings: dict[str, Any] = {}
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")):
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if index is not None:
            settings[name] = _token(tokens, index, key)
    # Ends of a turn besides eos. transformers has no place for them in this file; it has them in generation_config.json.
    ends = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eot", "eom")]
    settings["end_tokens"] = [_token(tokens, index, "end") for index in ends if index is not None]
    settings["add_bos_token"] = metadata.get("tokenizer.ggml.add_bos_token", metadata.get("tokenizer.ggml.model") == "llama") is True
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        settings["chat_template"] = template
    return settings


def _token(tokens: Sequence[str], index: object, key: str) -> str:
    if type(index) is not int or not 0 <= index < len(tokens):
        raise BadFormat(
            f"the {key} token of the GGUF file has the id {str(index)[:20]}, which is not in 0..{len(tokens) - 1}; fetch it again"
        )
    return tokens[index]
