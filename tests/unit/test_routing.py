"""Which lines of a person are commands, which go to the model, and which are asked about."""

import pytest

from llmos.shell.routing import Kind, route

COMMANDS = (
    "ask",
    "cat",
    "cd",
    "echo",
    "exit",
    "explain",
    "fg",
    "fork",
    "help",
    "history",
    "jobs",
    "kill",
    "ls",
    "models",
    "nice",
    "ps",
    "spawn",
    "wait",
)


@pytest.mark.parametrize(
    "line",
    [
        "ps",
        "  ps",
        "ps --json",
        "ps|cat",
        "kill -9 7",
        "kill the process",
        "X=1",
        "X=1; ps",
        "# note",
        "",
        "  ",
        "! ps",
        "> file",
        "| x",
        "(x)",
        "for i in 1 2; do ps; done",
        "if ps; then ps; fi",
        "&",
    ],
)
def test_commands(line: str) -> None:
    assert route(line, COMMANDS) == (Kind.COMMAND, "")


@pytest.mark.parametrize(
    "line",
    [
        "What is the capital of France?",
        "What's up?",
        "if it rains, what then?",
        "for whom the bell tolls",
        "it's",
        'say "hello',
        "hello",
        "hi",
        "why",
        "Ask not what your country can do",
        "Help me with this",
        "1 + 1",
        "2+2=4, right?",
        "is a < b?",
        "`code`",
        "/etc",
        "日本の首都は?",
        "fork, spoon or knife?",
        "quit smoking how?",
        "make a poem about kill -9",
    ],
)
def test_questions(line: str) -> None:
    assert route(line, COMMANDS) == (Kind.QUESTION, "")


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("pss", "ps"),
        ("exti", "exit"),
        ("Help", "help"),
        ("help?", "help"),
        ("kil 7", "kill"),
        ("kll -9 7", "kill"),
        ("expalin 7", "explain"),
        ("spwan summarise < README.md", "spawn"),
        ("quit", "exit"),
        ("model", "models"),
    ],
)
def test_misspelt_commands_are_asked_about(line: str, meant: str) -> None:
    assert route(line, COMMANDS) == (Kind.MISSPELT, meant)


def test_what_defines_a_function_elsewhere_is_no_question() -> None:
    for line in ("f() { echo a; }", "  greet () {"):
        assert route(line, COMMANDS) == (Kind.COMMAND, "")
    assert route("what does f() mean?", COMMANDS) == (Kind.QUESTION, "")
