"""Agent files: what is read, and how a mistake is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llmos
from llmos.kernel.errno import BadFormat, InvalidArgument, NotFound
from llmos.kernel.process import Limits
from llmos.sdk import agentfile
from llmos.sdk.agentfile import MAX_BYTES, find, load, parse, with_schema
from llmos.sdk.agentnames import SHIPPED, names
from llmos.sdk.fanout import AT_ONCE
from llmos.syscalls import param

WHOLE = '''
name = "poet"
description = "Writes poems."
model = "smollm2"
system = "You write poems."
prompt = """
About {input}:
nice = 3
"""
input = "line"
class = "batch"
nice = 7
max_turns = 3
separator = "--"

[limits]
tokens = 2000
wall_seconds = 60

[sampling]
temperature = 0.5
stop = ["END"]
max_tokens = 64
'''


def test_everything_is_read() -> None:
    agent = parse(WHOLE, "file", "poet.toml")
    assert agent.name == "poet"
    assert agent.prompt == "About {input}:\nnice = 3\n"
    assert (agent.input, agent.cls, agent.nice, agent.max_turns, agent.separator) == ("line", "batch", 7, 3, "--")
    assert agent.limits == Limits(tokens=2000, wall_seconds=60)
    assert agent.sampling == {"temperature": 0.5, "stop": ["END"], "max_tokens": 64}


def test_an_empty_file_is_an_agent() -> None:
    agent = parse("", "plain", "plain.toml")
    assert (agent.name, agent.prompt, agent.input, agent.sampling) == ("plain", "{input}", "all", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('sytem = "x"', "a.toml, line 1: there is no key 'sytem'; did you mean 'system'?"),
        ('\n\nclas = "batch"', "a.toml, line 3: there is no key 'clas'; did you mean 'class'?"),
        ('system = "x"\n[limts]\ntokens = 3', "a.toml, line 2: there is no key 'limts'; did you mean 'limits'?"),
        ("[limits]\n\ntoken = 3", "a.toml, line 3: there is no key 'token' in [limits]; did you mean 'tokens'?"),
        ("[sampling]\ntemprature = 1", "a.toml, line 2: there is no key 'temprature' in [sampling]; did you mean 'temperature'?"),
        ("sampling.temprature = 1", "a.toml, line 1: there is no key 'temprature' in [sampling]; did you mean 'temperature'?"),
        ("sampling = {temperature = 11}", "a.toml, line 1: 'sampling.temperature' must be at most 10, not 11"),
        ("zzz = 1", "a.toml, line 1: there is no key 'zzz'; the keys are name, description,"),
        ('nice = "high"', "a.toml, line 1: 'nice' must be a valid integer, not 'high'"),
        ("nice = 20", "a.toml, line 1: 'nice' must be at most 19, not 20"),
        ('class = "fast"', "a.toml, line 1: 'class' must be one of 'interactive', 'normal', 'batch' or 'idle', not 'fast'"),
        ("[sampling]\ntop_p = nan", "a.toml, line 2: 'sampling.top_p' must be a finite number, not nan"),
        ("[limits]\nwall_seconds = -1", "a.toml, line 2: 'limits.wall_seconds' must be at least 0, not -1"),
        ('prompt = "about {inptu}"', "a.toml, line 1: prompt has {inptu}; did you mean {input}?"),
        ('system = """\nnice = 99\n"""\nnice = 99', "a.toml, line 4: 'nice' must be at most 19"),
        ('\ntools = ["llmos.calculat"]', "line 2: 'tools.0' "),
        ('tools = ["llmos.calculat"]', "did you mean 'llmos.calculate'?"),
        ('\ncapabilities = ["toool:x"]', "a.toml, line 2: 'capabilities.0'"),
        ('[[examples]]\ninput = "a"\noutpt = "b"\noutput = "c"', "there is no key 'outpt' in [examples]; did you mean 'output'?"),
        ('[[examples]]\ninput = "a"', "'examples.0.output'"),
        ('[[examples]]\ninput = "a"\noutput = "b"\ncall = "c"', "of call and result there are both or none"),
        ('call = "yes"', "a.toml, line 1: 'call' must be"),
        ('system = "x', "a.toml, line 1: this is not TOML:"),
        ('a = 1\nb = "x" c\n', "a.toml, line 2: this is not TOML:"),
        ("nice = 1\nnice = 2", "a.toml, line 2: this is not TOML: Cannot overwrite a value"),
        ("max_turns = 99999999999999999999", "'max_turns' must be at most 1000000"),
        ("nice = " + "9" * 5_000, "a.toml: a number in it has too many digits"),
        ("nice = 0x" + "f" * 5_000, "'nice' must be at most 19, not an integer of 20000 bits"),
        ("x = 1\n[output_schema]\ntype = 'strng'\n", "there is no key 'x'"),
        ("\n[output_schema]\ntype = 'strng'\n", "a.toml, line 2: output_schema is no JSON schema: type: 'strng' is not valid"),
        ("output_schema = 'none.json'", "a.toml, line 1: output_schema is no JSON schema: none.json cannot be read: No such file"),
        ("input_schema = 'given'", "a.toml, line 1: input_schema is no JSON schema: given cannot be read"),
        ("[input_schema]\nconst = 2020-01-01", "a.toml, line 1: input_schema is no JSON schema: Object of type date"),
        ("tools = ['add']\n[output_schema]\ntype = 'string'", "line 2: a reply that may call tools cannot be held to output_schema"),
        ("prompt = 'As {shema}: {input}'", "line 1: prompt has {shema}; did you mean {schema}?"),
        ("a = " + "[" * 5_000, "a.toml: lists or tables in it are nested too deeply"),
    ],
)
def test_a_mistake_names_line_and_key_and_the_nearest(text: str, message: str) -> None:
    with pytest.raises(BadFormat) as caught:
        parse(text, "a", "a.toml")
    assert message in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "a"\nsystem = "\xe9"')
    with pytest.raises(BadFormat, match=r"latin\.toml, line 2: this is not UTF-8"):
        load(tmp_path / "latin.toml")
    (tmp_path / "big.toml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(BadFormat, match="longer than"):
        load(tmp_path / "big.toml")
    with pytest.raises(BadFormat, match="cannot be read"):
        load(tmp_path)


def test_agents_are_found_in_the_first_folder_that_has_them(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, text in ((first, 'description = "mine"'), (second, 'description = "theirs"')):
        folder.mkdir()
        (folder / "poet.toml").write_text(text)
    (second / "critic.toml").write_text("")
    folders = (first, second, tmp_path / "missing")
    assert find("poet", folders).description == "mine"
    assert find("critic", folders).name == "critic"
    assert find(str(second / "poet.toml"), folders).description == "theirs"
    assert names(folders) == ["critic", "poet"]
    with pytest.raises(NotFound, match="did you mean 'critic'"):
        find("critc", folders)
    with pytest.raises(NotFound, match="there are critic, poet"):
        find("zzzz", folders)


@pytest.mark.parametrize("name", ["x" * 300, "~nosuchperson/a", "/" + "x" * 300 + ".toml", "x.toml/y"])
def test_names_that_no_file_can_have_are_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises((NotFound, BadFormat)):
        find(name, [tmp_path])


@pytest.mark.parametrize("name", ["a\0b", "a\0.toml", "\udc80", "", 5])
def test_what_is_no_name_is_refused(tmp_path: Path, name: Any) -> None:
    with pytest.raises((InvalidArgument, NotFound)):
        find(name, [tmp_path])


def test_the_agents_that_come_with_llmos_are_good() -> None:
    folder = Path(__file__).parents[2] / "agents"
    assert names([folder]) == ["calculator", "chat", "extract", "files", "map", "summarise"]
    assert find("chat", [folder]).input == "line"
    assert find("summarise", [folder]).input == "all"


def test_tools_capabilities_and_examples() -> None:
    text = 'tools = ["llmos.calculate", "add"]\ncall = true\ncapabilities = ["llm:*"]\n[[examples]]\ninput = "a"\noutput = "b"\n'
    agent = parse(text, "a", "a.toml")
    assert (agent.call, agent.capabilities, agent.examples, agent.offered) == (True, ("llm:*",), (("a", "b"),), ["add"])
    with pytest.raises(BadFormat, match="examples"):
        parse("[[examples]]\ninput = 'a'\noutput = 'b'\n" * 65, "a", "a.toml")


def test_a_map_of_a_file() -> None:
    agent = parse("each = 'summarise'\nat_once = 3", "a", "a.toml")
    assert (agent.each, agent.at_once) == ("summarise", 3)
    for wrong in (0, AT_ONCE["batch"] + 1):
        with pytest.raises(BadFormat, match="line 2: 'at_once'"):
            parse(f"each = 'chat'\nat_once = {wrong}", "a", "a.toml")


def test_schemas_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "city.json").write_text('{"type": "string"}')
    text = "output_schema = 'city.json'\nprompt = '{schema} {input} {other}'\n[input_schema]\ntype = 'object'\n"
    agent = parse(text, "a", str(tmp_path / "a.toml"))
    assert (agent.output_schema, agent.input_schema) == ('{"type": "string"}', '{"type": "object"}')
    assert agent.asked("{schema}{input}") == '{"type": "string"} {schema}{input} {other}'
    (tmp_path / "city.json").write_text(json.dumps({"enum": ["x" * param.MAX_SCHEMA]}))
    with pytest.raises(BadFormat, match="longer than"):
        parse(text, "a", str(tmp_path / "a.toml"))
    given = parse("output_schema = 'given'", "a", "a.toml")
    with pytest.raises(InvalidArgument, match="must be given"):
        with_schema(given, None)
    assert with_schema(given, {"type": "null"}).output_schema == '{"type": "null"}'
    with pytest.raises(InvalidArgument, match="may call tools"):
        with_schema(parse("tools = ['add']", "a", "a.toml"), {})
    with pytest.raises(InvalidArgument, match="for agents"):
        with_schema("module:function", {})


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_agents_that_come_with_llmos_read_as_any_other_does(path: Path) -> None:
    """They are taken as they are written, without what checks the others."""
    other = Path("elsewhere") / path.name
    assert replace(load(path), path=str(other)) == parse(path.read_text(), path.stem, str(other))


def test_one_that_comes_with_llmos_and_was_changed_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(agentfile, "SHIPPED", tmp_path)
    path = tmp_path / "chat.toml"
    for text, message in (
        ("sistem = 'x'", "line 1: there is no key 'sistem'"),
        ("limits = 3", "line 1: 'limits'"),
        ("examples = [1]", "line 1"),
    ):
        path.write_text(text)
        with pytest.raises(BadFormat, match=message):
            load(path)


def test_asking_imports_nothing_that_checks() -> None:
    """It is what the first token of `llmsh -c ask` waits for."""
    code = "from llmos.sdk import agentfile; import sys; agentfile.find('chat', [agentfile.SHIPPED]); sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(Path(llmos.__file__).parent.parent)})
