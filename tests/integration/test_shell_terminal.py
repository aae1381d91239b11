"""llmsh at a terminal: a person types, interrupts, edits, looks, and the terminal is as it was afterwards."""

import io
import itertools
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

ROOT = Path(__file__).parents[2]
SLOW = str(Path(__file__).with_name("slow_llmsh.py"))
PROMPT = r"llmsh:[^\r\n$]*\$(?: |\x1b\[\d+D)"  # prompt_toolkit moves the cursor over the blank
CTRL_C, CTRL_D, CTRL_Z, TAB = "\x03", "\x04", "\x1a", "\t"
SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>()][0-9A-Z]?|\r")


class Terminal:
    """A person's view of llmsh."""

    def __init__(self, home: Path, *arguments: str, step: float = 0.01, load: float = 0.0, term: str = "xterm", **more: str) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES", "LLMOS_MODEL")}
        environment = kept | {
            "PYTHONPATH": str(ROOT / "src"),
            "LLMOS_HOME": str(home),
            "HOME": str(home),
            "TERM": term,
            "PROMPT_TOOLKIT_NO_CPR": "1",  # this end does not answer where its cursor is
        }
        self.lines = 0
        self.status = 0
        """Of the last command."""
        self.child = pexpect.spawn(
            sys.executable,
            [SLOW, str(step), str(load), *arguments],
            cwd=str(home),
            env=environment | more,
            encoding="utf-8",
            timeout=60,
            dimensions=(30, 120),
        )
        self.log = io.StringIO()
        self.child.logfile_read = self.log

    def wait_for(self, pattern: str) -> str:
        """What came before the pattern, without control sequences."""
        self.child.expect(pattern)
        return SEQUENCES.sub("", self.child.before or "")

    def prompt(self) -> str:
        """Until the shell asks for a line."""
        return self.wait_for(PROMPT)

    def type(self, text: str) -> None:
        self.child.send(text)

    def line(self, text: str) -> str:
        """Run a command and give back what is seen until its end. Notes may come above the prompt at any time, so the end is marked."""
        self.lines += 1
        joined = text if text.endswith("&") else f"{text};"
        self.child.send(f"{joined} echo mark{self.lines}.$?\r")
        seen = self.wait_for(rf"mark{self.lines}\.(\d+)")
        self.status = int(self.child.match.group(1))
        self.prompt()
        return seen

    def ask(self, text: str) -> str:
        """Put a question whose answer is short."""
        self.child.send(text + "\r")
        seen = self.wait_for(r"\n")
        return seen + self.wait_for(r"short\.") + self.prompt()

    def end(self) -> int | None:
        """The exit status."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    under_test = Terminal(tmp_path)
    under_test.prompt()
    yield under_test
    under_test.child.kill(signal.SIGKILL)
    under_test.child.wait()
    under_test.child.close()


def test_a_conversation(terminal: Terminal, tmp_path: Path) -> None:
    terminal.ask("Please answer short")
    terminal.ask("What's this? Something short")  # an open quote is no matter in a question
    (chat,) = [line.split() for line in terminal.line("ps").splitlines() if line.rstrip().endswith("chat")]
    assert chat[3] == "interactive"
    assert int(chat[5].replace(",", "")) > 60  # both questions are in its context
    # Ctrl-C ends a reply, not the shell and not the conversation.
    terminal.type("Tell me a long story\r")
    terminal.wait_for("w3 ")
    terminal.type(CTRL_C)
    terminal.prompt()
    assert "was 130" in terminal.line("echo was $?")
    terminal.ask("Again, short")
    assert len(re.findall(r"\bchat\b", terminal.line("ps"))) == 1
    # A conversation that was killed is followed by a new one.
    terminal.line(f"kill -KILL {chat[0]}")
    terminal.ask("Hello, short")
    terminal.line(f"wait {chat[0]}")
    assert terminal.status == 137
    terminal.type(CTRL_D)
    assert terminal.end() == 0
    assert (tmp_path / "history").stat().st_mode & 0o777 == 0o600
    assert "Tell me a long story" in (tmp_path / "history").read_text()


def test_jobs_and_notes(terminal: Terminal) -> None:
    terminal.type("ask something long &\r")
    terminal.wait_for(r"\[1\] \d+")
    terminal.type("echo one > f &\r")
    terminal.wait_for(r"\[2\]\+ Done +echo one > f")
    assert "Running" in terminal.line("jobs")
    terminal.type("fg\r")
    terminal.wait_for("w9 ")
    terminal.type(CTRL_C)
    terminal.wait_for(r"\[1\]\+ Interrupted +ask something long")
    # An exit that would end jobs is asked for twice.
    terminal.line("ask something long > g &")
    terminal.type("exit\r")
    terminal.wait_for("1 job still running")
    terminal.prompt()
    terminal.type("exit 4\r")
    assert terminal.end() == 4


def test_ctrl_d_with_jobs_warns_once(terminal: Terminal) -> None:
    terminal.line("ask something long > g &")
    terminal.type(CTRL_D)
    terminal.wait_for("1 job still running")
    terminal.prompt()
    terminal.type(CTRL_D)
    assert terminal.end() == 1


def test_interrupts_find_their_job(terminal: Terminal) -> None:
    for command, sign in (("sleep 100", ""), ("ask a | cat", "w5 "), ("spawn summarise a > f; echo never", ""), ("cat", "")):
        terminal.type(command + "\r")
        terminal.wait_for(r"\n")
        if sign:
            terminal.wait_for(sign)
        time.sleep(0.5)  # it must be under way: what is pressed before belongs to the line
        terminal.type(CTRL_C)
        assert "never" not in terminal.prompt()
        assert "was 130" in terminal.line("echo was $?")
    # A line that is thrown away is not run.
    terminal.type("echo never" + CTRL_C)
    terminal.prompt()
    terminal.type("echo 'open\r")
    terminal.wait_for("1m>")
    terminal.type(CTRL_C)
    terminal.prompt()
    assert "fine" in terminal.line("echo fine")
    terminal.type("exit 0\r")
    assert terminal.end() == 0


def test_typed_input_reaches_an_agent_until_ctrl_d(terminal: Terminal) -> None:
    terminal.type("spawn summarise\r")
    terminal.wait_for("reads what you type: Ctrl-D ends its input")
    terminal.type("this is short\r")
    terminal.type(CTRL_D)
    terminal.wait_for(r"short\.")
    terminal.prompt()
    assert "was 0" in terminal.line("echo was $?")


def test_a_fork_of_the_conversation_waits_until_it_is_in_front(terminal: Terminal) -> None:
    terminal.ask("Remember this, short")
    (chat,) = [line.split()[0] for line in terminal.line("ps").splitlines() if line.rstrip().endswith("chat")]
    assert "[1] runs behind the prompt: fg %1" in terminal.line(f"fork {chat}")
    assert "Running" in terminal.line("sleep 0.3; jobs")  # it is idle, as the original is, and not over
    states = [line.split() for line in terminal.line("ps").splitlines() if line.rstrip().endswith("chat")]
    assert [state[2] for state in states] == ["blocked:pipe"] * 2
    assert states[0][6] == states[1][6] != "0"  # the same pages
    terminal.type("fg\r")
    terminal.wait_for("fork [0-9]+")
    terminal.type("Answer me short\r")
    terminal.wait_for(r"short\.")
    terminal.type(CTRL_D)
    terminal.wait_for(r"\[1\]. Done +fork")
    terminal.ask("And you, short")  # the original knows nothing of it
    terminal.type(CTRL_D)
    assert terminal.end() == 0


def test_nothing_is_asked_of_the_keyboard_for_an_agent_that_is_not_there(terminal: Terminal) -> None:
    seen = terminal.line("spawn sumarise")
    assert "did you mean 'summarise'?" in seen
    assert "reads what you type" not in seen


def test_misspelt_commands_are_not_sent_to_the_model(terminal: Terminal) -> None:
    for line, says in (("kil 7", "did you mean kill"), ("quit", "did you mean exit"), ("echo a | | b", "in quotes if it is text")):
        terminal.type(line + "\r")
        terminal.wait_for(says)
        terminal.prompt()
    assert "was 2" in terminal.line("echo was $?")


def test_completion_and_history(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "notes with blanks.txt").write_text("some text that is short")
    terminal.type("sp" + TAB)
    terminal.wait_for("awn")
    terminal.type("su" + TAB)
    terminal.wait_for("mmarise")
    terminal.type("< not" + TAB)
    terminal.wait_for("blanks.txt'")
    terminal.type("\r")
    terminal.wait_for(r"short\.")
    terminal.prompt()
    terminal.type("\x1b[A")  # the line before
    terminal.wait_for("summarise")
    terminal.type(CTRL_C)
    terminal.prompt()
    assert "spawn summarise < 'notes with blanks.txt'" in terminal.line("history")


def test_the_prompt_is_there_while_the_model_loads(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, load=5.0)
    terminal.prompt()
    terminal.wait_for("loading smollm2: ")
    assert "fine" in terminal.line("echo fine")
    # Ctrl-C while it loads gives the prompt back at once; then the question is put again.
    terminal.type("Something short\r")
    terminal.wait_for(r"\x1b\[Kloading smollm2: ")
    terminal.type(CTRL_C)
    assert "was 130" in terminal.line("echo was $?")
    terminal.ask("Something short")
    terminal.line("true")
    terminal.type(CTRL_D)
    assert terminal.end() == 0


def test_ctrl_z_stops_what_is_in_front(terminal: Terminal) -> None:
    terminal.type("Tell me a long story; echo never\r")
    terminal.wait_for("w5 ")
    terminal.type(CTRL_Z)
    terminal.wait_for(r"\r\n\[1\]\+ Stopped +Tell me")
    terminal.prompt()
    assert "was 148" in terminal.line("echo was $?")
    terminal.type("Another question\r")
    terminal.wait_for("fg %1 brings it back")
    terminal.prompt()
    before = terminal.line("jobs; ps")
    assert "Stopped" in before
    assert "stopped" in before
    terminal.type("fg\r")
    terminal.wait_for(r"w\d+ w\d+ ")
    terminal.type(CTRL_Z)
    terminal.wait_for(r"\[1\]\+ Stopped")
    terminal.prompt()
    terminal.line("kill %1")
    terminal.wait_for(r"\[1\]\+ Terminated")
    terminal.type("sleep 0.5 && echo went on\r")
    time.sleep(0.2)
    terminal.type(CTRL_Z)
    terminal.wait_for(r"\[1\]\+ Stopped +sleep")
    terminal.prompt()
    terminal.line("sleep 0.6; jobs")  # its time is over, and it holds still all the same
    assert "\nwent on" not in terminal.log.getvalue()
    terminal.type("bg\r")
    terminal.wait_for(r"\[1\]\+ sleep 0.5 && echo went on &\r")
    terminal.wait_for("went on\r")
    terminal.type(CTRL_Z + "echo nothing to stop\r")
    terminal.wait_for("nothing to stop\r")


def test_a_program_of_the_host_has_the_terminal(terminal: Terminal) -> None:
    terminal.type("!sh -c 'echo tty; read x; echo got $x; sleep 100'\r")
    terminal.wait_for("tty\r")
    terminal.type("keys\r")
    terminal.wait_for("got keys\r")
    terminal.type(CTRL_Z)
    terminal.wait_for(r"\[1\]\+ Stopped +!sh")
    terminal.prompt()
    assert "fine" in terminal.line("echo fine")
    terminal.type("fg\r")
    terminal.wait_for("!sh")
    time.sleep(0.3)
    terminal.type(CTRL_C)
    terminal.prompt()
    assert "was 130" in terminal.line("echo was $?")
    assert "5" in terminal.line("!sh -c 'echo 12345 | wc -l; exit 5'; echo $?")
    assert "short." in terminal.line("!echo this is short | spawn summarise")


def test_chat_with_a_process_leaves_it_running(terminal: Terminal) -> None:
    terminal.line("spawn chat &")
    (pid,) = re.findall(r"\[1\] (\d+)", terminal.log.getvalue())[:1]
    for _ in range(2):
        terminal.type(f"chat {pid}\r")
        terminal.wait_for("you talk to")
        terminal.type("Answer me short\r")
        terminal.wait_for(r"\nshort\.")
        terminal.type("A long one\r")
        terminal.wait_for("w3 ")
        terminal.type(CTRL_C)
        terminal.type("and short\r")
        terminal.wait_for(r"short\.")
        terminal.type(CTRL_D)
        terminal.prompt()
        assert "was 0" in terminal.line("echo was $?")
    assert "Running" in terminal.line("jobs")
    terminal.ask("You, short")
    (mine,) = {line.split()[0] for line in terminal.line("ps").splitlines() if line.rstrip().endswith("chat")} - {pid}
    assert "the conversation behind the prompt" in terminal.line(f"chat {mine}")
    assert "was not started by this shell" in terminal.line("chat 1")
    assert "no process 99" in terminal.line("chat 99")
    terminal.line("spawn summarise < /dev/zero > /dev/null &")
    terminal.type("fg %1\r")
    terminal.type(CTRL_D)
    terminal.wait_for(r"\[1\]. Done +spawn chat")


def test_top_fills_the_screen_and_gives_it_back(terminal: Terminal) -> None:
    terminal.line("ask something long > f &")
    terminal.type("top -d 0.2\r")
    terminal.wait_for("TOK/S")
    terminal.wait_for("q leave")
    sizes = itertools.cycle([(12, 90), (10, 80)])
    for keys, shown in (
        ("n5\r", r"nice value of \d+ is 5"),
        ("knonsense\r", "there is no signal 'nonsense'"),
        ("n99\r", "99 is no nice value"),
        ("?", "turn the order round"),
        ("q", "TOK/S"),  # back to the table
        ("k9\r", r"sent KILL to \d+"),
    ):
        terminal.type(keys)
        time.sleep(0.5)
        terminal.child.setwinsize(*next(sizes))  # all of the screen is drawn again, not what has changed
        terminal.wait_for(shown)
    terminal.type("q")
    terminal.wait_for(r"\[1\]. Killed")  # it waited until the screen was the shell's again
    terminal.child.setwinsize(30, 120)
    assert "fine" in terminal.line("echo fine")
    terminal.type("top\r")
    terminal.wait_for("TOK/S")
    terminal.type(CTRL_C)
    assert "fine" in terminal.line("echo fine")


def test_a_proposed_command_runs_only_after_yes(terminal: Terminal, tmp_path: Path) -> None:
    for answer, runs in (("\r", False), ("n\r", False), (CTRL_D, False), (CTRL_C, False), ("y\r", True)):
        terminal.type("? what's there, list\r")
        terminal.wait_for("ps --json")
        terminal.wait_for("run it")
        terminal.type(answer)
        assert ('"name": "init"' in terminal.prompt()) == runs, answer
    terminal.type("? list\r")
    terminal.wait_for("run it")
    terminal.type("e\r")
    terminal.wait_for("ps --json")
    terminal.type(" > out; echo done\r")
    terminal.wait_for("done\r")
    assert "init" in (tmp_path / "out").read_text()
    terminal.type("? babble\r")
    terminal.wait_for("which is no command: the quote ' is never closed")
    assert "\n+y\n" not in (tmp_path / "history").read_text()


def test_the_lines_of_llmshrc_come_first(tmp_path: Path) -> None:
    (tmp_path / "llmshrc").write_text("alias say='echo said'\necho | |\nX='from rc'\n")
    terminal = Terminal(tmp_path)
    terminal.wait_for("llmshrc: line 2: unexpected")
    terminal.prompt()
    assert "said from rc" in terminal.line('say "$X"')
    terminal.child.close(force=True)
    terminal = Terminal(tmp_path, "--norc")
    terminal.prompt()
    assert "said" not in terminal.line("alias; echo [$X]")
    terminal.type("history -c\r")
    terminal.prompt()
    assert "norc" not in terminal.line("history")
    assert "alias" not in (tmp_path / "history").read_text()
    terminal.child.close(force=True)
    (tmp_path / "llmshrc").write_text("exit 7\n")
    assert Terminal(tmp_path).end() == 7


def test_an_llmshrc_that_others_may_change_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "llmshrc").write_text("alias say='echo said'\n")
    (tmp_path / "llmshrc").chmod(0o666)
    terminal = Terminal(tmp_path)
    terminal.wait_for("is not run, since others may change it")
    terminal.prompt()
    assert "said" not in terminal.line("alias")


def test_a_dumb_terminal(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, term="dumb", load=0.5)
    terminal.prompt()
    terminal.ask("Something short")
    assert "host" in terminal.line("ps")
    terminal.type("Something long\r")
    terminal.wait_for("w3 ")
    terminal.type(CTRL_C)
    terminal.prompt()
    terminal.type("half a line")
    time.sleep(0.5)
    terminal.type(CTRL_C)
    terminal.prompt()
    assert "was 130" in terminal.line("echo was $?")
    assert "top -n 1 prints one" in terminal.line("top")
    terminal.type("? list\r")
    terminal.wait_for("run it")
    terminal.type("\r")
    terminal.prompt()
    terminal.line("sleep 0 &")
    terminal.line("sleep 0.5")
    terminal.line("true")
    assert "[1]+ Done        sleep 0" in terminal.log.getvalue()
    terminal.type("exit 0\r")
    assert terminal.end() == 0
    assert "\x1b" not in terminal.log.getvalue()


def test_no_color(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, NO_COLOR="1", term="xterm-256color")
    terminal.prompt()
    terminal.type("ask something long & ps\r")
    terminal.wait_for("interactive")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal.child.before or "")
    terminal.child.close(force=True)


def test_words_of_a_model_cannot_change_the_terminal(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "evil").write_text("a\x1b[31mred\x07\x9bb\n")
    assert "a^[[31mred^G?b" in terminal.line("cat evil")


def test_the_terminal_is_as_it_was(tmp_path: Path) -> None:
    env = os.environ | {"PS1": "sh> ", "ENV": ""}
    shell = pexpect.spawn("/bin/sh", cwd=str(tmp_path), encoding="utf-8", timeout=60, dimensions=(30, 200), env=env)
    shell.sendline(f"stty -a > before; LLMOS_HOME={tmp_path} PYTHONPATH={ROOT / 'src'} {sys.executable} {SLOW} 0.01 0")
    shell.expect(PROMPT)
    shell.send("Something long\r")
    shell.expect("w3 ")
    shell.send(CTRL_C)
    shell.expect(PROMPT)
    shell.send(CTRL_D)
    shell.expect("sh> ")
    shell.sendline("stty -a > after; cmp before after && echo same; exit")
    shell.expect("same")
    shell.expect(pexpect.EOF)
    shell.close()
