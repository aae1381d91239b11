"""The sampler: one token per row from its last logits, for all rows of a step at once.

Semantics are `Sampling`'s, in its order, after the row's mask: repetition penalty, temperature, top-k, top-p, min-p, then one draw. Every
filter is a cut-off on the logit, so tokens exactly as likely as the last one kept are kept too (as transformers does
for top-k). The draw inverts the cumulative distribution in id order at a number that depends on (seed, position of
the token) only, and each row is computed by itself: the rest of the batch changes nothing.

A greedy row costs one arg-max. Logits with a NaN, or whose greatest is infinite, are refused: a token sampled from
them would be garbage. Knows nothing of pages or text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from llmos.kernel.device import Logprobs, Row, Sampling
from llmos.kernel.errno import DeviceFailed

from .philox import uniform

DEPTHS = (64, 1024)
"""How many of the likeliest tokens are looked at for top-p, until they reach it; after these, all."""
COLDEST = 1e-5
"""Temperatures below are taken as this one: differences of logits are already magnified beyond float32."""
FLOOR = -60.0
"""Tokens e^60 times less likely than the likeliest are dropped: no draw of 53 random bits could ever choose one."""


def sample(logits: torch.Tensor, rows: Sequence[Row]) -> tuple[list[int], list[Logprobs | None]]:
    """A token, and log-probabilities where asked for, of each row. logits: [rows, vocabulary], any float dtype.

    Raises DeviceFailed if a row's logits are no numbers.
    """
    wanted = [row.sampling or Sampling() for row in rows]
    greatest, tokens = greedy(logits)
    for row, value in zip(rows, greatest.tolist(), strict=True):
        if not -math.inf < value < math.inf:
            raise DeviceFailed(
                f"the model gave logits that are no numbers ({value}) to burst {row.burst} after {row.position + len(row.tokens)} tokens: "
                "its weights or its pages are damaged; try again, and pull the model again if it stays"
            )
    plain = logits
    if any(row.masks for row in rows):
        logits = allowed(logits, rows)
        tokens = greedy(logits)[1]
    chosen: list[int] = tokens.tolist()
    special = [index for index, how in enumerate(wanted) if how.temperature > 0 or how.repetition_penalty != 1]
    if special:
        numbers = _rows(logits, special).to(torch.float32, copy=True)
        drawn = _draw(numbers, [rows[index] for index in special], [wanted[index] for index in special])
        for index, token in zip(special, drawn, strict=True):
            chosen[index] = token
    return chosen, _logprobs(plain, chosen, wanted)


def allowed(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """A copy with minus infinity for every id that a row's mask has no bit for. A row has one mask or none."""
    logits = logits.clone()
    for values, row in zip(logits, rows, strict=True):
        if row.masks:
            bits = np.unpackbits(np.frombuffer(row.masks[0], np.uint8), bitorder="little", count=len(values))
            values.masked_fill_(torch.from_numpy(bits == 0), -math.inf)
    return logits


def greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The greatest logit of each row and the lowest id that has it. A NaN counts as greatest.

    In two stages, the greatest of each block first: torch's arg-max runs one element at a time, ten times slower.
    """
    count, vocabulary = logits.shape
    block = _block(vocabulary, 512)
    blocks = logits.reshape(count, vocabulary // block, block)
    best = blocks.amax(-1).float().max(-1)
    inside = blocks[torch.arange(count), best.indices].float().max(-1)
    return inside.values, best.indices * block + inside.indices


def likeliest(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and ids of the `count` greatest logits of each row, in descending order.

    They lie in the `count` blocks with the greatest maxima, so only these are sorted.
    """
    rows, vocabulary = logits.shape
    block = _block(vocabulary, 64)
    if count * 4 * block > vocabulary:
        top = logits.topk(count, -1)
        return top.values, top.indices
    blocks = logits.reshape(rows, vocabulary // block, block)
    where = blocks.amax(-1).topk(count, -1).indices
    top = blocks.gather(1, where[:, :, None].expand(-1, -1, block)).view(rows, -1).topk(count, -1)
    return top.values, where.gather(1, top.indices // block) * block + top.indices % block


def _block(vocabulary: int, most: int) -> int:
    """The largest divisor of the vocabulary that is at most this."""
    return next(size for size in range(most, 0, -1) if vocabulary % size == 0)


def _draw(logits: torch.Tensor, rows: Sequence[Row], wanted: Sequence[Sampling]) -> list[int]:
    """Tokens of rows that are not plainly greedy. logits: float32 [rows, vocabulary], overwritten."""
    for index, (row, how) in enumerate(zip(rows, wanted, strict=True)):
        if how.repetition_penalty != 1:
            penalize(logits[index], row.history, how.repetition_penalty)
    draws = [index for index, how in enumerate(wanted) if how.temperature > 0]
    tokens: list[int] = greedy(logits)[1].tolist() if len(draws) < len(wanted) else [0] * len(wanted)
    if not draws:
        return tokens
    logits, wanted = _rows(logits, draws), [wanted[index] for index in draws]
    positions = [rows[index].position + len(rows[index].tokens) for index in draws]
    numbers = torch.from_numpy(uniform([how.seed for how in wanted], positions))
    for index, token in zip(draws, invert(weights(logits, wanted), numbers), strict=True):
        tokens[index] = token
    return tokens


def penalize(logits: torch.Tensor, history: Sequence[int], penalty: float) -> None:
    """Make tokens of the history less likely, in place. logits: [vocabulary]."""
    seen = torch.tensor(history, dtype=torch.int64)
    before = logits[seen]
    logits[seen] = torch.where(before < 0, before * penalty, before / penalty)


def weights(logits: torch.Tensor, wanted: Sequence[Sampling]) -> torch.Tensor:
    """Probabilities up to a factor per row, 0 where a filter drops the token. logits: float32 [rows, vocabulary], overwritten."""
    scaled = logits.div_(torch.tensor([max(how.temperature, COLDEST) for how in wanted])[:, None])
    greatest = scaled.amax(-1)
    cutoff = greatest + FLOOR
    limited = [index for index, how in enumerate(wanted) if 0 < how.top_k < scaled.shape[1]]
    if limited:
        ranks = torch.tensor([wanted[index].top_k for index in limited])
        values, _ = likeliest(_rows(scaled, limited), int(ranks.max()))
        cutoff[limited] = torch.maximum(cutoff[limited], values.gather(1, ranks[:, None] - 1)[:, 0])
    nucleus = [index for index, how in enumerate(wanted) if how.top_p < 1]
    if nucleus:  # a share of what top-k kept
        shares = torch.tensor([wanted[index].top_p for index in nucleus], dtype=torch.float64)
        cutoff[nucleus] = _nucleus(_rows(scaled, nucleus), cutoff[nucleus], shares)
    least = torch.tensor([math.log(how.min_p) if how.min_p > 0 else FLOOR for how in wanted])
    return _above(scaled, torch.maximum(cutoff, greatest + least), inplace=True)


def _above(scaled: torch.Tensor, cutoff: torch.Tensor, *, inplace: bool = False) -> torch.Tensor:
    """exp(scaled - cutoff) where scaled >= cutoff, else 0.

    In vectorised passes: masked_fill takes five times as long as threshold, and exp of an infinity or of what becomes
    a denormal number sixteen times as long as of others.
    """
    below = torch.nextafter(cutoff, torch.tensor(-math.inf))[:, None]
    shifted = scaled.sub_(below) if inplace else scaled - below
    return F.threshold(F.threshold(shifted, 0.0, -80.0, inplace=True).exp_(), 0.5, 0.0, inplace=True)


def _nucleus(scaled: torch.Tensor, cutoff: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Cut-offs that keep, of what is not below `cutoff`, the fewest likeliest tokens that hold this share of it."""
    needed = _above(scaled, cutoff).sum(-1).double() * shares
    found = cutoff.clone()
    left = list(range(len(scaled)))
    for depth in [*(depth for depth in DEPTHS if depth < scaled.shape[1]), scaled.shape[1]]:
        values, _ = likeliest(_rows(scaled, left), depth)
        mass = _above(values, cutoff[left]).double().cumsum(-1)
        rank = (mass < needed[left][:, None]).sum(-1)  # of the token that reaches the share
        last = values.gather(1, rank.clamp(max=depth - 1)[:, None])[:, 0]
        reached = (rank < depth).tolist() if depth < scaled.shape[1] else [True] * len(left)
        for row, done, value in zip(left, reached, last, strict=True):
            if done:
                found[row] = torch.maximum(cutoff[row], value)
        left = [row for row, done in zip(left, reached, strict=True) if not done]
        if not left:
            break
    return found


def _rows(numbers: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """These rows; no copy if they are all."""
    return numbers if len(rows) == len(numbers) else numbers.index_select(0, torch.tensor(rows))


def invert(weights: torch.Tensor, numbers: torch.Tensor) -> list[int]:
    """Per row the first id at which the running sum of the weights exceeds number * total. numbers: float64 in [0, 1).

    Sums of blocks first, then inside one block: exact enough for any vocabulary, and one pass over it.
    """
    count, vocabulary = weights.shape
    block = _block(vocabulary, 512)
    blocks = weights.view(count, vocabulary // block, block)
    sums = blocks.sum(-1).double().cumsum(-1)
    target = numbers * sums[:, -1]
    which = (sums <= target[:, None]).sum(-1)
    inside = blocks[torch.arange(count), which].double().cumsum(-1)
    before = torch.where(which > 0, sums.gather(1, (which - 1).clamp_(min=0)[:, None])[:, 0], 0.0)
    rest = torch.minimum(target - before, inside[:, -1] * (1 - 2.0**-52))
    ids: list[int] = (which * block + (inside <= rest[:, None]).sum(-1)).tolist()
    return ids


def _logprobs(logits: torch.Tensor, chosen: Sequence[int], wanted: Sequence[Sampling]) -> list[Logprobs | None]:
    """Of the unmodified logits; empty if no row asks for any."""
    asked = [index for index, how in enumerate(wanted) if how.logprobs > 0]
    if not asked:
        return []
    result: list[Logprobs | None] = [None] * len(chosen)
    log = torch.log_softmax(_rows(logits, asked).float(), -1)
    values, ids = likeliest(log, min(max(wanted[index].logprobs for index in asked), log.shape[1]))
    for row, index in enumerate(asked):
        count = wanted[index].logprobs
        top = zip(ids[row, :count].tolist(), values[row, :count].tolist(), strict=True)
        result[index] = Logprobs(float(log[row, chosen[index]]), tuple(top))
    return result
