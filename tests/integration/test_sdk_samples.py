"""Several replies to one prompt, and how likely given tokens are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import llmos
from llmos.syscalls.abi import param

pytestmark = pytest.mark.anyio


async def test_samples_share_the_prompt_and_leave_the_context_as_it_is(system: llmos.System) -> None:
    context = await system.open(system="You are a test." * 20)
    length = (await context.info()).length
    before = (await system.statistics()).kernel.devices[0].prefill_tokens
    replies = await context.sample(6, user="hello " * 40, max_tokens=12, seed=5)
    prefilled = (await system.statistics()).kernel.devices[0].prefill_tokens - before
    assert prefilled < 2 * replies[0].usage.prompt_tokens
    assert len({reply.tokens for reply in replies}) == 6
    assert (await context.info()).length == length
    assert [reply.tokens for reply in await context.sample(6, user="hello " * 40, max_tokens=12, seed=5)] == [
        each.tokens for each in replies
    ]
    alone = await (await context.fork()).generate(user="hello " * 40, max_tokens=12, seed=7, temperature=1.0)
    assert alone.tokens == replies[2].tokens
    valid = await context.sample(4, user="x", schema={"enum": ["red", "blue"]}, max_tokens=20)
    assert {reply.json() for reply in valid} <= {"red", "blue"}


@pytest.mark.parametrize("n", [0, -1, param.MAX_SAMPLES + 1, 10**9, 2.0, "3", None])
async def test_how_many_is_bounded(system: llmos.System, n: Any) -> None:
    context = await system.open()
    with pytest.raises(llmos.InvalidArgument, match="from 1 to 64"):
        await context.sample(n, text="a", max_tokens=2)


async def test_as_many_as_are_allowed_and_nothing_is_left_of_them(system: llmos.System) -> None:
    context = await system.open()
    assert len(await context.sample(param.MAX_SAMPLES, text="a", max_tokens=2)) == 64
    with pytest.raises(llmos.InvalidArgument):
        await context.sample(3, text="a", max_tokens=2, top_k=-1)
    late = asyncio.ensure_future(context.sample(8, text="a", max_tokens=4000, ignore_stop=True))
    await asyncio.sleep(0)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    for _ in range(100):
        statistics = (await system.statistics()).kernel
        if not statistics.devices[0].resident:
            break
    assert not statistics.devices[0].resident


async def test_score(system: llmos.System) -> None:
    context = await system.open()
    await context.append(text="once upon a time")
    scores = await context.score(text=" there was")
    assert scores.tokens == tuple(b" there was")
    assert scores.logprobs == (-1.0,) * 10, "the dummy device's"
    assert scores.total == -10.0
    assert (await context.score(tokens=[65])).logprobs == (-1.0,)
    assert (await context.info()).length == 16
    reply = await context.generate(max_tokens=4)
    twin = await system.open()
    assert (await twin.generate(text="once upon a time", max_tokens=4)).tokens == reply.tokens, "as if it had never been"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "give tokens or a text"),
        ({"tokens": []}, "give tokens or a text"),
        ({"text": ""}, "give tokens or a text"),
        ({"tokens": [259]}, "out of bounds"),
    ],
)
async def test_what_cannot_be_scored(system: llmos.System, given: Any, words: str) -> None:
    context = await system.open()
    await context.append(text="a")
    with pytest.raises(llmos.InvalidArgument, match=words):
        await context.score(**given)
    with pytest.raises(llmos.InvalidArgument, match="not empty"):
        await (await system.open()).score(text="a")
    with pytest.raises(llmos.TooLong):
        await context.score(tokens=[1] * 9000)
    assert (await context.score(text="b")).tokens == (98,)


@pytest.mark.model
@pytest.mark.parametrize("speculate", [True, False])
async def test_a_reply_scores_as_it_reported(speculate: bool) -> None:
    """The native device's numbers do not depend on how many tokens a step verifies."""
    async with llmos.boot(seed=1, speculate=speculate) as system:
        context = await system.open()
        await context.append(user="Why is the sky blue?")
        twin = await context.fork()
        reply = await twin.generate(max_tokens=24, logprobs=1, temperature=0.9, ignore_stop=True)
        start = reply.usage.prompt_tokens
        prompt = await twin.tokens(0, start)
        same = await system.open()
        await same.append(tokens=prompt)
        before = (await system.statistics()).kernel.devices[0].steps
        scores = await same.score(tokens=reply.tokens)
        steps = (await system.statistics()).kernel.devices[0].steps - before
    assert scores.logprobs == tuple(log.chosen for log in reply.logprobs)
    assert steps < 10 if speculate else steps >= 24
