"""The native sampler against drivers/sampler.py: what each number in [0, 1) draws, filters, ties, log-probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from native import ISAS, Floats, Functions, functions

from llmos.drivers.cpu.compiler import Isa
from llmos.drivers.philox import uniform
from llmos.drivers.sampler import likeliest, penalize, sample, weights
from llmos.kernel.device import Row, Sampling

HISTORY = (3, 5, 5, 8, 100)


@pytest.fixture(params=ISAS)
def native(request: pytest.FixtureRequest) -> Functions:
    isa: Isa = request.param
    return functions(isa)


def logits(vocabulary: int, seed: int = 0, scale: float = 3.0) -> Floats:
    return np.random.default_rng(seed).normal(0, scale, vocabulary).astype(np.float32)


HOW = {
    "plain": Sampling(temperature=1.0),
    "cold": Sampling(temperature=0.05),
    "coldest": Sampling(temperature=1e-30),
    "hot": Sampling(temperature=10.0),
    "top-k": Sampling(temperature=1.0, top_k=40),
    "top-k 1": Sampling(temperature=1.0, top_k=1),
    "top-k all but one": Sampling(temperature=1.0, top_k=1279),
    "top-k beyond": Sampling(temperature=1.0, top_k=10**9),
    "top-p": Sampling(temperature=1.0, top_p=0.9),
    "top-p wide": Sampling(temperature=9.0, top_p=0.999),
    "top-p narrow": Sampling(temperature=1.0, top_p=1e-6),
    "min-p": Sampling(temperature=1.0, min_p=0.05),
    "min-p 1": Sampling(temperature=1.0, min_p=1.0),
    "penalty": Sampling(temperature=1.0, repetition_penalty=5.0),
    "reward": Sampling(temperature=1.0, repetition_penalty=0.5),
    "all": Sampling(temperature=1.3, top_k=100, top_p=0.8, min_p=0.02, repetition_penalty=1.3),
    "hot all": Sampling(temperature=4.0, top_k=900, top_p=0.95, min_p=0.001),
}


def shares(numbers: Floats, how: Sampling) -> np.ndarray:
    """What drivers/sampler.py leaves of the distribution: float64, summing to 1."""
    given = torch.from_numpy(numbers.copy())[None]
    if how.repetition_penalty != 1:
        penalize(given[0], HISTORY, how.repetition_penalty)
    left = weights(given, [how])[0].double().numpy()
    return left / left.sum()


@pytest.mark.parametrize("vocabulary", [101, 1280, 49_152])
@pytest.mark.parametrize("name", HOW)
def test_each_token_that_is_left_is_drawn_from_its_part_of_the_numbers(native: Functions, name: str, vocabulary: int) -> None:
    """So the distribution is the same, and what a filter drops is never drawn. Parts narrower than rounding are left out."""
    how, numbers = HOW[name], logits(vocabulary, 1)
    share = shares(numbers, how)
    ends = np.cumsum(share)
    wanted = np.flatnonzero(share > 1e-6)
    if len(wanted) > 60:
        wanted = np.unique(np.concatenate((wanted[:20], wanted[-20:], wanted[:: len(wanted) // 20])))
    middles = ends[wanted] - share[wanted] / 2
    assert native.draw(numbers, how, middles, HISTORY) == wanted.tolist()
    kept = np.flatnonzero(share)
    extremes = native.draw(numbers, how, np.array([0.0, 5e-324, 1 - 2.0**-53]), HISTORY)
    assert extremes[0] == extremes[1] == kept[0]
    assert extremes[2] in kept
    assert extremes[2] == kept[-1] or share[extremes[2] + 1 :].sum() < 1e-6


def row(sampling: Sampling, position: int) -> Row:
    return Row(1, (4,), position, (0,) * 100, True, sampling, HISTORY)


@pytest.mark.parametrize("name", HOW)
def test_the_same_seed_and_position_draw_the_same_token(native: Functions, name: str) -> None:
    """As long as nobody's number falls where float32 sums round, which at this size is one draw in 10^5."""
    how = HOW[name]
    for vocabulary in (7, 64, 1000):
        numbers = logits(vocabulary, vocabulary)
        history = tuple(token for token in HISTORY if token < vocabulary)
        for seed in range(6):
            seeded = Sampling(how.temperature, how.top_k, how.top_p, how.min_p, how.repetition_penalty, seed)
            rows = [Row(1, (4,), position, (0,) * 100, True, seeded, history) for position in range(25)]
            expected, _ = sample(torch.from_numpy(numbers).expand(25, -1), rows)
            assert native.draw(numbers, seeded, uniform([seed] * 25, range(1, 26)), history) == expected


def test_draws_follow_the_distribution_of_a_large_vocabulary(native: Functions) -> None:
    draws, how = 1500, Sampling(temperature=1.5, top_p=0.95)
    numbers = logits(49_152, 3, 1.0)
    share = shares(numbers, how)
    order = np.argsort(-share)
    numbers = numbers[order]  # by likelihood, so that a group of neighbours is a tenth of the distribution
    share = share[order]
    tokens = native.draw(numbers, how, uniform([11] * draws, range(draws)))
    assert (share[tokens] > 0).all()
    groups = np.minimum(np.cumsum(share) - share / 2, 1 - 1e-9) * 10 // 1
    counts, expected = np.bincount(groups[tokens].astype(int), minlength=10), np.bincount(groups.astype(int), share, 10) * draws
    assert ((counts - expected) ** 2 / expected).sum() < 33.7  # nine degrees of freedom: above with probability 1e-4, of one seed


def test_ties_are_kept_and_greedy_takes_the_lowest(native: Functions) -> None:
    numbers = np.array([4.0, 5.0, 4.0, 1.0, 4.0], np.float32)
    evenly = np.linspace(0, 1 - 1e-9, 2000)
    assert set(native.draw(numbers, Sampling(temperature=1.0, top_k=2), evenly)) == {0, 1, 2, 4}
    assert set(native.draw(numbers, Sampling(temperature=1.0, top_p=0.5), evenly)) == {0, 1, 2, 4}
    assert set(native.draw(numbers, Sampling(temperature=1.0, min_p=math.exp(-1) * 0.999), evenly)) == {0, 1, 2, 4}
    equal = np.full(700, -2.5, np.float32)
    for how in (Sampling(temperature=1.0, top_k=3), Sampling(temperature=1.0, top_p=0.01), Sampling(temperature=0.01)):
        assert len(set(native.draw(equal, how, evenly))) == 700
    assert native.draw(equal, Sampling(repetition_penalty=2.0), np.zeros(1), (0, 1, 2, 2, 4)) == [3]
    assert native.draw(-equal, Sampling(repetition_penalty=2.0), np.zeros(1), (0, 1, 3)) == [2]


def test_many_equals_and_steps_between(native: Functions) -> None:
    """A cut-off lies on a plateau of more tokens than a halving of the interval can split."""
    numbers = np.repeat(np.array([1.0, 0.5, 0.25, 0.0], np.float32), 1000)
    for how in (
        Sampling(temperature=1.0, top_k=1001),
        Sampling(temperature=1.0, top_k=1000),
        Sampling(temperature=1.0, top_k=3999),
        Sampling(temperature=1.0, top_p=0.5),
        Sampling(temperature=1.0, top_k=2500, top_p=0.7),
    ):
        share = shares(numbers, how)
        middles = np.cumsum(share)[share > 0][::97] - share[share > 0][::97] / 2
        assert native.draw(numbers, how, middles) == np.flatnonzero(share)[::97].tolist()
        assert native.draw(numbers, how, np.array([1 - 2.0**-53])) == [np.flatnonzero(share)[-1]]


def test_impossible_tokens_are_never_drawn(native: Functions) -> None:
    numbers = logits(1280, 2)
    numbers[10:] = -np.inf
    for how in (Sampling(temperature=10.0), Sampling(temperature=1.0, top_k=50), Sampling(temperature=5.0, top_p=0.999999)):
        assert max(native.draw(numbers, how, np.linspace(0, 1 - 2.0**-53, 200))) < 10
    one = np.full(33, -np.inf, np.float32)
    one[32] = -7.0
    assert native.draw(one, Sampling(temperature=1.0, top_k=4, top_p=0.5), np.array([0.0, 0.5, 1 - 2.0**-53])) == [32] * 3


@pytest.mark.parametrize("vocabulary", [1, 2, 15, 16, 17, 1023])
def test_every_size_of_vocabulary(native: Functions, vocabulary: int) -> None:
    numbers = logits(vocabulary, vocabulary)
    share = shares(numbers, Sampling(temperature=2.0))
    tokens = native.draw(numbers, Sampling(temperature=2.0), np.cumsum(share) - share / 2)
    assert tokens == list(range(vocabulary))


@pytest.mark.parametrize("vocabulary", [20, 64, 1280, 49_152])
def test_log_probabilities(native: Functions, vocabulary: int) -> None:
    numbers = logits(vocabulary, vocabulary)
    expected = torch.from_numpy(numbers).double().log_softmax(-1)
    total, ids = native.likeliest(numbers, 20)
    assert ids == likeliest(expected[None], 20)[1][0].tolist()
    assert numbers[ids] - total == pytest.approx(expected[ids].tolist(), abs=1e-6)
    tied = np.round(numbers[:1000])
    assert native.likeliest(tied, 20)[1] == np.argsort(-tied, kind="stable")[:20].tolist()


def test_log_probabilities_of_extremes(native: Functions) -> None:
    numbers = np.array([3e4, -3e4, 0, -np.inf], np.float32)
    total, ids = native.likeliest(numbers, 4)
    assert (total, ids) == (3e4, [0, 2, 1, 3])
    equal = np.full(1000, 88.0, np.float32)
    assert native.likeliest(equal, 1)[0] == pytest.approx(88 + math.log(1000), abs=1e-9)
