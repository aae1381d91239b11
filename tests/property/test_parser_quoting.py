"""For any text: the parser answers with a tree or BadSyntax, quoting is undone exactly, and /bin/sh agrees."""

import shlex
import subprocess
import tempfile
from pathlib import Path

from hypothesis import given, settings, strategies as st

from llmos.shell.expansion import Values, expand, expand_text, match
from llmos.shell.lexer import BadSyntax, Word, lex
from llmos.shell.parser import parse

words = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12), min_size=1, max_size=5)
shellish = st.text(st.sampled_from("ab c'\"\\$|&;<>(){}#!=?*[]`~12\n\t"), max_size=30)


def arguments(line: str, variables: dict[str, str] | None = None) -> list[str]:
    found = variables or {}
    return [
        each
        for command in parse(line).commands
        for word in command.words
        for field in expand(word, Values(found.get))
        for each in match(field)
    ]


@given(st.one_of(st.text(max_size=40), shellish))
def test_any_text_is_a_tree_or_bad_syntax(text: str) -> None:
    try:
        script = parse(text)
    except BadSyntax as bad:
        error, lists = bad, ()
    else:
        error, lists = None, script.lists
    assert error is None or (error.message and 0 <= error.position <= len(text))
    for item in lists:
        assert item.text in text
        assert parse(item.text).lists


@given(words)
def test_quoted_words_come_back_unchanged(values: list[str]) -> None:
    assert arguments(shlex.join(values)) == values


@given(words)
def test_double_quoted_words_come_back_unchanged(values: list[str]) -> None:
    quoted = ['"' + "".join("\\" + c if c in '$`"\\' else c for c in value) + '"' for value in values]
    assert arguments("x " + " ".join(quoted)) == ["x", *values]


@given(st.lists(st.text(st.sampled_from("ab *?\n\t"), max_size=8), max_size=4))
def test_a_quoted_variable_is_one_argument_and_no_pattern(values: list[str]) -> None:
    names = {f"v{number}": value for number, value in enumerate(values)}
    assert arguments("x " + " ".join(f'"${name}"' for name in names), names) == ["x", *values]
    for name, value in names.items():
        word = lex(f"${name}")[0]
        assert isinstance(word, Word)
        assert expand_text(word, Values(names.get)) == value


same = st.lists(st.text(st.sampled_from("ab '\"\\$v"), max_size=14), min_size=1, max_size=40)


@settings(max_examples=15, deadline=None)
@given(same, st.text(st.sampled_from("ab "), max_size=5))
def test_splitting_and_quoting_agree_with_sh(lines: list[str], value: str) -> None:
    """Lines both take: each is given to sh as `printf` arguments, in one script."""
    taken = []
    for line in lines:
        try:
            expected = arguments("x " + line, {"v": value})[1:]
        except BadSyntax:
            continue
        if "$$" not in line:  # sh puts its pid there
            taken.append((line, expected))
    script = "".join(f"set -- {line}\nprintf '%s\\0' $#; for i in \"$@\"; do printf '%s\\0' \"$i\"; done\n" for line, _ in taken)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "script").write_text(f"v='{value}'\n{script}", encoding="utf-8")
        ran = subprocess.run(["/bin/sh", "script"], cwd=folder, capture_output=True, text=True, check=True)
    said = ran.stdout.split("\0")[:-1]
    for line, expected in taken:
        count = int(said.pop(0))
        assert (line, said[:count]) == (line, expected)
        del said[:count]
