"""Built-in tools of agent files, examples and capabilities, with replies that are written here."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import anyio
import pytest

import llmos
from llmos.sdk.builtin import MAX_SHOWN, Hands
from llmos.sdk.context import Context

from .test_sdk_map import ended
from .test_tool_loop import Script, call

pytestmark = pytest.mark.anyio
DIVIDED = "llmos.calculate: this divides by zero"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    made = Script()
    monkeypatch.setattr(Context, "generate", lambda context, **arguments: made.generate(context, **arguments))
    return made


async def test_a_built_in_tool_needs_nobody_to_offer_it(system: llmos.System, script: Script) -> None:
    script.replies = [call("llmos.calculate", '{"expression": "17 * 23"}'), "It is 391."]
    child = await system.spawn(llmos.AgentFile("sums", tools=("llmos.calculate",), call=True), "What is 17 * 23?")
    assert await child.stdout.read() == "It is 391.\n"
    assert script.asked == ["What is 17 * 23?", '<tool_response>\n{"name": "llmos.calculate"}\n391\n</tool_response>']


async def test_what_a_model_asks_wrongly_it_is_told(system: llmos.System) -> None:
    async def program(me: llmos.Process) -> None:
        hands = Hands(me)
        for arguments in (
            '{"expression": "9**9**9"}',
            '{"expression": 3}',
            "[]",
            "{",
            '{"x": "1"}',
            json.dumps({"expression": "1" * 1_001}),
        ):
            assert (await hands.call_tool("llmos.calculate", arguments)).is_error

    assert (await (await system.spawn(program)).wait()).error is None


async def test_files_are_read_with_the_callers_capabilities(system: llmos.System) -> None:
    async def reader(me: llmos.Process, may: bool) -> list[tuple[str, bool]]:
        hands = Hands(me)
        asked = [
            ("llmos.list_files", {"path": "/home"}),
            ("llmos.read_file", {"path": "/home/a.txt"}),
            ("llmos.search_files", {"path": "/home", "words": "TWO"}),
        ]
        return [((found := await hands.call_tool(name, given)).text, found.is_error) for name, given in asked]

    await system.files.write("/home/a.txt", "one\ntwo\n")
    held = await (await system.spawn(reader, True, capabilities=["file:r:/home/*"])).wait()
    assert held.value == [("a.txt", False), ("one\ntwo\n", False), ("a.txt:2: two", False)]
    none = await (await system.spawn(reader, False, capabilities=[])).wait()
    assert all(wrong and "capability" in text for text, wrong in none.value)
    await system.files.write("/home/a.txt", "x" * (MAX_SHOWN + 1))
    long = await (await system.spawn(reader, True, capabilities=["file:r:/home/*"])).wait()
    assert long.value[1][0] == "x" * MAX_SHOWN + "\n... and more"


async def test_capabilities_of_a_file_are_those_of_its_process(system: llmos.System, script: Script) -> None:
    script.replies = [call("llmos.read_file", '{"path": "/home/b.txt"}'), "No."]
    await system.files.write("/home/b.txt", "secret")
    child = await system.spawn(llmos.AgentFile("reader", tools=("llmos.read_file",), capabilities=("llm:*",)), "x")
    assert await child.stdout.read() == "No.\n"
    assert "lacks the capability" in script.asked[1]
    assert "secret" not in script.asked[1]


async def test_examples_come_before_the_first_turn(system: llmos.System, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    appended: list[str] = []
    append = Context.append

    async def seen(context: Context, **given: Any) -> int:
        appended.extend(message["content"] for message in given["messages"])
        return await append(context, **given)

    monkeypatch.setattr(Context, "append", seen)
    script.replies = ["4"]
    agent = llmos.AgentFile("shown", prompt="Say {input}", examples=(("two", "2"), ("three", "3")))
    child = await system.spawn(agent, "four")
    assert await child.stdout.read() == "4\n"
    assert appended[:5] == ["Say two", "2", "Say three", "3", "Say four"]


async def test_a_forced_call_that_is_under_way_can_be_forked(system: llmos.System) -> None:
    sums = llmos.AgentFile("sums", tools=("llmos.calculate",), call=True, rounds=1, sampling={"max_tokens": 300})
    for attempt in range(20):
        child = await system.spawn(sums, f"What is {attempt} + 1?")
        while (await system.explain(child.pid)).decode_tokens < 10:
            await anyio.sleep(0)
        try:
            twin = await system.fork(child.pid)
        except llmos.NoSuchProcess:
            continue  # it was quick
        texts = [await each.stdout.read() for each in (child, twin)]
        assert [(await each.wait()).error for each in (child, twin)] == [None, None]
        assert texts[0] == texts[1]  # greedy, and the same question
        return
    raise AssertionError("no fork was made in time")


async def test_a_search_looks_into_folders_below(system: llmos.System) -> None:
    async def searches(me: llmos.Process) -> str:
        return (await Hands(me).call_tool("llmos.search_files", {"path": "/home/", "words": "whale"})).text

    deep = "/home/" + "d/" * 9
    await system.files.make(deep.rstrip("/"), parents=True)
    for path in ("/home/a.txt", "/home/d/b.txt", "/home/d/d/c.txt", f"{deep}e.txt"):
        await system.files.write(path, "no\nA whale.\n")
    found = await (await system.spawn(searches, capabilities=["file:r:/home/*"])).wait()
    assert found.value == "a.txt:2: A whale.\nd/b.txt:2: A whale.\nd/d/c.txt:2: A whale."
    for number in range(201):
        await system.files.write(f"/home/d/d/{number}", "")
    found = await (await system.spawn(searches, capabilities=["file:r:/home/*"])).wait()
    assert found.value.endswith("... and files that were not searched")


async def test_an_example_may_be_a_whole_round(system: llmos.System, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    appended: list[dict[str, str]] = []

    async def note(context: Context, **given: Any) -> None:
        appended.extend(given.get("messages", ()))

    monkeypatch.setattr(Context, "append", note)
    script.replies = ["Yes."]
    said = call("llmos.search_files", '{"path": "/home", "words": "bees"}')
    agent = llmos.AgentFile(
        "shown", prompt="Q: {input}", tools=("llmos.search_files",), examples=(("bees?", said, "a.txt:1: bees", "a.txt"),)
    )
    child = await system.spawn(agent, "x")
    assert await child.stdout.read() == "Yes.\n"
    assert [each["role"] for each in appended[:4]] == ["user", "assistant", "user", "assistant"]
    assert [each["content"] for each in appended[:4]] == [
        "Q: bees?", said, '<tool_response>\n{"name": "llmos.search_files"}\na.txt:1: bees\n</tool_response>', "a.txt",
    ]  # fmt: skip


async def test_a_direct_agent_says_what_its_tool_gives(system: llmos.System, script: Script) -> None:
    agent = llmos.AgentFile("sums", tools=("llmos.calculate",), call=True, direct=True)
    script.replies = [call("llmos.calculate", '{"expression": "17 * 23"}')]
    child = await system.spawn(agent, "What is 17 * 23?")
    assert await child.stdout.read() == "391\n"
    assert len(script.asked) == 1
    script.replies = [call("llmos.calculate", '{"expression": "1 / 0"}'), "It cannot be done."]
    assert await ended(await system.spawn(agent, "What is 1 / 0?")) == ("It cannot be done.\n", f"{DIVIDED}\n", 1)
    script.replies = [call("llmos.calculate", '{"expression": "1 / 0"}'), call("llmos.calculate", '{"expression": "1 / 1"}')]
    assert await ended(await system.spawn(agent, "What is 1 / 1?")) == ("1\n", "", 0)  # it did better


async def test_a_direct_agent_without_rounds_left_fails_with_what_its_tool_said(system: llmos.System, script: Script) -> None:
    agent = llmos.AgentFile("sums", tools=("llmos.calculate",), call=True, direct=True, rounds=1)
    script.replies = [call("llmos.calculate", '{"expression": "1 / 0"}')]
    assert await ended(await system.spawn(agent, "What is 1 / 0?")) == ("\n", f"{DIVIDED}\n", 1)
    script.replies = [call("llmos.calculate", '{"expression": 1')]
    out, errors, status = await ended(await system.spawn(agent, "What is 1?"))
    assert (out, status) == ("\n", 1)
    assert errors.startswith("a call: what is in <tool_call> is no JSON")
    by_line = replace(agent, input="line")
    script.replies = [call("llmos.calculate", json.dumps({"expression": each})) for each in ("2 / 0", "2 / 1")]
    assert await ended(await system.spawn(by_line, stdin="a\nb\n")) == ("\n2\n", f"{DIVIDED}\n", 1), "the next turn runs"
