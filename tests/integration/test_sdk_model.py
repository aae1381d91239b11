"""The SDK over the real model: what the README promises."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import llmos
from llmos.drivers.examine import examine
from llmos.services.library import Library, Manifest

pytestmark = [pytest.mark.anyio, pytest.mark.model, pytest.mark.timeout(600), pytest.mark.usefixtures("no_thread_is_left")]


async def debate(me: llmos.Process, topic: str) -> str:
    context = await me.open(system="You argue briefly.")
    await context.append(user=f"Argue about: {topic}")  # fills its pages
    pro, con = await context.fork(), await context.fork()  # shares every full page, copies none
    sides = pro.generate(max_tokens=24, temperature=0.8), con.generate(max_tokens=24, temperature=0.8)
    first, second = await sides[0], await sides[1]  # both were generated at once
    await me.print(first.text)
    return max(first.text, second.text, key=len)


async def test_the_example(default_manifest: Manifest) -> None:
    async with llmos.boot() as system:
        child = await system.spawn(debate, "tabs or spaces", nice=5, limits=llmos.Limits(tokens=2000))
        assert child.stdout is not None
        printed = "".join([piece async for piece in child.stdout])
        ended = await child.wait()
        assert ended.error is None
        assert printed.strip()
        assert len(ended.value) >= len(printed.rstrip("\n"))
        device = (await system.statistics()).kernel.devices[0]
        assert device.prefill_tokens < 60  # the prompt once, and what asks for each side's turn
        assert sum((await system.explain(system.pid)).seconds.values()) > 0


async def test_a_chat_in_which_the_model_knows_what_was_said(default_manifest: Manifest) -> None:
    async with llmos.boot() as system:
        context = await system.open()
        await context.append(user="What is the capital of France?")
        streamed = [piece async for piece in context.generate(max_tokens=24)]
        assert "Paris" in "".join(streamed)
        second = await context.generate(user="Which country did I ask about? Answer with one word.", max_tokens=16)
        assert "France" in second.text
        probe = await context.fork()
        reply = await probe.generate(user="Count from 1 to 9.", max_tokens=40, stop=["5"], logprobs=2)
        assert "5" not in reply.text
        if reply.reason == "stop":
            assert reply.logprobs[0].top[0][1] <= 0


async def test_breaking_off_frees_the_device(default_manifest: Manifest) -> None:
    async with llmos.boot() as system:
        context = await system.open(system="You tell stories.")
        async for _ in context.generate(user="Tell a very long story.", max_tokens=2000, ignore_stop=True):
            break
        await context.append(user="Thank you.")
        assert context.length < 200
        generations = [asyncio.ensure_future(_generate(system, n)) for n in range(3)]
        replies = [await each for each in generations]
        assert all(len(reply.tokens) == 4 for reply in replies)


async def _generate(system: llmos.System, number: int) -> llmos.Reply:
    async with await system.open(system="You count.") as context:
        return await context.generate(user=str(number), max_tokens=4, ignore_stop=True)


async def test_two_models_at_once_each_with_pages_of_its_own(default_model: Path, tmp_path: Path) -> None:
    store = Library(tmp_path, examine)
    store.pull(str(default_model), name="plain")
    store.quantize("plain", "int8")
    async with llmos.boot("plain", home=tmp_path) as system:
        names = ["plain", "plain:local-int8"]
        contexts = [await system.open(model=name) for name in names]
        replies = await asyncio.gather(*(context.generate(user="What is the capital of France?", max_tokens=12) for context in contexts))
        assert ["Paris" in reply.text for reply in replies] == [True, True]
        both = (await system.statistics()).kernel.devices
        assert sorted(device.device for device in both) == names
        assert all(device.prefill_tokens > 30 and device.decode_tokens > 5 for device in both)
        await contexts[0].close()
        after = (await system.statistics()).kernel.devices
        more = {
            new.device: new.device_free + new.device_cached - old.device_free - old.device_cached
            for old, new in zip(both, after, strict=True)
        }
        assert more.pop("plain") > 0
        assert more == {"plain:local-int8": 0}, "one model's context takes no page of the other's pool"
