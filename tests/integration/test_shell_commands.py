"""The commands of llmsh over the dummy device: what they do, what they refuse, and with which status."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from llmos.sdk.agentnames import SHIPPED, names
from llmos.syscalls import param

from .shell_harness import ShellUnderTest, shell_in

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sh(tmp_path: Path) -> AsyncIterator[ShellUnderTest]:
    async with shell_in(tmp_path) as under_test:
        yield under_test


# --- the language -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commands", "status", "out"),
    [
        ("echo a  b 'c  d'", 0, "a b c  d\n"),
        ("echo -n a; echo b", 0, "ab\n"),
        ("true; echo $?; false; echo $?", 0, "0\n1\n"),
        ("false", 1, ""),
        ("true && echo yes || echo no", 0, "yes\n"),
        ("false && echo yes || echo no", 0, "no\n"),
        ("false || echo $?", 0, "1\n"),
        ("! false; echo $?; ! true", 1, "0\n"),
        ("X=5 Y='a b'; echo $X \"$Y\" ${X}0", 0, "5 a b 50\n"),
        ("echo one | cat | cat", 0, "one\n"),
        ("echo a | false | true; false | true; true | false", 1, ""),
        ("exit 3; echo never", 3, ""),
        ("false; exit", 1, ""),
        ("exit 4 | true; echo still", 0, "still\n"),
        ("echo a # b", 0, "a\n"),
        ("echo a\n\necho b &&\necho c", 0, "a\nb\nc\n"),
        ("echo no-newline-at-the-end | cat", 0, "no-newline-at-the-end\n"),
        ("", 0, ""),
    ],
)
async def test_language(sh: ShellUnderTest, commands: str, status: int, out: str) -> None:
    ran = await sh.run(commands)
    assert (ran.status, ran.out, ran.err) == (status, out, "")


async def test_redirections(sh: ShellUnderTest) -> None:
    ran = await sh.run("echo one > f; echo two >> f; cat < f; cat f f | cat > g; cat g; > empty; cat empty; ls")
    assert (ran.status, ran.out, ran.err) == (0, "one\ntwo\none\ntwo\none\ntwo\nempty\nf\ng\n", "")
    ran = await sh.run("nosuch 2> e; echo $?; cat e; nosuch > o 2>&1; cat o; echo out >&2; cat none 2>> e; cat e | cat")
    unknown = "llmsh: unknown command 'nosuch': see help; to put a question to the model: ask TEXT\n"
    missing = "llmsh: cat: none: no such file or directory [ENOENT]\n"
    assert (ran.out, ran.err) == (f"127\n{unknown}{unknown}{unknown}{missing}", "out\n")


async def test_patterns_and_directories(sh: ShellUnderTest) -> None:
    ran = await sh.run("echo x > b.md; echo x > a.md; echo *.md '*.md' *.none; cd ..; pwd; cd -; cd; ls work; cd /nowhere")
    home = sh.shell.home
    assert ran.out == f"a.md b.md *.md *.none\n{home}\na.md\nb.md\n"
    assert (ran.status, ran.err) == (1, "llmsh: cd: /nowhere: no such file or directory [ENOENT]\n")


async def test_a_long_pipe_keeps_every_character(sh: ShellUnderTest) -> None:
    text = "".join(f"line {number} naïve 日本\n" for number in range(30_000))
    Path("big").write_text(text, encoding="utf-8")
    ran = await sh.run("cat big | cat | cat > copy")
    assert ran.status == 0
    assert Path("copy").read_text(encoding="utf-8") == text


async def test_a_reader_that_ends_early_ends_the_writer(sh: ShellUnderTest) -> None:
    Path("big").write_text("x" * 2_000_000)
    ran = await sh.run("cat big | true; echo $?")
    assert (ran.out, ran.err) == ("0\n", "")


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commands", "status", "says"),
    [
        ("nosuch", 127, "unknown command 'nosuch': see help"),
        ("spwan chat", 127, "did you mean spawn?"),
        ("summarise < x", 1, "x: no such file"),
        ("summarise", 127, "there is an agent of that name: spawn summarise"),
        ("chat", 2, "to start one: spawn chat"),
        ("echo 'x", 2, "the quote ' is never closed"),
        ("echo a |", 2, "nothing follows '|'"),
        ("echo a\necho b | | c", 2, "line 2: unexpected '|'"),
        ("X=1 echo a", 2, "no effect"),
        ("echo a > ''", 2, "an empty name"),
        ("echo a > $none", 2, "got nothing"),
        ("echo a > .", 1, ".: is a directory [EISDIR]"),
        ("cat < nosuch", 1, "nosuch: no such file or directory [ENOENT]"),
        ("echo a > /dev/full", 1, "/dev/full: no space left on device [ENOSPC]"),
        ("ps now", 2, "usage: ps [--json]"),
        ("ps --jsno", 2, "unknown option --jsno: the options are --json"),
        ("kill", 2, "usage: kill"),
        ("kill -FOO 1", 2, "there is no signal 'FOO'"),
        ("kill -9", 2, "whom?"),
        ("kill x", 2, "'x' is no pid"),
        ("kill 0", 2, "'0' is no pid"),
        ("kill -- -1", 2, "'-1' is no pid"),
        (f"kill {'9' * 400}", 2, "is no pid"),
        ("kill ٣", 2, "is no pid"),
        ("kill 999", 1, "[ESRCH]"),
        ("kill %3", 1, "no job %3: see jobs"),
        *((f"kill {signal} 2", 1, "pid 2 is this shell itself: exit leaves it [EPERM]") for signal in ("", "-STOP", "-9", "-INT", "-CONT")),
        ("nice 5", 2, "usage: nice"),
        ("spawn --nice 20 chat hi", 2, "20 is no nice value"),
        ("nice 20 1", 2, "20 is no nice value"),
        ("nice -21 1", 2, "is no nice value"),
        ("nice nan 1", 2, "is no nice value"),
        ("nice 5 999", 1, "[ESRCH]"),
        ("explain", 2, "usage: explain"),
        ("explain 999", 1, "[ESRCH]"),
        ("explain 1 2", 2, "it takes one pid, or %N"),
        ("explain %3", 1, "no job %3: see jobs"),
        ("fork %3", 1, "no job %3: see jobs"),
        ("sleep 1 & explain %1", 1, "job %1 has 0 processes; it takes one"),
        ("fork 999", 1, "[ESRCH]"),
        ("fork", 2, "usage: fork"),
        ("wait 999", 127, "[ECHILD]"),
        ("wait %9", 127, "no job %9"),
        ("fg", 1, "there is no job"),
        ("fg %2", 1, "no job %2"),
        ("spawn", 2, f"which agent? There are {', '.join(names([SHIPPED]))}\n"),
        ("spawn nosuch", 127, "there is no agent 'nosuch'"),
        ("spawn --class best chat a", 2, "there is no class 'best': the classes are interactive"),
        ("spawn --tokens many chat a", 2, "'many' is no number for --tokens"),
        ("spawn --seconds nan chat a", 2, "'nan' is no number of seconds"),
        ("spawn --seconds inf chat a", 2, "'inf' is no number of seconds"),
        ("spawn --model", 2, "--model needs a value"),
        ("spawn --frobnicate chat", 2, "unknown option --frobnicate"),
        ("ask", 2, "ask what?"),
        ("ask ''", 2, "ask what?"),
        ("ask --model '' hi", 2, "--model needs a value"),
        ("ask --model= hi", 2, "--model needs a value"),
        ("sleep", 2, "usage: sleep"),
        ("sleep -1", 2, "usage: sleep"),
        ("sleep nan", 2, "usage: sleep"),
        ("exit 256", 2, "256 is no status"),
        ("exit -1", 2, "is no status"),
        ("exit a b", 2, "usage: exit"),
        ("cd a b", 2, "usage: cd"),
        ("help nosuch", 1, "no command 'nosuch'"),
        ("help spwan", 1, "did you mean spawn?"),
        ("history x", 2, "is no number of lines"),
    ],
)
async def test_errors_say_what_to_do(sh: ShellUnderTest, commands: str, status: int, says: str) -> None:
    ran = await sh.run(commands)
    assert says in ran.err
    assert ran.err.startswith("llmsh: ")
    assert "Traceback" not in ran.err
    assert (ran.status, ran.out) == (status, "")


async def test_every_command_has_a_page_with_an_example(sh: ShellUnderTest) -> None:
    for name, builtin in sh.shell.builtins.items():
        ran = await sh.run(f"{name} --help")
        assert ran.status == 0
        assert f"usage: {name}" in ran.out
        assert any(f"  {example}" in ran.out for example in builtin.examples)
        assert (await sh.run(f"help {name}")).out == ran.out


# --- agents -----------------------------------------------------------------------------------------------------------


async def test_an_agent_reads_a_file_and_writes_another(sh: ShellUnderTest) -> None:
    Path("README.md").write_text("Some text. " * 20)
    ran = await sh.run("spawn summarise < README.md > summary.txt; echo $?")
    assert (ran.status, ran.out, ran.err) == (0, "0\n", "")
    assert Path("summary.txt").stat().st_size > 1


async def test_what_it_is_told_is_what_it_reads(sh: ShellUnderTest) -> None:
    """The dummy's reply depends on every token before it, so the same input gives the same output."""
    ran = await sh.run("echo -n 'one two' | spawn summarise > a; spawn summarise one two > b; spawn summarise other > c")
    assert ran.status == 0
    assert Path("a").read_bytes() == Path("b").read_bytes() != Path("c").read_bytes()
    ran = await sh.run("echo -n text > t; spawn summarise told < t > d; spawn summarise 'told\n\ntext' > e")
    assert Path("d").read_bytes() == Path("e").read_bytes()


async def test_agents_in_a_pipe(sh: ShellUnderTest) -> None:
    ran = await sh.run("echo hello | spawn summarise | spawn summarise | cat > out; echo $?")
    assert (ran.out, ran.err) == ("0\n", "")
    assert Path("out").stat().st_size > 0


async def test_agents_of_this_directory_and_of_home_come_first(sh: ShellUnderTest) -> None:
    for folder, name in ((Path("agents"), "mine"), (sh.shell.home / "agents", "his")):
        folder.mkdir()
        (folder / f"{name}.toml").write_text('prompt = "Say: {input}"\n[sampling]\nmax_tokens = 4\n')
    ran = await sh.run("spawn mine x > a && spawn his x > b; spawn nosuch")
    assert ran.status == 127
    assert f"there are {', '.join(sorted([*names([SHIPPED]), 'his', 'mine']))} " in ran.err
    assert Path("a").read_bytes() == Path("b").read_bytes()


async def test_an_agent_file_with_a_mistake_names_line_and_key(sh: ShellUnderTest) -> None:
    Path("agents").mkdir()
    Path("agents/bad.toml").write_text('description = "x"\nsystme = "typo"\n')
    ran = await sh.run("spawn bad x")
    assert ran.status == 126
    assert "line 2" in ran.err
    assert "did you mean 'system'?" in ran.err


async def test_input_that_is_no_text_stops_the_agent(sh: ShellUnderTest) -> None:
    Path("bad").write_bytes(b"ok\xff")
    ran = await sh.run("spawn summarise < bad > out; echo $?; ps")
    assert "bad: not UTF-8 text: byte 0xff at offset 2 [EILSEQ]" in ran.err
    assert ran.out.startswith("1\n")
    assert "summarise" not in ran.out


async def test_a_prompt_longer_than_the_window_states_both_numbers(sh: ShellUnderTest) -> None:
    Path("long").write_text("x" * 9000)
    ran = await sh.run("spawn summarise < long")
    assert ran.status == 1
    assert "[E2BIG]" in ran.err
    assert "8192" in ran.err
    assert "Traceback" not in ran.err


async def test_limits_end_a_process(sh: ShellUnderTest) -> None:
    ran = await sh.run("spawn --tokens 100 summarise 'a text that has a number of words'")
    assert ran.status != 0
    assert "[EDQUOT]" in ran.err


async def test_ask_is_one_question(sh: ShellUnderTest) -> None:
    Path("letter").write_text("Dear all,\nhello.\n")
    ran = await sh.run("ask What is this? > a; ask 'Who wrote it?' < letter > b; cat letter | ask > c; ls")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == "a\nb\nc\nletter\n"
    assert Path("b").read_bytes() != Path("c").read_bytes()


async def test_ps_and_explain_tell_of_processes(sh: ShellUnderTest) -> None:
    ran = await sh.run("ps --json; spawn summarise hello > out; explain --json 3; explain 3")
    processes, explanation, *table = ran.out.splitlines()
    assert [(each["pid"], each["name"], each["parent"]) for each in json.loads(processes)] == [(1, "init", 0), (2, "host", 1)]
    told = json.loads(explanation)
    assert told["name"] == "summarise"
    assert sum(told["seconds"].values()) == pytest.approx(told["wall"], abs=1e-6)
    assert table[0].startswith("pid 3 summarise: ")


async def test_help_lists_every_command(sh: ShellUnderTest) -> None:
    ran = await sh.run("help")
    assert all(f"\n  {name} " in f"\n{ran.out}" for name in sh.shell.builtins)


# --- jobs -------------------------------------------------------------------------------------------------------------


async def test_background_jobs_are_waited_for_and_have_a_status(sh: ShellUnderTest) -> None:
    ran = await sh.run("spawn summarise hello > out & echo $!; jobs --json; wait $!; echo $?; spawn nosuch & wait %2; echo $?")
    pid, listed, first, second = ran.out.splitlines()
    (job,) = json.loads(listed)
    assert (job["job"], job["pids"], job["command"]) == (1, [int(pid)], "spawn summarise hello > out")
    assert (first, second) == ("0", "127")
    assert Path("out").stat().st_size > 0


async def test_a_script_ends_when_its_jobs_have(sh: ShellUnderTest) -> None:
    ran = await sh.run("spawn summarise hello > out &")
    assert ran.status == 0
    assert Path("out").stat().st_size > 0
    ran = await sh.run("spawn summarise hello > out2 & exit 5")
    assert ran.status == 5
    assert Path("out2").stat().st_size > 0


async def test_a_job_stands_for_its_process(sh: ShellUnderTest) -> None:
    ran = await sh.run("sleep 9 | spawn chat & sleep 0.3; explain %1; fork %1; kill -9 %1 %2; wait")
    explained, *_, forked = ran.out.splitlines()
    assert explained.startswith("pid 3 chat: ")
    assert forked == "4"
    ran = await sh.run("sleep 9 | spawn chat | spawn chat & sleep 0.3; fork %3; echo $?; kill -9 %3; wait")
    assert ran.out == "1\n"
    assert "llmsh: fork: job %3 has 2 processes: 5, 6; it takes one\n" in ran.err


@pytest.mark.parametrize(
    ("job", "signal", "status"),
    [
        ("sleep 60", "TERM", 143),
        ("sleep 60", "INT", 130),
        ("sleep 60 | spawn chat", "TERM", 143),
        ("sleep 60 | spawn chat || sleep 60", "KILL", 137),
        ("sleep 60 | !cat", "KILL", 137),
        ("!sleep 60 && echo more", "TERM", 143),
    ],
)
async def test_kill_ends_what_runs_in_the_shell_itself(sh: ShellUnderTest, job: str, signal: str, status: int) -> None:
    with anyio.fail_after(30):
        ran = await sh.run(f"{job} & sleep 0.3; kill -{signal} %1; wait %1; echo $?; jobs")
    assert ran.out.splitlines()[0] == str(status)
    assert "Running" not in ran.out


async def test_lists_in_the_background(sh: ShellUnderTest) -> None:
    ran = await sh.run("false || echo a > f && echo b >> f & wait; cat f")
    assert ran.out == "a\nb\n"


async def test_signals(sh: ShellUnderTest) -> None:
    ran = await sh.run("spawn chat < /dev/null & spawn chat | cat & kill -l")
    assert [line.split()[1] for line in ran.out.splitlines()] == ["INT", "KILL", "TERM", "CONT", "STOP"]


@pytest.mark.parametrize(("signal", "status"), [("-TERM", 143), ("-9", 137), ("-SIGKILL", 137), ("-s TERM", 143), ("", 143)])
async def test_kill_ends_a_job_with_the_status_of_the_signal(
    sh: ShellUnderTest, signal: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(param, "MAX_TEXT", 1 << 40)  # it reads on until it is killed
    ran = await sh.run(f"cat /dev/zero | spawn summarise > out & sleep 0.2; kill {signal} $!; wait $!; echo $?")
    assert ran.out == f"{status}\n"


async def test_stop_shows_and_cont_goes_on(sh: ShellUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(param, "MAX_TEXT", 1 << 40)
    ran = await sh.run(
        "cat /dev/zero | spawn summarise > out & sleep 0.1; kill -STOP %1; jobs; nice -5 $!; ps; kill -CONT %1; jobs; kill -KILL %1"
    )
    lines = ran.out.splitlines()
    assert lines[1].split()[1] == "Stopped"
    (process,) = [line.split() for line in lines if line.endswith("summarise")]
    assert process[2] == "stopped"
    assert process[4] == "-5"
    assert lines[-1].split()[1] == "Running"


async def test_stop_of_a_job_holds_what_its_processes_have_started(sh: ShellUnderTest) -> None:
    Path("agents").mkdir()
    Path("agents/long.toml").write_text('input = "all"\nprompt = "{input}"\n[sampling]\nmax_tokens = 3000\n')
    Path("lines").write_text("a\nb\nc\n")
    shown = "kill -STOP %1; ps --json > held; kill -CONT %1; ps --json > going; kill %1"
    await sh.run(f"map --at-once 2 long < lines > out & sleep 0.3; {shown}")
    for file, stopped in (("held", True), ("going", False)):
        processes = json.loads(Path(file).read_text())
        (map_,) = [each["pid"] for each in processes if each["name"] == "map"]
        states = [each["state"] == "stopped" for each in processes if map_ in (each["pid"], each["parent"])]
        assert len(states) > 1
        assert all(state is stopped for state in states)


async def test_fork_copies_a_running_agent(sh: ShellUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(param, "MAX_TEXT", 1 << 40)
    Path("agents").mkdir()
    Path("agents/long.toml").write_text('input = "line"\nprompt = "{input}"\n[sampling]\nmax_tokens = 3\n')
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sh.run, "cat /dev/zero | spawn long > out &")
        await anyio.sleep(0)
        while sh.shell.last_pid is None:
            await anyio.sleep(0.01)
        system = await sh.shell.system()
        job = await sh.shell.adopt(lambda: system.fork(sh.shell.last_pid or 0), "fork")
        names = [each.name for each in await system.ps()]
        assert names.count("long") == 2
        for each in sh.shell.jobs.running:
            await each.interrupt()
            await each.interrupt()
            await each.interrupt()
        await job.done.wait()
