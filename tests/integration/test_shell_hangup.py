"""A shell whose daemon goes: one line that says so, and at a terminal the next daemon."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio
import pytest

import llmos
from llmos.shell.chat import Chat
from llmos.shell.jobs import Job

from .raw import daemon, until
from .shell_harness import Ran, shell_in

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


class Silent:
    """Input that does not come."""

    def __init__(self) -> None:
        self._over = anyio.Event()

    async def read(self) -> str:
        await self._over.wait()
        return ""

    def close(self) -> None:
        self._over.set()


@pytest.mark.parametrize("interactive", [False, True])
async def test_a_process_that_is_lost_is_one_line(tmp_path: Path, interactive: bool) -> None:
    async with shell_in(tmp_path, interactive=interactive, boot=partial(llmos.connect, home=tmp_path)) as under_test:
        under_test.shell.standard_input = Silent
        lost: list[Ran] = []

        async def spawn() -> None:
            lost.append(await under_test.run("spawn chat"))

        async with anyio.create_task_group() as tasks, daemon(tmp_path), llmos.connect(home=tmp_path) as system:
            tasks.start_soon(spawn)
            while len(await system.ps()) < 4:
                await anyio.sleep(0.01)
        (ran,) = lost
        assert ran.status == 1
        assert ran.err.count("\n") == 1
        assert ran.err.startswith("llmsh: spawn: the daemon at ")
        assert "hung up" in ran.err
        assert ran.err.endswith("[ESHUTDOWN]\n")
        if interactive:
            gone = await under_test.run("ps")
            assert gone.err.splitlines() == [
                "llmsh: the daemon of this shell has gone, and what ran there with it: connecting again",
                f"llmsh: ps: no daemon listens at {tmp_path}/daemon/socket; start one with: llmos up [ENOENT]",
            ]
            async with daemon(tmp_path):
                back = await under_test.run("ps")
                assert (back.status, back.err) == (0, "")
                assert back.out.count("\n") == 3
                assert (await under_test.run("wait 3")).status == 127, "it was another daemon's"
                assert (await under_test.run("ask hello")).status == 0
                under_test.shell.connection.stop()
        else:
            async with daemon(tmp_path):
                for _ in range(2):
                    lost = await under_test.run("ps")
                    assert lost.status == 1
                    assert "hung up" in lost.err, "a script does not go on in another daemon"


async def test_the_conversation_begins_anew(tmp_path: Path) -> None:
    class Keep:
        said = ""

        async def write(self, text: str) -> None:
            self.said += text

        def close(self) -> None: ...

    async with shell_in(tmp_path, interactive=True, boot=partial(llmos.connect, home=tmp_path)) as under_test:
        chat = Chat(under_test.shell)
        for _ in range(2):
            async with daemon(tmp_path):
                heard = Keep()
                assert await chat.say(Job("hello", foreground=True), "hello there", heard) == 0
                assert heard.said
                first = under_test.shell.conversation()
                assert first is not None
            await until(lambda: under_test.shell.conversation() is None)
        await under_test.shell.show_notes()
        assert "connecting again" in (await under_test.run("true")).err
