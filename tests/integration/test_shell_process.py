"""llmsh and llmos as programs: arguments, pipes, scripts, signals and exit statuses, without a terminal."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import config_json, random_weights, write_gguf

import llmos
from llmos.drivers.config import config_from_hf

ROOT = Path(__file__).parents[2]
DUMMY = [sys.executable, "-m", "llmos.shell.main", "--device", "dummy"]
SLOW = [sys.executable, str(Path(__file__).with_name("slow_llmsh.py"))]


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LLMOS_MODEL", "LLMOS_DEVICE")}
    return kept | {"PYTHONPATH": str(ROOT / "src"), "LLMOS_HOME": str(home), "TERM": "xterm"} | more


def run(home: Path, command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, cwd=home, env=environment(home), capture_output=True, text=True, timeout=60, **options
    )


def llmsh(home: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return run(home, [*DUMMY, *arguments], input=text)


def started(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """A slow llmsh whose first word of output has come."""
    process = subprocess.Popen(
        [*SLOW, "0.01", "0", *arguments], cwd=home, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.read(3) == "w0 "
    return process


def test_commands_on_the_command_line(tmp_path: Path) -> None:
    ran = llmsh(tmp_path, "-c", "echo $1-$2-$0-$#; ask hello > /dev/null; echo $?; exit 3", "a b", "c")
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "a b-c-llmsh-2\n0\n", "")


def test_a_script_file_with_arguments(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("\ufeff# a comment\r\necho $0 $1 &&\r\necho $2\nspawn summarise < script > out\n")
    ran = llmsh(tmp_path, "script", "one", "two")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "script one\ntwo\n", "")
    assert (tmp_path / "out").stat().st_size > 0


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (None, 127, "llmsh: script: no such file or directory [ENOENT]"),
        (b"echo \xff\n", 126, "llmsh: script: not UTF-8 text: byte 0xff at offset 5 [EILSEQ]"),
        (b"echo a\necho 'b\n", 2, "llmsh: script: line 2: the quote ' is never closed"),
    ],
)
def test_scripts_that_cannot_run(tmp_path: Path, data: bytes | None, status: int, says: str) -> None:
    if data is not None:
        (tmp_path / "script").write_bytes(data)
    ran = llmsh(tmp_path, "script")
    assert (ran.returncode, ran.stdout) == (status, "")
    assert says in ran.stderr


def test_commands_from_a_pipe(tmp_path: Path) -> None:
    """A line that is no command is an error here: a person may talk to the model, a script may not by mistake."""
    ran = llmsh(tmp_path, text="echo a\nWhat is this?\necho $? 'over two\nlines'\nspawn summarise\necho $?\necho last | |\necho $?")
    assert ran.stdout.startswith("a\n127 over two\nlines\n")
    assert ran.stdout.endswith("2\n")
    assert ran.stderr.splitlines() == [
        "llmsh: unknown command 'What': see help; to put a question to the model: ask TEXT",
        "summarise (pid 3): the agent summarise has nothing to read: its input is empty [EINVAL]",
        "llmsh: unexpected '|': put it in quotes if it is text",
    ]
    assert ran.returncode == 0
    assert llmsh(tmp_path, text="echo 'never closed").returncode == 2
    assert llmsh(tmp_path, text="exit 9\necho never").returncode == 9


def test_input_is_handed_on_to_the_command(tmp_path: Path) -> None:
    one = llmsh(tmp_path, "-c", "spawn summarise | cat", text="some text")
    two = llmsh(tmp_path, "-c", "spawn summarise 'some text'")
    assert one.stdout == two.stdout != ""
    assert llmsh(tmp_path, "-c", "cat", text="a\nb").stdout == "a\nb"


def test_started_with_its_streams_closed(tmp_path: Path) -> None:
    command = " ".join([*DUMMY, "-c", "'cat; echo hi'"])
    assert run(tmp_path, ["/bin/sh", "-c", f"{command} <&-"]).stdout == "hi\n"
    ran = run(tmp_path, ["/bin/sh", "-c", " ".join([*DUMMY, "-c", "ps", ">&-"])])
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "Traceback" not in ran.stderr


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    command = " ".join([*DUMMY, "-c", "'cat /dev/zero; echo $? >&2'"])
    ran = run(tmp_path, ["/bin/sh", "-c", f"{command} | head -c 1 > /dev/null"])
    assert ran.stderr == "141\n"
    llmos_command = f"{sys.executable} -m llmos"
    ran = run(tmp_path, ["/bin/sh", "-c", f"{{ sleep 1; {llmos_command} models --json; echo $? >&2; }} | true"])
    assert ran.stderr == "141\n"


def test_no_colour_without_a_terminal(tmp_path: Path) -> None:
    ran = llmsh(tmp_path, "-c", "ps; explain 1; jobs; models; help")
    assert "\x1b" not in ran.stdout + ran.stderr


def test_interrupt_ends_the_reply_and_the_script(tmp_path: Path) -> None:
    process = started(tmp_path, "-c", "ask something long; echo never")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out.endswith("\n")
    assert "never" not in out
    assert len(out) < 400
    assert err == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_takes_everything_along(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path, "-c", "ask something long & ask something else | cat")
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err == ""


def test_interrupt_while_nothing_runs_in_front(tmp_path: Path) -> None:
    """At the end of a script its jobs are waited for: Ctrl-C ends that."""
    process = started(tmp_path, "-c", "spawn chat hello | cat & echo -n 'w0 '; echo")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_demo_is_one_question_and_the_processes(tmp_path: Path) -> None:
    ran = llmsh(tmp_path, "--demo")
    assert ran.returncode == 0
    assert "$ ask What is the capital of France?\n" in ran.stdout
    assert "host" in ran.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--demo", "-c", "ps"], 2, "--demo runs no other commands"),
        (["--device", "tpu"], 2, "invalid choice"),
        (["--model", "", "-c", "ps"], 2, "[EINVAL]"),
        (["-c"], 2, "expected one argument"),
        (["-c", "echo \udcff"], 2, "[EILSEQ]"),
        (["--frobnicate"], 2, "unrecognized arguments"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: list[str], status: int, says: str) -> None:
    ran = llmsh(tmp_path, *arguments)
    assert (ran.returncode, ran.stdout) == (status, "")
    assert says in ran.stderr


def test_a_model_that_is_not_here(tmp_path: Path) -> None:
    ran = run(tmp_path, [sys.executable, "-m", "llmos.shell.main", "--model", "smolm2", "-c", "ps"])
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "did you mean smollm2?" in ran.stderr
    assert "llmos pull" in ran.stderr
    assert "[ENOENT]" in ran.stderr


def test_the_llmos_command(tmp_path: Path) -> None:
    def llmos_command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run(tmp_path, [sys.executable, "-m", "llmos", *arguments])

    assert llmos_command("--version").stdout == f"llmos {llmos.__version__}\n"
    assert llmos_command("models").stderr == "llmos: models: there are none yet: llmos pull smollm2\n"
    assert json.loads(llmos_command("models", "--json").stdout) == []
    for arguments, says in (
        (("rm", "nosuch"), "[ENOENT]"),
        (("pull", "smolm2"), "did you mean smollm2?"),
        (("pull", "./none.gguf"), "none.gguf"),
    ):
        ran = llmos_command(*arguments)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr.startswith(f"llmos: {arguments[0]}: ")
        assert says in ran.stderr
    assert llmos_command("rm", "none", "neither").stderr.count("[ENOENT]") == 2
    assert llmos_command().returncode == 2
    assert llmos_command("sh", "--device", "dummy", "-c", "echo $0").stdout == "llmsh\n"
    timed = llmos_command("boot", "--timing", "--device", "dummy")
    assert [line.rsplit(maxsplit=2)[0].strip() for line in timed.stdout.splitlines()][-3:] == ["first token", "shutdown", "in all"]


def test_quantizing_on_the_command_line(tmp_path: Path) -> None:
    def llmos_command(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        ran = run(tmp_path, [sys.executable, "-m", "llmos", *arguments])
        assert ran.returncode == status, ran.stderr
        return ran

    config = config_from_hf(config_json())
    write_gguf(tmp_path / "tiny.gguf", random_weights(config), config)
    llmos_command("pull", "./tiny.gguf")
    for _ in range(2):
        made = llmos_command("quantize", "tiny")
        assert (made.stdout, made.stderr) == ("tiny:local-int8 is here; llmsh --model tiny:local-int8 runs it\n", "")
    facts = [(row["tag"], row["weights"], row["default"]) for row in json.loads(llmos_command("models", "--json").stdout)]
    assert facts == [("local", "", False), ("local-int8", "int8", False)]
    assert [line.split()[1] for line in llmos_command("models").stdout.splitlines()] == ["TAG", "local", "local-int8"]
    assert "int8 already" in llmos_command("quantize", "tiny:local-int8", "--to", "int8", status=2).stderr
    assert "[ENOENT]" in llmos_command("quantize", "nobody", status=1).stderr
    assert "invalid choice: 'int3'" in llmos_command("quantize", "tiny", "--to", "int3", status=2).stderr
    assert llmos_command("rm", "tiny").stdout == "tiny:local is removed\n"
    assert llmos_command("rm", "tiny").stdout == "tiny:local-int8 is removed\n"
    assert llmos_command("models", "--json").stdout == "[]\n"


@pytest.mark.parametrize("module", ["llmos", "llmos.shell.main"])
def test_help_loads_nothing_heavy(module: str) -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']\nimport runpy\ntry: runpy.run_module("
        f"{module!r}, run_name='__main__')\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'anyio', 'asyncio', 'numpy', 'rich', 'prompt_toolkit'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    ran = subprocess.run([sys.executable, "-c", code], env=environment(ROOT), capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("heavy: []\n")
    assert "examples:" in ran.stdout


def test_text_that_is_no_command_ends_nothing_but_itself(tmp_path: Path) -> None:
    ran = llmsh(tmp_path, text="a" * 3_000_000 + "\ncat 'a\0b'\necho alive\n")
    assert (ran.returncode, ran.stdout) == (0, "alive\n")
    assert "more than 1000000 characters" in ran.stderr
    assert "NUL" in ran.stderr


def test_a_script_without_an_end_is_not_read_to_it(tmp_path: Path) -> None:
    ran = llmsh(tmp_path, "/dev/zero")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "more than 1000000 characters" in ran.stderr


@pytest.mark.parametrize("command", ["cat < pipe", "cat pipe", "echo x > pipe"])
def test_interrupt_ends_the_wait_for_the_other_end_of_a_named_pipe(tmp_path: Path, command: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    process = subprocess.Popen(
        [*DUMMY, "-c", f"echo here; {command}"], cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    process.stdout.close()


def test_what_a_pull_complains_of_cannot_change_the_terminal(tmp_path: Path) -> None:
    ran = run(tmp_path, [sys.executable, "-m", "llmos.shell.command", "pull", "./no\x1b[2Jsuch"])
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "\x1b" not in ran.stderr
    assert "no^[[2Jsuch does not exist" in ran.stderr


def test_errors_of_the_home_are_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    ran = run(tmp_path, [sys.executable, "-m", "llmos.shell.command", "pull", str(tmp_path / "models")])
    assert ran.returncode in (1, 2)
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_quote_over_many_lines_takes_no_time(tmp_path: Path, quote: str) -> None:
    text = ("x" * 40 + "\n") * 20_000
    ran = llmsh(tmp_path, text=f"echo {quote}{text}{quote}\necho {quote}a\\{quote}\n")
    assert ran.returncode == (0 if quote == "'" else 2)
    assert ran.stdout.startswith(f"{text}\n")
