"""What a model writes after `?` is a command of llmsh or is refused, whatever it is; nothing of it reaches the terminal as it is."""

import pytest
from hypothesis import given, strategies as st

from llmos.shell.builtins import table
from llmos.shell.suggest import NoCommand, command_in

BUILTINS = table()


@pytest.mark.parametrize(
    ("written", "command"),
    [
        ("ps", "ps"),
        (" ps\n", "ps"),
        ("`ps --json`", "ps --json"),
        ("```\nps\n```", "ps"),
        ("command: kill -KILL 7\nrequest: more", "kill -KILL 7"),
        ("$ jobs", "jobs"),
        ("spawn summarise < a.txt | cat > b &", "spawn summarise < a.txt | cat > b &"),
    ],
)
def test_commands_are_found_in_what_is_around_them(written: str, command: str) -> None:
    assert command_in(written, BUILTINS) == command


@pytest.mark.parametrize(
    "written",
    [
        "",
        "\n\n",
        "```",
        "rm -rf / ; sudo x",
        "!rm -rf /",
        "ps; !sh",
        "sudo ps",
        "echo 'x",
        "ps\x1b[2J",
        "$(ps)",
        "| ps",
        "X=1",
        "$CMD",
        "I would use ps.",
    ],
)
def test_anything_else_is_refused(written: str) -> None:
    with pytest.raises(NoCommand) as refused:
        command_in(written, BUILTINS)
    assert str(refused.value).isprintable()


@given(st.text(max_size=80))
def test_any_text_is_a_command_or_refused(written: str) -> None:
    try:
        found = command_in(written, BUILTINS)
    except NoCommand:
        return
    assert found.isprintable()
    assert found.split()[0] in BUILTINS
