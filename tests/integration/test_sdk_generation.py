"""Contexts and generations through the SDK."""

from __future__ import annotations

import gc
import math
from typing import Any

import anyio
import pytest

import llmos
from llmos.sdk.port import MAX_PIECES

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


async def context_with(system: llmos.System, user: str = "hello") -> llmos.Context:
    context = await system.open(system="You are a test.")
    await context.append(user=user)
    return context


async def test_every_way_to_take_a_reply_gives_the_same(system: llmos.System) -> None:
    arguments: dict[str, Any] = {"max_tokens": 40, "ignore_stop": True}
    contexts = [await context_with(system) for _ in range(5)]
    reply = await contexts[0].generate(**arguments)
    assert "".join([piece async for piece in contexts[1].generate(**arguments)]) == reply.text
    assert tuple([token async for token in contexts[2].generate(**arguments).tokens()]) == reply.tokens
    both = contexts[3].generate(**arguments)
    assert "".join([piece async for piece in both]) == (await both).text == reply.text
    pieces = [piece async for piece in contexts[4].generate(**arguments, logprobs=1).pieces()]
    assert [token for piece in pieces for token in piece.tokens] == list(reply.tokens)
    assert all(logprob.chosen <= 0 for piece in pieces for logprob in piece.logprobs)
    assert {context.length for context in contexts} == {reply.length}


async def test_two_made_one_after_the_other_run_side_by_side(system: llmos.System) -> None:
    first, second = await context_with(system), await context_with(system)
    before = (await system.statistics()).kernel.devices[0].steps
    generations = [each.generate(max_tokens=50, ignore_stop=True) for each in (first, second)]
    replies = [await each for each in generations]
    steps = (await system.statistics()).kernel.devices[0].steps - before
    assert replies[0].tokens == replies[1].tokens
    assert steps < 90


async def test_leaving_the_loop_stops_the_decode_before_the_next_call(system: llmos.System) -> None:
    context = await context_with(system)
    async for _ in context.generate(max_tokens=5000, ignore_stop=True):
        break
    length = await context.append(text="and now something else")
    assert length < 4000
    statistics = (await system.statistics()).kernel.devices[0]
    assert statistics.resident == 0
    assert statistics.decode_tokens < 4000


async def test_a_generation_that_is_dropped_or_cancelled_stops(system: llmos.System) -> None:
    context = await context_with(system)
    context.generate(max_tokens=5000, ignore_stop=True)
    gc.collect()
    await context.append(text="free again")
    with anyio.move_on_after(0.01):
        await context.generate(max_tokens=5000, ignore_stop=True)
    await context.append(text="and again")
    generation = context.generate(max_tokens=5000, ignore_stop=True)
    await generation.cancel()
    reply = await generation
    assert reply.reason == "cancelled"
    assert context.length == reply.length


async def test_a_slow_reader_gets_longer_pieces_not_more(system: llmos.System) -> None:
    context = await context_with(system)
    generation = context.generate(max_tokens=MAX_PIECES * 4, ignore_stop=True)
    reply = await generation
    pieces = [piece async for piece in generation.pieces()]
    assert len(pieces) <= MAX_PIECES
    assert "".join(piece.text for piece in pieces) == reply.text
    assert tuple(token for piece in pieces for token in piece.tokens) == reply.tokens


async def test_fork_shares_pages_and_truncate_gives_back(system: llmos.System) -> None:
    context = await context_with(system, "x" * 2000)
    before = (await system.statistics()).kernel.devices[0]
    twins = [await context.fork() for _ in range(10)]
    after = (await system.statistics()).kernel.devices[0]
    assert after.device_free == before.device_free
    assert after.copied == before.copied
    replies = [await twin.generate(max_tokens=4, temperature=1.0) for twin in twins]
    assert len({reply.tokens for reply in replies}) > 1
    await twins[0].truncate(10)
    assert twins[0].length == 10
    assert await twins[0].tokens() == (await context.tokens())[:10]
    for twin in twins:
        await twin.close()
    with pytest.raises(llmos.BadHandle):
        await twins[0].append(text="x")


async def test_the_same_seed_gives_the_same_and_another_another(system: llmos.System) -> None:
    context = await context_with(system)
    replies = {}
    for seed in (1, 1, 2, None, None):
        twin = await context.fork()
        replies.setdefault(seed, []).append((await twin.generate(max_tokens=12, temperature=1.0, seed=seed, ignore_stop=True)).tokens)
    assert len(set(replies[1])) == 1
    assert replies[1][0] != replies[2][0]
    assert len(set(replies[None])) == 2


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"max_tokens": 0}, llmos.InvalidArgument, "max_tokens"),
        ({"max_tokens": 10**30}, llmos.InvalidArgument, "max_tokens"),
        ({"max_tokens": 9000}, llmos.TooLong, "8192"),
        ({"temperature": math.nan}, llmos.InvalidArgument, "temperature"),
        ({"temperature": -1.0}, llmos.InvalidArgument, "temperature"),
        ({"top_p": 1.5}, llmos.InvalidArgument, "top_p"),
        ({"stop": ["x"] * 17}, llmos.TooLong, "stop"),
        ({"stop": ["x" * 257]}, llmos.TooLong, "stop"),
        ({"seed": 2**63}, llmos.InvalidArgument, "seed"),
        ({"logprobs": 21}, llmos.InvalidArgument, "logprobs"),
        ({"tokens": [999]}, llmos.InvalidArgument, "259"),
        ({"tokens": [-1]}, llmos.InvalidArgument, "tokens"),
        ({"text": "\ud800"}, llmos.InvalidArgument, "text"),
        ({"text": "x", "user": "y"}, llmos.InvalidArgument, "one thing at a time"),
        ({"user": "x" * 9000}, llmos.TooLong, "8192"),
    ],
)
async def test_bad_arguments(system: llmos.System, arguments: dict[str, Any], kind: type[llmos.Fault], words: str) -> None:
    context = await context_with(system)
    with pytest.raises(kind, match=words):
        await context.generate(**arguments)
    assert (await context.generate(max_tokens=1)).reason


async def test_stop_strings_end_where_they_should(system: llmos.System) -> None:
    for attempt in range(100):
        context = await context_with(system, f"try {attempt}")
        probe = await (await context.fork()).generate(max_tokens=60, ignore_stop=True)
        letters = [letter for letter in probe.text if letter.isascii() and letter.isalnum()]
        if len(letters) > 3:
            break
    stop = letters[2]
    reply = await context.generate(max_tokens=60, stop=stop, stop_ids=[])
    if reply.reason == "stop":
        assert probe.text.startswith(reply.text)
        assert stop not in reply.text


async def test_tokens_and_text(system: llmos.System) -> None:
    tokens = await system.tokenize("héllo")
    assert await system.detokenize(tokens) == "héllo"
    long = "é" * 10_000
    assert await system.detokenize(await system.tokenize(long)) == long


async def test_a_second_model_loads_when_it_is_asked_for(system: llmos.System) -> None:
    mine, other = await system.open(), await system.open(model="another")
    assert (mine.model, other.model) == ("smollm2", "another")
    replies = [context.generate(text="the same", max_tokens=8, ignore_stop=True) for context in (mine, other)]
    for reply in replies:
        await reply
    assert {device.device for device in (await system.statistics()).kernel.devices} == {"smollm2", "another"}
    assert {model.name: model.loaded for model in await system.models()} == {"smollm2": True, "another": True}


async def test_a_context_is_closed_by_its_block(system: llmos.System) -> None:
    async with await system.open(system="s") as context:
        await context.generate(user="u", max_tokens=2)
    assert (await system.statistics()).kernel.contexts == 0
