"""8-bit weights, times activations of 8 and of 16 bits, against whole numbers in numpy, to the bit: products, and a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from native import ISAS, Bits, Floats, Functions, compiled, config, device, functions, random_weights, to_levels, wide

from llmos.drivers.config import ModelConfig
from llmos.drivers.cpu.compiler import Isa, cpu_flags
from llmos.drivers.cpu.device import NativeDevice
from llmos.drivers.cpu.weights import Form
from llmos.drivers.weights import to_bf16
from llmos.kernel.device import GREEDY, Row, Sampling, Step
from llmos.kernel.errno import DeviceFailed

NO_VNNI = "-mno-avx512vnni"
PATHS: list[tuple[Isa, tuple[str, ...]]] = [(isa, ()) for isa in ISAS]
PATHS += [("avx512", (NO_VNNI,))] if "avx512" in ISAS and "avx512_vnni" in cpu_flags() else []


@pytest.fixture(params=PATHS, ids=lambda path: path[0] + "".join(path[1]))
def native(request: pytest.FixtureRequest) -> Functions:
    isa, extra = request.param
    return functions(isa, *extra)


def bits(random: np.random.Generator, *shape: int) -> Bits:
    """Rows whose magnitudes differ a thousandfold, as channels of a model do."""
    return to_bf16((random.normal(0, 1, shape) * 10 ** random.uniform(-2, 1, (shape[0], 1))).astype(np.float32))


FORMS = {Form.LEVELS: 127, Form.WIDE_LEVELS: 256 * 127}
"""How many levels the greatest activation of a row is."""


@pytest.fixture(params=FORMS, ids=lambda form: form.name.lower())
def form(request: pytest.FixtureRequest) -> Form:
    found: Form = request.param
    return found


def scales(numbers: Bits, most: int = 127) -> Floats:
    scale: Floats = np.abs(wide(numbers)).max(1).astype(np.float32) / np.float32(most)
    return scale


def exact(w: Bits, x: Bits, form: Form) -> Floats:
    """The product as the driver rounds it: whole numbers to float32, of both planes where there are two, times both scales' product."""
    weights, levels = to_levels(wide(w)).astype(np.int64).T, to_levels(wide(x), FORMS[form]).astype(np.int64)
    if form is Form.LEVELS:
        sums = (levels @ weights).astype(np.float32)
    else:
        upper = levels + 128 >> 8
        lower = levels - 256 * upper
        assert (np.abs(upper) <= 127).all()
        assert ((lower >= -128) & (lower <= 127)).all()
        sums = np.float32(256) * (upper @ weights).astype(np.float32) + (lower @ weights).astype(np.float32)
    product: Floats = sums * (scales(x, FORMS[form])[:, None] * scales(w)[None])
    return product


def none(outputs: int) -> Floats:
    return np.zeros(outputs, np.float32)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(1, 1), (3, 17), (4, 16), (5, 63), (31, 64), (32, 65), (33, 15), (63, 31), (64, 128), (65, 129), (127, 33), (200, 100)],
)
def test_products_are_exact(native: Functions, form: Form, inputs: int, outputs: int) -> None:
    """On and beside every block: inputs by 4, 32 and 64, outputs by 16, 32 and 64, rows by 2, 3, 6, 8, 16, 24 and 32."""
    random = np.random.default_rng(inputs * 1000 + outputs)
    w, x = bits(random, outputs, inputs), bits(random, 70, inputs)
    expected = exact(w, x, form)
    for rows in range(1, 71):
        got, finite = native.product(w, x[:rows].copy(), none(outputs), form=form)
        assert finite
        assert np.array_equal(got, expected[:rows]), f"{rows} rows"


def test_zeros(native: Functions, form: Form) -> None:
    """Of nothing but zeros there are no levels: neither NaN nor anything else comes of them."""
    random = np.random.default_rng(0)
    w, x = bits(random, 70, 100), bits(random, 40, 100)
    w[[0, 15, 16, 69]] = 0
    x[[0, 7, 31, 39]] = 0
    w[5], x[5] = 0x8000, 0x8000  # -0
    got, _ = native.product(w, x, none(70), form=form)
    assert np.array_equal(got, exact(w, x, form))
    assert not got[[0, 5, 7, 31, 39]].any()
    assert not got[:, [0, 5, 15, 16, 69]].any()
    bias = random.normal(0, 1, 70).astype(np.float32)
    assert np.array_equal(native.product(w * 0, x, bias, form=form)[0], np.tile(bias, (40, 1)))


@pytest.mark.parametrize("inputs", [1536, 9216, 32_768])
def test_the_greatest_magnitudes_neither_saturate_nor_overflow(native: Functions, form: Form, inputs: int) -> None:
    """127 times 127, or 32512, everywhere, in all four signs: pairs of such products do not fit 16 bits, which VPMADDUBSW would clip."""
    one = np.full(inputs, 0x3F80, np.uint16)  # 1: the greatest level
    turns = one | (np.arange(inputs) % 2 << 15).astype(np.uint16)
    w, x = np.stack([one, one | 0x8000, turns] * 11), np.stack([one, one | 0x8000, turns] * 3)
    got, _ = native.product(w, x, none(33), form=form)
    assert np.array_equal(got, exact(w, x, form))
    np.testing.assert_allclose(got, wide(x).astype(np.float64) @ wide(w).T, rtol=1e-6)


def test_every_pair_of_levels(native: Functions) -> None:
    """A wrong product of two levels has nothing to hide behind: the other inputs only make every scale 1."""
    levels = np.arange(-127, 128)
    for place in range(4):  # of the four that one instruction adds
        w, x = (np.zeros((255, 6), np.float32) for _ in range(2))
        w[:, place], w[:, 4], x[:, place], x[:, 5] = levels, 127, levels, 127
        got, _ = native.product(to_bf16(w), to_bf16(x), none(255), form=Form.LEVELS)
        assert np.array_equal(got, np.outer(levels, levels))


def test_the_lowest_lower_plane(native: Functions) -> None:
    """-128 times 127 everywhere, with the upper plane at its least: every activation but one is half of an upper level, up to even."""
    x = np.full((40, 32_768), 128, np.float32)  # 256 * 1 - 128
    x[:, 0] = 32_512
    x[1::2] *= -1  # 256 * 0 - 128, and -127 * 256
    w = np.ones((33, 32_768), np.float32)
    got, _ = native.product(to_bf16(w), to_bf16(x), none(33), form=Form.WIDE_LEVELS)
    assert np.array_equal(got, exact(to_bf16(w), to_bf16(x), Form.WIDE_LEVELS))
    np.testing.assert_allclose(got, x @ w.T, rtol=1e-6)


def test_every_level_of_a_wide_row(native: Functions) -> None:
    """All 65,025 of them, where bfloat16 can say one: each as it is, upper and lower plane together."""
    numbers = np.unique(np.abs(wide(np.arange(0x3C00, 0x4700, dtype=np.uint16))))
    numbers = numbers[numbers <= 32_512]
    x = np.zeros((2 * len(numbers), 5), np.float32)
    x[:, 0], x[:, 4] = np.concatenate((numbers, -numbers)), 32_512
    w = np.eye(5, dtype=np.float32)[[0, 0, 1]]
    got, _ = native.product(to_bf16(w), to_bf16(x), none(3), form=Form.WIDE_LEVELS)
    assert len(numbers) > 1000
    assert np.array_equal(wide(to_bf16(x)), x)
    np.testing.assert_allclose(got[:, 0], np.rint(x[:, 0]), rtol=3e-7)
    assert not got[:, 2].any()


@pytest.mark.parametrize("half", [0.5, 1.5, 126.5, 127.5])
def test_activations_round_to_even(native: Functions, form: Form, half: float) -> None:
    """To a whole level, also where the next is another upper level."""
    most = FORMS[form]
    numbers = np.array([[most, min(half, most - 0.5), -min(half, most - 0.5), 0]], np.float32)
    ones = to_bf16(np.eye(4, dtype=np.float32))
    assert np.array_equal(wide(to_bf16(numbers)), numbers)
    got, _ = native.product(ones, to_bf16(numbers), none(4), form=form)
    np.testing.assert_allclose(got, np.rint(numbers), rtol=3e-7)


def test_two_planes_say_far_more_than_one(native: Functions) -> None:
    """Were the lower plane left out, products would be no nearer than those of 8 bits."""
    random = np.random.default_rng(3)
    w, x = to_bf16(random.normal(0, 1, (100, 500)).astype(np.float32)), to_bf16(random.normal(0, 1, (40, 500)).astype(np.float32))
    expected = wide(x).astype(np.float64) @ (to_levels(wide(w)) * scales(w)[:, None]).T
    errors = [np.abs(native.product(w, x, none(100), form=each)[0] - expected).mean() for each in FORMS]
    assert errors[1] < errors[0] / 100


def test_a_row_is_the_same_bits_alone_and_among_others(native: Functions, form: Form) -> None:
    random = np.random.default_rng(1)
    w, x, bias = bits(random, 130, 95), bits(random, 70, 95), random.normal(0, 1, 130).astype(np.float32)
    alone = np.concatenate([native.product(w, x[row : row + 1], bias, form=form)[0] for row in range(70)])
    for threads in (1, 3):
        for first, last in ((0, 2), (0, 7), (3, 20), (10, 70), (0, 70)):
            got, _ = native.product(w, x[first:last].copy(), bias, threads, form=form)
            assert np.array_equal(got, alone[first:last])
    order = random.permutation(70)
    assert np.array_equal(native.product(w, x[order], bias, form=form)[0], alone[order])


@pytest.mark.parametrize("inputs", [1, 5, 36, 64, 95])
def test_unpacking_gives_each_level_times_its_scale(native: Functions, form: Form, inputs: int) -> None:
    w = bits(np.random.default_rng(inputs), 35, inputs)
    w[3] = 0
    expected = to_levels(wide(w)).astype(np.float32) * scales(w)[:, None]
    for output in range(35):
        assert np.array_equal(native.unpacked(w, inputs, output, form), expected[output])


def test_magnitudes_so_small_that_their_levels_per_unit_are_infinite(native: Functions, form: Form) -> None:
    tiny = to_bf16(np.full((3, 20), 1e-38, np.float32))
    tiny[:, ::2] = 0
    ones = to_bf16(np.ones((3, 20), np.float32))
    for w, x in ((tiny, ones), (ones, tiny), (tiny, tiny)):
        got, finite = native.product(w, x, none(3), form=form)
        assert finite
        assert (np.abs(got) < 1e-35).all()


@pytest.mark.parametrize("wrong", [0x7F80, 0xFF80, 0x7FC0, 0xFFC1])
def test_activations_that_are_no_numbers_make_their_row_none(native: Functions, form: Form, wrong: int) -> None:
    """A level cannot say NaN: were it left out, a broken row would look sound."""
    random = np.random.default_rng(2)
    w, x = bits(random, 20, 40), bits(random, 12, 40)
    sound, _ = native.product(w, x, none(20), form=form)
    for place in (0, 17, 39):
        broken = x.copy()
        broken[4, place] = wrong
        got, _ = native.product(w, broken, none(20), form=form)
        assert not np.isfinite(got[4]).any()
        assert np.array_equal(np.delete(got, 4, 0), np.delete(sound, 4, 0))


# --- a device

SHAPES: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tied": False, "vocabulary": 130},
    "odd sizes": {"width": 37, "ffn_width": 19, "vocabulary": 33, "heads": 3, "kv_heads": 1, "attention_bias": True},
}
Opener = Callable[..., NativeDevice]


@pytest.fixture(params=ISAS)
def opened(request: pytest.FixtureRequest) -> Iterator[Opener]:
    compiled(request.param)
    devices: list[NativeDevice] = []

    def open_device(shape: ModelConfig, kind: str, given: dict[str, Floats] | None = None, **how: Any) -> NativeDevice:
        given = given or random_weights(shape, scale=0.15)
        devices.append(device(shape, given, request.param, weights=kind, **how))
        return devices[-1]

    yield open_device
    for one in devices:
        one.close()


def row(tokens: tuple[int, ...], first: int = 0, **how: Any) -> Row:
    """These tokens of a context from the start on, in frames from `first` on."""
    return Row(1, tokens, 0, tuple(range(first, first - (-len(tokens) // 16))), **how)


def tokens_of(shape: ModelConfig, count: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, shape.vocabulary, count).tolist())


@pytest.mark.parametrize(("kind", "most", "middle"), [("int8", 0.12, 0.035), ("w8a8", 0.25, 0.06)])
@pytest.mark.parametrize("name", SHAPES)
def test_a_device_in_levels_is_near_the_same_in_bf16(opened: Opener, name: str, kind: str, most: float, middle: float) -> None:
    shape = config(**SHAPES[name])
    tokens = tokens_of(shape, 120)
    plain, levels = opened(shape, "bf16"), opened(shape, kind)
    expected, got = plain.hidden([row(tokens)]), levels.hidden([row(tokens)])
    error = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert 0 < error.max() < most
    assert np.median(error) < middle
    assert plain.geometry.digest != levels.geometry.digest  # so a page of one never serves the other
    assert plain.geometry.page_bytes == levels.geometry.page_bytes
    assert f"native {kind} (" in levels.describe()


@pytest.mark.parametrize("kind", ["int8", "w8a8"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_device_in_levels_is_batch_invariant(opened: Opener, name: str, kind: str) -> None:
    """Hidden states and logits, bit for bit: at once, in chunks, token by token, and beside others."""
    shape = config(**SHAPES[name])
    one = opened(shape, kind, threads=2)
    tokens, others = tokens_of(shape, 90), [tokens_of(shape, count, count) for count in (1, 40, 7)]
    alone = one.hidden([row(tokens)])
    end = one.logits([row(tokens)])
    assert one.geometry.batch_invariant
    for chunk in (1, 16, 37):
        frames = tuple(range(10, 16))
        parts = [one.hidden([Row(1, tokens[at : at + chunk], at, frames)]) for at in range(0, 90, chunk)]
        assert np.array_equal(np.concatenate(parts), alone), f"chunks of {chunk}"
    firsts = (10, 20, 30)
    company = [row(other, first) for other, first in zip(others, firsts, strict=True)]
    together = [company[0], company[1], row(tokens), company[2]]
    assert np.array_equal(one.hidden(together)[41:131], alone)
    assert np.array_equal(one.logits(together)[2], end[0])


@pytest.mark.parametrize("kind", ["bf16", "int8", "w8a8"])
@pytest.mark.parametrize("name", SHAPES)
def test_greedy_picks_the_greatest_of_the_logits(opened: Opener, name: str, kind: str) -> None:
    """And their log-probabilities are those that a step reports."""
    shape = config(**SHAPES[name])
    one = opened(shape, kind)
    rows = [row(tokens_of(shape, count, count), 8 * index) for index, count in enumerate((1, 17, 33, 64, 5))]
    logits = one.logits(rows)
    assert logits.shape == (5, shape.vocabulary)
    outcome = one.execute(Step(1, tuple(row(each.tokens, each.frames[0], sampling=GREEDY) for each in rows)))
    assert [token for (token,) in outcome.tokens] == logits.argmax(1).tolist()
    outcome = one.execute(Step(2, tuple(row(each.tokens, each.frames[0], sampling=Sampling(logprobs=3)) for each in rows)))
    wide_logits = logits.astype(np.float64)
    logs = wide_logits - np.log(np.exp(wide_logits).sum(1, keepdims=True))
    for (found,), expected in zip(outcome.logprobs, logs, strict=True):
        assert found.chosen == pytest.approx(expected.max(), abs=1e-5)
        assert [token for token, _ in found.top] == np.argsort(-expected, kind="stable")[:3].tolist()


@pytest.mark.parametrize("kind", ["int8", "w8a8"])
def test_a_device_in_levels_refuses_what_is_no_number(opened: Opener, kind: str) -> None:
    """As one in bf16 does: a NaN does not end as a level."""
    shape = config()
    weights = random_weights(shape)
    weights["model.layers.0.input_layernorm.weight"][7] = np.nan
    step = Step(1, (row(tokens_of(shape, 20), sampling=GREEDY),))
    opened(shape, kind).execute(step)
    with pytest.raises(DeviceFailed, match="no numbers"):
        opened(shape, kind, weights).execute(step)
