"""The lexer of llmsh: quoting as POSIX users expect, and errors that say what to do."""

import pytest

from llmos.shell.lexer import MOST_CHARACTERS, BadSyntax, Incomplete, Literal, Operator, Variable, Word, lex


def texts(line: str) -> list[str]:
    """Each token as text; quoted parts in <>, variables as $name."""
    shown = []
    for token in lex(line):
        if isinstance(token, Operator):
            shown.append(f"{'' if token.fd is None else token.fd}{token.text}")
        else:
            shown.append("".join(_part(part) for part in token.parts))
    return shown


def _part(part: Literal | Variable) -> str:
    text = f"${part.name}" if isinstance(part, Variable) else part.text
    return f"<{text}>" if part.quoted else text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        ("  \t ", []),
        ("ps", ["ps"]),
        ("spawn summarise < README.md > summary.txt &", ["spawn", "summarise", "<", "README.md", ">", "summary.txt", "&"]),
        ("a|b", ["a", "|", "b"]),
        ("a||b&&c;d&e", ["a", "||", "b", "&&", "c", ";", "d", "&", "e"]),
        ("a>b", ["a", ">", "b"]),
        ("a>>b 2>c", ["a", ">>", "b", "2>", "c"]),
        ("a 2>&1", ["a", "2>&", "1"]),
        ("a2>b", ["a2", ">", "b"]),
        ("a 22", ["a", "22"]),
        ("kill -9 7", ["kill", "-9", "7"]),
        ("'a b'", ["<a b>"]),
        ("'a\\b$c`'", ["<a\\b$c`>"]),
        ('"a $b c"', ["<a ><$b>< c>"]),
        ('"a\\"b\\\\c\\d\\$e"', ['<a"b\\c\\d$e>']),
        ("''", ["<>"]),
        ('""', ["<>"]),
        ("a''b", ["a<>b"]),
        ("x\"y\"'z'", ["x<y><z>"]),
        ("a\\ b", ["a< >b"]),
        ("a\\\nb", ["ab"]),
        ("a \\\n b", ["a", "b"]),
        ('"a\\\nb"', ["<ab>"]),
        ("a # the rest", ["a"]),
        ("a#b", ["a#b"]),
        ("# x\nb", ["\n", "b"]),
        ("$a$b", ["$a$b"]),
        ("$a.b ${c}d $? $! $$ $1", ["$a.b", "$cd", "$?", "$!", "$$", "$1"]),
        ("5$ $", ["5$", "$"]),
        ('"5$"', ["<5$>"]),
        ("a=b", ["a=b"]),
        ("naïve 日本 🙂", ["naïve", "日本", "🙂"]),
        ("a\r\nb", ["a", "\n", "b"]),
    ],
)
def test_tokens(line: str, expected: list[str]) -> None:
    assert texts(line) == expected


@pytest.mark.parametrize("line", ["'open", '"open', "a \\", '"a $b', "it's"])
def test_open_quotes_are_incomplete(line: str) -> None:
    with pytest.raises(Incomplete):
        lex(line)


@pytest.mark.parametrize(
    ("line", "position", "says"),
    [
        ("a `b`", 2, "`"),
        ('"`b`"', 1, "`"),
        ("(a)", 0, "subshells"),
        ("a )", 2, "')'"),
        ("a << EOF", 2, "here-documents"),
        ("a <> b", 2, "<>"),
        ("a 3> b", 2, "redirect 3"),
        ("a 22> b", 2, "redirect 22"),
        ("${a%b}", 0, "${NAME}"),
        ("${#a:-b}", 0, "${NAME}"),
        ("$(" * 40 + "a" + ")" * 40, 64, "deeper than 32"),
        ("${", 0, "${NAME}"),
        ("${}", 0, "${NAME}"),
    ],
)
def test_what_is_not_supported_says_so(line: str, position: int, says: str) -> None:
    with pytest.raises(BadSyntax) as caught:
        lex(line)
    assert not isinstance(caught.value, Incomplete)
    assert caught.value.position == position
    assert says in caught.value.message


def test_positions_cover_the_words() -> None:
    line = "  ask 'two words' | x"
    words = [token for token in lex(line) if isinstance(token, Word)]
    assert [line[word.start : word.end] for word in words] == ["ask", "'two words'", "x"]


def test_length_is_bounded() -> None:
    assert len(lex("a" * MOST_CHARACTERS)) == 1
    with pytest.raises(BadSyntax, match="too many"):
        lex("a" * (MOST_CHARACTERS + 1))


@pytest.mark.parametrize("line", ["echo a\0b", "echo 'a\0b'", 'cat "a\0b"', "ls > a\0", "# \0"])
def test_a_null_character_is_part_of_no_command(line: str) -> None:
    with pytest.raises(BadSyntax, match="NUL") as caught:
        lex(line)
    assert caught.value.position == line.index("\0")
