"""Handlers of the generate family: sample a reply, streaming it as it comes; turn text into tokens and back.

    burst.output --new ids--> decoder --text--> stop strings --text--> the caller's sink

The kernel wakes ("burst", bid) at every token. The handler takes what is new, gives it on, and sleeps again. However it
ends, the burst is over in the kernel when it does: a caller that went away stops the decode.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from llmos.kernel.burst import Burst
from llmos.kernel.context import Context
from llmos.kernel.device import Geometry, Grammar, Logprobs, Sampling
from llmos.kernel.errno import Cancelled, InvalidArgument, NotSupported, TimedOut, TooLong, TryAgain
from llmos.kernel.slot import Form

from . import abi, grammar, param
from .call import Call
from .channel import offload, sleep
from .context import Addition, demand_tokens, loaded, prepare, raise_failure, settle
from .core import Core
from .plain import Packed
from .stops import Stops
from .text import Decoder
from .transcript import Transcript, Turn

log = logging.getLogger("llmos.syscalls")


@dataclass(slots=True)
class _Stream:
    """What has been given of a reply so far."""

    call: Call
    burst: Burst
    decoder: Decoder
    stops: Stops
    silent: frozenset[int]
    """Stop ids: they end the reply and are no part of it."""
    private: bool
    """The ids are for nobody else."""
    seen: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprobs] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def advance(self) -> None:
        """Give on what is new, up to a stop string."""
        burst, output = self.burst, self.burst.output
        first = len(self.tokens)
        words = ""
        while self.seen < len(output) and self.stops.matched is None:
            token = output[self.seen]
            if token not in self.silent:
                self.tokens.append(token)
                if self.seen < len(burst.logprobs):
                    self.logprobs.append(burst.logprobs[self.seen])
                words += self.stops.push(self.decoder.push(token))
            self.seen += 1
        if len(self.tokens) > first:
            self._push(words, first)

    def flush(self) -> None:
        """The reply is over: give on what was held back."""
        if self.stops.matched is None:
            words = self.stops.push(self.decoder.flush())
            words += self.stops.flush()
            if words:
                self._push(words, len(self.tokens))

    def _push(self, words: str, first: int) -> None:
        self.text.append(words)
        self.call.push(abi.Piece(words, self.given(first), tuple(self.logprobs[first:])))

    def given(self, first: int = 0) -> tuple[int, ...]:
        """The ids from `first` on, as the caller gets to see them."""
        return () if self.private else tuple(self.tokens[first:])


async def generate(core: Core, call: Call, args: abi.Generate) -> abi.Reply:
    """Sample a reply after what is in the context and what is given, streaming pieces of it until it stops.

    After chat messages the model's turn is asked for; after an unfinished reply it is gone on with; after plain text or
    tokens the text is continued. The reply stays in the context.

    With a schema, a regex, a choice or tools the reply is sampled within that form, and ends where the form does: its reason is
    "stop" if and only if it is whole. One that reaches max_tokens before has the reason "length", and is a part. The endpoint of a
    model elsewhere is told of a schema or of tools; a whole reply that does not fit is BadFormat, and stays in the context.

    With tools and tool_choice auto the reply is text as without them, but what it writes after <tool_call> is a call of one of them, and
    </tool_call>. Schemas that cannot be followed leave {"type": "object"}, and where that cannot be either the text is free: the log tells.
    The endpoint of a model elsewhere is not told. Arguments are checked when the call is made, in any case.
    """
    pid, cid, kernel = call.pid, args.context, core.kernel
    transcript = core.transcript(pid, cid)
    if transcript.busy:
        raise TryAgain(f"another call is adding to context {cid}; wait for it to end, or fork the context")
    transcript.busy = True
    try:
        context = kernel.context(pid, cid)
        form = await _form(core, context, transcript, args)
        addition = await prepare(core, context, transcript, args, reply=True)
        return await _run(core, call, args, transcript, addition, form)
    finally:
        transcript.busy = False


async def _form(core: Core, context: Context, transcript: Transcript, args: abi.Generate) -> Grammar | Form | None:
    """What the reply must look like. A caller's, however long it takes to compile: not on this thread, and not on that of others."""
    if not grammar.asked(args):
        return None
    device = context.device
    text, may_call = core.text(device), args.tool_choice == "auto"
    if text.private:
        return None if may_call else await offload(lambda: grammar.told(args, device))
    grammars = core.models.grammars.get(device)
    if grammars is None:
        raise NotSupported(f"replies of {device} cannot be held to a form; ask without schema, regex, choice and tools")
    kind, source = await offload(lambda: grammar.source(args))
    if not may_call:
        return await offload(lambda: grammars.compile(kind, source), slow=True)
    given, tokens = _begun(context, transcript, args)
    try:
        return await offload(lambda: grammars.compile(kind, source, [*text.encode(given), *tokens]), slow=True)
    except (InvalidArgument, NotSupported, TimedOut) as fault:  # what it calls is looked at when the call is made
        log.warning("a reply is not held to the schemas of its tools: %s", fault)
        return None


def _begun(context: Context, transcript: Transcript, args: abi.Generate) -> tuple[str, list[int]]:
    """Of the unfinished reply that is gone on with: what was given of it, and the tokens that were generated."""
    if args.messages:
        return (args.messages[-1].content if args.messages[-1].role == "assistant" else ""), []
    turn = transcript.last(len(context.tokens)) if args.text is None and args.tokens is None else None
    if turn is None or turn.role != "assistant" or turn.settled:
        return "", []
    return turn.given, context.tokens[turn.start : turn.end]


async def _run(
    core: Core, call: Call, args: abi.Generate, transcript: Transcript, addition: Addition, form: Grammar | Form | None
) -> abi.Reply:
    pid, kernel = call.pid, core.kernel
    context = kernel.context(pid, args.context)
    text, begin = core.text(context.device), len(context.tokens)
    start = begin + len(addition.tokens)
    if not start:
        raise InvalidArgument(f"context {args.context} is empty: append something to it, or give the prompt with the call")
    if text.private:
        _demand_plain(args, addition, context.device)
    stop_ids = frozenset[int]() if args.ignore_stop else text.stop_ids | frozenset(args.stop_ids)
    sampling = Sampling(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        seed=core.draw_seed(pid) if args.seed is None else args.seed,
        logprobs=args.logprobs,
    )
    most = _room(args.max_tokens, start, context.memory.geometry)
    grammar_here, form_there = (None, form) if isinstance(form, Form) else (form, None)
    bid = kernel.generate(
        core.clock(), pid, args.context,
        sampling=sampling, max_tokens=most, tokens=addition.tokens, stop_ids=stop_ids, grammar=grammar_here, form=form_there,
    )  # fmt: skip
    burst = kernel.burst(pid, bid)
    turn = _record(transcript, addition, begin, start)
    stream = _Stream(call, burst, text.decoder(), Stops(() if args.ignore_stop else args.stop), stop_ids, text.private)
    try:
        while True:
            stream.advance()
            if stream.stops.matched is not None or burst.done:
                break
            try:
                await sleep(("burst", bid))
            except Cancelled:  # the caller has had enough: it may still ask what there was
                kernel.finish(core.clock(), pid, bid, "cancelled")
        if stream.stops.matched is not None and burst.reason != "cancelled":
            kernel.finish(core.clock(), pid, bid, "stop", keep=stream.seen)
    finally:
        settle(core, burst)
        length = _close(core, pid, args.context, turn, start + len(stream.tokens), settled=burst.reason == "stop")
    raise_failure(burst)
    stream.flush()
    usage = abi.GenerationUsage(
        prompt_tokens=start if burst.counted is None else burst.counted.prompt,
        added_tokens=start - begin,
        tokens=len(burst.output) if burst.counted is None else burst.counted.output,
        seconds=(burst.ended or core.clock()) - burst.started,
        first_token_seconds=(burst.first_token or core.clock()) - burst.started,
    )
    reason, words = "stop" if stream.stops.matched is not None else burst.reason, "".join(stream.text)
    if form_there is not None and reason == "stop":
        await offload(lambda: grammar.demand_fit(form_there, words, context.device), slow=True)
    return abi.Reply(words, stream.given(), reason, tuple(stream.logprobs), usage, length)


def _room(max_tokens: int | None, start: int, geometry: Geometry) -> int:
    """How many tokens to generate at most: all that fit the window and the device if nobody says. Raises TooLong."""
    left = geometry.window - start
    if max_tokens is None and geometry.slots:
        return max(1, left)
    if max_tokens is None:  # the kernel wants one page to spare
        return max(1, min(left, (geometry.device_frames - 1) * geometry.page_slots - start))
    if max_tokens > left:
        raise TooLong(
            f"the prompt has {start} tokens and max_tokens is {max_tokens}, together more than the window of {geometry.name}, "
            f"{geometry.window} tokens: ask for at most {left}, or shorten the prompt"
        )
    return max_tokens


def _demand_plain(args: abi.Generate, addition: Addition, model: str) -> None:
    """Raises NotSupported for what cannot be asked of an endpoint elsewhere."""
    if addition.resumes:
        raise NotSupported(f"{model} runs elsewhere and cannot go on with a reply that has ended: add a message, or truncate the context")
    given = {
        "top_k": args.top_k != 0,
        "min_p": args.min_p != 0,
        "stop_ids": bool(args.stop_ids),
        "ignore_stop": args.ignore_stop,
        "logprobs": args.logprobs != 0,
    }
    if any(given.values()):
        names = ", ".join(name for name, is_given in given.items() if is_given)
        raise NotSupported(f"{model} runs elsewhere and does not take {names}: leave that out, or use a model on this machine")


def _record(transcript: Transcript, addition: Addition, begin: int, start: int) -> Turn | None:
    """Enter the messages and the reply to come into the transcript. Returns the reply's turn, if it is one."""
    if not addition.chat:
        return None
    transcript.add(addition.messages, begin, start)
    return transcript.turns[-1] if addition.resumes else transcript.reply(start if addition.messages else begin, start)


def _close(core: Core, pid: int, cid: int, turn: Turn | None, end: int, *, settled: bool) -> int:
    """Drop from the context what came after the reply, a stop id or tokens after a stop string. Returns its length."""
    if cid not in core.transcripts.get(pid, {}):
        return end  # the context was closed, or its process is gone
    context = core.kernel.context(pid, cid)
    if len(context.tokens) > end:
        core.kernel.truncate(core.clock(), pid, cid, end)
    if turn is not None:
        turn.end, turn.settled = len(context.tokens), settled
    return len(context.tokens)


async def tokenize(core: Core, call: Call, args: abi.Tokenize) -> abi.TokenList:
    """Turn text into the token ids of a model."""
    text, words = core.text(await loaded(core, args.model)), args.text
    if len(words) <= param.INLINE_TEXT:
        return abi.TokenList(text.encode(words))
    return abi.TokenList(await offload(lambda: Packed(text.encode(words))))


async def detokenize(core: Core, call: Call, args: abi.Detokenize) -> abi.TextResult:
    """Turn token ids of a model into text."""
    model, tokens = await loaded(core, args.model), args.tokens
    demand_tokens(core, model)
    text = core.text(model)
    if len(tokens) <= param.INLINE_TEXT:
        return abi.TextResult(text.decode(tokens))
    return abi.TextResult(await offload(lambda: text.decode(tokens)))
