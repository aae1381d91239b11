"""The rows of a step: whether a device can execute them, asked before anything is written, and which tokens they want.

Rows with a grammar get their masks here. All grammars are asked before any is waited for, and together they hold a step up for
PATIENCE at most: a row whose grammar takes longer is computed without sampling, and sits out until its mask is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from llmos.kernel.device import Geometry, Logprobs, Row
from llmos.kernel.errno import DeviceFailed, InvalidArgument

T = TypeVar("T")

PATIENCE = 0.005
"""Seconds that a step waits for grammars: fifty times what a mask takes."""


def check_rows(rows: Sequence[Row], geometry: Geometry) -> None:
    """Raise DeviceFailed for a row that this device cannot execute, before anything is written."""
    for row in rows:
        end = row.position + len(row.tokens)
        if not row.tokens or not 0 <= row.position < end <= geometry.window:
            raise DeviceFailed(f"burst {row.burst}: tokens {row.position}..{end} do not lie in a window of {geometry.window}")
        if not 0 <= min(row.tokens) <= max(row.tokens) < geometry.vocabulary:
            raise DeviceFailed(f"burst {row.burst}: a token id is outside 0..{geometry.vocabulary - 1}")
        if len(row.frames) * geometry.page_slots < end:
            raise DeviceFailed(f"burst {row.burst}: {len(row.frames)} frames do not cover {end} tokens")
        if row.history and not 0 <= min(row.history) <= max(row.history) < geometry.vocabulary:
            raise DeviceFailed(f"burst {row.burst}: a token id of its history is outside 0..{geometry.vocabulary - 1}")
        if not 0 <= min(row.frames) <= max(row.frames) < geometry.device_frames:
            raise DeviceFailed(f"burst {row.burst}: a frame is outside 0..{geometry.device_frames - 1}")
        if not 0 <= row.guesses < len(row.tokens) or (row.guesses and (row.sampling is None or not row.store)):
            raise DeviceFailed(f"burst {row.burst}: {row.guesses} guesses among {len(row.tokens)} tokens of a row that cannot hold them")


def masked(rows: Sequence[Row], geometry: Geometry) -> tuple[tuple[Row, ...], tuple[tuple[int, str], ...]]:
    """The same rows with their masks, without sampling where there is none yet; and (row, why) where a grammar has given up."""
    asked = [(index, row, row.grammar) for index, row in enumerate(rows) if row.grammar is not None and row.sampling is not None]
    if not asked:
        return tuple(rows), ()
    found, refused = list(rows), []
    for _, row, grammar in asked:
        grammar.ask(row.said, row.tokens[len(row.tokens) - row.guesses :])
    deadline = time.monotonic() + PATIENCE
    for index, row, grammar in asked:
        try:
            masks = grammar.masks(deadline)
        except InvalidArgument as fault:
            refused.append((index, str(fault.args[0])))
            masks = None
        if masks is None:
            found[index] = replace(row, tokens=row.tokens[: len(row.tokens) - row.guesses], sampling=None, guesses=0)
            continue
        if len(masks) != row.guesses + 1 or any(len(mask) * 8 - geometry.vocabulary not in range(8) for mask in masks):
            raise DeviceFailed(f"burst {row.burst}: the masks of its grammar do not fit {geometry.vocabulary} token ids")
        found[index] = replace(row, masks=masks)
    return tuple(found), tuple(refused)


def one_by_one(row: Row) -> list[Row]:
    """The rows that would ask for the tokens of this one, each for one: what it is sampled from and by. None if it asks for none.

    The last `guesses` tokens of each are known by the time it is its turn, and so are part of its history.
    """
    if row.sampling is None or not row.guesses:
        return [row] if row.sampling is not None else []
    known = len(row.tokens) - row.guesses
    seen = [row.tokens[: known + more] for more in range(row.guesses + 1)]
    return [
        replace(row, tokens=tokens, history=row.history and row.history + tokens[known:], guesses=0, masks=row.masks[more : more + 1])
        for more, tokens in enumerate(seen)
    ]


def hidden_wanted(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """(row, place of its last known token among the tokens of all rows) of those that ask for its hidden state."""
    found, place = [], 0
    for index, row in enumerate(rows):
        place += len(row.tokens)
        if row.sampling is not None and row.sampling.hidden:
            found.append((index, place - row.guesses - 1))
    return found


def per_row(rows: Sequence[Row], found: Iterable[T]) -> tuple[tuple[T, ...], ...]:
    """What was found for each of `one_by_one`'s rows, in their order, as a tuple per row."""
    left: Iterator[T] = iter(found)
    return tuple(tuple(islice(left, row.guesses + 1)) if row.sampling is not None else () for row in rows)


def logprobs_per_row(rows: Sequence[Row], found: Sequence[Logprobs | None]) -> tuple[tuple[Logprobs, ...], ...]:
    """The same of log-probabilities, which are None where none were asked for; empty if nobody asked."""
    if not any(log is not None for log in found):
        return ()
    return tuple(tuple(log for log in logs if log is not None) for logs in per_row(rows, found))
