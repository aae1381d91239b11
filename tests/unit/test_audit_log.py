"""The audit log: the chain holds, and shows whatever was done to it; full disks, torn ends, and what is kept of a call."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from llmos.kernel.errno import AlreadyExists, InvalidArgument, NoSpace, NotFound, NotPermitted
from llmos.services.audit import log as log_module
from llmos.services.audit.chain import START, Broken, follow, forge
from llmos.services.audit.log import Log, files
from llmos.services.audit.read import Filter, anchor_of, records, verify


class Note:
    """An entry."""

    def __init__(self, **record: Any) -> None:
        self.record = record
        self.spare = False

    def plain(self, *, full: bool) -> dict[str, Any]:
        return self.record


def write(folder: Path, *entries: dict[str, Any], **how: Any) -> None:
    """One boot: a file with a line for each entry after its first."""
    log = Log(folder, **how)
    for entry in entries:
        log.put(Note(**entry))
    log.close()


def calls(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"time": 100.0 + n, "pid": n % 3, "call": "ps", "outcome": "EPERM" if n % 4 == 0 else "ok"} for n in range(start, start + count)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(log_module, "BATCH_SECONDS", 0.0)
    monkeypatch.setattr(log_module, "RETRY_SECONDS", 0.01)
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "llmos-audit"]


def test_what_was_put_can_be_read_and_verified(folder: Path) -> None:
    write(folder, *calls(5))
    write(folder, *calls(2, 5))
    found = list(records(folder, Filter()))
    assert [each["time"] for each in found] == [100.0 + n for n in range(7)]
    assert [each["n"] for each in found] == [2, 3, 4, 5, 6, 8, 9]
    whole = verify(folder)
    assert (whole.lines, whole.files, whole.head.number, whole.notes) == (9, 2, 9, ())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("wanted", "count"),
    [(Filter(), 8), (Filter(pid=1), 3), (Filter(call="ps"), 8), (Filter(call="kill"), 0), (Filter(since=104.5), 3),
     (Filter(denied=True), 2), (Filter(pid=1, denied=True), 1)],
)  # fmt: skip
def test_filters(folder: Path, wanted: Filter, count: int) -> None:
    write(folder, *calls(8))
    assert len(list(records(folder, wanted))) == count


def test_every_changed_byte_is_found(folder: Path) -> None:
    write(folder, *calls(3))
    write(folder, *calls(2, 3))
    for path in files(folder):
        good = path.read_bytes()
        for at in range(len(good)):
            for other in {good[at] ^ 1, ord("\n"), ord(" "), good[at] ^ 0x80} - {good[at]}:
                path.write_bytes(good[:at] + bytes([other]) + good[at + 1 :])
                with pytest.raises(Broken):
                    verify(folder)
        path.write_bytes(good)
    verify(folder)


@pytest.mark.parametrize("what", ["removed", "doubled", "exchanged", "forged", "file removed", "file renamed", "cut in the middle"])
def test_whatever_is_done_to_lines_is_found(folder: Path, what: str) -> None:
    write(folder, *calls(4))
    write(folder, *calls(4, 4))
    write(folder, *calls(1, 8))
    path = files(folder)[1]
    lines = path.read_bytes().splitlines(keepends=True)
    for at in range(len(lines)):
        changed = list(lines)
        if what == "removed":
            del changed[at]
        elif what == "doubled":
            changed.insert(at, changed[at])
        elif what == "exchanged":
            changed[at], changed[at - 1] = changed[at - 1], changed[at]
        elif what == "forged":  # a line whose own hash is right, and that says what it likes
            before = json.loads(lines[at - 1]) if at else {"n": 0, "hash": "0" * 64}
            record = {key: value for key, value in json.loads(lines[at]).items() if key not in ("n", "hash")}
            changed[at], _ = forge(type(START)(before["n"], before["hash"]), {**record, "pid": 99})
        elif what == "file removed":
            changed = []
        elif what == "cut in the middle":
            changed[at] = changed[at][: len(changed[at]) // 2]
        if what == "file renamed":
            path.rename(folder / "000009.jsonl")
        elif changed:
            path.write_bytes(b"".join(changed))
        else:
            path.unlink()
        with pytest.raises(Broken, match=r"jsonl"):
            verify(folder)
        if what == "file renamed":
            (folder / "000009.jsonl").rename(path)
        path.write_bytes(b"".join(lines))
    verify(folder)


def test_lines_cut_off_at_the_end_are_found_by_the_head_and_by_an_anchor(folder: Path) -> None:
    write(folder, *calls(4))
    anchor = verify(folder).head
    verify(folder, anchor)
    verify(folder, anchor_of(str(anchor)))
    (path,) = files(folder)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(Broken, match="cut off at the end"):
        verify(folder)
    (folder / "head").unlink()
    cut = verify(folder)  # what cannot be seen without it, it says
    assert (cut.lines, "would not be seen" in cut.notes[0]) == (4, True)
    with pytest.raises(Broken, match="the anchor"):
        verify(folder, anchor)


def test_a_log_that_was_written_anew_does_not_meet_its_anchor(folder: Path, tmp_path: Path) -> None:
    write(folder, *calls(4))
    anchor = verify(folder).head
    write(tmp_path / "other", *calls(6))
    verify(tmp_path / "other")
    with pytest.raises(Broken, match="written anew"):
        verify(tmp_path / "other", anchor)


@pytest.mark.parametrize("text", ["", "1", "x:" + "0" * 64, "1:" + "0" * 63, "1:" + "G" * 64, "-1:" + "0" * 64, "1" * 20 + ":" + "0" * 64])
def test_an_anchor_has_a_form(text: str) -> None:
    with pytest.raises(InvalidArgument, match="NUMBER:HASH"):
        anchor_of(text)


@pytest.mark.parametrize("cut", [1, 20, 100, "header", "nothing"])
def test_after_a_crash_in_the_middle_of_a_line_the_log_goes_on_behind_it(folder: Path, cut: int | str, caplog: Any) -> None:
    write(folder, *calls(3))
    path = files(folder)[-1]
    if cut == "header":  # the next boot died in its first line
        (folder / "000002.jsonl").write_bytes(b'{"n":5,"ti')
    elif cut == "nothing":
        (folder / "000002.jsonl").write_bytes(b"")
    else:
        assert isinstance(cut, int)
        path.write_bytes(path.read_bytes()[:-cut])
        (folder / "head").write_bytes(forge_head(path))
    torn = {each.name: each.read_bytes() for each in files(folder)}
    write(folder, *calls(2, 10))
    assert {name: (folder / name).read_bytes() for name in torn} == torn, "append-only"
    whole = verify(folder)
    if cut == "nothing":
        assert whole.notes == ()
    else:
        assert "a crash tore" in whole.notes[0]
        assert "ends in the middle of a line" in caplog.text
    expected = [100.0, 101.0, 110.0, 111.0] if isinstance(cut, int) else [100.0, 101.0, 102.0, 110.0, 111.0]
    assert [each["time"] for each in records(folder, Filter())] == expected
    damaged = folder / ("000002.jsonl" if cut == "header" else "000001.jsonl")
    if cut != "nothing":
        damaged.write_bytes(damaged.read_bytes() + b"x")
        with pytest.raises(Broken):
            verify(folder)


def forge_head(path: Path) -> bytes:
    """What the head was before the line that a crash tore: heads are written after their lines."""
    last = json.loads(path.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[2])
    return json.dumps({"n": last["n"], "hash": last["hash"]}).encode()


def test_files_are_full_and_the_oldest_go_and_a_line_says_so(folder: Path) -> None:
    for start in range(0, 60, 10):
        write(folder, *calls(10, start), file_bytes=700, most_bytes=3_000)
    present = files(folder)
    assert len(present) > 2
    assert present[0].name != "000001.jsonl"
    assert sum(path.stat().st_size for path in present) < 5_000
    whole = verify(folder)
    assert whole.notes == (f"lines before {whole.head.number - whole.lines + 1} were removed because the log was too long",)
    assert [each["time"] for each in records(folder, Filter())][-1] == 159.0
    present[0].unlink()
    with pytest.raises(Broken, match="no line says that what was before it has been removed"):
        verify(folder)


def test_there_is_one_writer(folder: Path) -> None:
    log = Log(folder)
    with pytest.raises(AlreadyExists, match="another system writes"):
        Log(folder)
    log.close()
    write(folder)


def test_a_folder_of_somebody_elses_making_is_not_written_into(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotPermitted, match="not a folder of yours"):
        Log(folder)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_no_log_is_said_so(folder: Path) -> None:
    with pytest.raises(NotFound, match="no audit log"):
        list(records(folder, Filter()))
    with pytest.raises(NotFound):
        verify(folder)


def test_a_full_disk_is_said_waited_for_and_made_good(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes ten bytes and then nothing; half lines are taken back; what found no place in the queue is counted."""
    monkeypatch.setattr(log_module, "MOST_WAITING", 5)
    full, tried = threading.Event(), threading.Event()
    write_some = os.write

    def write_to_disk(file: int, data: Any) -> int:
        if not full.is_set() or threading.current_thread().name != "llmos-audit":
            return write_some(file, data)
        if len(data) > 10 and not tried.is_set():
            write_some(file, data[:10])
        tried.set()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_module.os, "write", write_to_disk)
    log = Log(folder)
    full.set()
    for entry in calls(5):
        assert log.stuck() is None
        log.put(Note(**entry))
    assert tried.wait(10)
    stuck = log.stuck()
    assert isinstance(stuck, NoSpace)
    assert "No space left" in str(stuck) or "slow" in str(stuck)
    for entry in calls(3, 5):
        log.put(Note(**entry))
    full.clear()
    log.close()
    whole = verify(folder)
    assert whole.notes == ("line 2: 3 calls are missing, since the disk took nothing",) or "3 calls are missing" in whole.notes[0]
    assert [each["time"] for each in records(folder, Filter())] == [100.0 + n for n in range(5)]


def test_a_flood_of_calls_that_did_nothing_stops_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "MOST_WAITING", 100)
    monkeypatch.setattr(log_module, "BATCH_SECONDS", 0.5)  # nothing is written while they come
    log = Log(folder)
    for entry in calls(10_000):
        note = Note(**entry)
        note.spare = True
        log.put(note)
    assert log.stuck() is None
    log.put(Note(time=1.0, call="spawn", outcome="ok"))
    log.close()
    found = list(records(folder, Filter()))
    assert found[-1]["call"] == "spawn"
    assert f"{10_001 - len(found):,}".replace(",", "") in verify(folder).notes[0], "those that are missing are counted"


def test_an_entry_that_cannot_be_read_does_not_end_the_log(folder: Path) -> None:
    class Bug:
        spare = False

        def plain(self, *, full: bool) -> dict[str, Any]:
            raise ZeroDivisionError

    log = Log(folder)
    log.put(Bug())
    log.put(Note(time=1.0, call="ps"))
    log.close()
    assert verify(folder).lines == 3
    assert len(list(records(folder, Filter()))) == 1


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(), max_size=3), max_size=5))
def test_whatever_records_say_the_chain_holds(given: list[dict[str, Any]]) -> None:
    head = after = START
    for record in given:
        line, head = forge(head, {f"_{key}": value for key, value in record.items()})
        assert line.count(b"\n") == 1
        found, after = follow(after, line[:-1])
        assert after == head
        assert found["n"] == head.number
