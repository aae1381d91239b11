"""Replies in a form: how many are valid, what masks cost, and how fast such replies come.

    python benchmarks/structured.py [--model NAME] [--each N] [--calls N] [--json]

Twenty JSON schemas of the kinds people use, each asked for `--each` times with another seed, and then `--calls` tool calls out of
three tools, and then as many in text: there the model is told of the tools and a tag is written for it, since it is too small to
think of that; it goes on held to the tools' schemas, and free. All run at once over the whole system, as agents would. A reply counts
as valid if its reason is "stop", it parses, and a validator that shares nothing with llguidance finds that it matches. One that
reaches max_tokens counts as invalid.
The cost of a mask is measured alone, along the replies that came, with nothing else running; the rates with and without a schema
in turns, on the same prompts and numbers of tokens, past any stop for the free ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from overhead import commit
from schemas import SCHEMAS, TOOLS, problem

import llmos
from llmos.drivers.grammar import Grammars
from llmos.drivers.tokenizer import load_text
from llmos.sdk.toolcalls import CLOSE, OPEN, calls_in, held_to, tools_prompt
from llmos.services.init.settings import read_settings
from llmos.services.init.store import library
from llmos.syscalls.abi import ToolInfo

MAX_TOKENS = 1024
"""More than any of the schemas needs: a character may take four tokens, and the longest has 320."""
AT_ONCE = 16
OFFERED = [ToolInfo(name, "A tool.", json.dumps(schema), 1.0, True, 1) for name, schema in TOOLS.items()]
TOPICS = ("a lighthouse in Norway", "a bakery on a Sunday", "a lost umbrella", "the night train to Vienna", "a garden of herbs",
          "a chess club", "a storm at sea", "an old radio", "a market in Lagos", "a school play")  # fmt: skip


@dataclass(slots=True)
class Result:
    model: str
    valid: int = 0
    asked: int = 0
    calls_valid: int = 0
    calls_asked: int = 0
    in_text_held: int = 0
    """Calls begun in text that match their schema."""
    in_text_free: int = 0
    tokens: int = 0
    seconds: float = 0.0
    mask_median: float = 0.0
    """Seconds of one mask, the token before it taken in."""
    mask_mean: float = 0.0
    mask_p99: float = 0.0
    with_rate: float = 0.0
    """Tokens/s of one stream."""
    without_rate: float = 0.0
    problems: list[str] | None = None


async def replies(system: llmos.System, asked: Sequence[tuple[str, dict[str, Any]]]) -> list[llmos.Reply]:
    """Each of these (what a user says, what the reply must look like), with a seed of its own, AT_ONCE at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(seed: int, user: str, form: dict[str, Any]) -> llmos.Reply:
        async with gate, await system.open() as context:
            return await context.generate(user=user, temperature=0.8, top_p=0.95, seed=seed, max_tokens=MAX_TOKENS, **form)

    return await asyncio.gather(*(one(seed, user, form) for seed, (user, form) in enumerate(asked)))


def schema_prompts(each: int) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{what} Make it about {TOPICS[turn % len(TOPICS)]}. Answer in JSON.", {"schema": schema})
        for what, schema in SCHEMAS.values()
        for turn in range(each)
    ]


def call_prompts(count: int) -> list[tuple[str, dict[str, Any]]]:
    names = ", ".join(TOOLS)
    return [(f"Call one of the tools {names} to help with {TOPICS[turn % len(TOPICS)]}.", {"tools": TOOLS}) for turn in range(count)]


async def measure(model: str | None, each: int, calls: int, turns: int) -> Result:
    async with llmos.boot(model=model, seed=0) as system:
        name = (await (await system.open()).info()).model
        result = Result(name, problems=[])
        prompts = schema_prompts(each)
        began = time.monotonic()
        said = await replies(system, prompts)
        result.seconds = time.monotonic() - began
        result.tokens = sum(reply.usage.tokens for reply in said)
        for reply, (_, form) in zip(said, prompts, strict=True):
            found = wrong(reply, form["schema"])
            result.asked += 1
            result.valid += found is None
            result.problems += [] if found is None else [f"{found}: {reply.text[-60:]!r}"]
        for reply in await replies(system, call_prompts(calls)):
            found = wrong_call(reply)
            result.calls_asked += 1
            result.calls_valid += found is None
            result.problems += [] if found is None else [f"{found}: {reply.text[-60:]!r}"]
        result.in_text_held = await in_text(system, calls, held_to(OFFERED))
        result.in_text_free = await in_text(system, calls, {})
        pairs = [await rates(system, *prompts[turn * each]) for turn in range(turns)]
        if pairs:
            result.with_rate = statistics.median(pair[0] for pair in pairs)
            result.without_rate = statistics.median(pair[1] for pair in pairs)
    costs = sorted(
        mask_costs(name, [(form["schema"], reply.tokens) for reply, (_, form) in zip(said, prompts, strict=True)][:: max(1, each)])
    )
    result.mask_median, result.mask_mean = statistics.median(costs), statistics.mean(costs)
    result.mask_p99 = costs[int(len(costs) * 0.99)]
    return result


async def in_text(system: llmos.System, count: int, form: dict[str, Any]) -> int:
    """Of calls that are begun in text, how many match."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(seed: int) -> bool:
        async with gate, await system.open(system=tools_prompt(OFFERED)) as context:
            asked = f"Call one of the tools {', '.join(TOOLS)} to help with {TOPICS[seed % len(TOPICS)]}."
            begun = [{"role": "user", "content": asked}, {"role": "assistant", "content": OPEN}]
            reply = await context.generate(messages=begun, temperature=0.8, top_p=0.95, seed=seed, max_tokens=MAX_TOKENS, **form)
        call = calls_in(OPEN + reply.text, set(TOOLS))[0]
        return (
            CLOSE in reply.text and not call.wrong and call.name in TOOLS and problem(json.loads(call.arguments), TOOLS[call.name]) is None
        )

    return sum(await asyncio.gather(*map(one, range(count))))


def wrong(reply: llmos.Reply, schema: Any) -> str | None:
    if reply.reason != "stop":
        return f"ended by {reply.reason}"
    try:
        return problem(reply.json(), schema)
    except llmos.Fault as fault:
        return str(fault)


def wrong_call(reply: llmos.Reply) -> str | None:
    if reply.reason != "stop":
        return f"ended by {reply.reason}"
    call = reply.json()
    if set(call) != {"name", "arguments"} or call["name"] not in TOOLS:
        return f"no call: {call}"
    return problem(call["arguments"], TOOLS[call["name"]])


async def rates(system: llmos.System, user: str, form: dict[str, Any]) -> tuple[float, float]:
    """Tokens/s after the first of one reply in its form, and of a free one as long."""
    found = []
    length = MAX_TOKENS
    for more in (form, {"ignore_stop": True}):
        async with await system.open() as context:
            usage = (await context.generate(user=user, max_tokens=length, **more)).usage
        found.append((usage.tokens - 1) / max(usage.seconds - usage.first_token_seconds, 1e-9))
        length = max(usage.tokens, 2)
    return found[0], found[1]


def mask_costs(model: str, said: Sequence[tuple[Any, Sequence[int]]]) -> list[float]:
    """Seconds that a device waits for each mask of these replies, one row at a time."""
    manifest = library(read_settings().home).find(model)
    text = load_text(manifest.path, manifest.cache)
    grammars = Grammars(text, text.size)
    costs = []
    for schema, tokens in said:
        constraint = grammars.compile("schema", json.dumps(schema))
        for end in range(len(tokens)):
            began = time.perf_counter()
            constraint.ask(tuple(tokens[:end]), ())
            constraint.masks(time.monotonic() + 10)
            costs.append(time.perf_counter() - began)
    grammars.close()
    return costs


def table(result: Result) -> str:
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}; commit {commit()}"
    ran = f"{result.tokens} tokens in {result.seconds:.1f} s, {AT_ONCE} at once"
    masks = [f"{seconds * 1e6:.0f} us" for seconds in (result.mask_median, result.mask_mean, result.mask_p99)]
    ratio = result.with_rate / max(result.without_rate, 1e-9)
    return "\n".join(
        [
            f"machine    {machine}",
            f"model      {result.model}",
            f"schemas    {result.valid} of {result.asked} valid, {len(SCHEMAS)} schemas; {ran}",
            f"calls      {result.calls_valid} of {result.calls_asked} parse and match their schema, {len(TOOLS)} tools",
            f"in text    {result.in_text_held} of {result.calls_asked} calls begun in text match, {result.in_text_free} of them free",
            f"mask       {masks[0]} median, {masks[1]} mean, {masks[2]} p99, per row and token",
            f"one stream {result.with_rate:.1f} tokens/s with a schema, {result.without_rate:.1f} without ({ratio:.2f})",
            *(f"invalid    {each}" for each in result.problems or ()),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--each", type=int, default=10, help="generations per schema")
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--turns", type=int, default=10, help="pairs of one stream with a schema and without")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    result = asyncio.run(measure(given.model, given.each, given.calls, given.turns))
    print(json.dumps(asdict(result)) if given.json else table(result))
    return 0 if (result.valid, result.calls_valid, result.in_text_held) == (result.asked, result.calls_asked, result.calls_asked) else 1


if __name__ == "__main__":
    sys.exit(main())
