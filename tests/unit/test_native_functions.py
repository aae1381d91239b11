"""The native functions below a step, each against float64, on every instruction set that this machine has."""

from __future__ import annotations

import numpy as np
import pytest
from native import ISAS, Bits, Floats, Functions, functions, to_levels, wide

from llmos.drivers.cpu.compiler import Isa
from llmos.drivers.cpu.weights import Form
from llmos.drivers.weights import to_bf16


@pytest.fixture(params=ISAS)
def native(request: pytest.FixtureRequest) -> Functions:
    isa: Isa = request.param
    return functions(isa)


def bits(random: np.random.Generator, *shape: int) -> Bits:
    return to_bf16(random.normal(0, 1, shape).astype(np.float32))


def near(got: Floats, expected: np.ndarray, scale: np.ndarray) -> None:
    """Within float32's rounding of a sum whose terms have this sum of magnitudes."""
    error = np.abs(got - expected) / scale
    assert error.max() < 3e-6, f"{error.max():.1e} of the terms, at {np.unravel_index(error.argmax(), error.shape)}"


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 17), (31, 16), (33, 15), (48, 64), (95, 33), (96, 130), (129, 1000)])
def test_products(native: Functions, inputs: int, outputs: int) -> None:
    """At sizes on and beside every block; few rows, and many that are cut among threads."""
    random = np.random.default_rng(inputs * outputs)
    w, bias = bits(random, outputs, inputs), random.normal(0, 1, outputs).astype(np.float32)
    for rows in (1, 2, 3, 5, 7, 16, 17, 24, 25, 32, 33, 70, 300):
        x = bits(random, rows, inputs)
        expected, scale = (f(wide(x)).astype(np.float64) @ f(wide(w)).T + f(bias) for f in (np.asarray, np.abs))
        got, finite = native.product(w, x, bias)
        assert finite
        near(got, expected, scale)
        for threads in (2, 3):
            assert np.array_equal(native.product(w, x, bias, threads)[0], got)


@pytest.mark.parametrize(("form", "most"), [(Form.LEVELS, 127), (Form.WIDE_LEVELS, 256 * 127)])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 17), (31, 16), (63, 15), (64, 64), (65, 33), (96, 130), (129, 1000)])
def test_products_of_levels(native: Functions, inputs: int, outputs: int, form: Form, most: int) -> None:
    """A sum of whole numbers is exact: nothing but a few roundings of its factors is left."""
    random = np.random.default_rng(inputs * outputs)
    w, bias = bits(random, outputs, inputs), np.zeros(outputs, np.float32)
    w[-1] = 0
    for rows in (1, 2, 3, 5, 8, 9, 16, 17, 33, 70, 300):
        x = bits(random, rows, inputs)
        x[-1] = 0 if rows > 1 else x[-1]
        x[0, 0] = 0xC2C8  # -100: the lowest level
        worth = np.abs(wide(x)).max(1, keepdims=True) / most * np.abs(wide(w)).max(1) / 127
        expected = to_levels(wide(x), most) @ to_levels(wide(w)).T * worth
        terms = np.abs(to_levels(wide(x), most)) @ np.abs(to_levels(wide(w))).T * worth  # planes may cancel
        got, finite = native.product(w, x, bias, form=form)
        assert finite
        assert (np.abs(got - expected) <= 1e-6 * (np.abs(expected) if form is Form.LEVELS else terms) + 1e-30).all()
        for threads in (2, 3):
            assert np.array_equal(native.product(w, x, bias, threads, form=form)[0], got)


@pytest.mark.parametrize("form", Form)
def test_a_row_of_a_product_is_the_same_bits_in_any_company(native: Functions, form: Form) -> None:
    random = np.random.default_rng(1)
    w, x, bias = bits(random, 130, 95), bits(random, 75, 95), random.normal(0, 1, 130).astype(np.float32)
    alone = np.concatenate([native.product(w, x[row : row + 1], bias, form=form)[0] for row in range(len(x))])
    for rows in range(1, len(x) + 1):
        assert np.array_equal(native.product(w, x[:rows], bias, form=form)[0], alone[:rows])
        assert np.array_equal(native.product(w, x[-rows:].copy(), bias, form=form)[0], alone[-rows:])


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize(("inputs", "rows"), [(32, 33), (96, 128), (576, 129), (608, 64), (1100, 200), (1568, 257)])
def test_many_rows_are_the_bits_of_each_alone(native: Functions, inputs: int, rows: int, form: Form) -> None:
    """Whether threads share rows or weights, and whether sums wait between stretches of inputs."""
    rng = np.random.default_rng(rows)
    w, x, bias = bits(rng, 80, inputs), bits(rng, rows, inputs), np.zeros(80, np.float32)
    alone = np.concatenate([native.product(w, x[row : row + 1], bias, form=form)[0] for row in range(rows)])
    for threads in (1, 2, 5):
        assert np.array_equal(native.product(w, x, bias, threads, form)[0], alone)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("chunks", [0, 1, 2, 3, 5, 7, 64, 1001])
def test_every_chunk_of_every_stretch_runs_once_a_loop(native: Functions, threads: int, chunks: int) -> None:
    assert native.stretches(threads, chunks, loops=50) == ([50] * chunks, True)


@pytest.mark.parametrize(("threads", "chunks"), [(2, 2), (2, 4), (3, 6), (4, 100)])
def test_who_is_done_takes_what_others_have_left(native: Functions, threads: int, chunks: int) -> None:
    """Whoever has the first chunk ends only after all others have run, its own stretch's too."""
    assert native.stretches(threads, chunks, loops=5, waits=True) == ([5] * chunks, True)


def test_a_matrix_gives_back_what_was_laid_out(native: Functions) -> None:
    for inputs in (1, 6, 37, 64):
        w = bits(np.random.default_rng(inputs), 35, inputs)
        for output in (0, 15, 16, 34):
            assert np.array_equal(native.unpacked(w, inputs, output), wide(w[output]))


@pytest.mark.parametrize("damage", [0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFFF])
def test_weights_that_are_no_numbers_are_seen(native: Functions, damage: int) -> None:
    for place in ((0, 0), (16, 36), (34, 5)):
        w = bits(np.random.default_rng(0), 35, 37)
        w[place] = damage
        assert not native.product(w, bits(np.random.default_rng(0), 1, 37), np.zeros(35, np.float32))[1]


def test_exp(native: Functions) -> None:
    """Two and a half units in the last place over its whole range; what floats cannot hold is 0 below and huge above."""
    x = np.concatenate((np.linspace(-87, 88, 1 << 20), np.linspace(-1e-3, 1e-3, 1 << 12), np.arange(-87, 88.5, 0.5))).astype(np.float32)
    x = np.concatenate((x, np.zeros(-len(x) % 16, np.float32)))
    expected = np.exp(x.astype(np.float64))
    assert (np.abs(native.exp(x) - expected) / np.spacing(expected.astype(np.float32))).max() < 2.5
    below = np.array([-87.01, -88, -100, -1e4, -3e38, -np.inf] * 8, np.float32)
    assert not native.exp(below).any()
    above = native.exp(np.array([88, 88.5, 100, 3e38, np.inf, 89, 90, 1e9] * 2, np.float32))
    assert (above > 1.6e38).all()
    assert np.isfinite(above).all()
    assert (native.exp(np.zeros(16, np.float32)) == 1).all()


def test_exp_roughly(native: Functions) -> None:
    """To 1e-5 where weights of attention count, exact at 0, nothing far below, and no number of no number."""
    x = np.concatenate((-np.linspace(0, 80, 1 << 20), -np.linspace(0, 1e-3, 1 << 12))).astype(np.float32)
    expected = np.exp(x.astype(np.float64))
    assert (np.abs(native.exp_roughly(x) - expected) / expected).max() < 1e-5
    assert (native.exp_roughly(np.zeros(16, np.float32)) == 1).all()
    assert (native.exp_roughly(-np.zeros(16, np.float32)) == 1).all()
    near = native.exp_roughly(-np.linspace(86, 110, 160).astype(np.float32))
    assert ((near >= 0) & (near < 1e-37)).all()
    assert not native.exp_roughly(np.array([-110, -1e4, -3e38, -np.inf] * 4, np.float32)).any()
    assert np.isnan(native.exp_roughly(np.full(16, np.nan, np.float32))).all()


def test_narrowing_rounds_to_even(native: Functions) -> None:
    """By vectors and one by one: alike, and as numpy does it. bfloat16 has denormals; a vector unit may make them zero."""
    random = np.random.default_rng(0)
    words = random.integers(0, 1 << 32, 1 << 16, np.uint64).astype(np.uint32)
    halves = (random.integers(0, 1 << 16, 1 << 12).astype(np.uint32) << 16) | 0x8000
    x = np.concatenate((words, halves)).view(np.float32)
    x = x[np.isfinite(x) & (np.abs(x) > 2e-38)]
    x = x[: len(x) // 16 * 16].copy()
    vectors, single = native.narrow(x)
    assert np.array_equal(vectors, to_bf16(x))
    assert np.array_equal(single, to_bf16(x))
    special = np.array([np.inf, -np.inf, 0, -0.0] * 4, np.float32)
    assert all(np.array_equal(wide(got), special) for got in native.narrow(special))
    patterns = np.array([0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF] * 4, np.uint32).view(np.float32)
    assert all(np.isnan(wide(got)).all() for got in native.narrow(patterns))


def test_arg_max_takes_the_lowest_of_equals_and_a_nan_first(native: Functions) -> None:
    random = np.random.default_rng(0)
    for n in (1, 2, 15, 16, 17, 31, 64, 1000):
        x = random.integers(0, 4, n).astype(np.float32)
        assert native.arg_max(x) == int(x.argmax())
        assert native.arg_max(-x - 1) == int((-x - 1).argmax())
        assert native.arg_max(np.full(n, -np.inf, np.float32)) == 0
        for place in (0, n // 2, n - 1):
            top = random.normal(0, 1, n).astype(np.float32)
            top[place] = np.inf
            assert native.arg_max(top) == place
            top[place] = np.nan
            assert native.arg_max(top) == place
