"""The language of llmsh: what sh does with the same lines, and what llmsh adds to it."""

import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from llmos.shell import interpreter
from llmos.shell.builtins import language
from llmos.shell.lines import FileLines

from .shell_harness import ShellUnderTest, shell_in

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sh(tmp_path: Path) -> AsyncIterator[ShellUnderTest]:
    async with shell_in(tmp_path) as under_test:
        yield under_test


# --- what sh does -----------------------------------------------------------------------------------------------------

LINES = (
    r"""echo a  b   'c  d' "e  f" g\ h \\ \' '"' "'" """,
    r"""echo "a\q \$x \" \\ \`" '\q' """,
    "X='a  b'; echo $X \"$X\" '$X' ${X}c x$X'y'",
    'X=; echo [$X] "[$X]" ${X:-d} ${X-d} ${X:+s} ${X+s} [${Y+s}] ${Y-d}',
    'echo ${Y:-a b} "${Y:-a  b}" ${Y:-"a  b"} ${Y:-\'a  b\'} ${Y:-$HOME}',
    "X=5; echo ${X:=6} ${Z:=7} $Z ${#X} ${#Q} ${#HOME}",
    "echo ${Y:-${Z:-deep}} ${Y:-a\\}b} \"${Y:-'q'}\" ${Y:-}",
    'X=$(echo a; echo b); echo "$X"; echo $X; echo "$(echo "in \'$(echo deep)\'")"',
    "echo $(echo 'a  b') \"$(echo 'a  b')\" x$(echo y)z $() $(true)",
    "X=1; echo $(X=2; echo $X) $X; echo $(cd /; pwd); cd /tmp; echo $(cd /)$PWD",
    "echo $(false); X=$(false); echo $?; X=$(true) || echo no; X=$(exit 3); echo $?",
    "false && echo a || echo b; true || echo c; true && false || echo d; ! true && echo e; ! false && echo f",
    "false; echo $?; true; echo $?; ! false; echo $?; false || true; echo $?; false | true; echo $?",
    "echo a | cat; echo b | cat | cat; true | echo c; echo d && echo e | cat",
    "echo *.md '*.md' \\*.md *.m? [ab].md [!a].md *.none \".\"/*.md; X='*.md'; echo $X \"$X\"",
    "set -f; echo *.md; set +f; echo *.md",
    'set -- one \'two  three\' \'\'; echo $# $1 "$2" [$3]; echo "$*"; for_=x; echo $*; shift; echo $# "$1"',
    'set -- \'a b\' c; echo "$@" $@; set --; echo "$@" x; echo $#',
    "set -e; false || true; ! true; false && true; echo here; false; echo never",
    "set -e; true && false; echo never",
    "set -u; X=; echo [$X] ${Q:-d}; echo $Q; echo never",
    "echo ~ ~/x a~ '~' \\~; X=~; echo $X",
    "echo a > f; echo b >> f; cat < f; cat f f > g; cat g; echo c > f; cat f",
    "echo a # b; echo 'a # b' a#b; # nothing",
    "echo a\\\nb; echo 'a\nb'; echo \"a\\\nb\"",
    "echo a; exit 3; echo b",
    "true && exit 4 || echo no",
    "echo 'a\"b' \"a'b\" \"a\\\"b\" a\\\"b 'a'\\''b'",
    "X='$(echo no)'; echo $X \"$X\"; echo '$(echo no)' \\$(true",
    "unset HOME X; echo [$HOME] ${X-unset}",
    "X=a; X=b; echo $X; X=a Y=$X; echo $Y",
    "echo ${Q?gone}; echo never",
    "echo {a,b} a=b =c -- -e; echo 5$ $ '$' a$",
    "echo \"\" '' x | cat",
    "echo hi >&2; echo out",
)


@pytest.mark.parametrize("line", LINES)
async def test_it_does_what_sh_does(sh: ShellUnderTest, line: str) -> None:
    for name in ("a.md", "b.md", "c.mx"):
        Path(name).write_text("x\n")
    home = sh.shell.variables["HOME"]
    sh.shell.variables["PWD"] = os.getcwd()
    mine = await sh.run(line)
    for name in ("f", "g"):
        Path(name).unlink(missing_ok=True)
    os.chdir(sh.shell.home / "work")
    told = subprocess.run(
        ["/bin/sh", "-c", line], env={"HOME": home, "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )
    assert mine.out == told.stdout
    assert (mine.status == 0) == (told.returncode == 0)
    if "?gone" not in line and "-u" not in line:  # sh says 2 there, llmsh keeps 2 for wrong usage
        assert mine.status == told.returncode


# --- what it says of what is wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commands", "status", "says"),
    [
        ("echo $(echo", 2, "the parenthesis of $( is never closed"),
        ("echo $(echo |)", 2, "in $( ): nothing follows '|'"),
        ("echo $(sleep 1 &)", 2, "'&' has no place in $( )"),
        ("echo ${X", 2, "the brace { is never closed"),
        ("echo ${X%y}", 2, "in braces there may be"),
        ("echo ${X:?no x here}; echo never", 1, "X: no x here"),
        ("set -u; echo $X; echo never", 1, "X: not set"),
        ("set -q", 2, "there is no setting 'q'"),
        ("set -o vi", 2, "there is no setting 'vi': there are -e errexit"),
        ("unset 5x", 2, "'5x' is no name"),
        ("export a-b=1", 2, "'a-b' is no name"),
        ("shift", 1, "there are only 0 arguments"),
        ("shift x", 2, "is no number of arguments"),
        ("alias 'a b=c'", 2, "can be no alias"),
        ('alias x="echo \'a"', 2, "its text is no part of a command"),
        ("alias nosuch", 1, "there is no alias 'nosuch'"),
        ("unalias nosuch", 1, "there is no alias 'nosuch'"),
        ("unalias", 2, "which alias?"),
        (". nosuch", 127, "nosuch: no such file or directory [ENOENT]"),
        (".", 2, "it takes one file"),
        ("!nosuch-program", 127, "the host has no program of that name"),
        ("!/etc/passwd", 126, "the host does not let you run it"),
        ("bg", 1, "there is no job"),
        ("chat 2", 1, "it takes a person at a terminal"),
        ("top", 1, "top -n 1 prints one"),
        ("top -n 0", 2, "is no number of pictures"),
        ("top -d 0 -n 1", 2, "is no number of seconds"),
        ("top -d nan -n 1", 2, "is no number of seconds"),
        ("tree x", 2, "it takes no words"),
        ("man nosuch", 1, "man alone lists them"),
        ("man spwan", 1, "did you mean spawn?"),
        ("man 2 top", 1, "no page 'top'"),
        ("man a b", 2, "it takes one command"),
        ("history -c 5", 2, "it takes one number of lines, or -c"),
        ("?", 2, "a command for what?"),
    ],
)
async def test_errors_say_what_to_do(sh: ShellUnderTest, commands: str, status: int, says: str) -> None:
    ran = await sh.run(commands)
    assert says in ran.err
    assert ran.err.startswith("llmsh: ")
    assert "Traceback" not in ran.err
    assert (ran.status, ran.out) == (status, "")


async def test_a_substitution_is_bounded(sh: ShellUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "MOST_CHARACTERS", 100)
    Path("fits").write_text("x" * 100)
    Path("not").write_text("x" * 101)
    ran = await sh.run("X=$(cat fits); echo ${#X}; X=$(cat not); echo ${#X}")
    assert ran.out == "100\n0\n"
    assert "gave more than 100 characters" in ran.err


# --- aliases, settings, files of lines --------------------------------------------------------------------------------


async def source(sh: ShellUnderTest, text: str) -> tuple[int, str, str]:
    """Run a text line by line, as `.` and llmshrc are."""
    Path("lines").write_text(text)
    ran = await sh.run(". ./lines")
    return ran.status, ran.out, ran.err


async def test_aliases_count_from_the_next_line(sh: ShellUnderTest) -> None:
    text = (
        "alias say='echo said' loop=loop twice='echo a; echo' echo='echo -n' also='say '\n"
        "say x; echo\nloop\n'say' x\n\\say y\ntwice b\nalso say\nX=5 \nfalse || say z | say w\nunalias -a\necho plain\n"
    )
    told = await source(sh, text)
    ran = subprocess.run(["/bin/sh", "./lines"], capture_output=True, text=True, check=False)
    assert told[1] == ran.stdout
    assert "'loop'" in told[2]
    assert told[2].count("unknown command 'say'") == 2
    assert (await sh.run("alias k='kill -9' b=c; alias; alias k; alias --json")).out == (
        "alias b=c\nalias k='kill -9'\nalias k='kill -9'\n" + json.dumps({"b": "c", "k": "kill -9"}) + "\n"
    )


async def test_aliases_that_feed_each_other_are_bounded(sh: ShellUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = "".join(f"alias a{n}='a{n + 1} a{n + 1} '\n" for n in range(40))
    status, _, error = await source(sh, f"{bomb}a0\necho fine\n")
    assert status == 0
    assert "unalias some" in error
    monkeypatch.setattr(language, "MOST_ALIASES", 40)
    assert "there are 40 aliases already" in (await sh.run("alias one=more")).err
    assert (await sh.run("alias a1=b")).status == 0


async def test_a_file_of_lines_goes_on_after_an_error_and_names_the_line(sh: ShellUnderTest) -> None:
    status, out, error = await source(sh, "echo one\n\necho | | x\nnosuch\necho 'two\nlines'\nX=set\n")
    assert (status, out) == (0, "one\ntwo\nlines\n")
    assert "./lines: line 3: unexpected '|'" in error
    assert "unknown command 'nosuch'" in error
    assert (await sh.run("echo $X")).out == "set\n"
    assert (await source(sh, "echo a\nexit 3\necho b\n"))[:2] == (3, "a\n")
    assert "line 1: the quote ' is never closed" in (await source(sh, "echo 'a\n\n"))[2]
    assert "more than 20 deep" in (await source(sh, ". ./lines\n"))[2]


async def test_lines_of_a_text() -> None:
    lines = FileLines("a\r\nb\n")
    assert [await lines.line("") for _ in range(4)] == ["a", "b", "", None]


async def test_settings_and_variables_are_listed(sh: ShellUnderTest) -> None:
    ran = await sh.run("X='a b'; set; set -eu; set -o; set +eu; set +o; export Y=1 X; export; export --json; set --json")
    assert "X='a b'\n" in ran.out
    assert "errexit  on\nnoglob   off\nnounset  on\nxtrace   off\n" in ran.out
    assert "set +o errexit\n" in ran.out
    assert "export X='a b'\nexport Y=1\n" in ran.out
    *_, exported, variables = ran.out.splitlines()
    assert json.loads(exported).items() >= {"X": "a b", "Y": "1"}.items()
    assert json.loads(variables)["X"] == "a b"


async def test_xtrace_shows_what_runs(sh: ShellUnderTest) -> None:
    ran = await sh.run("set -x; X=5; echo $X $(echo y) | cat")
    assert sorted(ran.err.splitlines()) == ["+ X=5", "+ cat", "+ echo 5 y", "+ echo y"]


# --- programs of the host ---------------------------------------------------------------------------------------------


async def test_programs_of_the_host_take_their_place(sh: ShellUnderTest) -> None:
    sh.shell.variables["PATH"] = os.environ["PATH"]
    sh.shell.exported.add("PATH")
    ran = await sh.run(
        "echo 'b\na' | !sort | cat; !sort < /dev/null; echo q | !tr q Q > f; cat f; !sh -c 'exit 7'; echo $?; !true && echo yes; "
        "X=5 !sh -c 'echo $X'"
    )
    assert (ran.out, ran.err) == ("a\nb\nQ\n7\nyes\n5\n", "")
    ran = await sh.run("!sh -c 'kill -9 $$'; echo $?; !sh -c 'echo bad >&2' 2> e; cat e; export Y=6; Z=7; !sh -c 'echo $Y$Z'")
    assert ran.out == "137\nbad\n6\n"
    assert (await sh.run("!yes | !head -1; echo $?")).out == "y\n0\n"


async def test_bytes_pass_between_files_and_not_through_a_pipe(sh: ShellUnderTest) -> None:
    sh.shell.variables["PATH"] = os.environ["PATH"]
    sh.shell.exported.add("PATH")
    Path("bytes").write_bytes(bytes(range(256)) * 300)
    assert (await sh.run("!cat < bytes > copy")).status == 0
    assert Path("copy").read_bytes() == Path("bytes").read_bytes()
    ran = await sh.run("!cat bytes | cat > other; echo a | !cat bytes > third; echo $?")
    assert "not UTF-8 text" in ran.err
    assert ran.out == "0\n"


async def test_what_ends_a_job_ends_its_programs(sh: ShellUnderTest) -> None:
    sh.shell.variables["PATH"] = os.environ["PATH"]
    sh.shell.exported.add("PATH")
    ran = await sh.run("!sh -c 'echo $$ > pid; sleep 1000 & wait' & sleep 0.3; jobs --json; kill -KILL %1; wait %1; echo $?")
    listed, status = ran.out.splitlines()
    assert json.loads(listed)[0]["state"] == "Running"
    assert status == "137"
    with anyio.fail_after(5):
        while True:
            try:
                os.killpg(int(Path("pid").read_text()), 0)
            except ProcessLookupError:
                break
            await anyio.sleep(0.01)


# --- listings ---------------------------------------------------------------------------------------------------------


async def test_every_listing_has_json(sh: ShellUnderTest) -> None:
    for command in ("ps", "tree", "top", "jobs", "explain 1", "models", "history", "alias", "set", "export", "man", "man 2 kill"):
        name, *rest = command.split()
        ran = await sh.run(" ".join([name, "--json", *rest]))
        assert (ran.status, ran.err) == (0, ""), command
        assert isinstance(json.loads(ran.out), list | dict)


async def test_tree_and_top_show_a_process(sh: ShellUnderTest) -> None:
    ran = await sh.run("sleep 2 | spawn --name busy summarise > out & sleep 0.3; tree; top -n 2 -d 0.1; kill -KILL %1")
    assert "└─ busy" in ran.out
    assert sum(line.endswith(" busy") for line in ran.out.splitlines()) == 2
    assert "TOK/S" in ran.out


async def test_man_has_commands_and_calls(sh: ShellUnderTest) -> None:
    ran = await sh.run("man kill; man 2 kill; man 1 kill; man generate; man")
    assert ran.out.count("see also: man 2 kill") == 2
    assert 'kill(pid, signal="TERM", tree=false) -> Done' in ran.out
    assert "  generate" in ran.out
    assert "temperature: number, 0 to 10; default 0" in ran.out


async def test_what_a_model_proposes_is_a_command_or_refused_and_never_run_in_a_script(sh: ShellUnderTest) -> None:
    Path("x").touch()  # ? is the command, not this file
    ran = await sh.run("? list the processes")
    assert ran.err.startswith("llmsh: ?: the model wrote ") or ran.out.split()[0] in sh.shell.builtins
    assert len(ran.out.splitlines()) <= 1
