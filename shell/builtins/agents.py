"""Builtins that start agents: spawn runs one, ask puts one question to the chat agent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import llmos

from ..attend import attend
from ..streams import Source
from ..where import where_to
from .call import MOST_DIGITS, Builtin, Call, Refused, Usage, nice_value, number, options
from .files import source_of

if TYPE_CHECKING:
    from llmos import Child

CHAT = "chat"
MOST_CHARACTERS = 4 << 20
"""Longest question; the system takes no longer text in one piece."""
CLASSES = ("interactive", "normal", "batch", "idle")
CAN = "--can"
SCHEMA = "--schema"
MAP = "map"
AT_ONCE = "--at-once"
LONG = {"-n": "--nice", "-c": "--class", "-m": "--model"}
VALUES = ("--name", "--nice", "--class", "--model", "--tokens", "--pages", "--seconds", "--children", "--cost", CAN, SCHEMA, *LONG)
VALUES_OF = {"spawn": VALUES, "map": (*VALUES, AT_ONCE), "ask": ("--model", "-m", SCHEMA)}
"""Command -> its options, each of which takes a value."""


async def spawn(call: Call) -> int:
    found, words = options(call.args, values=VALUES_OF["spawn"])
    given = {LONG.get(name, name): value for name, value in found.items()}
    if not words:
        raise Usage(f"which agent? There are {', '.join(call.shell.agents()) or 'none'}")
    return await run_agent(call, words[0], " ".join(words[1:]), given)


async def map_lines(call: Call) -> int:
    found, words = options(call.args, values=VALUES_OF["map"])
    given = {LONG.get(name, name): value for name, value in found.items()}
    at_once = number(given[AT_ONCE], f"number for {AT_ONCE}", least=1) if AT_ONCE in given else None
    if len(words) > 1:
        raise Usage(f"one agent for every line, not {len(words)}: what they are told is a line of the input")
    system = await call.system()
    try:
        agent = await system.agent(MAP)
        if words:
            agent = replace(agent, each=words[0])
        if at_once is not None:
            agent = replace(agent, at_once=at_once)
        await system.agent(agent.each or "")
    except llmos.Fault as fault:
        raise _cannot_run(fault) from None
    call.job.several = True
    return await run_agent(call, agent, "", given)


async def ask(call: Call) -> int:
    found, words = options(call.args, values=VALUES_OF["ask"])
    given = {LONG.get(name, name): value for name, value in found.items()}
    question = " ".join(words)
    if call.redirected:
        question = "\n\n".join(part for part in (question, await _whole(call.stdin)) if part)
    if not question.strip():
        raise Usage("ask what?")
    call.redirected = False  # it is in the question now
    return await run_agent(call, CHAT, question, given)


async def run_agent(call: Call, agent: str | llmos.AgentFile, text: str, given: dict[str, str]) -> int:
    """Run an agent to its end on the streams of `call`. What it is told and what it reads are one text, in that order."""
    cls = given.get("--class")
    if cls is not None and cls not in CLASSES:
        raise Usage(f"there is no class '{cls}': the classes are {', '.join(CLASSES)}")
    nice = nice_value(given["--nice"]) if "--nice" in given else None
    limits = None
    if given.keys() & {"--tokens", "--pages", "--seconds", "--children", "--cost"}:
        limits = llmos.Limits(
            tokens=_count(given, "--tokens"),
            pages=_count(given, "--pages"),
            wall_seconds=_amount(given, "--seconds", "number of seconds"),
            children=_count(given, "--children"),
            cost=_amount(given, "--cost", "sum of money"),
        )
    schema = await _schema(call, given[SCHEMA]) if SCHEMA in given else None
    system = await call.system()
    await call.shell.model_loaded(call.job)
    stdin: Source | None = None
    if call.redirected:
        stdin = _Told(text, call.stdin) if text else call.stdin
    elif not text:
        stdin = call.stdin
    typed = stdin is not None and not call.redirected and call.job.foreground and call.shell.typed
    words = [text] if text and stdin is None else []

    async def start() -> Child:
        name, model = given.get("--name"), given.get("--model")
        can = given[CAN].split(",") if CAN in given else None
        child = await system.spawn(
            agent, *words, name=name, nice=nice, cls=cls, limits=limits, capabilities=can, model=model, schema=schema
        )
        if typed:
            await call.complain("reads what you type: Ctrl-D ends its input")
        return child

    try:
        return await attend(call.job, start, stdin, call.stdout, call.stderr, call.shell)
    except (llmos.NotFound, llmos.BadFormat) as fault:
        raise _cannot_run(fault) from None


def _cannot_run(fault: llmos.Fault) -> Refused:
    return Refused(str(fault), {llmos.NotFound: 127, llmos.BadFormat: 126}.get(type(fault), 1))


async def _schema(call: Call, word: str) -> str:
    """The text of a file with a JSON schema. Raises Refused for what is no JSON."""
    if not word:
        raise Usage(f"{SCHEMA}: an empty name is no file")
    source = await source_of(call, where_to(word, call.shell.variables))
    try:
        text = await _whole(source)
    finally:
        source.close()
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{word}: it is no JSON, and so no schema: {error}", 126) from None
    return text


class _Told:
    """What an agent was told on the command line, then what it reads."""

    def __init__(self, text: str, rest: Source) -> None:
        self._text = f"{text}\n\n"
        self._rest = rest

    async def read(self) -> str:
        text, self._text = self._text, ""
        return text or await self._rest.read()

    def close(self) -> None:
        self._rest.close()


async def _whole(source: Source) -> str:
    """All of a source, or as much as shows that it is too long for one question."""
    pieces: list[str] = []
    held = 0
    while held <= MOST_CHARACTERS and (piece := await source.read()):
        pieces.append(piece)
        held += len(piece)
    if held > MOST_CHARACTERS:
        raise Refused(f"the input has more than {MOST_CHARACTERS} characters, too many for one question")
    return "".join(pieces)


def _count(given: dict[str, str], name: str) -> int | None:
    return number(given[name], f"number for {name}") if name in given else None


def _amount(given: dict[str, str], name: str, what: str) -> float | None:
    text = given.get(name)
    if text is None:
        return None
    try:
        amount = float(text) if len(text) <= MOST_DIGITS else -1.0
    except ValueError:
        amount = -1.0
    if not 0 < amount < float("inf"):
        raise Usage(f"'{text}' is no {what}")
    return amount


BUILTINS = (
    Builtin(
        "spawn",
        "spawn [OPTION]... AGENT [TEXT]... [< FILE] [> FILE] [&]",
        "run an agent as a process",
        (
            "spawn summarise < README.md > summary.txt &",
            "spawn summarise 'The sun rose. It was warm.'",
            "cat notes.txt | spawn summarise | spawn chat",
            "spawn --class batch --nice 10 --tokens 2000 summarise < long.txt",
            "spawn --schema person.json extract 'Anna is 34 and lives in Oslo.'",
        ),
        spawn,
        """\
An agent is a file agents/AGENT.toml of this directory, of the home of llmos, or one that comes with it: chat talks with you,
summarise writes a summary, extract writes what a text says as JSON, calculator calculates, files looks into /home. The default model
is very small: check what it says, since it makes things up.
  -n, --nice VALUE     from -20 (served most) to 19 (served least)
  -c, --class CLASS    interactive, normal, batch or idle
  -m, --model NAME     a model that `models` shows
  --tokens N --pages N --seconds N --children N    limits: passing one ends the process
  --cost X             a limit too: money for remote models, counted at the prices they were added with
  --schema FILE        its replies are JSON of this JSON schema; extract wants one
  --can CAPABILITY,... what it may do, such as llm:*,tool:add; with ask: before one you are asked each time: see approvals
  --name NAME          what ps calls it""",
        uses_model=True,
    ),
    Builtin(
        "map",
        "map [OPTION]... [AGENT] [< FILE] [> FILE] [&]",
        "put every line of the input to an agent of its own, chat if none is named",
        ("map summarise < paragraphs.txt", "ls notes | map --class batch > lines.txt", "map --schema person.json extract < people.txt"),
        map_lines,
        """\
Several run at once: 4 in the class interactive, 8 in normal, 32 in batch, 8 in idle. Each writes one line, in the order of the
input: newlines in a reply become spaces. Blank lines are left out. Where one fails an error says which line, its output is an empty
line, and the status is 1 in the end; the others go on. The options are those of spawn, and one more:
  --at-once N          run N at once, at most as many as the class allows""",
        uses_model=True,
    ),
    Builtin(
        "ask",
        "ask [--model NAME] [--schema FILE] TEXT... [< FILE]",
        "put one question to the chat agent",
        ("ask What is the capital of France?", "ask 'Who wrote this?' < letter.txt", "ask --schema city.json Name a city in Norway."),
        ask,
        "A line that is no command goes to the chat agent too, in one long conversation; ask starts from nothing.",
        uses_model=True,
    ),
)
