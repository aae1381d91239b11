"""Prompt programs: agents over their streams, and forked while they run."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

import llmos
from llmos.sdk.agentfile import parse
from llmos.sdk.agentnames import SHIPPED, names

from .conftest import Boot

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


def agent(text: str) -> llmos.AgentFile:
    return parse(text, "agent", "agent.toml")


async def output(child: llmos.Child) -> str:
    assert child.stdout is not None
    text = await child.stdout.read()
    assert (await child.wait()).status == 0
    return text


async def test_summarise_reads_everything_and_writes_once(system: llmos.System) -> None:
    child = await system.spawn("summarise", stdin="a long text\nof two lines\n")
    assert (await output(child)).endswith("\n")
    assert (await child.wait()).name == "summarise"


async def test_chat_takes_turns_until_the_end_of_its_input(system: llmos.System) -> None:
    talker = agent('input = "line"\nseparator = "<END>"\nsystem = "s"\n[sampling]\nmax_tokens = 8\n')
    child = await system.spawn(talker)
    assert child.stdin is not None
    assert child.stdout is not None
    seen = ""
    for turn in range(1, 4):
        await child.stdin.write(f"question {turn}\n\n")
        while seen.count("<END>") < turn:
            seen += await child.stdout.read_some()
    await child.stdin.close()
    assert await child.stdout.read() == ""
    assert (await child.wait()).status == 0


async def test_input_may_come_with_the_spawn(system: llmos.System) -> None:
    once = agent('prompt = "About {input}: {input}"\n[sampling]\nmax_tokens = 4\n')
    given, read = await system.spawn(once, "tabs", "and", "spaces"), await system.spawn(once, stdin="tabs and spaces")
    assert await output(given) == await output(read)


async def test_max_turns_and_no_input(system: llmos.System) -> None:
    twice = agent('input = "line"\nmax_turns = 2\n[sampling]\nmax_tokens = 2\n')
    assert (await output(await system.spawn(twice, stdin="1\n2\n3\n"))).count("\n") >= 2
    silent = agent('input = "none"\nprompt = "Say something."\n[sampling]\nmax_tokens = 2\n')
    await output(await system.spawn(silent))


async def test_what_is_too_long_ends_the_agent_with_both_numbers(system: llmos.System) -> None:
    child = await system.spawn("summarise", stdin="x" * 10_000)
    ended = await child.wait()
    assert ended.status == 1
    assert ended.error is not None
    assert "8192" in ended.error
    assert "Traceback" not in ended.error
    assert child.stderr is not None
    assert ended.error in await child.stderr.read()


async def test_a_users_agent_comes_before_ours(boot: Boot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.parent)
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "chat.toml").write_text('name = "mine"\ninput = "none"\nclass = "idle"\nnice = 3\n[limits]\ntokens = 9\n')
    (folder / "typo.toml").write_text('\nsytem = "x"\n')
    async with boot() as system:
        assert await system.agents() == sorted([*names([SHIPPED]), "typo"])
        child = await system.spawn("chat")
        (view,) = [each for each in await system.ps() if each.pid == child.pid]
        assert (view.name, view.cls.name, view.nice) == ("mine", "IDLE", 3)
        assert "limit" in str((await child.wait()).error)
        with pytest.raises(llmos.BadFormat, match=r"typo\.toml, line 2: there is no key 'sytem'; did you mean 'system'\?"):
            await system.spawn("typo")
        with pytest.raises(llmos.NotFound, match="did you mean 'summarise'"):
            await system.spawn("sumarise")


async def test_an_agents_class_is_a_wish(system: llmos.System) -> None:
    """A process that may not favour its children can run an interactive agent all the same."""

    async def parent(me: llmos.Process) -> str:
        child = await me.spawn("chat", stdin="")
        (view,) = [each for each in await me.ps() if each.pid == child.pid]
        await child.wait()
        with pytest.raises(llmos.NotPermitted):
            await me.spawn("chat", cls="interactive")
        return view.cls.name

    assert (await (await system.spawn(parent)).wait()).value == "NORMAL"
    assert (await system.agent("chat")).cls == "interactive"


async def test_fork_of_an_agent_between_turns_remembers(system: llmos.System) -> None:
    talker = agent('input = "line"\nseparator = "<END>"\nsystem = "s"\n[sampling]\nmax_tokens = 6\n')
    child = await system.spawn(talker)
    assert child.stdin is not None
    assert child.stdout is not None
    await child.stdin.write("first\n")
    seen = ""
    while "<END>" not in seen:
        seen += await child.stdout.read_some()
    twin = await system.fork(child.pid)
    assert twin.pid != child.pid
    assert twin.stdin is not None
    for each in (child, twin):
        assert each.stdin is not None
        await each.stdin.write("second\n")
        await each.stdin.close()
    assert await output(child) == await output(twin)  # greedy, and the same conversation


async def test_fork_of_an_agent_in_the_middle_of_a_reply_goes_on_from_there(system: llmos.System) -> None:
    talker = agent('separator = ""\nsystem = "s"\n[sampling]\nmax_tokens = 3000\nseed = 5\n')
    for attempt in range(20):
        child = await system.spawn(talker, f"talk {attempt}")
        assert child.stdout is not None
        seen = await child.stdout.read_some()
        try:
            twin = await system.fork(child.pid)
        except llmos.NoSuchProcess:
            continue  # this one had little to say
        whole = (seen + await output(child)).encode()
        rest = (await output(twin)).encode()
        assert rest.strip(b"\xef\xbf\xbd") in whole
        if rest:
            return
    raise AssertionError("no fork was made in time")


async def test_a_python_program_cannot_be_forked(system: llmos.System) -> None:
    async def closure(me: llmos.Process) -> None:
        await me.stdin.read()

    child = await system.spawn(closure)
    with pytest.raises(llmos.NotSupported, match="Python function"):
        await system.fork(child.pid)
    with pytest.raises(llmos.NoSuchProcess):
        await system.fork(99)
    assert child.stdin is not None
    await child.stdin.close()
    await child.wait()


async def test_interrupt_ends_a_turn_and_the_agent_reads_on(system: llmos.System) -> None:
    talker = agent('input = "line"\nseparator = "<END>"\nsystem = "s"\n[sampling]\nmax_tokens = 4000\n')
    child = await system.spawn(talker)
    assert child.stdin is not None
    assert child.stdout is not None
    await child.stdin.write("go\n")
    seen = await child.stdout.read_some()
    await system.interrupt(child.pid)
    while "<END>" not in seen:
        seen += await child.stdout.read_some()
    await child.stdin.close()
    assert (await child.wait()).status == 0


async def test_an_agent_waits_for_its_model_in_ps(boot: Boot) -> None:
    async with boot(preload=False) as system:
        child = await system.spawn("chat")
        assert child.stdin is not None
        await child.stdin.close()
        with anyio.fail_after(10):
            assert (await child.wait()).status == 0


async def test_a_mark_between_replies_is_in_none_of_them(system: llmos.System) -> None:
    for number in range(200):  # the dummy's bytes are a hash: one of its replies has the mark in it
        context = await system.open()
        reply = await context.generate(user=f"q{number}", max_tokens=200)
        await context.close()
        if "\x1e" in reply.text:
            break
    else:
        pytest.fail("no reply has the mark in it")
    agent = llmos.AgentFile("marked", input="line", separator="\x1e", sampling={"max_tokens": 200})
    child = await system.spawn(agent, stdin=f"q{number}\n")
    assert child.stdout is not None
    assert await child.stdout.read() == reply.text.replace("\x1e", "\ufffd") + "\x1e"
    assert (await child.wait()).status == 0
