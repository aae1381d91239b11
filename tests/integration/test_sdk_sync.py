"""The synchronous face: the same objects, waited for."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

import llmos

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


async def program(me: llmos.Process, topic: str) -> str:
    await me.print(f"about {topic}")
    return topic.upper()


def test_spawn_read_and_wait(tmp_path: Path) -> None:
    with llmos.sync.boot(device="dummy", home=tmp_path) as system:
        child = system.spawn(program, "tabs", limits=llmos.Limits(tokens=100))
        assert list(child.stdout) == ["about tabs\n"]
        assert child.wait().value == "TABS"
        child = system.spawn("summarise", stdin="some text")
        assert "".join(child.stdout).endswith("\n")
        assert child.wait().status == 0
        assert [each.name for each in system.ps()] == ["init", "host"]
        assert system.pid == 2


def test_contexts_and_generations(tmp_path: Path) -> None:
    with llmos.sync.boot("dummy", device="dummy", home=tmp_path) as system:
        context = system.open(system="s")
        twin = context.fork()
        assert context.length == twin.length > 0
        generation = context.generate(user="u", max_tokens=8, ignore_stop=True)
        text = "".join(generation)
        assert generation.result().text == text
        assert twin.generate(user="u", max_tokens=8, ignore_stop=True).result().text == text
        tokens = list(twin.generate(max_tokens=4, ignore_stop=True).tokens())
        assert len(tokens) == 4
        for _ in context.generate(max_tokens=5000, ignore_stop=True):
            break
        assert context.append(text="free again") < 5000
        read, write = system.pipe()
        write.write("line\nrest")
        write.close()
        assert read.readline() == "line\n"
        assert list(read.lines()) == ["rest"]


def test_errors_come_through_and_the_end_is_clean(tmp_path: Path) -> None:
    with llmos.sync.boot(device="dummy", home=tmp_path) as system:
        with pytest.raises(llmos.NotFound, match="did you mean 'chat'"):
            system.spawn("chatt")
        with pytest.raises(llmos.NoSuchChild):
            system.wait()
    with pytest.raises(llmos.ShutDown, match="boot it again"):
        system.ps()
    with pytest.raises(llmos.InvalidArgument), llmos.sync.boot(device="none", home=tmp_path):
        pass


def test_a_program_is_kept_from_waiting_for_itself(tmp_path: Path) -> None:
    with llmos.sync.boot(device="dummy", home=tmp_path) as system:

        async def program(me: llmos.Process) -> int:
            return len(system.ps())

        ended = system.spawn(program).wait()
        assert ended.status == 1
        assert "use the Process that it is given" in ended.error


def test_an_iterator_that_outlives_its_system_ends_quietly(tmp_path: Path) -> None:
    with llmos.sync.boot(device="dummy", home=tmp_path) as system:
        context = system.open()
        pieces = iter(context.generate(text="x", max_tokens=50, ignore_stop=True))
        assert next(pieces)
    with pytest.raises(llmos.ShutDown):
        list(pieces)
    with llmos.sync.boot(device="dummy", home=tmp_path) as system:
        context = system.open()
        pieces = iter(context.generate(text="x", max_tokens=50, ignore_stop=True))
        assert next(pieces)
    del pieces  # an exception in its finalizer would be a warning, and a warning is an error here
    gc.collect()
