"""The native device: its steps against the same decoder in float64, what it refuses, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from contexts import Context, Frontend
from native import ISAS, checkpoint, compiled, config, decoder, device, random_weights, rounded
from tasks import begun_since, tasks

from llmos.drivers.config import ModelConfig, Rope
from llmos.drivers.cpu.compiler import Isa
from llmos.drivers.cpu.device import NativeDevice
from llmos.drivers.cpu.native import Native
from llmos.drivers.cpu.pages import Kv
from llmos.kernel.device import Copy, Row, Sampling, Step, Tier
from llmos.kernel.errno import BadFormat, DeviceFailed, InvalidArgument, NotSupported

YARN = Rope(1e4, "yarn", factor=4.0, original_window=64, attention_factor=1.14)
BIASED = {"attention_bias": True, "output_bias": True, "mlp_bias": True}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one layer, one head": {"layers": 1, "heads": 1, "kv_heads": 1},
    "untied": {"tied": False, "vocabulary": 130},
    "biases": {**BIASED, "heads": 2, "kv_heads": 2},
    "norms of queries": {"qk_norm": True, "head_width": 48},
    "windows": {"layers": 3, "windows": (None, 20, 150)},
    "odd sizes": {"width": 37, "ffn_width": 19, "vocabulary": 33, "heads": 3, "kv_heads": 1},
    "yarn": {"rope": YARN, "head_width": 64},
    "large": {"width": 200, "heads": 8, "kv_heads": 2, "head_width": 80, "ffn_width": 333, "vocabulary": 1000, "qk_norm": True, **BIASED},
}

Opener = Callable[..., NativeDevice]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Isa:
    compiled(request.param)
    found: Isa = request.param
    return found


@pytest.fixture
def opened(isa: Isa) -> Iterator[Opener]:
    devices: list[NativeDevice] = []

    def open_device(shape: ModelConfig, given: Any = None, **how: Any) -> NativeDevice:
        devices.append(device(shape, random_weights(shape) if given is None else given, isa, **how))
        return devices[-1]

    yield open_device
    for one in devices:
        one.close()


def tokens_of(shape: ModelConfig, count: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, shape.vocabulary, count).tolist())


def whole(tokens: tuple[int, ...], **how: Any) -> Row:
    return Row(1, tokens, 0, tuple(range(-(-len(tokens) // 16))), **how)


@pytest.mark.parametrize("name", ["windows", "large"])
def test_a_decode_is_the_same_bits_as_a_chunk_over_many_segments(opened: Opener, name: str) -> None:
    """A decode folds what it saw in each segment of 128 slots after all are done, a chunk as it goes: in one order.

    Another order would tip one in some 50,000 of the bfloat16 that come out, so there are many.
    """
    shape = config(**SHAPES[name])
    one = opened(shape)
    tokens = tokens_of(shape, shape.window)
    expected = one.hidden([whole(tokens)])
    frames = whole(tokens).frames
    places = (3, 130, *range(257, shape.window))
    rows = [Row(place, (tokens[place],), place, frames[: place // 16 + 1], store=False) for place in places]
    assert np.array_equal(one.hidden(rows), expected[list(places)])


@pytest.mark.parametrize("kind", ["bf16", "int8", "w8a8"])
@pytest.mark.parametrize("name", SHAPES)
def test_hidden_states(opened: Opener, name: str, kind: str) -> None:
    """Both round at the same places: what differs are roundings that float32 tips the other way, and what comes of these."""
    shape = config(**SHAPES[name])
    weights = random_weights(shape)
    tokens = tokens_of(shape, 300)
    expected = decoder(shape, weights, tokens, kind)
    got = opened(shape, weights, weights=kind).hidden([whole(tokens)])
    error = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    most, middle = (0.06, 0.015) if kind == "w8a8" else (0.02, 0.004)
    assert error.max() < most, f"token {error.argmax()}: {error.max():.4f}"
    assert np.median(error) < middle, f"{np.median(error):.4f}"
    assert error.min() < 1e-6, "no token had the luck that nothing tipped"


def quiet(shape: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights with which neither attention nor the last projection adds anything."""
    weights = random_weights(shape, seed)
    for name in weights:
        if "o_proj" in name or "down_proj" in name:
            weights[name] = np.zeros_like(weights[name])
    return weights


def test_the_last_norm_and_the_head(opened: Opener) -> None:
    """Log-probabilities of every token after a model that changes nothing: the norm, the product and the sum by themselves."""
    shape = config(layers=1, width=90, vocabulary=20, tied=False)
    weights = quiet(shape)
    one = opened(shape, weights)
    for token in range(shape.vocabulary):
        x = rounded(weights["model.embed_tokens.weight"])[token]
        normed = x / np.sqrt((x * x).mean() + shape.norm_epsilon) * weights["model.norm.weight"]
        logits = rounded(weights["lm_head.weight"]) @ rounded(normed)
        outcome = one.execute(Step(1, (whole((token,), sampling=Sampling(logprobs=20)),)))
        found = dict(outcome.logprobs[0][0].top)
        expected = logits - np.log(np.exp(logits).sum())
        assert [found[index] for index in range(20)] == pytest.approx(expected.tolist(), abs=2e-2)
        assert outcome.tokens == ((int(logits.argmax()),),)


def test_gate_and_up(opened: Opener) -> None:
    """silu(g) * u, seen through a last projection that picks one number each; from far below zero to far above."""
    width, ffn = 48, 40
    shape = config(layers=1, width=width, ffn_width=ffn, vocabulary=30)
    for scale in (0.05, 1.0, 30.0):
        weights = quiet(shape)
        prefix = "model.layers.0.mlp."
        weights[prefix + "gate_proj.weight"] *= np.float32(scale)
        weights[prefix + "down_proj.weight"] = np.eye(width, ffn, dtype=np.float32)
        tokens = tokens_of(shape, 40)
        got = opened(shape, weights).hidden([whole(tokens)])
        np.testing.assert_allclose(got, decoder(shape, weights, tokens), rtol=5e-3, atol=5e-3 * max(1, scale))


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4", "w8a8", "w4a8"])
def test_threads_give_the_same_bits(opened: Opener, kind: str) -> None:
    shape = config(**SHAPES["large"])
    row = whole(tokens_of(shape, 200))
    first, *others = (opened(shape, threads=threads, weights=kind).hidden([row]) for threads in (1, 2, 3))
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("changes", "slots", "text"),
    [
        ({"head_width": 8}, 16, "heads are 8 wide; multiples of 16 up to 256"),
        ({"head_width": 24}, 16, "heads are 24 wide"),
        ({"head_width": 272}, 16, "heads are 272 wide"),
        ({}, 8, "pages have 8 slots; multiples of 16 that divide 128"),
        ({}, 48, "pages have 48 slots"),
        ({}, 256, "pages have 256 slots"),
    ],
)
def test_models_it_cannot_take(changes: dict[str, Any], slots: int, text: str) -> None:
    with pytest.raises(NotSupported, match=text):
        device(config(**changes), random_weights(config(**changes)), page_slots=slots)


@pytest.mark.parametrize("how", [{"frames": 0}, {"host_frames": -1}, {"page_slots": 0}, {"threads": 0}])
def test_no_device_of_nothing(how: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument):
        device(config(), random_weights(config()), **how)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
@pytest.mark.parametrize("damage", [np.uint32(0x7FC00000), np.uint32(0x7F800000), np.uint32(0xFFFFFFFF)])
def test_damaged_weights_are_refused_and_leave_no_thread(name: str, damage: np.uint32) -> None:
    shape = config(tied="lm_head" not in name)
    weights = random_weights(shape)
    weights[name].view(np.uint32)[3, 5] = damage
    before = tasks()
    with pytest.raises(BadFormat, match="not finite"):
        device(shape, weights, threads=3)
    assert not begun_since(before, left=0)


@pytest.mark.parametrize("kv", ["bf16", "int8"])
def test_logits_that_are_no_numbers_are_refused_and_their_pages_scrubbed(opened: Opener, kv: Kv) -> None:
    shape = config()
    weights = random_weights(shape)
    weights["model.layers.0.input_layernorm.weight"][7] = np.nan
    one = opened(shape, weights, kv=kv)
    with pytest.raises(DeviceFailed, match=r"no numbers.*burst 1 after 20 tokens"):
        one.execute(Step(1, (whole(tokens_of(shape, 20), sampling=Sampling()),)))
    assert not one.frames[Tier.DEVICE][:2].any()


@pytest.mark.parametrize("place", [0, 1, 15, 16, 31])
def test_one_damaged_scale_is_refused_and_only_its_page_scrubbed(opened: Opener, place: int) -> None:
    """place: of a scale among those of a layer and head, sixteen of keys and sixteen of values."""
    shape = config()
    one = opened(shape, kv="int8")
    row = whole(tokens_of(shape, 40), sampling=Sampling())
    one.execute(Step(1, (row,)))
    frames = one.frames[Tier.DEVICE]
    before = frames.copy()
    frames[1].view(np.float32).reshape(shape.layers * shape.kv_heads, -1)[-1, place] = np.nan
    with pytest.raises(DeviceFailed, match="no numbers"):
        one.execute(Step(2, (Row(1, (row.tokens[-1],), 39, row.frames, store=False, sampling=Sampling()),)))
    assert not frames[1].any()
    assert np.array_equal(frames[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("name", SHAPES)
def test_a_device_with_pages_in_levels_is_near_the_same_without(opened: Opener, name: str) -> None:
    shape = config(**SHAPES[name])
    tokens = tokens_of(shape, 200)
    plain, levels = opened(shape, random_weights(shape, scale=0.15)), opened(shape, random_weights(shape, scale=0.15), kv="int8")
    expected, got = (one.hidden([whole(tokens)]) for one in (plain, levels))
    error = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert 0 < error.max() < 0.05
    assert levels.geometry.page_bytes == shape.layers * shape.kv_heads * 2 * 16 * (shape.head_width + 4)
    assert all(frames.nbytes == len(frames) * levels.geometry.page_bytes for frames in levels.frames.values())
    assert "(int8, " in levels.describe()


def test_pages_begin_where_cache_lines_do(opened: Opener) -> None:
    """numpy's own memory begins 16 bytes behind: every load of attention would touch two lines."""
    for count in (1, 3, 1000):
        for frames in opened(config(), frames=count, host_frames=count).frames.values():
            assert [frames[index].ctypes.data % 64 for index in range(count)] == [0] * count
            assert frames.shape[0] == count


@pytest.mark.parametrize("tier", [Tier.DEVICE, Tier.HOST])
def test_copies_that_name_no_frame(opened: Opener, tier: Tier) -> None:
    one = opened(config())
    for copy in (Copy(tier, 64, Tier.DEVICE, 0), Copy(Tier.DEVICE, 0, tier, -1)):
        with pytest.raises(DeviceFailed, match=f"{tier.value} frame"):
            one.execute(Step(1, (), (copy,)))


def test_rows_without_store_write_nothing_and_say_the_same(opened: Opener) -> None:
    shape = config()
    one = opened(shape)
    frontend = Frontend(one)
    context = Context(list(tokens_of(shape, 150)))
    frontend.prefill(context, 70)
    before = one.frames[Tier.DEVICE].copy()
    kept = one.hidden([frontend.row(context)])
    assert np.array_equal(one.frames[Tier.DEVICE], before)
    assert np.array_equal(kept[-1], opened(shape).hidden([whole(tuple(context.tokens))])[-1])


def test_a_digest_names_the_instruction_set_the_pages_and_the_weights(isa: Isa) -> None:
    digests = set()
    plain = [(16, "bf16"), (32, "bf16"), (16, "int8"), (16, "int4"), (16, "w8a8"), (16, "w4a8")]
    kinds = [*((*each, "bf16") for each in plain), (16, "bf16", "int8"), (16, "int8", "int8")]
    for slots, kind, kv in kinds:
        one = device(config(), random_weights(config()), isa, page_slots=slots, weights=kind, kv=kv)
        digests.add(one.geometry.digest)
        assert one.geometry.batch_invariant
        assert isa in one.describe()
        one.close()
    assert len(digests) == len(kinds)


def test_structures_agree_or_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmos.drivers.cpu.native.ROW", np.dtype("<i4"))
    with pytest.raises(NotSupported, match="do not agree"):
        Native(compiled().path)


def test_closing_twice_is_fine() -> None:
    one = NativeDevice(compiled(), checkpoint(config(), random_weights(config())), name="small", frames=4)
    one.close()
    one.close()
