"""A text as a vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

import llmos
from llmos.syscalls.abi import param

pytestmark = pytest.mark.anyio


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_embedding(system: llmos.System) -> None:
    context = await system.open()
    found = await context.embed(text="once upon a time")
    assert (len(found.vector), found.tokens) == (8, 16)
    assert math.hypot(*found.vector) == pytest.approx(1)
    assert (await context.info()).length == 0
    assert (await context.embed(tokens=list(b"once upon a time"))).vector == found.vector
    assert (await context.embed(text="once upon a dime")).vector != found.vector


async def test_what_is_in_the_context_counts_and_stays(system: llmos.System) -> None:
    context, other = await system.open(), await system.open()
    await context.append(text="once upon ")
    whole = await other.embed(text="once upon a time")
    assert (await context.embed(text="a time")).vector == whole.vector
    assert (await context.embed(text="a time")).tokens == 6
    assert (await context.info()).length == 10
    await context.append(text="a time")
    assert (await context.embed()).vector == whole.vector
    assert (await context.info()).length == 16


@pytest.mark.parametrize(
    ("given", "fault", "words"),
    [
        ({}, llmos.InvalidArgument, "nothing to embed"),
        ({"text": ""}, llmos.InvalidArgument, "nothing to embed"),
        ({"tokens": []}, llmos.InvalidArgument, "nothing to embed"),
        ({"tokens": [259]}, llmos.InvalidArgument, "token ids of"),
        ({"tokens": [-1]}, llmos.InvalidArgument, "tokens"),
        ({"tokens": [1] * 9000}, llmos.TooLong, "window"),
        ({"text": "x" * (param.MAX_TEXT + 1)}, llmos.TooLong, "text"),
    ],
)
async def test_what_cannot_be_embedded(system: llmos.System, given: Any, fault: type[llmos.Fault], words: str) -> None:
    context = await system.open()
    with pytest.raises(fault, match=words):
        await context.embed(**given)
    assert len((await context.embed(text="b")).vector) == 8


async def test_one_that_is_given_up_leaves_the_context_as_it_was(system: llmos.System) -> None:
    context = await system.open()
    await context.append(text="a")
    with anyio.move_on_after(0):
        await context.embed(text="b" * 3000)
    assert (await context.embed()).vector == (await context.embed()).vector
    assert (await context.info()).length == 1


@pytest.mark.model
async def test_alike_is_nearer_than_unlike() -> None:
    """On the default model, which was not trained for it: the order of two plain cases is all that one can ask. And no other row of a
    batch, nor a page that is hit, changes a bit."""
    texts = ["The cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose by half a percent."]
    async with llmos.boot(seed=1) as system:
        contexts = [await system.open() for _ in texts]
        alone = [(await context.embed(text=text)).vector for context, text in zip(contexts, texts, strict=True)]
        together: dict[int, tuple[float, ...]] = {}

        async def one(place: int) -> None:
            together[place] = (await contexts[place].embed(text=texts[place])).vector

        async with anyio.create_task_group() as tasks:
            for place in range(3):
                tasks.start_soon(one, place)
    assert len(alone[0]) == 576
    assert [together[place] for place in range(3)] == alone
    assert cosine(alone[0], alone[1]) > cosine(alone[0], alone[2])
