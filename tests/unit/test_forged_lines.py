"""What models and tools say cannot look like a line of the system's own, and the end of a log costs what the end is long."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import pytest

from llmos.services.init.place import daemon_folder, private_folder
from llmos.shell import logs, render
from llmos.shell.audit import line
from llmos.shell.builtins.approvals import _note
from llmos.shell.jobs import Job
from llmos.shell.terminal import ALL_VISIBLE, VISIBLE
from llmos.syscalls.abi import Approval


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


FORGED = "a\n[approval 9] pid 1 (init)\r\x1b[2K\x9b2J\u2028\u2029\u0085b\u202ec\u2066d\x1e\x7f"
BAD = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x202A, 0x202E, 0x2066, 0x2069, 0x200F)}


def approval(**given: Any) -> Approval:
    fields = {
        "id": 3, "pid": 7, "name": FORGED, "user": "u", "call": "write", "capability": f"file:w:/home/{FORGED}",
        "arguments": FORGED, "digest": "d", "waited": 0.0, "left": 1.0,
    }  # fmt: skip
    return Approval(**(fields | given))


def test_a_note_of_an_approval_is_one_line_without_anything_a_terminal_obeys() -> None:
    assert not BAD & set(_note(approval()))
    assert _note(approval()).endswith(": allow 3, or deny 3")


def test_a_line_of_the_audit_log_is_one_line() -> None:
    record = {
        "time": 0.0,
        "pid": 7,
        "name": FORGED,
        "call": "write",
        "outcome": "EPERM",
        "capabilities": [FORGED],
        "arguments": {"a": FORGED},
    }
    assert not BAD & set(line(record))


@pytest.mark.anyio
async def test_rows_of_lists_are_one_line_each() -> None:
    job = Job(FORGED, foreground=False, number=1)
    drawn = render.plain_text(render.jobs_table([(job, "+", "Running")]))
    assert len(drawn.splitlines()) == 2
    assert not BAD - {"\n"} & set(drawn)
    assert not BAD & set(FORGED.translate(ALL_VISIBLE))
    assert BAD & set(FORGED.translate(VISIBLE)) == {"\n"}


def shown(home: Path, data: bytes, lines: int, capsys: pytest.CaptureFixture[str]) -> str:
    (private_folder(daemon_folder(home)) / "log").write_bytes(data)
    assert logs.logs(argparse.Namespace(home=home, lines=lines, follow=False)) == 0
    return capsys.readouterr().out


def test_the_log_is_shown_without_what_a_terminal_obeys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(tmp_path, b"one\ntwo \x1b[2Jx\ry\n\xff\n", 2, capsys) == "two ^[[2Jx^My\n\ufffd\n"


@pytest.mark.parametrize("data", [b"", b"\n", b"a", b"a\n", b"\n\n", b"a\n\nb", b"1\n2\n3\n", b"x" * 200_000 + b"\ny\n", b"ab\n" * 50_000])
@pytest.mark.parametrize("lines", [0, 1, 2, 3, 10_000, 10**9])
def test_the_last_lines_are_the_last_lines(data: bytes, lines: int) -> None:
    all_lines = data.decode().splitlines(keepends=True)
    expected = "".join(all_lines[max(0, len(all_lines) - lines) :])
    assert data[logs.start_of_last(io.BytesIO(data), lines) :].decode() == expected


class Counted(io.BytesIO):
    size = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.size += len(data)
        return data


def test_the_end_of_a_long_log_costs_what_the_end_is_long() -> None:
    file = Counted(b"a line of a log\n" * 2_000_000)
    assert logs.start_of_last(file, 100) == len(file.getvalue()) - 1_600
    assert file.size <= logs.PIECE
