"""Tokenizers: ids equal to transformers', text that stays text, and decoders that never give half a character."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings, strategies as st
from needs import needs_torch
from tiny import CHATML, CORPUS, SPECIALS, TEXTS, byte_level, config_json, gguf_metadata, random_weights, write_directory, write_gguf
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from llmos.drivers import tokenizer as module, vocabulary as module_of_vocabulary
from llmos.drivers.config import config_from_hf
from llmos.drivers.tokenizer import Tokenizer as Ours, load_text
from llmos.drivers.vocabulary import tokenizer_json, tokenizer_settings
from llmos.kernel.errno import BadFormat, InvalidArgument, NotFound, NotSupported, TooLong

PRES = ["smollm", "gpt-2", "llama-bpe", "qwen2"]
MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Héllo 漢字 😀\n\n  12345"},
    {"role": "assistant", "content": "It's fine."},
    {"role": "user", "content": "def f(x):\n\treturn x ** 2"},
]


def sentencepiece(tokens: list[str], **changes: Any) -> dict[str, Any]:
    """GGUF metadata of a SentencePiece vocabulary: unknown, begin, end, 256 bytes, letters, then `tokens`, best first."""
    letters = sorted(set("".join(CORPUS[0] + "▁<>/s[]INT" + "".join(tokens))))
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *tokens]
    words += [letter for letter in letters if letter not in tokens]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(words) - 259)
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(words) - 259)]
    return {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": words, "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
    } | changes  # fmt: skip


def pieces_of(words: list[str]) -> list[str]:
    """A vocabulary by which BPE reaches every word: its beginnings."""
    return list(dict.fromkeys(word[:end] for word in words for end in range(2, len(word) + 1)))


SP = pieces_of(["▁the", "▁quick", "▁brown", "▁fox", "▁It", "▁▁▁▁", "▁12", "ing", "</s", "ox", "▁isn", "'t"])


def from_gguf(metadata: dict[str, Any]) -> Ours:
    return Ours(tokenizer_json(metadata), tokenizer_settings(metadata))


@pytest.fixture(scope="module", params=PRES)
def pair(request: pytest.FixtureRequest) -> tuple[Ours, PreTrainedTokenizerFast]:
    """Ours, built from GGUF metadata, and transformers', built from the tokenizer.json that metadata was made of."""
    original = byte_level(request.param)
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=original,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )
    return from_gguf(gguf_metadata(original, request.param)), theirs


@pytest.mark.parametrize("text", TEXTS)
def test_gguf_encodes_as_the_original(text: str, pair: tuple[Ours, PreTrainedTokenizerFast]) -> None:
    ours, theirs = pair
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text, add_special_tokens=False, split_special_tokens=True))


@settings(deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_encodes_as_the_original_and_comes_back(text: str, pair: tuple[Ours, PreTrainedTokenizerFast]) -> None:
    ours, theirs = pair
    ids = ours.encode(text)
    assert ids == theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
    if ours._description["normalizer"] is None:
        assert ours.decode(ids) == text


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("reply", [True, False])
def test_chat_is_apply_chat_template(count: int, reply: bool, pair: tuple[Ours, PreTrainedTokenizerFast]) -> None:
    ours, theirs = pair
    if MESSAGES[count - 1]["role"] == "assistant" and not reply:
        expected = theirs.apply_chat_template(MESSAGES[:count], return_dict=False)
        closing = [ours.specials["<|im_end|>"].id, *ours.encode("\n")]
        assert ours.chat(MESSAGES[:count]) + closing == expected
    else:
        expected = theirs.apply_chat_template(MESSAGES[:count], add_generation_prompt=reply, return_dict=False)
        assert ours.chat(MESSAGES[:count], reply=reply) == expected


def test_a_conversation_in_parts_is_the_conversation(pair: tuple[Ours, PreTrainedTokenizerFast]) -> None:
    ours, theirs = pair
    context: list[int] = []
    for after in range(len(MESSAGES)):
        context += ours.chat(MESSAGES[: after + 1], after=after)
    context += ours.chat(MESSAGES, after=len(MESSAGES), reply=True)
    assert context == theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)


def test_the_directory_form_is_the_same_tokenizer(tmp_path: Path) -> None:
    write_directory(tmp_path / "m")
    ours = load_text(tmp_path / "m")
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path / "m")
    assert ours.chat(MESSAGES, reply=True) == theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert ours.stop_ids == {0, 2}  # <|im_end|>, and <|endoftext|>, which ends a text in every model that has it
    assert ours.size == 420
    assert ours.begin_id is None


# --- special tokens


def test_special_tokens_in_text_are_text(pair: tuple[Ours, PreTrainedTokenizerFast]) -> None:
    ours, _ = pair
    for special in SPECIALS:
        ids = ours.encode(f"a{special}b {special}{special}")
        assert not set(ids) & {found.id for found in ours.specials.values()}
        assert ours.decode(ids) == f"a{special}b {special}{special}"


@settings(deadline=None)
@given(parts=st.lists(st.sampled_from([*SPECIALS, "<|im_", "end|>", "<", "|>", "\ue000", "x", " ", "😀"]), max_size=8))
def test_no_message_makes_special_ids(parts: list[str], pair: tuple[Ours, PreTrainedTokenizerFast]) -> None:
    ours, _ = pair
    special = {found.id for found in ours.specials.values()}
    ids = ours.chat([{"role": "user", "content": "".join(parts)}], reply=True)
    harmless = ours.chat([{"role": "user", "content": "x"}], reply=True)
    assert [token for token in ids if token in special] == [token for token in harmless if token in special]
    assert "".join(parts) in ours.decode(ids)


def test_control_tokens_that_a_file_calls_ordinary_are_special_all_the_same() -> None:
    description = json.loads(byte_level().to_str())
    for token in description["added_tokens"]:
        token["special"] = False
    ours = Ours(description, {"eos_token": {"content": "<|im_end|>"}, "chat_template": CHATML})
    assert set(ours.specials) == set(SPECIALS)
    assert not set(ours.encode("".join(SPECIALS))) & {0, 1, 2}


def test_ordinary_added_tokens_are_matched_in_text() -> None:
    original = byte_level()
    original.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    ours = Ours(json.loads(original.to_str()), {})
    assert ours.encode("a<think>b") == original.encode("a<think>b").ids
    assert ours.decode(ours.encode("a<think>b")) == "a<think>b"


def test_merges_that_spell_a_special_token_are_taken_apart() -> None:
    metadata = sentencepiece(SP)
    description = tokenizer_json(metadata)
    description["model"]["merges"].append(["</s", ">"])  # as some published tokenizer.json files have
    ours = Ours(description, tokenizer_settings(metadata))
    assert ours._tokenizer.encode("x</s>", add_special_tokens=False).ids[-1] == 2
    for text in ("x</s>", "</s>", "</s></s> y", "</</s>s>"):
        assert 2 not in ours.encode(text)
        assert ours.decode(ours.encode(text)) == text


def test_the_unknown_token_is_no_injection() -> None:
    description = tokenizer_json(sentencepiece(SP))
    description["model"]["byte_fallback"] = False
    ours = Ours(description, {"unk_token": "<unk>"})
    assert 0 in ours.encode("漢")


def test_white_space_that_special_tokens_swallow() -> None:
    original = byte_level()
    original.add_special_tokens([AddedToken("<|l|>", lstrip=True, normalized=False), AddedToken("<|r|>", rstrip=True, normalized=False)])
    template = "{% for m in messages %}<|r|>{{ m.content }}<|l|>{% endfor %}"
    theirs = PreTrainedTokenizerFast(tokenizer_object=original, chat_template=template)
    ours = Ours(json.loads(original.to_str()), {"chat_template": template})
    messages = [{"role": "user", "content": " \n a b \n "}, {"role": "user", "content": "   "}]
    assert ours.chat(messages) == theirs.apply_chat_template(messages, return_dict=False)


# --- SentencePiece


@pytest.fixture(scope="module")
def spm() -> tuple[Ours, LlamaTokenizer]:
    metadata = sentencepiece(SP)
    description = tokenizer_json(metadata)
    vocabulary = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    theirs = LlamaTokenizer(vocab=vocabulary, merges=[tuple(merge) for merge in description["model"]["merges"]])
    return Ours(description, tokenizer_settings(metadata)), theirs


@pytest.mark.parametrize("text", [*TEXTS, "the quick brown fox", "It isn't 12 foxes", "the</s>", "ing\nthe"])
def test_sentencepiece_encodes_as_transformers(text: str, spm: tuple[Ours, LlamaTokenizer]) -> None:
    ours, theirs = spm
    if "<unk>" not in text:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False, split_special_tokens=True)


@settings(deadline=None)
@given(text=st.text(max_size=40).filter(lambda text: not text.startswith((" ", "▁")) and "▁" not in text))
def test_sentencepiece_text_comes_back(text: str, spm: tuple[Ours, LlamaTokenizer]) -> None:
    ours, _ = spm
    assert ours.decode(ours.encode(text)) == text


def test_sentencepiece_puts_a_space_before_the_beginning_only(spm: tuple[Ours, LlamaTokenizer]) -> None:
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    plain = "{% for m in messages %}the {{ m.content }}{{ eos_token }}{% endfor %}"
    for source in (template, plain):
        metadata = sentencepiece(SP) | {"tokenizer.chat_template": source}
        ours = from_gguf(metadata)
        theirs = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(tokenizer_json(metadata))),
            bos_token="<s>",
            eos_token="</s>",
            chat_template=source,
        )
        messages = [{"role": "user", "content": "the fox"}, {"role": "user", "content": "the fox"}]
        assert ours.chat(messages) == theirs.apply_chat_template(messages, return_dict=False)
        assert ours.chat(messages[:1]) + ours.chat(messages, after=1) == ours.chat(messages)


def test_sentencepiece_begins_with_its_token_and_can_do_without_the_space(spm: tuple[Ours, LlamaTokenizer]) -> None:
    ours, _ = spm
    assert ours.begin_id == 1
    bare = from_gguf(sentencepiece(SP) | {"tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.add_bos_token": False})
    assert bare.begin_id is None
    assert bare.decode(bare.encode(" the")) == " the"
    assert bare.encode("the") != ours.encode("the")


def test_older_forms_of_sentencepiece() -> None:
    """Llama 2's own tokenizer.json prepends with a normalizer, to every stretch of text; some files have a Metaspace decoder."""
    metadata = sentencepiece(SP) | {
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ messages[0].content }}"
    }
    description = tokenizer_json(metadata) | {"pre_tokenizer": None}
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=metadata["tokenizer.chat_template"]
    )
    ours = Ours(json.loads(tokenizer.to_str()), tokenizer_settings(metadata))
    messages = [{"role": "user", "content": "the fox"}]
    assert ours.chat(messages) == theirs.apply_chat_template(messages, return_dict=False)
    tokenizer.decoder = decoders.Metaspace()
    again = Ours(json.loads(tokenizer.to_str()), tokenizer_settings(metadata))
    assert again.decode(again.encode("the fox")) == tokenizer.decode(again.encode("the fox")) == "the fox"


# --- decoding


@settings(deadline=None)
@given(ids=st.lists(st.integers(-3, 430), max_size=60))
def test_a_decoder_adds_up_and_gives_whole_characters(ids: list[int], pair: tuple[Ours, PreTrainedTokenizerFast]) -> None:
    ours, theirs = pair
    decoder = ours.decoder()
    text = ""
    for token in ids:
        piece = decoder.push(token)
        assert "\ufffd" not in piece or "\ufffd" in ours.decode(ids)
        text += piece
    text += decoder.flush()
    assert text == ours.decode(ids)
    assert text == theirs.decode([token for token in ids if 0 <= token < 420], skip_special_tokens=True)


@settings(deadline=None)
@given(text=st.text(max_size=30))
def test_decoders_never_show_half_a_character(
    text: str, spm: tuple[Ours, LlamaTokenizer], pair: tuple[Ours, PreTrainedTokenizerFast]
) -> None:
    for ours in (spm[0], pair[0]):
        ids = ours.encode(text)
        decoder = ours.decoder()
        pieces = [decoder.push(token) for token in ids]
        assert "".join(pieces) + decoder.flush() == ours.decode(ids)
        so_far = ""
        for piece in pieces:
            so_far += piece
            assert ours.decode(ids).startswith(so_far)


def test_sentencepiece_bytes(spm: tuple[Ours, LlamaTokenizer]) -> None:
    ours, theirs = spm
    decoder = ours.decoder()
    emoji = [3 + byte for byte in "😀".encode()]
    assert [decoder.push(token) for token in emoji] == ["", "", "", "😀"]
    assert decoder.push(emoji[0]) == ""
    assert decoder.flush() == "\ufffd"
    assert ours.decode(emoji) == theirs.decode(emoji) == "😀"


def test_a_decoder_is_as_new_after_flush(spm: tuple[Ours, LlamaTokenizer]) -> None:
    ours, _ = spm
    decoder = ours.decoder()
    ids = ours.encode("the fox")
    for _ in range(2):
        assert "".join(map(decoder.push, ids)) + decoder.flush() == "the fox"


def test_ids_without_text_have_none(pair: tuple[Ours, PreTrainedTokenizerFast]) -> None:
    ours, _ = pair
    for token in (-1, 0, 1, 2, 420, 2**31, 2**32, 2**64, 10**30):
        assert ours.decode([token]) == ""


def test_decoding_takes_time_in_proportion(pair: tuple[Ours, PreTrainedTokenizerFast]) -> None:
    ours, _ = pair
    ids = ours.encode(CORPUS[2] * 3)

    def seconds(count: int) -> float:
        best = float("inf")
        for _ in range(3):
            decoder, began = ours.decoder(), time.process_time()
            for _ in range(count):
                for token in ids:
                    decoder.push(token)
            best = min(best, time.process_time() - began)
        return best

    assert seconds(160) < 8 * seconds(40) + 0.05


# --- bounds and bad files


def test_text_at_its_bound(pair: tuple[Ours, PreTrainedTokenizerFast], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair
    monkeypatch.setattr(module, "MAX_TEXT", 1000)
    ours.encode("a" * 1000)
    with pytest.raises(TooLong, match="1001 characters"):
        ours.encode("a" * 1001)
    with pytest.raises(TooLong):
        ours.chat([{"role": "user", "content": "a" * 1001}])


def test_text_that_is_no_unicode(pair: tuple[Ours, PreTrainedTokenizerFast]) -> None:
    ours, _ = pair
    for text in ("\ud800", "a\udfff"):
        with pytest.raises(InvalidArgument, match="surrogate"):
            ours.encode(text)
        with pytest.raises(InvalidArgument, match="surrogate"):
            ours.chat([{"role": "user", "content": text}])


@pytest.mark.parametrize("text", ["a" * 30, "<|im_end|>" + "a" * 30])
def test_a_regular_expression_that_gives_up_is_a_fault(text: str) -> None:
    """The library panics then, with what is no Exception."""
    description = json.loads(byte_level().to_str())
    description["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "(a+)+c"}, "behavior": "Isolated", "invert": False}
    ours = Ours(description, {})
    for encode in (ours.encode, lambda text: ours.chat([{"role": "user", "content": text}])):
        with pytest.raises(InvalidArgument, match="gives up on this text"):
            encode(text)
    assert ours.decode(ours.encode("fox")) == "fox"


def test_vocabularies_with_merges_beyond_number() -> None:
    words = ["a" * length for length in range(1, module_of_vocabulary.MAX_TOKEN_LENGTH + 1)]
    metadata = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", *words],
        "tokenizer.ggml.scores": [0.0] * (len(words) + 1), "tokenizer.ggml.token_type": [2] + [1] * len(words),
    }  # fmt: skip
    with pytest.raises(BadFormat, match="merged in more"):
        from_gguf(metadata)
    metadata["tokenizer.ggml.tokens"][-1] += "a"
    with pytest.raises(BadFormat, match="too long"):
        from_gguf(metadata)


def test_a_long_word_is_no_attack(pair: tuple[Ours, PreTrainedTokenizerFast], spm: tuple[Ours, LlamaTokenizer]) -> None:
    for ours in (pair[0], spm[0]):
        began = time.process_time()
        ours.encode("ab" * 100_000)
        assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("change", "fault", "words"),
    [
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}}, NotSupported, "Unigram"),
        ({"model": None}, NotSupported, "BPE"),
        ({"model": {"type": "BPE"}}, BadFormat, "merges"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}, BadFormat, "tokenizer.json"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}}, BadFormat, "tokenizer.json"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}, BadFormat, "tokenizer.json"),
        ({"model": {"type": "BPE", "vocab": [], "merges": []}}, BadFormat, "tokenizer.json"),
        ({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, NotSupported, "WordPiece"),
        ({"decoder": None}, NotSupported, "decodes"),
        ({"pre_tokenizer": {"type": "Nonsense"}}, BadFormat, "tokenizer.json"),
        ({"added_tokens": "x"}, BadFormat, "added_tokens"),
        ({"added_tokens": [{"id": 0}]}, BadFormat, "added_tokens"),
        ({"added_tokens": [{"id": 5, "content": "<|im_end|>", "special": True}]}, BadFormat, "gives"),
    ],
)
def test_damaged_and_strange_descriptions(change: dict[str, Any], fault: type[Exception], words: str) -> None:
    with pytest.raises(fault, match=words):
        Ours(json.loads(byte_level().to_str()) | change, {})


def test_lengths_in_the_file_cut_nothing_off() -> None:
    original = byte_level()
    original.enable_truncation(4)
    original.enable_padding(length=64)
    ours = Ours(json.loads(original.to_str()), {})
    assert len(ours.encode("the quick brown fox jumps over the lazy dog")) not in (4, 64)


@pytest.mark.parametrize(
    ("changes", "fault", "words"),
    [
        ({"tokenizer.ggml.model": "bert"}, NotSupported, "bert"),
        ({"tokenizer.ggml.model": None}, NotSupported, "None"),
        ({"tokenizer.ggml.pre": "nonsense"}, NotSupported, "nonsense"),
        ({"tokenizer.ggml.tokens": None}, BadFormat, "tokens"),
        ({"tokenizer.ggml.tokens": []}, BadFormat, "tokens"),
        ({"tokenizer.ggml.tokens": ["a", 1]}, BadFormat, "tokens"),
        ({"tokenizer.ggml.tokens": ["a" * 5000]}, BadFormat, "too long"),
        ({"tokenizer.ggml.token_type": [1, 2]}, BadFormat, "token_type"),
        ({"tokenizer.ggml.merges": None}, BadFormat, "merges"),
        ({"tokenizer.ggml.merges": ["a b c"]}, BadFormat, "a b c"),
        ({"tokenizer.ggml.merges": ["zzz yyy"]}, BadFormat, "zzz yyy"),
        ({"tokenizer.ggml.eos_token_id": 10**6}, BadFormat, "eos"),
        ({"tokenizer.ggml.eos_token_id": -1}, BadFormat, "eos"),
        ({"tokenizer.ggml.bos_token_id": "1"}, BadFormat, "bos"),
    ],
)
def test_damaged_and_strange_gguf_vocabularies(changes: dict[str, Any], fault: type[Exception], words: str) -> None:
    with pytest.raises(fault, match=words):
        from_gguf(gguf_metadata(byte_level(), "smollm") | changes)


def test_gguf_vocabularies_with_repeated_paddings() -> None:
    metadata = gguf_metadata(byte_level(), "smollm")
    metadata["tokenizer.ggml.tokens"] += ["[PAD]", "[PAD]"]
    metadata["tokenizer.ggml.token_type"] += [5, 5]
    assert from_gguf(metadata).encode("the fox") == from_gguf(gguf_metadata(byte_level(), "smollm")).encode("the fox")


def test_every_end_of_turn_stops() -> None:
    metadata = gguf_metadata(byte_level(), "smollm") | {"tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.eot_token_id": 1}
    assert from_gguf(metadata).stop_ids == {0, 1, 2}


# --- loading


def test_built_once_and_again_when_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_from_hf(config_json())
    path, cache = tmp_path / "m.gguf", tmp_path / "cache"
    write_gguf(path, random_weights(config), config, Kind.F16)
    first = load_text(path, cache)
    assert sorted(file.name for file in cache.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_gguf", lambda _: pytest.fail("built twice"))
        again = load_text(path, cache)
    assert again.chat(MESSAGES, reply=True) == first.chat(MESSAGES, reply=True) == load_text(path).chat(MESSAGES, reply=True)
    assert again.stop_ids == first.stop_ids
    write_gguf(path, random_weights(config), config, Kind.F16, gguf_metadata(byte_level(), "smollm") | {"tokenizer.ggml.eos_token_id": 5})
    assert 5 in load_text(path, cache).stop_ids


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "{", '{"a": 1}'])
def test_a_damaged_cache_is_built_again(file: str, content: str, tmp_path: Path) -> None:
    config = config_from_hf(config_json())
    path, cache = tmp_path / "m.gguf", tmp_path / "cache"
    write_gguf(path, random_weights(config), config)
    ids = load_text(path, cache).encode("the fox")
    (cache / file).write_text(content)
    assert load_text(path, cache).encode("the fox") == ids


def test_what_a_directory_says_about_ends_beginnings_and_templates(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_directory(path, eos_token_id=7)
    (path / "generation_config.json").write_text('{"eos_token_id": [8, 9]}')
    assert load_text(path).stop_ids == {0, 2, 7, 8, 9}
    (path / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    text = load_text(path)
    assert text.decode(text.chat([{"role": "user", "content": "Hi"}])) == "Hi!"
    settings = {"bos_token": {"content": "<|im_start|>"}, "add_bos_token": True, "chat_template": [{"name": "tool", "template": "x"}]}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    (path / "chat_template.jinja").unlink()
    text = load_text(path)
    assert text.begin_id == 1
    ids = text.chat([{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}], reply=True)
    assert ids[0] == 1
    assert text.decode(ids) == "S\n\nUser: Hi\nAssistant:"


def test_a_post_processor_tells_of_the_begin_token(tmp_path: Path) -> None:
    from tokenizers import processors

    write_directory(tmp_path / "m")
    original = byte_level()
    original.post_processor = processors.Sequence(
        [
            processors.ByteLevel(),
            processors.TemplateProcessing(single="<|im_start|> $A", pair="$A $B", special_tokens=[("<|im_start|>", 1)]),
        ]
    )
    (tmp_path / "m/tokenizer.json").write_text(original.to_str())
    assert load_text(tmp_path / "m").begin_id == 1


def test_what_has_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_text(tmp_path / "nowhere.gguf")
    with pytest.raises(NotFound):
        load_text(tmp_path / "nowhere.gguf", tmp_path / "cache")
    write_directory(tmp_path / "m")
    (tmp_path / "m/tokenizer.json").unlink()
    with pytest.raises(NotSupported, match=r"tokenizer\.json"):
        load_text(tmp_path / "m")
    write_directory(tmp_path / "m")
    (tmp_path / "m/tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["x", null]}}')
    with pytest.raises(NotSupported, match="auto_map"):
        load_text(tmp_path / "m")


def test_models_without_steps_between(tmp_path: Path) -> None:
    """A byte-level tokenizer whose pre-tokenizer is one step, not a sequence."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    plain.decoder = decoders.ByteLevel()
    description = json.loads(plain.to_str())
    description["model"]["vocab"] = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    ours = Ours(description, {})
    assert ours.encode("x") == Tokenizer.from_str(json.dumps(description)).encode("x").ids


@needs_torch
@pytest.mark.model
def test_the_default_model_encodes_as_transformers(default_model: Path, default_cache: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(default_model.parent, gguf_file=default_model.name)
    # transformers does not read which pre-tokenizer a GGUF file names; this is the one in SmolLM2's own tokenizer.json.
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    ours = load_text(default_model, default_cache)
    for text in TEXTS:
        ids = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids)
    messages = [{"role": "user", "content": "x"}]
    assert ours.chat(messages, reply=True) == theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ours.stop_ids == {0, 2}


def test_it_is_the_text_that_system_calls_want() -> None:
    from llmos.syscalls.text import Text

    text: Text = from_gguf(gguf_metadata(byte_level(), "smollm"))
    assert isinstance(text.stop_ids, frozenset)


def test_a_long_text_leaves_other_threads_their_turn(tmp_path: Path) -> None:
    """While it is encoded this thread counts: under Python's lock it would not come to a dozen."""
    write_directory(tmp_path / "m")
    ours = load_text(tmp_path / "m")
    turns = 0
    with ThreadPoolExecutor(1) as other:
        encoding = other.submit(ours.encode, "hello there, what is this? " * 20_000)
        while not encoding.done():
            time.sleep(0.001)
            turns += 1
    assert turns > 30
    assert len(encoding.result()) > 100_000
