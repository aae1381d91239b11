"""The sampler against transformers' logits processors, known answers of its generator, and statistics."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
import transformers

from llmos.drivers.philox import philox, uniform
from llmos.drivers.sampler import greedy, invert, likeliest, sample, weights
from llmos.kernel.device import GREEDY, Row, Sampling
from llmos.kernel.errno import DeviceFailed

HISTORY = (3, 5, 5, 8, 100)


def row(sampling: Sampling = GREEDY, position: int = 9, history: tuple[int, ...] = HISTORY) -> Row:
    return Row(1, (4,), position, (0,) * 100, True, sampling, history)


def logits(rows: int = 1, vocabulary: int = 1280, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def words(*numbers: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array([number], dtype=np.uint64) for number in numbers)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]) -> None:
    assert tuple(int(word[0]) for word in philox(words(*counter), words(*key))) == answer  # type: ignore[arg-type]


def test_uniform_numbers_are_uniform_and_depend_on_both() -> None:
    numbers = uniform([7] * 10_000, range(10_000))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.012  # four standard deviations
    assert len(np.unique(numbers)) == 10_000
    assert uniform([2**63 - 1, 7, 7], [2**40, 2**32, 0]).tolist() == [
        float(uniform([s], [p])[0]) for s, p in ((2**63 - 1, 2**40), (7, 2**32), (7, 0))
    ]
    seeds = uniform(range(10_000), [5] * 10_000)
    assert abs(np.corrcoef(seeds, numbers)[0, 1]) < 0.03


PROCESSORS = {
    "temperature": (Sampling(temperature=0.7), [transformers.TemperatureLogitsWarper(0.7)]),
    "hot": (Sampling(temperature=10.0), [transformers.TemperatureLogitsWarper(10.0)]),
    "top-k": (Sampling(temperature=1.0, top_k=40), [transformers.TopKLogitsWarper(40)]),
    "top-k 1": (Sampling(temperature=1.0, top_k=1), [transformers.TopKLogitsWarper(1)]),
    "top-p": (Sampling(temperature=1.0, top_p=0.9), [transformers.TopPLogitsWarper(0.9)]),
    "top-p wide": (Sampling(temperature=9.0, top_p=0.99), [transformers.TemperatureLogitsWarper(9.0), transformers.TopPLogitsWarper(0.99)]),
    "top-p narrow": (Sampling(temperature=1.0, top_p=1e-6), [transformers.TopPLogitsWarper(1e-6)]),
    "min-p": (Sampling(temperature=1.0, min_p=0.05), [transformers.MinPLogitsWarper(0.05)]),
    "all": (
        Sampling(temperature=1.3, top_k=100, top_p=0.8, min_p=0.02, repetition_penalty=1.3),
        [
            transformers.RepetitionPenaltyLogitsProcessor(1.3),
            transformers.TemperatureLogitsWarper(1.3),
            transformers.TopKLogitsWarper(100),
            transformers.TopPLogitsWarper(0.8),
            transformers.MinPLogitsWarper(0.02),
        ],
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("vocabulary", [1280, 50_021])
def test_filters_leave_the_distribution_that_transformers_leaves(name: str, vocabulary: int) -> None:
    sampling, processors = PROCESSORS[name]
    numbers = logits(4, vocabulary, seed=1)
    ids = torch.tensor([HISTORY] * 4)
    expected = numbers.double()  # transformers' running sum over a large vocabulary is not exact in float32
    for processor in processors:
        expected = processor(ids, expected)
    expected = expected.softmax(-1)
    if sampling.repetition_penalty != 1:
        numbers = transformers.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(ids, numbers)
    got = weights(numbers.clone(), [sampling] * 4)
    assert torch.equal(got > 0, expected > 0)
    torch.testing.assert_close((got / got.sum(-1, keepdim=True)).double(), expected, atol=1e-6, rtol=1e-4)


def test_repetition_penalty_of_a_greedy_row() -> None:
    numbers = logits()
    best = int(numbers[0].argmax())
    assert sample(numbers, [row()])[0] == [best]
    history = (*HISTORY, best, best)
    penalized = transformers.RepetitionPenaltyLogitsProcessor(5.0)(torch.tensor([history]), numbers)
    assert sample(numbers, [row(Sampling(repetition_penalty=5.0), history=history)])[0] == [int(penalized.argmax())]
    assert sample(numbers, [row(Sampling(repetition_penalty=5.0), history=())])[0] == [best]


def chi_square(counts: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("sampling", [Sampling(temperature=1.0, seed=11), Sampling(temperature=2.0, top_k=12, top_p=0.9, seed=12)])
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    draws, vocabulary = 20_000, 24
    numbers = logits(1, vocabulary, 1.0)
    share = weights(numbers.clone(), [sampling])[0].double()
    share /= share.sum()
    tokens, _ = sample(numbers.expand(draws, -1), [row(sampling, position) for position in range(draws)])
    counts = torch.bincount(torch.tensor(tokens), minlength=vocabulary).double()
    assert counts[share == 0].sum() == 0
    kept = share > 0
    degrees = int(kept.sum()) - 1
    # Wilson and Hilferty: above this with probability 1e-4, for a seed that does not change
    critical = degrees * (1 - 2 / (9 * degrees) + 3.72 * math.sqrt(2 / (9 * degrees))) ** 3
    assert chi_square(counts[kept], share[kept] * draws) < critical


def test_the_batch_does_not_matter() -> None:
    """The same logits, seed and position give the same token and log-probabilities alone and in any company."""
    generator = random.Random(4)
    kinds = [
        GREEDY,
        Sampling(logprobs=3),
        Sampling(repetition_penalty=1.5),
        Sampling(temperature=1.0, seed=5),
        Sampling(temperature=3.0, seed=6, top_p=0.999),
        Sampling(temperature=0.5, seed=7, top_k=30, logprobs=20),
        Sampling(temperature=1.5, seed=8, top_k=900, top_p=0.5, min_p=0.01, repetition_penalty=0.8),
        Sampling(temperature=8.0, seed=9, min_p=0.9),
    ]
    numbers = logits(len(kinds) * 3, 5120)
    rows = [row(kind, position, HISTORY) for position in (0, 77, 2**33) for kind in kinds]
    alone = [sample(numbers[index : index + 1], [rows[index]]) for index in range(len(rows))]
    for _ in range(10):
        order = generator.sample(range(len(rows)), generator.randint(1, len(rows)))
        tokens, logprobs = sample(numbers[order], [rows[index] for index in order])
        assert tokens == [alone[index][0][0] for index in order]
        for place, index in enumerate(order):
            if rows[index].sampling and rows[index].sampling.logprobs:
                assert logprobs[place] == alone[index][1][0]
            elif logprobs:
                assert logprobs[place] is None


def test_another_seed_or_position_gives_other_tokens() -> None:
    numbers = logits(scale=0.5)
    by_seed = {sample(numbers, [row(Sampling(temperature=1.0, seed=seed))])[0][0] for seed in range(20)}
    by_position = {sample(numbers, [row(Sampling(temperature=1.0), position)])[0][0] for position in range(20)}
    assert len(by_seed) > 10
    assert len(by_position) > 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [1, 7, 521, 1024, 49_152])
def test_greedy_takes_the_lowest_id_on_a_tie(dtype: torch.dtype, vocabulary: int) -> None:
    numbers = logits(6, vocabulary).to(dtype)
    numbers[1, :] = 2.0
    numbers[2, vocabulary // 2 :] = 50.0
    numbers[3, -1] = 50.0
    values, ids = greedy(numbers)
    assert ids.tolist() == [int((line == line.max()).nonzero()[0]) for line in numbers]
    assert values.tolist() == numbers.max(-1).values.float().tolist()


@pytest.mark.parametrize("vocabulary", [64, 521, 49_152])
def test_likeliest_is_topk(vocabulary: int) -> None:
    numbers = logits(5, vocabulary)
    for count in (1, 20, 64):
        values, ids = likeliest(numbers, count)
        assert torch.equal(values, numbers.topk(count).values)
        assert torch.equal(numbers.gather(1, ids), values)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 700, 1279])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0)])
def test_logits_that_are_no_numbers_are_refused(value: float, place: int, sampling: Sampling) -> None:
    numbers = logits(3)
    numbers[1, place] = value
    with pytest.raises(DeviceFailed, match="no numbers") as caught:
        sample(numbers, [row(), row(sampling), row()])
    assert "burst 1" in str(caught.value)


def test_no_token_at_all_is_refused() -> None:
    with pytest.raises(DeviceFailed):
        sample(torch.full((1, 8), -math.inf), [row()])


def test_some_impossible_tokens_are_fine() -> None:
    numbers = logits()
    numbers[0, 10:] = -math.inf
    for seed in range(30):
        assert sample(numbers, [row(Sampling(temperature=5.0, seed=seed))])[0][0] < 10


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=1e-300), Sampling(temperature=1.0, min_p=1.0), Sampling(temperature=10.0, top_p=1e-12)]
)
def test_extreme_settings_are_greedy(sampling: Sampling) -> None:
    numbers = logits(scale=10)
    assert sample(numbers, [row(sampling)])[0] == [int(numbers.argmax())]


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    assert torch.equal(weights(logits(), [Sampling(temperature=1.0, top_k=10**9)]), weights(logits(), [Sampling(temperature=1.0)]))


def test_top_k_keeps_ties_of_the_last() -> None:
    numbers = torch.tensor([[5.0, 4.0, 4.0, 4.0, 1.0]])
    assert (weights(numbers, [Sampling(temperature=1.0, top_k=2)]) > 0).tolist() == [[True, True, True, True, False]]


def test_logprobs_are_of_the_unmodified_logits() -> None:
    numbers = logits(2)
    expected = numbers.log_softmax(-1)
    tokens, found = sample(numbers, [row(), row(Sampling(temperature=4.0, top_k=5, repetition_penalty=2.0, logprobs=4))])
    assert found[0] is None
    assert found[1] is not None
    assert found[1].chosen == pytest.approx(float(expected[1, tokens[1]]), abs=1e-5)
    assert [token for token, _ in found[1].top] == expected[1].topk(4).indices.tolist()
    assert [number for _, number in found[1].top] == pytest.approx(expected[1].topk(4).values.tolist(), abs=1e-5)
    assert sample(numbers, [row(), row()])[1] == []


def test_the_draw_never_leaves_the_kept_tokens() -> None:
    """At both ends of [0, 1) and where block sums round, in a vocabulary of several blocks."""
    share = torch.zeros(3, 2048)
    share[0, [5, 700, 2040]] = torch.tensor([1e-20, 1.0, 1e-20])
    share[1, 2047] = 1.0
    share[2, [0, 511, 512, 1023]] = 0.1
    for number in (0.0, 1e-300, 0.5, 1 - 2.0**-53):
        chosen = invert(share, torch.full((3,), number, dtype=torch.float64))
        assert all(share[index, token] > 0 for index, token in enumerate(chosen))
    assert invert(share, torch.zeros(3, dtype=torch.float64)) == [5, 2047, 0]
