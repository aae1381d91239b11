"""Tools through the SDK, on a booted system and as a client of a daemon: functions, many at once, deadlines, ends, hostile ones."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
import pytest

import llmos
from llmos.sdk.tool import Said
from llmos.syscalls.abi import param

from .conftest import connected

pytestmark = pytest.mark.anyio


def add(a: int, b: int = 2) -> int:
    """Add two numbers.

    Args:
        a: the first
    """
    return a + b


async def echo(text: str) -> str:
    return text


async def test_a_function_is_offered_and_called(system: llmos.System) -> None:
    async with system.offer(add, echo) as offer:
        assert offer.names == ["add", "echo"]
        assert [tool.name for tool in await system.tools()] == ["add", "echo"]
        assert (await system.call_tool("add", a=1)).text == "3"
        assert (await system.call_tool("add", {"a": 1, "b": 5})).text == "6"
        assert (await system.call_tool("add", '{"a": 2}')).text == "4"
        assert (await system.call_tool("echo", text="né")).text == "né"
        with pytest.raises(llmos.InvalidArgument, match="a: 'x' is not of type 'integer'"):
            await system.call_tool("add", a="x")
        with pytest.raises(llmos.InvalidArgument, match="what JSON can say"):
            await system.call_tool("echo", text=object())
    assert await system.tools() == []
    with pytest.raises(llmos.NotFound):
        await system.call_tool("add", a=1)


async def test_a_child_calls_what_it_was_given(system: llmos.System) -> None:
    async def program(me: llmos.Process) -> tuple[str, list[str]]:
        with pytest.raises(llmos.NotPermitted, match="tool:echo"):
            await me.call_tool("echo", text="x")
        return (await me.call_tool("add", a=40)).text, [tool.name for tool in await me.tools()]

    async with system.offer(add, echo):
        child = await system.spawn(program, tools=["add"])
        assert (await child.wait()).value == ("42", ["add"])


async def test_a_process_offers_to_those_below_it(system: llmos.System) -> None:
    async def below(me: llmos.Process) -> str:
        return (await me.call_tool("secret")).text

    async def program(me: llmos.Process) -> str:
        def secret() -> str:
            return f"of {me.pid}"

        async with me.offer(secret):
            value: str = (await (await me.spawn(below, tools=["secret"])).wait()).value
            return value

    children = [await system.spawn(program, capabilities=["*"]) for _ in range(3)]
    assert [(await child.wait()).value for child in children] == [f"of {child.pid}" for child in children]
    assert await system.tools() == []


async def test_a_hundred_calls_at_once(system: llmos.System) -> None:
    """They are all under way before one ends."""
    gate = threading.Barrier(100, timeout=20)

    def meet(number: int) -> int:
        gate.wait()
        return number

    async with system.offer(meet):
        results: list[str] = [""] * 100

        async def one(number: int) -> None:
            results[number] = (await system.call_tool("meet", number=number)).text

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(one, number)
        assert results == [str(number) for number in range(100)]


async def test_who_waits_is_blocked_on_its_tool(system: llmos.System) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        begun.set()
        await go_on.wait()
        return "done"

    async def program(me: llmos.Process) -> str:
        return (await me.call_tool("slow")).text

    async with system.offer(slow):
        child = await system.spawn(program, tools=["slow"])
        await begun.wait()
        (view,) = [view for view in await system.ps() if view.pid == child.pid]
        assert (view.state, view.waiting_for) == ("blocked", "tool")
        go_on.set()
        assert (await child.wait()).value == "done"


# --- ends


@asynccontextmanager
async def hanging(system: llmos.System) -> AsyncIterator[tuple[asyncio.Event, asyncio.Event]]:
    """Offers a tool that hangs; says when it has begun, and when it was cancelled."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with system.offer(hang):
        yield begun, ended


async def test_a_deadline_is_an_error_result_and_cancels_the_function(system: llmos.System) -> None:
    async with hanging(system) as (_, ended):
        result = await system.call_tool("hang", seconds=0.05)
        assert result.is_error
        assert "did not answer within 0.05 s" in result.text
        await ended.wait()


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
async def test_the_end_of_a_caller_cancels_the_function(system: llmos.System, signal: str) -> None:
    async def program(me: llmos.Process) -> None:
        await me.call_tool("hang")

    async with hanging(system) as (begun, ended):
        child = await system.spawn(program, tools=["hang"])
        await begun.wait()
        await child.kill(signal)
        await ended.wait()
        await child.wait()


async def test_a_call_that_is_cancelled_cancels_the_function(system: llmos.System) -> None:
    async with hanging(system) as (begun, ended), anyio.create_task_group() as tasks:
        tasks.start_soon(system.call_tool, "hang")
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert ended.is_set()


async def test_an_offerer_that_ends_leaves_an_error_result(system: llmos.System) -> None:
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def program(me: llmos.Process) -> None:
        async with me.offer(hang, public=True):
            await asyncio.Event().wait()

    child = await system.spawn(program, capabilities=["*"])
    while not await system.tools():
        await asyncio.sleep(0.001)
    call = asyncio.create_task(system.call_tool("hang"))
    await begun.wait()
    await child.kill("KILL")
    result = await call
    assert result.is_error
    assert "was lost" in result.text
    await child.wait()


async def test_a_term_ends_the_block_of_an_offer(system: llmos.System) -> None:
    async def program(me: llmos.Process) -> None:
        async with me.offer(add):
            await asyncio.Event().wait()

    child = await system.spawn(program)
    await asyncio.sleep(0)
    await child.kill("TERM")
    assert (await child.wait()).status == 143


async def test_an_error_in_the_block_is_raised_as_it_is(system: llmos.System) -> None:
    with pytest.raises(ZeroDivisionError):
        async with system.offer(add):
            _ = 1 // 0
    assert await system.tools() == []


async def test_tools_can_be_replaced(system: llmos.System) -> None:
    async with system.offer(add) as offer:
        await offer.replace(echo)
        assert [tool.name for tool in await system.tools()] == ["echo"]
        assert (await system.call_tool("echo", text="x")).text == "x"


# --- what functions do


class Awkward(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


def raises(error: Callable[[], BaseException]) -> Callable[[], None]:
    def boom() -> None:
        raise error()

    return boom


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (raises(lambda: ValueError("no")), "ValueError: no"),
        (raises(lambda: SystemExit(3)), "SystemExit: 3"),
        (raises(lambda: StopIteration()), "RuntimeError: coroutine raised StopIteration"),
        (raises(Awkward), "Awkward, whose text cannot be had: SystemExit"),
        (lambda: object(), "TypeError: Object of type object is not JSON serializable"),
        (lambda: float("nan"), "ValueError: Out of range float values are not JSON compliant"),
        (lambda: threading.Lock(), "TypeError"),
    ],
)
async def test_a_function_that_fails_is_an_error_result(system: llmos.System, function: Callable[[], Any], text: str) -> None:
    async with system.offer(llmos.Tool.of(function, name="bad"), add):
        result = await system.call_tool("bad")
        assert result.is_error
        assert result.text.startswith(text)
        assert (await system.call_tool("add", a=1)).text == "3"


async def test_an_async_function_that_awaits_what_it_cancelled(system: llmos.System) -> None:
    async def odd() -> None:
        task = asyncio.create_task(asyncio.sleep(9))
        task.cancel()
        await task

    async with system.offer(odd):
        assert (await system.call_tool("odd")).text.startswith("CancelledError")


@dataclass
class Point:
    x: int
    y: float


async def test_what_functions_give_is_text(system: llmos.System) -> None:
    given: list[Any] = ["text", None, b"\xffbytes", 5, [1, {"a": None}], Point(1, 2.5), "half \ud800", Said("own", True)]
    said = ["text", "", "�bytes", "5", '[1, {"a": null}]', '{"x": 1, "y": 2.5}', "half ?", "own"]

    def give(index: int) -> Any:
        return given[index]

    async with system.offer(give):
        results = [await system.call_tool("give", index=index) for index in range(len(given))]
    assert [result.text for result in results] == said
    assert [result.is_error for result in results] == [False] * 7 + [True]


async def test_ten_megabytes_are_cut(system: llmos.System) -> None:
    async with system.offer(llmos.Tool.of(lambda: "x" * 10_000_000, name="much")):
        for most in (256, 10_000, param.TOOL_RESULT, param.MAX_TOOL_RESULT):
            result = await system.call_tool("much", most=most)
            assert len(result.text) <= most
            assert result.missing + result.text.count("x") == 10_000_000
            assert f"[... {result.missing:,} bytes cut ...]" in result.text


async def test_a_function_in_a_thread_that_hangs_holds_nobody_up(system: llmos.System) -> None:
    release = threading.Event()
    async with system.offer(llmos.Tool.of(release.wait, name="hang"), add):
        assert (await system.call_tool("hang", {}, seconds=0.05)).is_error
        assert (await system.call_tool("add", a=1)).text == "3"
    release.set()


# --- signatures


async def test_arguments_arrive_as_the_types_that_were_asked_for(system: llmos.System) -> None:
    def take(point: Point, path: Path, kind: Literal["a", "b"], many: list[int] | None = None, model_config: str = "mine") -> str:
        assert isinstance(point, Point)
        assert isinstance(path, Path)
        return f"{point.x + point.y} {path.name} {kind} {many} {model_config}"

    async with system.offer(take):
        result = await system.call_tool("take", point={"x": 1, "y": 2}, path="/a/b", kind="a")
        assert (result.text, result.is_error) == ("3.0 b a None mine", False)
        with pytest.raises(llmos.InvalidArgument, match="kind"):
            await system.call_tool("take", point={"x": 1, "y": 2}, path="/a/b", kind="c")


def test_the_schema_comes_from_signature_and_docstring() -> None:
    def search(words: str, most: Annotated[int, "how many"] = 10, *, title: bool = False) -> list[str]:
        """Find notes.

        Second paragraph.

        Args:
            words (str): what to look for,
                in any order
            most: how many
        Returns:
            Titles.
        """
        return []

    tool = llmos.Tool.of(search)
    assert tool.description == "Find notes.\n\nSecond paragraph."
    assert tool.schema == {
        "type": "object",
        "additionalProperties": False,
        "required": ["words"],
        "properties": {
            "words": {"type": "string", "description": "what to look for, in any order"},
            "most": {"type": "integer", "default": 10, "description": "how many"},
            "title": {"type": "boolean", "default": False},
        },
    }
    assert json.dumps(tool.schema)


def test_sphinx_docstrings() -> None:
    def f(a: int, b: str) -> None:
        """Do it.

        :param int a: the first
        :param b: the second,
            continued
        :returns: nothing
        """

    tool = llmos.Tool.of(f)
    assert tool.description == "Do it."
    assert [part["description"] for part in tool.schema["properties"].values()] == ["the first", "the second, continued"]


@pytest.mark.parametrize("function", [lambda *a: a, lambda **k: k, lambda a, /: a])
def test_signatures_without_a_schema(function: Callable[..., Any]) -> None:
    with pytest.raises(llmos.InvalidArgument, match="has no name to give it by"):
        llmos.Tool.of(function)


def test_types_without_a_json_form() -> None:
    def f(lock: threading.Event) -> None: ...

    with pytest.raises(llmos.InvalidArgument, match="cannot be a tool"):
        llmos.Tool.of(f)


async def test_names_and_kinds_that_cannot_be_offered(system: llmos.System) -> None:
    with pytest.raises(llmos.InvalidArgument, match="not a int"):
        system.offer(5)  # type: ignore[arg-type]
    with pytest.raises(llmos.InvalidArgument, match="two tools are called 'add'"):
        system.offer(add, llmos.Tool.of(echo, name="add"))
    for name in ("", "a b", "../x", "x" * (param.MAX_TOOL_NAME + 1)):
        with pytest.raises((llmos.InvalidArgument, llmos.TooLong)):
            async with system.offer(llmos.Tool.of(echo, name=name)):
                pass
    assert await system.tools() == []


async def test_a_client_that_vanishes_takes_its_tools_along(tmp_path: Path) -> None:
    """A real OS process, killed in the middle of a call."""
    code = (
        "import asyncio, llmos, sys, time\n"
        "def hang(): print('begun', flush=True); time.sleep(100)\n"
        "async def main():\n"
        "    async with llmos.connect(home=sys.argv[1]) as system, system.offer(hang, public=True):\n"
        "        print('ready', flush=True); await asyncio.sleep(100)\n"
        "asyncio.run(main())\n"
    )
    path = os.pathsep.join([str(Path(llmos.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    async with connected(home=tmp_path, preload=False) as system:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(tmp_path), stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
        )
        assert process.stdout is not None
        with anyio.fail_after(30):
            assert await process.stdout.readline() == b"ready\n"
            call = asyncio.create_task(system.call_tool("hang"))
            assert await process.stdout.readline() == b"begun\n"
            process.kill()
            result = await call
            assert result.is_error
            assert "was lost" in result.text
            assert await system.tools() == []
            await process.wait()
