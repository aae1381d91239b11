"""Tab: proposes what fits, within its time whatever sleeps, and never fails."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest
from hypothesis import given, strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

import llmos
from llmos.shell import completion
from llmos.shell.completion import MOST, PATIENCE, ShellCompleter, words_at
from llmos.shell.jobs import Job
from llmos.shell.session import Shell
from llmos.shell.terminal import Terminal

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class System:
    """A system that answers, or does not."""

    def __init__(self) -> None:
        self.asked = 0
        self.fault: Exception | None = None
        self.answers = anyio.Event()

    async def ps(self) -> list[SimpleNamespace]:
        self.asked += 1
        await self.answers.wait()
        if self.fault is not None:
            raise self.fault
        return [SimpleNamespace(pid=7, name="chat"), SimpleNamespace(pid=70, name="summarise")]

    @property
    def files(self) -> "System":
        return self

    async def entries(self, path: str) -> AsyncIterator[SimpleNamespace]:
        """A folder of the system in which every folder is the same."""
        if path.rstrip("/") == "/home/gone":
            raise llmos.NotFound("there is no such folder")
        for name, kind in (("letters", "folder"), ("list.txt", "file"), ("odd\nname", "file"), ("two words", "file")):
            yield SimpleNamespace(name=name, kind=kind)


class Connected:
    loading, fault, model = False, None, "smollm2"

    def __init__(self, system: System) -> None:
        self.ready = system

    async def run(self) -> None:
        await anyio.sleep(0)

    def stop(self) -> None:
        """It runs nothing."""


@pytest.fixture
async def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shell]:
    monkeypatch.chdir(tmp_path)
    made = Shell(Terminal(), Connected(System()), tmp_path, variables={"HOME": "/home/me", "HOST": "h"})  # type: ignore[arg-type]
    made.aliases["say"] = "echo said"
    async with made.running():
        yield made


async def proposed(completer: ShellCompleter, line: str) -> list[str]:
    return [each.text async for each in completer.get_completions_async(Document(line), CompleteEvent())]


async def test_what_fits_is_proposed(shell: Shell, tmp_path: Path) -> None:
    shell.connection.ready.answers.set()  # type: ignore[union-attr]
    job = Job("spawn chat", foreground=False)
    shell.jobs.add(job)
    (tmp_path / "notes with blanks").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / ".hidden").touch()
    completer = ShellCompleter(shell)
    for line, found in (
        ("spa", ["spawn "]),
        ("sa", ["say "]),
        ("ps | tre", ["tree "]),
        ("kill -ST", ["-STOP "]),
        ("chat %", ["%1 "]),
        ("fg ", ["%1 "]),
        ("bg ", ["%1 "]),
        ("echo $HO", ["$HOME ", "$HOST "]),
        ("unset HOS", ["HOST "]),
        ("unalias ", ["say "]),
        ("set -o err", ["errexit "]),
        ("set ", []),
        ("ps --js", ["--json "]),
        ("cd --js", []),
        ("spawn -c ba", ["batch "]),
        ("man 1 top", ["top "]),
        ("!ls not", ["'notes with blanks' "]),
        ("cat < fo", ["folder/"]),
        ("cat .h", [".hidden "]),
        ("echo 'open", []),
        ("nosuch nothing", []),
    ):
        assert await proposed(completer, line) == found, line
    for line, found in (("kill 7", ["7 ", "70 "]), ("spawn su", ["summarise "]), ("man 2 gen", ["generate "])):
        with anyio.fail_after(20):  # what must be asked for comes a little later on a slow day
            while await proposed(completer, line) != found:
                await anyio.sleep(0.6)


async def test_paths_are_of_the_system_where_the_command_means_those(shell: Shell, tmp_path: Path) -> None:
    """tmp_path is below the machine's /tmp."""
    (tmp_path / "list.json").touch()
    completer, here = ShellCompleter(shell), str(tmp_path)
    of_system = ["/home/letters/", "/home/list.txt "]
    for line, found in (
        ("cat /home/l", of_system),
        ("cat /home/tw", ["'/home/two words' "]),
        ("cat '/home/tw", []),  # an open quote
        ("cat < /home/l", of_system),
        ("cat /tmp/li", ["/tmp/list.txt "]),
        ("cat /home/gone/l", []),
        (f"cat < {here}/li", [f"{here}/list.json "]),
        (f"cat host:{here}/li", [f"host:{here}/list.json "]),
        ("cat host:li", ["host:list.json "]),
        (f"!cat {here}/li", [f"{here}/list.json "]),
        (f"spawn --schema {here}/li", [f"{here}/list.json "]),
        ("spawn --schema li", ["list.json "]),
        ("cat /home/me/x", []),  # $HOME is of the machine
        ("cat /lett", ["/letters/"]),
        ("cat /et", ["/etc/"]),
        ("cd /et", ["/etc/"]),
        ("cd /lett", []),
    ):
        with anyio.fail_after(20):
            while (told := await proposed(completer, line)) != found and found:
                await anyio.sleep(0.05)
        assert told == found, line


async def test_options_and_agents_behind_them(shell: Shell) -> None:
    completer = ShellCompleter(shell)
    assert await proposed(completer, "map --at") == ["--at-once "]
    assert await proposed(completer, "spawn --at") == []
    assert await proposed(completer, "spawn --cl") == ["--class "]
    assert await proposed(completer, "ask --sc") == ["--schema "]
    assert await proposed(completer, "spawn --nice ") == []
    for line in ("spawn --nice 5 --class batch summ", "map --at-once 2 summ"):
        with anyio.fail_after(20):
            while await proposed(completer, line) != ["summarise "]:
                await anyio.sleep(0.6)
    assert await proposed(completer, "spawn summarise summ") == []


async def test_it_waits_for_nobody_and_asks_once(shell: Shell) -> None:
    system: System = shell.connection.ready  # type: ignore[assignment]
    completer = ShellCompleter(shell)
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        assert await proposed(completer, "kill 7") == []
        taken.append(time.perf_counter() - began)
    assert min(taken) < 0.05
    assert min(taken) >= PATIENCE * 0.5
    assert system.asked == 1
    system.answers.set()
    await anyio.sleep(0)
    assert await proposed(completer, "kill 7") == ["7 ", "70 "]
    began = time.perf_counter()
    assert await proposed(completer, "explain 70") == ["70 "]
    assert system.asked == 1
    assert time.perf_counter() - began < 1


async def test_a_system_that_fails_proposes_nothing(shell: Shell) -> None:
    system: System = shell.connection.ready  # type: ignore[assignment]
    system.fault = llmos.ShutDown("gone")
    system.answers.set()
    completer = ShellCompleter(shell)
    assert await proposed(completer, "kill 7") == []
    shell.connection.ready = None  # type: ignore[misc]
    assert await proposed(ShellCompleter(shell), "kill 7") == []


async def test_a_large_folder_is_bounded(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(MOST + 1):
        (tmp_path / f"f{number}").touch()
    completer = ShellCompleter(shell)
    with anyio.fail_after(20):
        while len(await proposed(completer, "cat f")) != MOST:
            await anyio.sleep(0.6)
    monkeypatch.setattr(completion, "MOST_ENTRIES", 3)
    assert len(completion._entries("")) == 3


async def test_folders_that_cannot_be_read_are_empty(shell: Shell) -> None:
    completer = ShellCompleter(shell)
    for line in ("cat /nosuch/x", "cat /etc/passwd/x", "cat ~nobody-at-all/x", "cat \udcff/x", "cat " + "x" * 5000 + "/y"):
        assert await proposed(completer, line) == []


@given(st.text(st.sampled_from("ab c'\"\\$|&;<>(){}!?*`~1\n-=%"), max_size=30))
def test_any_line_has_words(line: str) -> None:
    words, current = words_at(line)
    assert all(isinstance(word, str) for word in [*words, current])
