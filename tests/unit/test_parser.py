"""The parser of llmsh: which commands a line holds, how they are joined, and what is refused."""

import pytest

from llmos.shell.lexer import BadSyntax, Incomplete, Literal, Word
from llmos.shell.parser import AndOr, Command, Pipeline, parse


def show(line: str) -> list[str]:
    return [_list(each) for each in parse(line).lists]


def _list(item: AndOr) -> str:
    text = _pipeline(item.first)
    for operator, pipeline in item.rest:
        text = f"({text} {operator} {_pipeline(pipeline)})"
    return text + (" &" if item.background else "")


def _pipeline(pipeline: Pipeline) -> str:
    text = " | ".join(_command(command) for command in pipeline.commands)
    return f"!({text})" if pipeline.inverted else text


def _command(command: Command) -> str:
    pieces = [f"{each.name}:={_word(each.value)}" for each in command.assignments]
    pieces += [_word(word) for word in command.words]
    pieces += [f"{each.fd}{each.kind}{_word(each.target)}" for each in command.redirections]
    return "[" + " ".join(pieces) + "]"


def _word(word: Word) -> str:
    return "".join(part.text if isinstance(part, Literal) else f"${part.name}" for part in word.parts)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        ("\n\n", []),
        ("# only a comment", []),
        ("ps", ["[ps]"]),
        ("ps;", ["[ps]"]),
        ("ps ; jobs", ["[ps]", "[jobs]"]),
        ("ps\njobs\n", ["[ps]", "[jobs]"]),
        ("a & b", ["[a] &", "[b]"]),
        ("a &", ["[a] &"]),
        ("a &\nb", ["[a] &", "[b]"]),
        ("a | b | c", ["[a] | [b] | [c]"]),
        ("a |\n\n b", ["[a] | [b]"]),
        ("a && b || c", ["(([a] && [b]) || [c])"]),
        ("a &&\n b &", ["([a] && [b]) &"]),
        ("! a | b", ["!([a] | [b])"]),
        ("! ! a", ["[a]"]),
        ("'!' a", ["[! a]"]),
        ("a < i > o", ["[a 0<i 1>o]"]),
        ("> o a >> p b 2> e", ["[a b 1>o 1>>p 2>e]"]),
        ("a 2>&1", ["[a 2>&1]"]),
        ("a >&2", ["[a 1>&2]"]),
        ("X=1", ["[X:=1]"]),
        ("X=1 Y=$Z a B=2", ["[X:=1 Y:=$Z a B=2]"]),
        ("X=", ["[X:=]"]),
        ("X='a b'c", ["[X:=a bc]"]),
        ("'X'=1", ["[X=1]"]),
        ("1X=1", ["[1X=1]"]),
        ("fork 7 ; kill -STOP 7 ; echo $?", ["[fork 7]", "[kill -STOP 7]", "[echo $?]"]),
    ],
)
def test_trees(line: str, expected: list[str]) -> None:
    assert show(line) == expected


@pytest.mark.parametrize("line", ["a |", "a &&", "a ||", "a | \n", "a && # later", "'x", "a |\n'"])
def test_unfinished_lines_ask_for_more(line: str) -> None:
    with pytest.raises(Incomplete):
        parse(line)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("| a", "'|'"),
        ("a | | b", "'|'"),
        ("; a", "';'"),
        ("a ;; b", "';'"),
        ("& a", "'&'"),
        ("a && && b", "'&&'"),
        ("a & && b", "'&&'"),
        ("a | ;", "';'"),
        ("!", "missing"),
        ("! ;", "';'"),
        ("a >", "file name"),
        ("a > ;", "file name"),
        ("a > > b", "file name"),
        ("a >& b", ">&"),
        ("a 0> b", "0 is read with <"),
        ("a 1< b", "0 is read with <"),
        ("a >&\n", "file name"),
        ("for i in 1 2; do a; done", "'for' is not supported: there are && and ||, map"),
        ("a; if b; then c; fi", "'if' is not supported"),
        ("a | while b; do c; done", "'while' is not supported"),
    ],
)
def test_bad_lines_say_where(line: str, says: str) -> None:
    with pytest.raises(BadSyntax) as caught:
        parse(line)
    assert not isinstance(caught.value, Incomplete)
    assert says in caught.value.message
    assert 0 <= caught.value.position <= len(line)


def test_words_of_other_shells_are_words_elsewhere() -> None:
    for line in ("'for' i", "echo for", "X=1 for", "f\\or", "$x for"):
        assert parse(line).lists


def test_each_list_keeps_its_text() -> None:
    script = parse("spawn a  <x | spawn b &  ask 'what; now'\nps")
    assert [each.text for each in script.lists] == ["spawn a  <x | spawn b", "ask 'what; now'", "ps"]


def test_commands_lists_all_that_may_run() -> None:
    names = [command.words[0].plain for command in parse("a && b | c || d ; e &").commands]
    assert names == ["a", "b", "c", "d", "e"]
