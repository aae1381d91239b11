"""Files under attack: names that lead elsewhere, things that are no files, links that appear meanwhile, a disk that fails, a crash."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llmos
from llmos.kernel.errno import Fault, InvalidArgument, NoSpace, NotFound, NotPermitted, NotSupported, QuotaExceeded, TooLong
from llmos.syscalls import file, param
from llmos.syscalls.disk import beneath
from llmos.syscalls.disk.disk import Disk, folder_name
from llmos.syscalls.place import place_of

from .hand import Hand

SECRET = b"nobody may read this"


@pytest.fixture
def hand(tmp_path: Path) -> Iterator[Hand]:
    hand = Hand()
    hand.core.disk.close()
    hand.core.disk = Disk(tmp_path / "llmos", 1 << 20)
    (tmp_path / "secret").write_bytes(SECRET)
    write(hand, "/home/here", b"here")
    yield hand
    hand.check()
    hand.core.disk.close()


@pytest.fixture
def now(tmp_path: Path, hand: Hand) -> Path:
    """Where the files of /home lie."""
    return tmp_path / "llmos/files/root/now"


def write(hand: Hand, path: str, data: bytes = b"x", **more: Any) -> Any:
    return hand.call(hand.host, "file_write", path=path, data=data, **more)


def read(hand: Hand, path: str, who: Any = None) -> bytes:
    data: bytes = hand.call(who or hand.host, "file_read", path=path).data
    return data


def names(hand: Hand, path: str, who: Any = None) -> list[str]:
    return [each.name for each in hand.call(who or hand.host, "file_list", path=path, limit=param.MAX_ENTRIES).entries]


# --- names


@pytest.mark.parametrize(
    ("path", "spelled"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/home/", "/home"),
        ("/home//a/./b/", "/home/a/b"),
        ("/home/a/../b", "/home/b"),
        ("/home/../tmp/x", "/tmp/x"),
        ("/home/...", "/home/..."),
        ("/home/ ", "/home/ "),
        ("/home/~", "/home/~"),
        ("/home/%2e%2e/x", "/home/%2e%2e/x"),
        ("/home/a\\..\\b", "/home/a\\..\\b"),
        ("host:/a/../etc//hosts", "host:/etc/hosts"),
    ],
)
def test_a_path_has_one_spelling(path: str, spelled: str) -> None:
    assert str(place_of(path)) == spelled
    assert str(place_of(spelled)) == spelled


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", InvalidArgument),
        ("home/x", InvalidArgument),
        ("..", InvalidArgument),
        ("/..", InvalidArgument),
        ("/home/../../etc/passwd", InvalidArgument),
        ("host:/../etc/passwd", InvalidArgument),
        ("host:etc/passwd", InvalidArgument),
        ("/home/a\0b", InvalidArgument),
        ("/home/a\nb", InvalidArgument),
        ("/home/\x1f1", InvalidArgument),
        ("/home/\x7f", InvalidArgument),
        ("/home/\ud800", InvalidArgument),
        ("/etc/passwd", NotFound),
        ("/HOME/x", NotFound),
        ("/proc/self/root/etc/passwd", NotFound),
        ("/proc/self/fd/0", NotFound),
        ("/proc/1/root", NotFound),
        ("/proc/01/status", NotFound),
        ("/proc/\u0661/status", NotFound),
        ("/proc/" + "9" * 200, NotFound),
        ("/models/../proc/self/environ", NotFound),
    ],
)
def test_paths_that_lead_nowhere(hand: Hand, path: str, fault: type[Fault]) -> None:
    for call, more in (("file_read", {}), ("file_stat", {}), ("file_list", {})):
        with pytest.raises(fault):
            hand.call(hand.host, call, path=path, **more)


def test_the_bounds_of_names(hand: Hand) -> None:
    for name in ("x" * param.MAX_PART, "é" * (param.MAX_PART // 2)):
        write(hand, f"/home/{name}")
        assert name in names(hand, "/home")
    for name in ("x" * (param.MAX_PART + 1), "é" * (param.MAX_PART // 2 + 1)):
        with pytest.raises(TooLong, match=f"at most {param.MAX_PART} bytes"):
            write(hand, f"/home/{name}")
    deep = "/".join("d" * (param.MAX_DEPTH - 2))
    hand.call(hand.host, "file_make", path=f"/home/{deep}", parents=True)
    write(hand, f"/home/{deep}/f")
    with pytest.raises(TooLong, match=f"at most {param.MAX_DEPTH} parts"):
        write(hand, f"/home/{deep}/f/g")
    assert len(str(place_of("/home" + ("/" + "x" * 250) * 16)).encode()) < param.MAX_FILE_PATH
    with pytest.raises(TooLong, match="at most 4096 bytes"):
        hand.call(hand.host, "file_read", path="/home" + ("/" + "é" * 127) * 17)
    hand.call(hand.host, "file_remove", path="/home/d", tree=True)


def test_a_tree_cannot_be_made_deeper_by_moving_it(hand: Hand) -> None:
    half = "/".join("d" * (param.MAX_DEPTH // 2))
    for top in ("a", "b"):
        hand.call(hand.host, "file_make", path=f"/home/{top}/{half}", parents=True)
    with pytest.raises(TooLong, match="deeper than"):
        hand.call(hand.host, "file_move", source="/home/a", target=f"/home/b/{half}/a")
    with pytest.raises(InvalidArgument, match="into itself"):
        hand.call(hand.host, "file_move", source="/home/a", target="/home/a/d/a")


def test_names_that_look_alike_are_two(hand: Hand) -> None:
    composed, decomposed = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    write(hand, f"/home/{composed}", b"one")
    write(hand, f"/home/{decomposed}", b"two")
    assert (read(hand, f"/home/{composed}"), read(hand, f"/home/{decomposed}")) == (b"one", b"two")
    write(hand, "/home/Case", b"upper")
    with pytest.raises(NotFound):
        read(hand, "/home/case")


def test_names_of_users_lead_nowhere_either() -> None:
    users = ["root", "a-b_C9", "..", ".", "/", "../root", "root/", "a/b", "=", "~", " ", "é", "ROOT", "x" * 64, "\u202e", "root\u200b"]
    folders = [folder_name(user) for user in users]
    assert len(set(folders)) == len(users)
    for folder in folders:
        assert "/" not in folder
        assert folder not in (".", "..")
        assert len(folder) <= 64


# --- what is no file


def _link(target: Path) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize("kind", ["link", "dangling", "loop", "folder link", "hard link", "fifo", "socket", "device link"])
def test_what_somebody_has_planted_is_refused(hand: Hand, now: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(now)
    (tmp_path / "outside").mkdir()
    plant: dict[str, Callable[[], None]] = {
        "link": lambda: os.symlink(tmp_path / "secret", "planted"),
        "dangling": lambda: os.symlink(tmp_path / "outside/new", "planted"),
        "loop": lambda: os.symlink("planted", "planted"),
        "folder link": lambda: os.symlink(tmp_path, "planted"),
        "hard link": lambda: os.link(tmp_path / "secret", "planted"),
        "fifo": lambda: os.mkfifo("planted"),
        "socket": lambda: _socket(Path("planted")),
        "device link": lambda: os.symlink("/dev/zero", "planted"),
    }
    plant[kind]()
    path, inner = "/home/planted", "/home/planted/secret"
    for call, arguments in (
        ("file_read", {"path": path}),
        ("file_read", {"path": inner}),
        ("file_list", {"path": path}),
        ("file_write", {"path": path, "data": b"gotcha"}),
        ("file_write", {"path": inner, "data": b"gotcha"}),
        ("file_write", {"path": path, "data": b"gotcha", "append": True}),
        ("file_write", {"path": inner, "data": b"gotcha", "append": True}),
        ("file_copy", {"source": path, "target": "/home/stolen"}),
        ("file_copy", {"source": inner, "target": "/home/stolen"}),
        ("file_copy", {"source": "/home/here", "target": path}),
        ("file_copy", {"source": "/home/here", "target": inner}),
        ("file_move", {"source": path, "target": "/home/stolen"}),
        ("file_move", {"source": inner, "target": "/home/stolen"}),
        ("file_move", {"source": "/home/here", "target": path}),
        ("file_move", {"source": "/home/here", "target": inner}),
        ("file_make", {"path": inner}),
        ("file_make", {"path": inner, "parents": True}),
        ("file_remove", {"path": inner}),
        ("file_remove", {"path": inner, "tree": True}),
    ):
        with pytest.raises((NotPermitted, InvalidArgument)):
            hand.call(hand.host, call, **arguments)
    assert hand.call(hand.host, "file_stat", path=path).kind == ("file" if kind == "hard link" else "other")
    assert names(hand, "/home") == ["here", "planted"]
    hand.call(hand.host, "file_remove", path=path, tree=True)  # takes away what was planted, and nothing that it leads to
    assert names(hand, "/home") == ["here"]
    assert (tmp_path / "secret").read_bytes() == SECRET
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_tree_with_links_is_removed_and_what_they_lead_to_is_not(hand: Hand, now: Path, tmp_path: Path) -> None:
    write_tree = ("/home/t/a", "/home/t/b")
    hand.call(hand.host, "file_make", path="/home/t")
    for path in write_tree:
        write(hand, path)
    (now / "t/link").symlink_to(tmp_path)
    os.mkfifo(now / "t/fifo")
    hand.call(hand.host, "file_remove", path="/home/t", tree=True)
    assert names(hand, "/home") == ["here"]
    assert (tmp_path / "secret").exists()


def test_names_on_the_disk_that_no_path_can_have_are_not_shown(hand: Hand, now: Path) -> None:
    for name in (b"a\nb", b"\x1f7", b"\xff"):
        Path(os.fsdecode(bytes(now) + b"/" + name)).touch()
    assert names(hand, "/home") == ["here"]


def test_nothing_that_was_planted_for_the_stores_own_folders_is_followed(tmp_path: Path) -> None:
    (tmp_path / "llmos/files").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "llmos/files/root").symlink_to(tmp_path / "outside")
    hand = Hand()
    hand.core.disk = Disk(tmp_path / "llmos", 1 << 20)
    with pytest.raises(Fault):
        write(hand, "/home/f")
    (tmp_path / "llmos/files/root").unlink()
    (tmp_path / "llmos/files/root").mkdir()
    (tmp_path / "llmos/files/root/usage").symlink_to(tmp_path / "outside/usage")
    with pytest.raises(Fault):
        write(hand, "/home/f")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_link_swapped_in_between_check_and_use(hand: Hand, now: Path, tmp_path: Path) -> None:
    """Somebody exchanges a folder and a link to another all the time: nobody reads or writes there."""
    (now / "d").mkdir()
    (now / "d/secret").write_bytes(b"harmless")
    (tmp_path / "bait").symlink_to(tmp_path)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            os.rename(now / "d", tmp_path / "aside")
            os.rename(tmp_path / "bait", now / "d")
            os.rename(now / "d", tmp_path / "bait")
            os.rename(tmp_path / "aside", now / "d")

    thread = threading.Thread(target=swap)
    thread.start()
    seen: set[bytes] = set()
    refused = 0
    try:
        for number in range(400):
            try:
                seen.add(read(hand, "/home/d/secret"))
                write(hand, f"/home/d/{number % 5}", b"written")
            except Fault:
                refused += 1
    finally:
        over.set()
        thread.join()
    assert seen <= {b"harmless"}
    assert (tmp_path / "secret").read_bytes() == SECRET
    assert not any((tmp_path / str(number)).exists() for number in range(5))


# --- files of the machine


def test_links_of_the_machine_lead_only_to_where_one_may_go(hand: Hand, tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    (room / "own").write_bytes(b"own")
    (room / "out").symlink_to(tmp_path / "secret")
    (room / "in").symlink_to(room / "own")
    (room / "up").symlink_to(tmp_path)
    child = hand.spawn(capabilities=[f"file:rw:host:{room}/*"]).pid

    def of_child(call: str, **arguments: Any) -> Any:
        return hand.call(child, call, **arguments)

    assert of_child("file_read", path=f"host:{room}/in").data == b"own"
    of_child("file_write", path=f"host:{room}/in", data=b"new")
    assert (room / "own").read_bytes() == b"new"
    assert (room / "in").is_symlink()
    for path in ("out", "up/secret", "up", "../secret", "up/room/../secret"):
        for call, more in (
            ("file_read", {"path": f"host:{room}/{path}"}),
            ("file_write", {"path": f"host:{room}/{path}", "data": b"gotcha"}),
            ("file_copy", {"source": f"host:{room}/{path}", "target": f"host:{room}/stolen"}),
            ("file_list", {"path": f"host:{room}/{path}"}),
        ):
            with pytest.raises(NotPermitted, match="file:r"):
                of_child(call, **more)
    of_child("file_move", source=f"host:{room}/out", target=f"host:{room}/moved")  # the link itself
    of_child("file_remove", path=f"host:{room}/moved")
    assert (tmp_path / "secret").read_bytes() == SECRET


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "/dev/full", "/proc/self/fd/0", "/proc/self/mem/x"])
def test_devices_of_the_machine_are_refused(hand: Hand, path: str) -> None:
    with pytest.raises((NotPermitted, InvalidArgument, NotFound)):
        read(hand, f"host:{path}")
    with pytest.raises(Fault):
        write(hand, f"host:{path}", append=True)


def test_what_the_machine_makes_as_it_is_read_comes_whole(hand: Hand) -> None:
    expected = Path("/proc/version").read_bytes()
    assert read(hand, "host:/proc/version") == expected
    hand.call(hand.host, "file_copy", source="host:/proc/version", target="/home/version")
    assert read(hand, "/home/version") == expected


def test_a_replaced_file_of_the_machine_keeps_its_mode(hand: Hand, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("old")
    script.chmod(0o750)
    write(hand, f"host:{script}", b"new")
    assert (script.read_text(), script.stat().st_mode & 0o777) == ("new", 0o750)
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".llmos")]
    with pytest.raises(NotSupported):
        hand.call(hand.host, "file_versions", path=f"host:{script}")


# --- capabilities


def test_a_right_ends_at_its_folder(hand: Hand) -> None:
    for path in ("/home/a", "/home/a/x", "/home/ab"):
        hand.call(hand.host, "file_make", path=path)
    write(hand, "/home/a/x/f", b"f")
    child = hand.spawn(capabilities=["file:rw:/home/a/*", "file:r:/home/b", "file:rw:/home/exact"]).pid

    def may(call: str, **arguments: Any) -> bool:
        try:
            hand.call(child, call, **arguments)
        except NotPermitted:
            return False
        except Fault:
            return True
        return True

    assert may("file_list", path="/home/a")
    assert may("file_stat", path="/home/a")
    assert may("file_read", path="/home/a/x/f")
    assert may("file_remove", path="/home/a/x", tree=True)
    assert may("file_read", path="/home/b")
    for call, arguments in (
        ("file_list", {"path": "/home"}),
        ("file_list", {"path": "/"}),
        ("file_list", {"path": "/home/ab"}),
        ("file_read", {"path": "/home/ab"}),
        ("file_read", {"path": "/home/a/../ab"}),
        ("file_remove", {"path": "/home/a", "tree": True}),
        ("file_write", {"path": "/home/b", "data": b""}),
        ("file_copy", {"source": "/home/a/x/f", "target": "/home/b"}),
        ("file_copy", {"source": "/home/ab", "target": "/home/a/f"}),
        ("file_move", {"source": "/home/a/x", "target": "/home/x"}),
        ("file_move", {"source": "/home/b", "target": "/home/a/b"}),
        ("file_versions", {"path": "/home/ab"}),
        ("file_restore", {"path": "/home/ab"}),
    ):
        assert not may(call, **arguments), (call, arguments)


def test_who_may_write_one_name_cannot_reach_what_is_in_a_folder_by_moving_it(hand: Hand) -> None:
    hand.call(hand.host, "file_make", path="/home/exact")
    write(hand, "/home/exact/f", SECRET)
    child = hand.spawn(capabilities=["file:rw:/home/exact", "file:rw:/home/mine/*"]).pid
    with pytest.raises(NotPermitted, match=r"file:rw:/home/exact/\*"):
        hand.call(child, "file_move", source="/home/exact", target="/home/mine/got")


def test_every_call_asks_for_the_place_in_its_one_spelling_when_it_executes(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def permit(core: Any, call: Any, wanted: str) -> None:
        asked.append(wanted)

    monkeypatch.setattr(file, "permit", permit)
    child = hand.spawn(capabilities=[]).pid
    hand.call(child, "file_make", path="/home/d")
    write(hand, "/home/f")
    write(hand, "/home/f")
    asked.clear()
    for call, arguments, wanted in (
        ("file_read", {"path": "/home/./f"}, ["file:r:/home/f"]),
        ("file_write", {"path": "/home//f", "data": b""}, ["file:rw:/home/f"]),
        ("file_stat", {"path": "/tmp/../home/f"}, ["file:r:/home/f"]),
        ("file_list", {"path": "/home/"}, ["file:r:/home/*"]),
        ("file_list", {"path": "/"}, ["file:r:/*"]),
        ("file_list", {"path": "/proc"}, ["file:r:/proc/*"]),
        ("file_copy", {"source": "/home/f", "target": "/home/d/../g"}, ["file:r:/home/f", "file:rw:/home/g"]),
        ("file_move", {"source": "/home/g", "target": "/home/h"}, ["file:rw:/home/g", "file:rw:/home/h"]),
        (
            "file_move",
            {"source": "/home/d", "target": "/home/e"},
            ["file:rw:/home/d", "file:rw:/home/e", "file:rw:/home/d/*", "file:rw:/home/e/*"],
        ),
        ("file_remove", {"path": "/home/h"}, ["file:rw:/home/h"]),
        ("file_remove", {"path": "/home/e", "tree": True}, ["file:rw:/home/e", "file:rw:/home/e/*"]),
        ("file_make", {"path": "/home/e"}, ["file:rw:/home/e"]),
        ("file_versions", {"path": "/home/f"}, ["file:r:/home/f"]),
        ("file_restore", {"path": "/home/f"}, ["file:rw:/home/f"]),
        ("file_read", {"path": "host:/proc/self/../version"}, ["file:r:host:/proc/version"]),
    ):
        hand.call(child, call, **arguments)
        assert asked == wanted, call
        asked.clear()


def test_what_may_be_written_may_be_read(hand: Hand) -> None:
    child = hand.spawn(capabilities=["file:rw:/home/here"]).pid
    assert hand.call(child, "file_read", path="/home/here").data == b"here"
    reader = hand.spawn(capabilities=["file:r:/home/here"]).pid
    with pytest.raises(NotPermitted, match="file:rw:/home/here"):
        hand.call(reader, "file_write", path="/home/here", data=b"")


def test_no_descriptor_is_left_open(hand: Hand, now: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (now / "link").symlink_to(tmp_path)
    (tmp_path / "llmos/files/other").mkdir()
    (tmp_path / "llmos/files/other/alive").symlink_to(tmp_path)
    other = hand.spawn(user="other", capabilities=["file:rw:/*"]).pid
    read(hand, "host:/etc/hosts")
    write(hand, "/tmp/f")

    def everything() -> None:
        for who in (hand.host, other):
            for call, arguments in (
                ("file_write", {"path": "/home/f", "data": b"x"}),
                ("file_write", {"path": "/home/f", "data": b"x", "append": True}),
                ("file_write", {"path": "/home/link", "data": b"x"}),
                ("file_write", {"path": "/home/f/g", "data": b"x"}),
                ("file_read", {"path": "/home/link/secret"}),
                ("file_copy", {"source": "/home/f", "target": f"host:{tmp_path}/copy"}),
                ("file_copy", {"source": "/home/f", "target": f"host:{tmp_path}"}),
                ("file_make", {"path": "/home/d/e", "parents": True}),
                ("file_list", {"path": "/home"}),
                ("file_move", {"source": "/home/d", "target": "/home/g"}),
                ("file_remove", {"path": "/home/g", "tree": True}),
                ("file_restore", {"path": "/home/f"}),
                ("file_versions", {"path": "/home/f"}),
            ):
                try:
                    hand.call(who, call, **arguments)
                except Fault:
                    pass

    everything()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        everything()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("path", ["/proc/2/status", "/models/dummy", "/tools/x", "/output", "/output/x.log", "/", "/proc", "/nowhere"])
def test_live_files_are_only_read(hand: Hand, path: str) -> None:
    for call, more in (
        ("file_write", {"path": path, "data": b""}),
        ("file_remove", {"path": path}),
        ("file_make", {"path": path}),
        ("file_move", {"source": path, "target": "/home/x"}),
        ("file_move", {"source": "/home/here", "target": path}),
        ("file_copy", {"source": "/home/here", "target": path}),
        ("file_restore", {"path": path}),
    ):
        with pytest.raises((NotPermitted, NotFound)):
            hand.call(hand.host, call, **more)


def test_what_detached_programs_wrote_is_for_their_user_and_who_may_read_there(hand: Hand) -> None:
    folder = hand.core.disk.output("root")
    folder.mkdir(parents=True)
    (folder / "7.log").write_text("done")
    (folder / "out").symlink_to("/etc/passwd")
    assert names(hand, "/output") == ["7.log", "out"]
    assert read(hand, "/output/7.log") == b"done"
    with pytest.raises(NotPermitted, match="link"):
        read(hand, "/output/out")
    for capabilities in (None, ["file:r:/output/8.log"], ["file:rw:/home/*"]):
        child = hand.spawn(capabilities=capabilities)
        with pytest.raises(NotPermitted):
            read(hand, "/output/7.log", child.pid)
    child = hand.spawn(capabilities=["file:r:/output/*"])
    assert read(hand, "/output/7.log", child.pid) == b"done"
    other = hand.spawn(capabilities=["file:r:/output/*"], user="ada")
    assert names(hand, "/output", other.pid) == []


def test_mounts_stay(hand: Hand) -> None:
    for path in ("/home", "/tmp", "host:/"):
        for call, more in (
            ("file_remove", {"path": path, "tree": True}),
            ("file_move", {"source": path, "target": "/home/x"}),
            ("file_move", {"source": "/home/here", "target": path}),
            ("file_write", {"path": path, "data": b""}),
            ("file_make", {"path": path}),
        ):
            with pytest.raises(Fault):
                hand.call(hand.host, call, **more)
    assert names(hand, "/home") == ["here"]


def test_what_is_live(hand: Hand) -> None:
    child = hand.spawn(name="worker", capabilities=["llm:dummy", "proc:spawn"])
    context = hand.open(child.pid, user="hello")
    status = dict(line.split(": ", 1) for line in read(hand, f"/proc/{child.pid}/status").decode().splitlines())
    assert (status["name"], status["user"], status["contexts"]) == ("worker", "root", "1")
    assert read(hand, f"/proc/{child.pid}/capabilities") == b"llm:dummy\nproc:spawn\n"
    assert read(hand, f"/proc/{child.pid}/contexts").startswith(f"{context} model=dummy tokens=".encode())
    assert b"wall: " in read(hand, f"/proc/{child.pid}/account")
    assert names(hand, "/proc") == ["1", "2", str(child.pid)]
    assert names(hand, "/models") == ["dummy"]
    assert names(hand, "/tools") == []
    hand.call(hand.host, "tool_offer", tools=[{"name": "web.search", "description": "Searches.", "schema": '{"type": "object"}'}])
    assert names(hand, "/tools") == ["web.search"]
    assert read(hand, "/tools/web.search").startswith(b'Searches.\n\n{"type"')
    with pytest.raises(NotFound, match="there is no such file"):
        read(hand, "/tools/web.search", hand.spawn(capabilities=["file:r:/tools/*", "tool:other"]).pid)
    assert hand.call(hand.host, "file_copy", source="/proc/1/status", target="/home/init").size > 0


# --- quota, full disks, crashes


def test_the_quota_at_its_bound(tmp_path: Path) -> None:
    hand = Hand()
    hand.core.disk = Disk(tmp_path, 10 * param.ENTRY_BYTES)
    write(hand, "/home/f", bytes(9 * param.ENTRY_BYTES))
    assert hand.call(hand.host, "file_stat", path="/home").size == 10 * param.ENTRY_BYTES
    for path, more in (("/home/f", {"append": True}), ("/home/g", {}), ("/home/g", {"append": True})):
        with pytest.raises(QuotaExceeded, match="10240 of 10240 are used"):
            write(hand, path, b"x", **more)
    with pytest.raises(QuotaExceeded):
        hand.call(hand.host, "file_make", path="/home/d")
    with pytest.raises(QuotaExceeded):
        hand.call(hand.host, "file_copy", source="/home/f", target="/home/g")
    hand.call(hand.host, "file_remove", path="/home/f")
    with pytest.raises(QuotaExceeded):  # it is kept, and counts
        write(hand, "/home/g", b"")
    write(hand, "/tmp/g", bytes(9 * param.ENTRY_BYTES))  # which has a quota of its own
    hand.call(hand.host, "file_remove", path="/home/f", versions=True)
    write(hand, "/home/g", bytes(9 * param.ENTRY_BYTES))
    hand.core.disk.close()


def test_many_writers_at_once_stay_within_the_quota(tmp_path: Path) -> None:
    """Two systems share the home; eight threads of each write as much as they can."""
    quota = 40 * param.ENTRY_BYTES
    disks = [Disk(tmp_path, quota), Disk(tmp_path, quota)]
    for disk in disks:
        disk.stat("root", place_of("/home"))

    def writer(disk: Disk, number: int) -> None:
        for turn in range(6):
            try:
                disk.write("root", place_of(f"/home/{number}"), bytes(turn * 512), append=turn % 3 == 2)
            except QuotaExceeded:
                pass

    threads = [threading.Thread(target=writer, args=(disks[number % 2], number)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = disks[0].stat("root", place_of("/home")).size
    assert counted == disks[1].stat("root", place_of("/home")).size <= quota
    for disk in disks:
        disk.close()
    again = Disk(tmp_path, quota)
    assert again.stat("root", place_of("/home")).size == counted
    again.close()


@pytest.mark.parametrize("function", ["write", "fsync", "rename", "link", "mkdir", "open"])
def test_a_disk_that_fails_leaves_what_was_there(hand: Hand, now: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    write(hand, "/home/f", b"old")
    before = hand.call(hand.host, "file_stat", path="/home").size
    real = getattr(os, function)

    def full(*args: Any, **kwargs: Any) -> Any:
        if function == "open" and not args[1] & os.O_CREAT:
            return real(*args, **kwargs)
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(beneath.os, function, full)
        failing = {
            "mkdir": [("file_make", {"path": "/home/d"})],
            "link": [("file_write", {"path": "/home/f", "data": b"new"})],
        }.get(function, [("file_write", {"path": "/home/f", "data": b"new"}), ("file_copy", {"source": "/home/f", "target": "/home/here"})])
        if function in ("write", "fsync"):
            failing.append(("file_write", {"path": "/home/f", "data": b"new", "append": True}))
        for call, arguments in failing:
            with pytest.raises(NoSpace, match="disk is full"):
                hand.call(hand.host, call, **arguments)
    if function != "fsync":  # what was appended and could not be made to last may be there
        assert read(hand, "/home/f") == b"old"
    assert read(hand, "/home/here") == b"here"
    assert hand.call(hand.host, "file_versions", path="/home/f").versions == []
    assert hand.call(hand.host, "file_stat", path="/home").size == before
    assert list((now.parent / "staging").iterdir()) == []


def test_a_disk_that_becomes_full_half_way_through_an_append(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def some(descriptor: int, data: Any) -> int:
        if len(data) > 3:
            return real(descriptor, data[:3])
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(beneath.os, "write", some)
        with pytest.raises(NoSpace):
            write(hand, "/home/here", b"12345", append=True)
    assert read(hand, "/home/here") == b"here"


CRASH = """
import os, signal, sys
from pathlib import Path
from llmos.syscalls.disk.disk import Disk
from llmos.syscalls.place import place_of
disk = Disk(Path(sys.argv[1]), 1 << 20)
function, append = sys.argv[2], sys.argv[3] == "append"
disk.write("root", place_of("/home/f"), b"old" * 1000, append=False)
real = getattr(os, function)
def die(*args, **kwargs):
    if function != "write":
        real(*args, **kwargs) if sys.argv[3] == "after" else None
    else:
        real(args[0], args[1][:1000])
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, function, die)
disk.write("root", place_of("/home/f"), b"new" * 1000, append=append)
"""


@pytest.mark.parametrize(
    ("function", "when"),
    [("write", ""), ("fsync", ""), ("link", ""), ("link", "after"), ("rename", ""), ("rename", "after"), ("write", "append")],
)
def test_a_crash_at_any_step_of_a_write_leaves_the_old_or_the_new(tmp_path: Path, function: str, when: str) -> None:
    place = str(Path(llmos.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path), function, when],
        env={**os.environ, "PYTHONPATH": place},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    disk = Disk(tmp_path, 1 << 20)
    f = place_of("/home/f")
    found = disk.read("root", f, 0, 1 << 20).data
    if when == "append":
        assert found == b"old" * 1000 + (b"new" * 1000)[:1000]
    else:
        assert found == (b"new" * 1000 if (function, when) == ("rename", "after") else b"old" * 1000)
    assert list((tmp_path / "files/root/staging").iterdir()) == []  # swept by the system that comes after
    disk.write("root", f, b"next", append=False)
    disk.write("root", f, b"!", append=True)
    kept = [disk_version(disk, each.version) for each in disk.versions("root", f)]
    assert found in kept, "what the crash left is kept like any other"
    assert set(kept) <= {b"old" * 1000, b"new" * 1000, found}
    size = disk.stat("root", place_of("/home")).size
    disk.close()
    again = Disk(tmp_path, 1 << 20)
    assert again.stat("root", place_of("/home")).size == size
    assert again.read("root", f, 0, 100).data == b"next!"
    again.close()


def disk_version(disk: Disk, number: int) -> bytes:
    """What a version holds."""
    with beneath.opened(disk._own("root", place_of("/home/f"))._kept.open(("f",), number)) as descriptor:
        return os.read(descriptor, 1 << 20)


def test_temporary_files_of_a_system_that_was_killed_are_swept(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from llmos.syscalls.disk.disk import Disk
from llmos.syscalls.place import place_of
disk = Disk(Path(sys.argv[1]), 1 << 20)
disk.write("root", place_of("/tmp/f"), b"left", append=False)
os.kill(os.getpid(), signal.SIGKILL)
"""
    place = str(Path(llmos.__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": place}, check=False)
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    first, second = Disk(tmp_path, 1 << 20), Disk(tmp_path, 1 << 20)
    first.write("root", place_of("/tmp/f"), b"first", append=False)
    with pytest.raises(NotFound):
        second.stat("root", place_of("/tmp/f"))
    assert len(list((tmp_path / "tmp").iterdir())) == 2, "of the two that live"
    second.close()
    assert first.read("root", place_of("/tmp/f"), 0, 10).data == b"first"
    first.close()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_versions_are_bounded_and_the_oldest_goes(hand: Hand) -> None:
    for number in range(param.MAX_VERSIONS + 3):
        write(hand, "/home/f", str(number).encode())
    kept = hand.call(hand.host, "file_versions", path="/home/f").versions
    assert [each.version for each in kept] == list(range(param.MAX_VERSIONS + 2, 2, -1))
    for version in (1, 2, param.MAX_VERSIONS + 3):
        with pytest.raises(NotFound, match="there is no version"):
            hand.call(hand.host, "file_restore", path="/home/f", version=version)
    hand.call(hand.host, "file_restore", path="/home/f", version=3)
    assert read(hand, "/home/f") == b"2"
    with pytest.raises(NotFound):
        hand.call(hand.host, "file_versions", path="/home/never")


# --- on whose thread


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: to make many files on a disk takes its time."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared, prefix="llmos-test-") as made:
        yield Path(made)


def test_a_hundred_thousand_files_come_in_pages_and_not_on_the_kernels_thread(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = Hand()
    hand.core.disk = Disk(memory, 1 << 20)
    hand.call(hand.host, "file_make", path="/home/many")
    many = memory / "files/root/now/many"
    for number in range(100_000):
        os.close(os.open(many / f"{number:06}", os.O_CREAT | os.O_WRONLY))
    hand.hold = True
    real, touched = os.listdir, []
    monkeypatch.setattr(beneath.os, "listdir", lambda *args: touched.append(hand.hold) or real(*args))
    box = hand.send(hand.host, "file_list", path="/home/many", limit=param.MAX_ENTRIES)
    assert not box.done
    assert hand.jobs, "the kernel's thread has only asked for it"
    assert touched == []
    hand.hold = False
    hand.work()
    assert len(box.result.entries) == param.MAX_ENTRIES
    seen, after = len(box.result.entries), box.result.entries[-1].name
    while True:
        page = hand.call(hand.host, "file_list", path="/home/many", limit=param.MAX_ENTRIES, after=after)
        seen += len(page.entries)
        if not page.more:
            break
        after = page.entries[-1].name
    assert seen == 100_000
    with pytest.raises(InvalidArgument):
        hand.call(hand.host, "file_list", path="/home/many", limit=param.MAX_ENTRIES + 1)
    hand.core.disk.close()


def test_every_call_that_touches_the_disk_does_so_elsewhere(hand: Hand) -> None:
    hand.hold = True
    for call, arguments in (
        ("file_read", {"path": "/home/here"}),
        ("file_write", {"path": "/home/here", "data": b""}),
        ("file_copy", {"source": "/home/here", "target": "/home/there"}),
        ("file_move", {"source": "/home/here", "target": "/home/there"}),
        ("file_list", {"path": "/home"}),
        ("file_stat", {"path": "/home/here"}),
        ("file_remove", {"path": "/home/here"}),
        ("file_make", {"path": "/home/d"}),
        ("file_versions", {"path": "/home/here"}),
        ("file_restore", {"path": "/home/here"}),
        ("file_stat", {"path": "host:/"}),
        ("file_list", {"path": "/models"}),
    ):
        box = hand.send(hand.host, call, **arguments)
        assert not box.done
        assert len(hand.jobs) == 1
        hand.cancel(box)
        hand.jobs.clear()
        assert box.fault is not None
        assert box.fault.code == "ECANCELED"
