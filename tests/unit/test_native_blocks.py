"""Weights in blocks of 4 and 8 bits: the same bits as of the bf16 weights they stand for, on every instruction set."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from native import ISAS, Bits, Floats, Functions, compiled, functions, wide
from numpy.typing import NDArray
from tiny import config_json, random_weights, write_gguf

from llmos.drivers.checkpoint import open_checkpoint
from llmos.drivers.config import config_from_hf
from llmos.drivers.cpu.compiler import Isa
from llmos.drivers.cpu.device import NativeDevice
from llmos.drivers.cpu.weights import KINDS, Form, Part, Weights, form_of
from llmos.drivers.weights import Blocks, to_bf16
from llmos.kernel.device import Row
from llmos.services.library.manifest import QUANTIZED
from llmos.shell import command

TYPES = [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0]
FOURS = (Form.FOURS, Form.NARROW_FOURS)
NARROW = {Form.FOURS: Form.NARROW_FOURS, Form.EIGHTS: Form.NARROW_EIGHTS}


@pytest.fixture(params=ISAS)
def native(request: pytest.FixtureRequest) -> Functions:
    isa: Isa = request.param
    return functions(isa)


def blocks(random: np.random.Generator, kind: Kind, outputs: int, inputs: int) -> NDArray[np.uint8]:
    """Of groups whose magnitudes differ a thousandfold."""
    sizes = 10 ** random.uniform(-2, 1, (outputs, inputs // 32, 1))
    numbers = (random.normal(0, 1, (outputs, inputs // 32, 32)) * sizes + sizes * random.normal(0, 1, sizes.shape)).astype(np.float32)
    made: NDArray[np.uint8] = quantize(numbers.reshape(outputs, inputs), kind)
    return made


def rounded(packed: NDArray[np.uint8], kind: Kind) -> Bits:
    return to_bf16(np.asarray(dequantize(packed, kind), np.float32))


def bits(random: np.random.Generator, *shape: int) -> Bits:
    return to_bf16(random.normal(0, 1, shape).astype(np.float32))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 1), (64, 17), (96, 64), (128, 31), (160, 33), (288, 130)])
def test_products_are_those_of_the_weights_in_bf16(native: Functions, kind: Kind, inputs: int, outputs: int) -> None:
    """Bit for bit: on and beside every block, every stretch that is decoded, every number of rows that has a path of its own."""
    random = np.random.default_rng(inputs * outputs)
    packed = blocks(random, kind, outputs, inputs)
    bias = random.normal(0, 1, outputs).astype(np.float32)
    for rows in (*range(1, 8), 15, 16, 17, 24, 25, 32, 33, 70, 300):
        x = bits(random, rows, inputs)
        expected, _ = native.product(rounded(packed, kind), x, bias)
        for threads in (1, 3):
            got, finite = native.product(packed, x, bias, threads, KINDS[kind], kind)
            assert finite
            assert np.array_equal(got, expected), f"{rows} rows"


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("kind", TYPES)
def test_blocks_in_another_form_are_their_numbers_in_it(native: Functions, kind: Kind, form: Form) -> None:
    packed, x = blocks(np.random.default_rng(2), kind, 35, 96), bits(np.random.default_rng(3), 20, 96)
    if form is NARROW[KINDS[kind]]:
        pytest.skip("the blocks as they are: nothing to compare with")
    expected, _ = native.product(rounded(packed, kind), x, np.zeros(35, np.float32), form=Form.PAIRS if form is KINDS[kind] else form)
    got, finite = native.product(packed, x, np.zeros(35, np.float32), 3, form, kind)
    assert finite
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("kind", TYPES)
def test_unpacking_gives_the_weights_in_bf16(native: Functions, kind: Kind) -> None:
    packed = blocks(np.random.default_rng(0), kind, 35, 96)
    expected = wide(rounded(packed, kind))
    for output in (0, 15, 16, 34):
        assert np.array_equal(native.unpacked(packed, 96, output, KINDS[kind], kind), expected[output])


@pytest.mark.parametrize("kind", TYPES)
def test_every_level_at_every_place(native: Functions, kind: Kind) -> None:
    """A unit vector reads one weight: none can hide behind another."""
    random = np.random.default_rng(0)
    nbytes = 34 if kind == Kind.Q8_0 else 20 if kind == Kind.Q4_1 else 18
    packed = random.integers(0, 256, (256, nbytes)).astype(np.uint8)
    packed[:, :2] = np.array([0.37], np.float16).view(np.uint8)
    if kind == Kind.Q4_1:
        packed[:, 2:4] = np.array([-1.9], np.float16).view(np.uint8)
    ones = to_bf16(np.eye(32, dtype=np.float32))
    got, _ = native.product(packed, ones, np.zeros(256, np.float32), 1, KINDS[kind], kind)
    assert np.array_equal(got, wide(rounded(packed, kind)).T)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("wrong", [0x7C00, 0xFC00, 0x7E00])
@pytest.mark.parametrize("form", Form)
def test_scales_that_are_no_numbers_are_found(native: Functions, kind: Kind, wrong: int, form: Form) -> None:
    packed = blocks(np.random.default_rng(0), kind, 40, 64)
    for at in (0, packed.shape[1] // 2):
        broken = packed.copy()
        broken[33, at : at + 2] = np.array([wrong], np.uint16).view(np.uint8)
        _, finite = native.product(broken, bits(np.random.default_rng(1), 1, 64), np.zeros(40, np.float32), 1, form, kind)
        assert not finite


def test_scales_at_the_ends_of_float16(native: Functions) -> None:
    """Zero, the smallest denormal number, and the greatest."""
    random = np.random.default_rng(0)
    for kind in TYPES:
        packed = blocks(random, kind, 48, 32)
        for row, scale in enumerate((0.0, -0.0, 2.0**-24, -(2.0**-24), 8000.0, -8000.0)):
            packed[row, :2] = np.array([scale], np.float16).view(np.uint8)
        x = bits(random, 40, 32)
        for rows in (1, 40):
            expected, _ = native.product(rounded(packed, kind), x[:rows].copy(), np.zeros(48, np.float32))
            got, finite = native.product(packed, x[:rows].copy(), np.zeros(48, np.float32), 1, KINDS[kind], kind)
            assert finite
            assert np.array_equal(got, expected)


# --- by activations of 8 bits


def near(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """In 127 levels of the greatest of each 32."""
    groups = x.reshape(len(x), -1, 32)
    top = np.abs(groups).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top, np.float32), where=top > 1.27e-36, casting="same_kind")
    return (np.rint(groups.astype(np.float32) * inverse).astype(np.float64) * top / 127).reshape(x.shape)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 1), (64, 17), (96, 64), (160, 33), (1536, 70)])
def test_products_with_rounded_activations(native: Functions, kind: Kind, inputs: int, outputs: int) -> None:
    """Near those in float64, and a row's the same bits whichever rows come with it."""
    random = np.random.default_rng(inputs * outputs)
    packed, form = blocks(random, kind, outputs, inputs), NARROW[KINDS[kind]]
    x, bias = bits(random, 300, inputs), random.normal(0, 1, outputs).astype(np.float32)
    x[7] = 0
    x[8, :32] = to_bf16(np.float32([1e30] * 32))
    x[9] = random.integers(0, 0x80, inputs)  # denormal numbers count nothing
    whole, finite = native.product(packed, x, bias, 3, form, kind)
    assert finite
    weights, rows = np.asarray(dequantize(packed, kind), np.float64), near(wide(x).astype(np.float64))
    size = np.abs(rows) @ np.abs(weights.T) + np.abs(bias)
    # One by a level where float32 rounds the other way is seldom, and small beside all that is added up.
    assert (np.abs(whole - (rows @ weights.T + bias)) < size * 4e-7 * (4 + inputs / 32)).mean() > 0.9
    assert (np.abs(whole - (rows @ weights.T + bias)) < size * 1e-2).all()
    for count in (*range(1, 10), 15, 16, 17, 24, 25, 32, 33, 70):
        for first in (0, 5, 300 - count):
            got, _ = native.product(packed, x[first : first + count].copy(), bias, 1 + count % 3, form, kind)
            assert np.array_equal(got, whole[first : first + count]), f"{count} rows from {first}"


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_an_activation_that_is_no_number_makes_its_row_none(native: Functions, kind: Kind, wrong: float) -> None:
    random = np.random.default_rng(0)
    packed, x = blocks(random, kind, 40, 96), bits(random, 20, 96)
    plain, _ = native.product(packed, x, np.zeros(40, np.float32), 1, NARROW[KINDS[kind]], kind)
    x[[3, 17], [0, 95]] = to_bf16(np.float32([wrong, wrong]))
    for rows in (5, 20):
        got, _ = native.product(packed, x[-rows:].copy(), np.zeros(40, np.float32), 1, NARROW[KINDS[kind]], kind)
        broken = np.isin(np.arange(20)[-rows:], (3, 17))
        assert np.isnan(got[broken]).all()
        assert np.array_equal(got[~broken], plain[-rows:][~broken])


@pytest.mark.parametrize("form", [*NARROW, *NARROW.values()])
@pytest.mark.parametrize("inputs", [1, 31, 32, 33, 100])
def test_groups_made_of_bf16_are_near(native: Functions, form: Form, inputs: int) -> None:
    """No further than a level's share, and what bf16 rounds away; zeros stay zeros."""
    random = np.random.default_rng(inputs)
    w = bits(random, 20, inputs)
    w[3], w[4] = 0, 0x3F80
    for output in range(20):
        got = native.unpacked(w, inputs, output, form).astype(np.float64)
        for at in range(0, inputs, 32):
            group = wide(w[output, at : at + 32]).astype(np.float64)
            level = (group.max() - group.min()) / 15 if form in FOURS else np.abs(group).max() / 127
            error = np.abs(got[at : at + 32] - group)
            assert (error <= level * (0.8 if form in FOURS else 0.51) + np.abs(group) * 2.0**-8 + 1e-6).all()
    assert not native.unpacked(w, inputs, 3, form).any()


def test_denormal_numbers_count_as_little_for_one_row_as_for_many(native: Functions) -> None:
    """Tiles of AMX take them for zero: so must whatever computes few rows there."""
    random = np.random.default_rng(0)
    w, x = bits(random, 40, 64), bits(random, 40, 64)
    w[:, ::3], x[:, 1::3] = random.integers(1, 128, w[:, ::3].shape), random.integers(1, 128, x[:, 1::3].shape)
    x[5] = random.integers(0, 0x0400, 64)
    many, _ = native.product(w, x, np.zeros(40, np.float32))
    for rows in (1, 2, 3, 4):
        few = np.concatenate([native.product(w, x[at : at + rows].copy(), np.zeros(40, np.float32))[0] for at in range(0, 40, rows)])
        assert np.array_equal(few.view(np.uint32), many.view(np.uint32))


# --- which form, and a device


def some(kind: int) -> Blocks:
    return Blocks(kind, lambda: np.zeros((1, 1), np.uint8))


@pytest.mark.parametrize(
    ("kinds", "weights", "part", "expected"),
    [
        ((3, 3, 3), "", Part.QUERY_KEY_VALUE, Form.FOURS),
        ((2, 3), "", Part.GATE_UP, Form.FOURS),
        ((8,), "", Part.HEAD, Form.EIGHTS),
        ((3, 8), "", Part.GATE_UP, Form.PAIRS),
        ((3, None), "", Part.GATE_UP, Form.PAIRS),
        ((None,), "", Part.DOWN, Form.PAIRS),
        ((14,), "", Part.DOWN, Form.PAIRS),
        ((3,), "bf16", Part.DOWN, Form.PAIRS),
        ((3,), "int8", Part.DOWN, Form.WIDE_LEVELS),
        ((3,), "w8a8", Part.DOWN, Form.LEVELS),
        ((3,), "int4", Part.DOWN, Form.FOURS),
        ((3,), "w4a8", Part.DOWN, Form.NARROW_FOURS),
        ((8,), "w4a8", Part.HEAD, Form.NARROW_EIGHTS),
        ((3,), "w4a8", Part.HEAD, Form.NARROW_FOURS),
        ((None,), "w4a8", Part.HEAD, Form.NARROW_EIGHTS),
        ((None, 3), "w4a8", Part.GATE_UP, Form.NARROW_FOURS),
        ((8,), "int4", Part.DOWN, Form.FOURS),
        ((8,), "int4", Part.HEAD, Form.EIGHTS),
        ((3,), "int4", Part.HEAD, Form.FOURS),
        ((None,), "int4", Part.HEAD, Form.EIGHTS),
        ((None, None), "int4", Part.GATE_UP, Form.FOURS),
    ],
)
def test_which_form_a_matrix_has(kinds: tuple[int | None, ...], weights: Weights, part: Part, expected: Form) -> None:
    assert form_of([None if kind is None else some(kind) for kind in kinds], weights, part) is expected


def test_the_library_knows_every_way_to_hold_weights() -> None:
    assert ("", *QUANTIZED) == get_args(Weights)
    assert QUANTIZED == command.QUANTIZED


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("kind", TYPES)
def test_a_gguf_runs_as_it_is_and_gives_the_bits_of_bf16(family: str, kind: Kind, tmp_path: Path) -> None:
    shape = config_from_hf(config_json(family))
    write_gguf(tmp_path / "m.gguf", random_weights(shape), shape, kind)
    random = np.random.default_rng(0)
    rows = [Row(n, tuple(random.integers(0, shape.vocabulary, n).tolist()), 0, (3 * n, 3 * n + 1, 3 * n + 2)) for n in (1, 7, 40)]
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        found: dict[str, list[Floats]] = {}
        for weights in ("", "bf16"):
            one = NativeDevice(compiled(), open_checkpoint(tmp_path / "m.gguf", cache), name="m", frames=130, weights=weights)  # type: ignore[arg-type]
            found[weights] = [one.logits(rows), one.hidden(rows)]
            bits_in = "8-bit" if kind == Kind.Q8_0 else "4-bit"
            assert (bits_in in one.describe()) == (weights == "")
            assert ("native bf16" in one.describe()) == (weights == "bf16")
            one.close()
        for own, plain in zip(found[""], found["bf16"], strict=True):
            assert np.array_equal(own, plain)
