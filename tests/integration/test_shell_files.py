"""The file commands of llmsh over the dummy device."""

import json
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import llmos
from llmos.shell.builtins import grep
from llmos.shell.where import where, where_to

from .shell_harness import ShellUnderTest, shell_in

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sh(tmp_path: Path) -> AsyncIterator[ShellUnderTest]:
    async with shell_in(tmp_path) as under_test:
        yield under_test


def test_what_a_word_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    variables = {"HOME": "/home/alice"}
    for word, path, plain in (
        ("/home/x", "/home/x", False),
        ("/home", "/home", False),
        ("/", "/", False),
        ("//", "//", False),
        ("/tmp/../home/x", "/tmp/../home/x", False),
        ("/proc/7/status", "/proc/7/status", False),
        ("/home/alice", "host:/home/alice", True),
        ("/home/alice/x", "host:/home/alice/x", True),
        ("/home/alicex", "/home/alicex", False),
        ("/etc/fstab", "host:/etc/fstab", True),
        ("/homes", "host:/homes", True),
        ("x", f"host:{tmp_path}/x", True),
        ("../x", f"host:{tmp_path.parent}/x", True),
        ("host:x", f"host:{tmp_path}/x", False),
        ("host:/tmp/x", "host:/tmp/x", False),
        ("host:", f"host:{tmp_path}", False),
    ):
        found = where(word, variables)
        assert (found.path, found.plain) == (path, plain), word


async def test_files_go_in_and_out(sh: ShellUnderTest) -> None:
    ran = await sh.run(
        "echo one > f; cp f /home; echo two >> f; cp f /home/f; cat /home/f; versions /home/f | grep -c 4; restore /home/f 1; cat /home/f;"
        "mkdir /home/d; mv /home/f /home/d; ls /home; ls /home/d; cp /home/d/f host:back; cat back host:back; rm -r /home/d; ls /home; ls"
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == "one\ntwo\n1\none\nd/\nf\none\none\nback\nf\n"


async def test_pipes_end_in_files(sh: ShellUnderTest) -> None:
    ran = await sh.run("echo a | tee /home/t host:u | cat; echo b | tee -a /home/t; cat /home/t u; tee /home/none < /dev/null; ls -l /home")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("a\nb\na\nb\na\n")
    rows = [line.split() for line in ran.out.splitlines()[5:]]
    assert [(row[0], row[1], row[4]) for row in rows] == [("file", "0", "none"), ("file", "4", "t")]


async def test_trees(sh: ShellUnderTest) -> None:
    Path("t/inner").mkdir(parents=True)
    Path("t/a").write_text("a\n")
    Path("t/inner/b").write_text("b\n")
    Path("t/link").symlink_to("a")
    ran = await sh.run(
        "cp -r t /home/t; cp -r /home/t /tmp; cat /tmp/t/inner/b; cp t /home/u; cp -r /home/t /home/t/inner/x;"
        " mv /home/t /tmp/v; rm /home/t"
    )
    assert ran.out == "b\n"
    assert [line.partition(": ")[2] for line in ran.err.splitlines()] == [
        "cp: t is a folder: cp -r copies it with what is in it",
        "cp: /home/t cannot be copied into itself",
        "mv: /home/t: a folder cannot be moved to another mount: copy it and remove the original [ENOTSUP]",
        "rm: /home/t: the folder is not empty: remove its tree, or what is in it first [EINVAL]",
    ]
    assert sorted(path.name for path in (sh.shell.home / "files/root/now/t").iterdir()) == ["a", "inner", "link"]


@pytest.mark.parametrize(
    ("commands", "status", "says"),
    [
        ("cat /home/none", 1, "/home/none: there is no such file"),
        ("ls /home/none /home", 1, "/home/none: there is no such file [ENOENT]\n"),
        ("cat /proc/self/environ", 1, "there is no process self"),
        ("cat host:/dev/zero", 1, "it is a device"),
        ("echo x | tee /proc/x", 1, "it is read-only"),
        ("cp f", 2, "from where, and to where?"),
        ("cp f g /home/none", 1, "/home/none is no folder, and there is more than one file"),
        ("rm", 2, "remove what?"),
        ("rm -x f", 2, "unknown option -x"),
        ("rm ''", 2, "an empty name is no file"),
        ("rm /home", 1, "a mount cannot be removed"),
        ("rm /home/none", 1, "[ENOENT]"),
        ("rm -f /home/none", 0, ""),
        ("mkdir /home/a/b", 1, "no such folder on the way"),
        ("mkdir -p /home/a/b; mkdir /home/a", 1, "it is there already"),
        ("restore /home/none", 1, "none is kept"),
        ("restore /home/none 0", 2, "'0' is no version"),
        ("versions host:f", 1, "versions are kept of files in /home only"),
        ("grep", 2, "look for what?"),
        ("grep '(' f", 2, "'(' is no regular expression"),
        ("grep x none", 2, "none: no such file"),
    ],
)
async def test_errors_say_what_is_wrong(sh: ShellUnderTest, commands: str, status: int, says: str) -> None:
    ran = await sh.run(commands)
    assert ran.status == status
    assert says in ran.err


async def test_redirections_and_patterns_reach_files_of_the_system(sh: ShellUnderTest) -> None:
    Path("b.md").write_text("of the machine\n")
    ran = await sh.run(
        "echo one > /home/a.md; echo two >> /home/a.md; cat < /home/a.md; mkdir /home/d; echo 3 > /home/d/c.md; echo > /home/.hidden;"
        " echo *.md /home/*.md '/home/*.md' /home/*/c.md /home/[d]/ /home/*/none /home/x* host:*.md;"
        " cat none > /home/err 2>&1; cat /home/err; versions --json /home/a.md;"
        " echo new > /home/a.md; cat /home/*.md; set -f; echo /home/*.md"
    )
    lines = ran.out.splitlines()
    assert lines[:2] == ["one", "two"]
    assert lines[2] == f"b.md /home/a.md /home/*.md /home/d/c.md /home/d/ /home/*/none /home/x* host:{Path.cwd()}/b.md"
    assert lines[3].startswith("llmsh: cat: none: no such file")
    assert [json.loads(lines[4]), *lines[5:]] == [json.loads(lines[4]), "new", "/home/*.md"]
    assert (ran.status, ran.err) == (0, "")


async def test_a_program_of_the_host_writes_to_a_file_of_the_system(sh: ShellUnderTest) -> None:
    ran = await sh.run("!printf 'b\\na\\n' > /home/f; !sort < /home/f | tee /home/g; !seq 100000 > /home/n; grep -c . /home/n")
    assert (ran.status, ran.out, ran.err) == (0, "a\nb\n100000\n", "")


@pytest.mark.parametrize(
    ("commands", "says"),
    [
        ("echo x > /proc/x", "/proc/x: it is read-only"),
        ("echo x > /home", "it is a folder"),
        ("cat < /home", "/home: it is a folder"),
        ("cat < /home/none", "/home/none: there is no such file"),
        ("echo x > /home/none/a", "no such folder on the way"),
    ],
)
async def test_a_redirection_that_cannot_be_runs_nothing(sh: ShellUnderTest, commands: str, says: str) -> None:
    ran = await sh.run(commands)
    assert (ran.status, ran.out) == (1, "")
    assert says in ran.err


async def test_output_that_the_system_does_not_take_is_a_failure(sh: ShellUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = await sh.run("echo before > /home/f")
    system = await sh.shell.system()

    async def full(path: str, data: str | bytes) -> None:
        raise llmos.QuotaExceeded("the quota of /home is used up")

    monkeypatch.setattr(system.files, "append", full)
    ran = await sh.run("echo x > /home/f && echo went on")
    assert (ran.status, ran.out) == (1, "")
    assert "the quota of /home is used up" in ran.err


async def test_a_file_of_the_machine_is_pointed_to(sh: ShellUnderTest) -> None:
    sh.shell.variables["HOME"] = "/nowhere"
    path = sh.shell.home / "there"
    path.write_text("x")
    if not str(path).startswith("/tmp/"):
        pytest.skip("the folder for tests is not where a mount is")
    ran = await sh.run(f"cat {path}")
    assert ran.err.endswith(f"there is no such file, or no such folder on the way [ENOENT]; the machine has one: host:{path}\n")


async def test_json(sh: ShellUnderTest) -> None:
    ran = await sh.run("echo x | tee /home/f; ls --json /home; versions --json /home/f")
    _, listed, kept = ran.out.splitlines()
    (row,) = json.loads(listed)
    assert (row["folder"], row["name"], row["kind"], row["size"]) == ("/home", "f", "file", 2)
    assert json.loads(kept) == []


@pytest.mark.parametrize(
    ("options", "status", "out"),
    [
        ("b f", 0, "abc\nb\n"),
        ("-n b f", 0, "1:abc\n3:b\n"),
        ("-c b f", 0, "2\n"),
        ("-v b f", 0, "B\n\nlast\n"),
        ("-i ^b$ f", 0, "B\nb\n"),
        ("-in ^B$ f g", 0, "f:2:B\nf:3:b\n"),
        ("-l b f g", 0, "f\n"),
        ("-c b f g", 0, "f:2\ng:0\n"),
        ("none f", 1, ""),
        ("^$ f", 0, "\n"),
        ("last$ f", 0, "last\n"),
        ("b < f", 0, "abc\nb\n"),
        ("-r b", 0, "d/h:b in h\nf:abc\nf:b\n"),
        ("-rn b d", 0, "d/h:1:b in h\n"),
        ("-- -x f", 1, ""),
        ("ünï /home/f", 0, "naïve ünï\n"),
        ("-r ünï /home", 0, "/home/f:naïve ünï\n"),
    ],
)
async def test_grep(sh: ShellUnderTest, options: str, status: int, out: str) -> None:
    Path("f").write_text("abc\nB\nb\n\nlast")
    Path("g").write_text("g\n")
    Path("d").mkdir()
    Path("d/h").write_text("b in h\n")
    await sh.run("echo naïve ünï | tee /home/f")
    ran = await sh.run(f"grep {options}")
    assert (ran.status, ran.out, ran.err) == (status, out, "")


async def test_grep_goes_through_much(sh: ShellUnderTest) -> None:
    Path("big").write_text("".join(f"line {number}\n" for number in range(100_000)))
    ran = await sh.run("cp big /home; grep -n 'line 9999.$' /home/big; cat big | grep -c line; grep -vc 'line' big")
    assert ran.out == "".join(f"{number + 1}:line {number}\n" for number in range(99_990, 100_000)) + "100000\n0\n"


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*)*b", r"(?:(?:(?:a?){50}){50}){50}b"])
async def test_a_hostile_pattern_ends_in_an_error_and_the_shell_goes_on(
    sh: ShellUnderTest, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grep, "SECONDS", 0.5)
    Path("f").write_text("a" * 5_000 + "!\n")
    begun = time.monotonic()
    ran = await sh.run(f"grep '{pattern}' f; echo after")
    assert ran.out == "after\n"
    assert "make it simpler" in ran.err
    assert time.monotonic() - begun < 10


async def test_grep_refuses_what_is_no_text_and_goes_on(sh: ShellUnderTest) -> None:
    Path("bad").write_bytes(b"x\xff\n")
    Path("long").write_text("x" * (grep.MOST_LINE + grep.BATCH + 1))
    Path("good").write_text("x\n")
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    ran = await sh.run("grep x bad long good")
    assert (ran.status, ran.out) == (2, "good:x\n")
    assert "bad: not UTF-8 text: byte 0xff at offset 1" in ran.err
    assert f"a line has more than {grep.MOST_LINE} characters" in ran.err
    ran = await sh.run("grep -r nothing .")
    assert "pipe" not in ran.err
    assert "socket" not in ran.err


@pytest.mark.parametrize(
    ("word", "path", "plain"),
    [
        ("/tmp/x", "host:/tmp/x", True),
        ("//tmp/../tmp/x", "host:/tmp/x", True),
        ("/tmpx", "host:/tmpx", True),
        ("/home/x", "/home/x", False),
        ("host:/tmp/x", "host:/tmp/x", False),
    ],
)
def test_what_a_word_means_behind_a_redirection(word: str, path: str, plain: bool) -> None:
    found = where_to(word, {"HOME": "/root"})
    assert (found.path, found.plain) == (path, plain)
