"""docs/syscalls.md and `man CALL` say what the table says, of every call, every argument and every field."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from llmos.services.init.manual import manual
from llmos.syscalls import abi
from llmos.syscalls.reference import page, pages, reference, signature
from llmos.syscalls.table import ROWS, TABLE, Row

DOCS = Path(__file__).parents[2] / "docs"


def test_the_document_is_what_the_table_says() -> None:
    assert (DOCS / "syscalls.md").read_text(encoding="utf-8") == reference(), "run `python docs/calls.py`"


def test_it_is_the_same_each_time() -> None:
    assert pages() == pages() == manual()
    assert list(pages()) == [row.name for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_page_names_every_argument_and_field(row: Row) -> None:
    lines = page(row).splitlines()
    head, foot = lines[: lines.index("arguments")], lines[lines.index("arguments") :]
    assert " ".join(" ".join(head).split()).startswith(f"{signature(row)} number {row.number}, ")
    needs = [each for each in (row.capability, row.asks) if each] or ["no capability"]
    assert all(each in " ".join(" ".join(head).split()) for each in needs)
    assert " ".join(row.doc.split())[:60] in " ".join(" ".join(head).split())
    for name in row.arguments.model_fields:
        assert any(line.startswith(f"  {name}: ") for line in foot)
    if is_dataclass(row.result):
        for field in fields(row.result):
            assert any(line.startswith(f"  {field.name}: ") for line in foot)


def test_bounds_defaults_and_notes_are_told() -> None:
    kill, generate, spawn = (page(TABLE[name]) for name in ("kill", "generate", "spawn"))
    assert signature(TABLE["kill"]) == 'kill(pid, signal="TERM", tree=false) -> Done'
    assert 'one of "INT", "KILL", "TERM", "CONT", "STOP"; default "TERM"' in kill
    assert "pid: integer, 1 to 2^53-1\n" in kill
    assert "temperature: number, 0 to 10; default 0" in generate
    assert "top_p: number, at most 1, above 0; default 1" in generate
    assert "None: what is left of the model's window." in generate  # a note of a class that Generate is made from
    assert "stop, length, interrupted or cancelled." in generate
    assert "      pages: integer" in spawn  # the fields of a map that an argument is


@dataclass(frozen=True)
class Inner:
    deep: int


@dataclass(frozen=True)
class Given:
    inner: Inner
    many: dict[str, Any]
    """Said of many."""


class _Taken(abi.Arguments):
    anything: Any = None
    table: dict[str, int] = Field({})
    choice: Literal[1, "two"] = 1
    pair: Annotated[list[Annotated[str, Field(max_length=3)]], Field(min_length=1, max_length=2)]
    either: int | list[bytes] | None = None


def test_what_other_calls_may_have_is_shown_too() -> None:
    def handler() -> None:
        """Do it.

        More of it.
        """

    shown = page(Row(999, "odd", _Taken, Given, handler, sleeps=True, always=True))
    for line in (
        "  anything: anything; default null",
        "  table: map; default {}",
        '  choice: one of 1, "two"; default 1',
        "  pair: list of text, at most 3 characters, 1 to 2 of them",
        "  either: integer or list of bytes or null; default null",
        "      deep: int",
        "      Said of many.",
        "More of it.",
    ):
        assert line in shown.splitlines()
