"""A model behind an endpoint, used as any other: through the whole system, embedded and over the socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest
from endpoint import Endpoint, hang_up, status

import llmos
from llmos.services.library import Remote, Remotes

DEADLINE = 30.0
"""Seconds that nothing here takes unless it hangs."""
Boot = Callable[..., AbstractAsyncContextManager[llmos.System]]
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
async def system(boot: Boot, endpoint: Endpoint, tmp_path: Path) -> AsyncIterator[llmos.System]:
    Remotes(tmp_path).add(Remote("far", endpoint.url, "far-1", slots=2, window=2000, price_in=1e6, price_out=2e6))
    async with boot() as system:
        with anyio.fail_after(DEADLINE):
            yield system


async def until(condition: Any) -> None:
    while not await condition():
        await anyio.sleep(0.005)


async def test_a_conversation(system: llmos.System, endpoint: Endpoint) -> None:
    context = await system.open(model="far", system="Count.")
    assert (context.model, context.window) == ("far", 2000)
    reply = await context.generate(user="Go", max_tokens=3)
    assert (reply.text, reply.reason, reply.tokens) == ("w0 w1 w2 ", "length", ())
    assert (reply.usage.prompt_tokens, reply.usage.tokens) == (8, 3), "as the endpoint says"
    await context.append(user="Again")
    assert (await context.generate()).reason == "stop"
    assert endpoint.prompts()[-1] == [
        {"role": "system", "content": "Count."},
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": "w0 w1 w2 "},
        {"role": "user", "content": "Again"},
    ]
    assert "max_tokens" not in endpoint.seen[-1].body


async def test_pieces_stream_as_they_come(system: llmos.System, endpoint: Endpoint) -> None:
    endpoint.held = 3
    context = await system.open(model="far")
    text = ""
    async for piece in context.generate(user="Go"):
        text += piece
        if text == "w0 w1 w2 ":
            endpoint.release()
    assert text == "w0 w1 w2 w3 w4 w5 w6 w7 "


async def test_a_fork_goes_its_own_way(system: llmos.System, endpoint: Endpoint) -> None:
    context = await system.open(model="far", system="s")
    await context.generate(user="one", max_tokens=1)
    twin = await context.fork()
    await twin.generate(user="two", max_tokens=1)
    await context.generate(user="three", max_tokens=1)
    common = [{"role": "system", "content": "s"}, {"role": "user", "content": "one"}, {"role": "assistant", "content": "w0 "}]
    assert endpoint.prompts()[1:] == [[*common, {"role": "user", "content": "two"}], [*common, {"role": "user", "content": "three"}]]


async def test_a_truncated_context_has_what_is_left(system: llmos.System, endpoint: Endpoint) -> None:
    context = await system.open(model="far")
    await context.append(user="one")
    kept = context.length
    await context.generate(max_tokens=2)
    await context.truncate(kept)
    await context.generate(user="two", max_tokens=1)
    assert endpoint.prompts()[-1] == [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]


async def test_a_stop_string_ends_the_request(system: llmos.System, endpoint: Endpoint) -> None:
    endpoint.tokens = 500
    endpoint.held = 20
    context = await system.open(model="far")
    reply = await context.generate(user="Go", stop="w5")
    assert (reply.text, reply.reason) == ("w0 w1 w2 w3 w4 ", "stop")
    await anyio.to_thread.run_sync(lambda: endpoint.wait(lambda: endpoint.hung_up == 1))


async def test_leaving_the_loop_ends_the_request(system: llmos.System, endpoint: Endpoint) -> None:
    endpoint.held = 2
    context = await system.open(model="far")
    generation = context.generate(user="Go")
    async for _ in generation:
        break
    await generation.cancel()
    await anyio.to_thread.run_sync(lambda: endpoint.wait(lambda: endpoint.hung_up == 1))
    assert (await context.info()).messages == 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": "once"},
        {"tokens": [1, 2]},
        {"user": "x", "logprobs": 2},
        {"user": "x", "top_k": 5},
        {"user": "x", "ignore_stop": True},
    ],
)
async def test_what_an_endpoint_cannot_do_is_said(system: llmos.System, endpoint: Endpoint, arguments: dict[str, Any]) -> None:
    context = await system.open(model="far")
    with pytest.raises(llmos.NotSupported, match="far runs elsewhere"):
        await context.generate(**arguments)
    assert context.length == 0
    assert not endpoint.seen


async def test_tokens_are_not_to_be_had(system: llmos.System) -> None:
    context = await system.open(model="far", system="s")
    for call in (lambda: context.tokens(), lambda: system.tokenize("a", model="far"), lambda: system.detokenize([300], model="far")):
        with pytest.raises(llmos.NotSupported, match="far runs elsewhere"):
            await call()


async def test_a_reply_that_ended_is_not_gone_on_with(system: llmos.System) -> None:
    context = await system.open(model="far")
    await context.generate(user="Go", max_tokens=1)
    with pytest.raises(llmos.NotSupported, match="add a message"):
        await context.generate()


async def test_what_came_before_a_failure_is_kept(system: llmos.System, endpoint: Endpoint) -> None:
    endpoint.scripts.append(hang_up(after=3))
    context = await system.open(model="far")
    pieces: list[str] = []

    async def read() -> None:
        async for piece in context.generate(user="Go"):
            pieces.append(piece)

    with pytest.raises(llmos.DeviceFailed, match="what came is kept"):
        await read()
    assert "".join(pieces) == "w0 w1 w2 "
    await context.generate(user="Go on", max_tokens=1)
    assert endpoint.prompts()[-1][1:] == [{"role": "assistant", "content": "w0 w1 w2 "}, {"role": "user", "content": "Go on"}]


async def test_a_refusal_is_the_callers(system: llmos.System, endpoint: Endpoint) -> None:
    endpoint.scripts.append(status(400, body={"error": {"message": "no such thing"}}))
    context = await system.open(model="far")
    with pytest.raises(llmos.InvalidArgument, match="no such thing"):
        await context.generate(user="Go")
    assert (await system.explain(system.pid)).cost == 0


async def test_requests_wait_for_a_slot_and_ps_and_explain_say_so(system: llmos.System, endpoint: Endpoint) -> None:
    endpoint.held = 1

    async def ask(me: llmos.Process) -> str:
        return (await (await me.open(model="far")).generate(user="Go", max_tokens=2)).text

    children = [await system.spawn(ask, name=f"a{i}") for i in range(3)]
    pids = [child.pid for child in children]

    async def states() -> list[str]:
        return [process.state for process in await system.ps() if process.pid in pids]

    async def waiting() -> bool:
        return sorted(await states()) == ["ready", "running", "running"]

    await until(waiting)
    await anyio.to_thread.run_sync(lambda: endpoint.wait(lambda: endpoint.running == 2))
    endpoint.release()
    assert [(await child.wait()).value for child in children] == ["w0 w1 "] * 3
    assert endpoint.most == 2
    told = await system.statistics()
    (far,) = [device for device in told.kernel.devices if device.device == "far"]
    assert (far.slots, far.orders, far.flying, far.decode_tokens) == (2, 3, 0, 6)


async def test_a_stopped_process_gets_its_reply_when_it_goes_on(system: llmos.System, endpoint: Endpoint) -> None:
    endpoint.held = 1

    async def ask(me: llmos.Process) -> str:
        return (await (await me.open(model="far")).generate(user="Go", max_tokens=3)).text

    child = await system.spawn(ask)
    await anyio.to_thread.run_sync(lambda: endpoint.wait(lambda: endpoint.running == 1))
    await system.kill(child.pid, "STOP")
    endpoint.release()
    await anyio.to_thread.run_sync(lambda: endpoint.wait(lambda: endpoint.running == 0))

    async def settled() -> bool:
        return all(device.flying == 0 for device in (await system.statistics()).kernel.devices)

    await until(settled)
    assert [process.state for process in await system.ps() if process.pid == child.pid] == ["stopped"]
    await system.kill(child.pid, "CONT")
    assert (await child.wait()).value == "w0 w1 w2 "


async def test_a_killed_process_hangs_up_and_another_gets_its_slot(system: llmos.System, endpoint: Endpoint) -> None:
    endpoint.held = 1

    async def ask(me: llmos.Process) -> None:
        await (await me.open(model="far")).generate(user="Go")

    children = [await system.spawn(ask) for _ in range(3)]
    await anyio.to_thread.run_sync(lambda: endpoint.wait(lambda: endpoint.running == 2))
    await system.kill(children[0].pid, "KILL")
    await anyio.to_thread.run_sync(lambda: endpoint.wait(lambda: endpoint.hung_up == 1 and len(endpoint.seen) == 3))
    endpoint.release()
    assert [(await child.wait()).status for child in children] == [137, 0, 0]


async def test_a_budget_in_money(system: llmos.System, endpoint: Endpoint) -> None:
    async def spend(me: llmos.Process) -> list[str]:
        context, texts = await me.open(model="far"), []
        try:
            while True:
                texts.append((await context.generate(user="Go", max_tokens=2)).text)
        except llmos.QuotaExceeded:
            return texts

    child = await system.spawn(spend, limits=llmos.Limits(cost=30.0))
    texts = (await child.wait()).value
    costs, prompt = [], 0
    for _ in texts:  # a price of 1 for each token read, as the endpoint counts them, and of 2 for each written
        prompt += len("Go")
        costs.append(prompt + 2 * 2)
        prompt += len("w0 w1 ")
    assert sum(costs) <= 30 < sum(costs) + 2 * 2 + 8, texts
    assert (await system.explain(system.pid)).cost == sum(costs)


async def test_an_agent_file_runs_on_it(system: llmos.System, endpoint: Endpoint) -> None:
    child = await system.spawn("summarise", "The sun rose.", model="far")
    await child.stdin.close()
    assert (await child.wait()).status == 0
    assert "The sun rose." in endpoint.prompts()[0][-1]["content"]


async def test_models_say_what_leaves_the_machine(system: llmos.System) -> None:
    await system.open(model="far")
    (far,) = [model for model in await system.models() if model.name == "far"]
    assert (far.kind, far.loaded, far.window, far.size) == ("remote", True, 2000, 0)
    assert {model.kind for model in await system.models() if model.name != "far"} == {"local"}


async def test_a_key_that_is_not_there_or_open_to_others(system: llmos.System, endpoint: Endpoint, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-secret\n")
    key.chmod(0o644)
    Remotes(tmp_path).add(Remote("filed", endpoint.url, "m", key_file=str(key)))
    Remotes(tmp_path).add(Remote("named", endpoint.url, "m", key_env="NO_SUCH_KEY"))
    with pytest.raises(llmos.NotPermitted, match="chmod 600"):
        await system.open(model="filed")
    with pytest.raises(llmos.NotFound, match="NO_SUCH_KEY"):
        await system.open(model="named")
    key.chmod(0o600)
    context = await system.open(model="filed")  # a load that failed is tried again
    await context.generate(user="Go", max_tokens=1)
    assert endpoint.seen[-1].headers["authorization"] == "Bearer sk-secret"


async def test_the_capability_for_the_model_is_asked_for(system: llmos.System, endpoint: Endpoint) -> None:
    async def ask(me: llmos.Process) -> None:
        await me.open(model="far")

    child = await system.spawn(ask, capabilities=["llm:smollm2"])
    ended = await child.wait()
    assert ended.status == 1
    assert "llm:far" in (ended.error or "")


async def test_the_system_goes_down_while_requests_are_under_way(boot: Boot, endpoint: Endpoint, tmp_path: Path) -> None:
    Remotes(tmp_path).add(Remote("far", endpoint.url, "far-1"))
    endpoint.held = 1
    async with boot(model="far") as system:
        context = await system.open()
        assert context.model == "far", "a remote model may be the default"
        context.generate(user="Go")
        generation = (await system.open()).generate(user="Go")
        await anyio.to_thread.run_sync(lambda: endpoint.wait(lambda: endpoint.running >= 1))
    assert generation.done
    endpoint.wait(lambda: endpoint.running == 0)
