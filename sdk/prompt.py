"""Prompt programs: the interpreter of agent files.

    OPEN --context--> READ --input--> REPLY --written--> READ ... END        a turn is READ and REPLY; see fanout.py for `each`
                                      |  ^
                       calls of tools +--+ at most `rounds` times

All it knows is in an explicit `State`, changed only between calls, so that a running one can be forked: the kernel forks the
process, the state is copied with the twin's contexts in it, and a second interpreter goes on from there. A call that was
under way when the copy was made may have taken effect in part; the twin asks the kernel how far its context has come.

A separator that is one control character, other than a newline or tab, is a mark for a program that reads the replies. A model
may write that character too: in a reply U+FFFD stands for it, so that the mark is the end of a reply and nothing else is.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from llmos.syscalls.abi import InvalidArgument, NotFound, NotPermitted, Reply, ToolInfo, TooLong, ToolResult, param

from . import builtin
from .agentfile import AgentFile
from .context import Context
from .fanout import fan_out
from .toolcalls import Screen, calls_in, held_to, tools_prompt
from .toolloop import ENOUGH, TOLD, response, results_of

if TYPE_CHECKING:
    from .process import Process


REPLACEMENT = "\ufffd"
"""REPLACEMENT CHARACTER."""


class Stage(Enum):
    OPEN = "open"
    READ = "read"
    REPLY = "reply"
    END = "end"


@dataclass(slots=True)
class State:
    """Where a prompt program is."""

    agent: AgentFile
    given: str | None = None
    """Input that was given with the spawn; it is the first turn's."""
    model: str | None = None
    stage: Stage = Stage.OPEN
    context: int | None = None
    length: int = 0
    """Tokens in the context before this turn."""
    messages: int = 0
    """In the context before this turn."""
    text: str = ""
    """This turn's input."""
    turns: int = 0
    failed: int = 0
    """Turns whose reply was to be what a tool gives, and the tool failed."""
    rounds: int = 0
    """Replies of this turn that asked for tools."""
    asked: str = ""
    """The last of them, while its calls are under way."""
    asked_at: int = 0
    """Messages in the context after it."""
    copies: int = 0
    """How many forks lie between this and the original: a fixed seed moves on with each."""

    def snapshot(self) -> State:
        """As it is now."""
        return replace(self)

    def twin(self, contexts: dict[int, int]) -> State:
        """The same with the twin's contexts. One whose context was not open yet opens it anew."""
        handle = None if self.context is None else contexts.get(self.context)
        return replace(self, context=handle, stage=self.stage if handle is not None else Stage.OPEN, copies=self.copies + 1)


async def interpret(me: Process, state: State) -> None:
    """Run a prompt program from wherever its state says it is, to its end."""
    agent = state.agent
    if agent.each is not None:
        if failed := await fan_out(me, state):
            raise SystemExit(f"{failed} of the lines failed")
        return
    tools = await _tools(me, agent)
    context: Context | None = None
    if state.context is not None:
        context = await me.context(state.context)
    while state.stage is not Stage.END:
        if state.stage is Stage.OPEN or context is None:
            # Tools first: whatever else agents are told, those with the same tools share these pages.
            system = "\n\n".join(filter(None, (tools_prompt(tools), agent.system))) if tools else agent.system
            context = await me.open(system=system, model=state.model or agent.model)
            if agent.examples:
                await context.append(messages=[message for example in agent.examples for message in _turns(agent, example)])
            await _mark(context, state)
            state.context, state.stage = context.handle, Stage.READ
        elif state.stage is Stage.READ:
            text = await _input(me, state)
            if text is None:
                state.stage = Stage.END
            else:
                if agent.input_schema is not None:
                    await anyio.to_thread.run_sync(_demand_fit, agent, text)
                state.text, state.stage = text, Stage.REPLY
        else:
            await _reply(me, context, state, tools)
            await _mark(context, state)
            state.turns += 1
            state.rounds = 0
            once = agent.input != "line" or (agent.max_turns is not None and state.turns >= agent.max_turns)
            state.stage = Stage.END if once else Stage.READ
            await me.write(agent.separator)  # after the turn is over in the state: a twin made now does not write it again
    if state.failed:
        raise SystemExit(1)  # each has been told


def _turns(agent: AgentFile, example: Sequence[str]) -> list[dict[str, str]]:
    """An example as messages."""
    asked, *between, said = example
    texts = [agent.asked(asked), said]
    if between:
        call, result = between
        name = next((wanted.name for wanted in calls_in(call, set(agent.tools))), "")
        texts[1:1] = [call, response(name, result, is_error=False)]
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


async def _mark(context: Context, state: State) -> None:
    """A turn begins here."""
    info = await context.info()
    state.length, state.messages = info.length, info.messages


async def _input(me: Process, state: State) -> str | None:
    """The input of the next turn; None if none is left. Raises InvalidArgument where all of it is nothing: a model would invent one."""
    given, state.given = state.given, None
    if given is None and state.agent.input == "none":
        return ""
    if given is None and state.agent.input == "all":
        given = await _whole(me)
    if given is not None:
        if state.agent.input == "all" and not given.strip():
            raise InvalidArgument(f"the agent {state.agent.name} has nothing to read: its input is empty")
        return given
    while line := await me.stdin.readline(param.MAX_TEXT):
        if line.strip():
            return line.removesuffix("\n")
    return None


def _demand_fit(agent: AgentFile, text: str) -> None:
    """Raises InvalidArgument for an input that is no JSON, or not what the agent's schema says. May be slow."""
    from llmos.syscalls.schema import Schema, parse  # few agents need it

    what = f"the input of {agent.name}"
    Schema(what, agent.input_schema or "").fit(parse(text, what))


async def _whole(me: Process) -> str:
    """All of the input, as far as a message can hold it: an input without end must not fill the memory of the machine."""
    parts: list[str] = []
    length = 0
    while piece := await me.stdin.read_some():
        parts.append(piece)
        length += len(piece)
        if length > param.MAX_TEXT:
            raise TooLong(f"the input has more than {param.MAX_TEXT} characters, the most that one message holds; give a part of it")
    return "".join(parts)


async def _tools(me: Process, agent: AgentFile) -> list[ToolInfo]:
    """What the agent may call. Raises NotFound for a tool that nobody offers to it, in time."""
    if not agent.tools:
        return []
    try:
        offered = {tool.name: tool for tool in await me.wait_for_tools(*agent.offered)}
    except NotFound as fault:
        raise NotFound(f"the agent {agent.name} cannot begin: {fault.args[0]}") from None
    for tool in offered.values():
        if tool.name in agent.tools and tool.lacks:
            raise NotPermitted(
                f"the agent {agent.name} cannot begin: its tool {tool.name} needs {tool.lacks[0]!r}, which pid {me.pid} lacks; "
                f"give it that with capabilities in its file, or spawn --can {tool.lacks[0]}"
            )
    return [offered[name] if name in offered else builtin.info(name) for name in dict.fromkeys(agent.tools)]


async def _reply(me: Process, context: Context, state: State, tools: list[ToolInfo]) -> None:
    """This turn's reply; with tools, the calls that it asks for and the reply after them."""
    names = {tool.name for tool in tools}
    if state.agent.output_schema is not None:
        await _form(me, context, state, state.agent.output_schema)
        return
    wrong: str | None = None
    while True:
        more: dict[str, Any] = {}
        info = await context.info()
        if state.asked and info.messages == state.asked_at:
            calls = calls_in(state.asked, names)
            hands = _Heard(builtin.Hands(me), next((f"{each.name or 'a call'}: {each.wrong}" for each in calls if each.wrong), None))
            messages = await results_of(hands, calls)
            over = state.rounds == state.agent.rounds
            if state.agent.direct and (over or hands.wrong is None):
                await context.append(messages=messages)
                state.asked = ""
                if hands.wrong is None:
                    await me.write("\n".join(hands.given))
                else:
                    await _fail(me, state, hands.wrong)
                return
            wrong = hands.wrong
            if over:
                messages[-1]["content"] += f"\n{ENOUGH}"
            more = {"messages": messages}
        if state.agent.call and tools and not more and not state.asked:
            text = await _call(context, state, tools)
        else:
            text = await _generate(me, context, state, tools, more)
        state.asked = ""
        if not calls_in(text, names) or state.rounds >= state.agent.rounds:
            if state.agent.direct and wrong is not None:
                await _fail(me, state, wrong)  # whatever the model says of it
            return
        state.asked, state.asked_at, state.rounds = text, (await context.info()).messages, state.rounds + 1


async def _fail(me: Process, state: State, why: str) -> None:
    """A turn is over without what a tool was to give."""
    state.failed += 1
    await me.stderr.write(f"{why}\n")


class _Heard:
    """Calls tools, and keeps what they gave as text, and which failed first and why."""

    def __init__(self, hands: builtin.Hands, wrong: str | None) -> None:
        self._hands = hands
        self.given: list[str] = []
        self.wrong = wrong

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | str | None = None, /) -> ToolResult:
        try:
            result = await self._hands.call_tool(name, arguments)
        except TOLD as fault:
            self.wrong = self.wrong or f"{name}: {fault.args[0]}"
            raise
        if result.is_error:
            self.wrong = self.wrong or f"{name}: {result.text}"
        else:
            self.given.append(result.text)
        return result


async def _form(me: Process, context: Context, state: State, schema: str) -> None:
    """A reply that is JSON of a schema, in a line. What did not become whole is not written. Raises TooLong."""
    reply = await _held(context, state, schema=schema)
    if reply.reason == "length":
        raise TooLong(
            f"the reply took all of its {reply.usage.tokens} tokens before its JSON was whole: give the agent more max_tokens, "
            "or the schema bounds (maxLength, maxItems)"
        )
    if reply.reason == "stop":
        await me.write(reply.text)


async def _call(context: Context, state: State, tools: list[ToolInfo]) -> str:
    """A reply that is a call of a tool."""
    return (await _held(context, state, tools={tool.name: json.loads(tool.schema) for tool in tools})).text


async def _held(context: Context, state: State, **form: Any) -> Reply:
    """A reply that is held to a form. A twin begins one that was under way anew: half of a form cannot be gone on with."""
    info = await context.info()
    if info.messages != state.messages:
        await context.truncate(state.length)
    arguments: dict[str, Any] = dict(state.agent.sampling)
    if arguments.get("seed") is not None:
        arguments["seed"] = (arguments["seed"] + state.copies) % 2**63
    return await context.generate(user=state.agent.asked(state.text), **form, **arguments)


async def _generate(me: Process, context: Context, state: State, tools: list[ToolInfo], more: dict[str, Any]) -> str:
    """Generate a reply and write it out as it comes; go on with one that the original had begun. Returns its text if there are tools."""
    info = await context.info()
    names = {tool.name for tool in tools}
    arguments: dict[str, Any] = dict(state.agent.sampling) | held_to(tools) | more
    text = ""
    if arguments.get("seed") is not None:
        arguments["seed"] = (arguments["seed"] + state.copies) % 2**63
    if more:
        pass  # what the tools gave
    elif info.messages == state.messages:
        arguments["user"] = state.agent.asked(state.text)
    elif info.reply is None:
        return ""  # the reply was complete when the copy was made
    else:
        if names:
            text = await me.detokenize(await context.tokens(info.length - info.reply), info.model)
        if arguments.get("max_tokens") is not None:
            arguments["max_tokens"] -= info.reply
            if arguments["max_tokens"] < 1:
                return text
    mark = state.agent.separator if _is_mark(state.agent.separator) else None
    screen = Screen(names)
    screen.push(text)
    async for piece in context.generate(**arguments):
        text += piece
        shown = screen.push(piece) if names else piece
        if shown:
            await me.write(shown if mark is None else shown.replace(mark, REPLACEMENT))
    if names and (rest := screen.rest()):
        await me.write(rest if mark is None else rest.replace(mark, REPLACEMENT))
    return text if names else ""


def _is_mark(separator: str) -> bool:
    return len(separator) == 1 and separator not in "\n\t" and unicodedata.category(separator) == "Cc"
