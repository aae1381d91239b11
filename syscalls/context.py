"""Handlers of the context family: open, append, fork, truncate, close; and how content becomes tokens."""

from __future__ import annotations

from dataclasses import dataclass

from llmos.kernel.burst import Burst
from llmos.kernel.context import Context
from llmos.kernel.errno import Cancelled, Fault, InvalidArgument, NotSupported, TooLong, TryAgain

from . import abi
from .call import Call
from .channel import offload, sleep
from .core import Core
from .text import Text
from .transcript import Transcript


def describe(core: Core, pid: int, cid: int) -> abi.ContextInfo:
    context, transcript = core.kernel.context(pid, cid), core.transcript(pid, cid)
    length = len(context.tokens)
    last = transcript.turns[-1] if transcript.turns else None
    reply = None
    if last is not None and last.role == "assistant" and not last.settled:
        reply = (length if transcript.busy else last.end) - last.start
    return abi.ContextInfo(
        context=cid,
        model=context.device,
        length=length,
        window=context.memory.geometry.window,
        messages=len(transcript.turns),
        reply=reply,
    )


async def loaded(core: Core, model: str | None) -> str:
    """The full name of a model, which is loaded when this returns."""
    name = core.models.resolve(model)
    if name not in core.models.texts:
        loading = core.models.load(name)
        while not loading.done:
            await sleep(("model", name))
        if loading.fault is not None:
            raise type(loading.fault)(*loading.fault.args)
    return name


async def open_context(core: Core, call: Call, args: abi.Open) -> abi.ContextInfo:
    """Open an empty context on a model, loading the model first if it is not loaded."""
    name = await loaded(core, args.model)
    cid = core.kernel.open(core.clock(), call.pid, name)
    core.keep(cid, Transcript(call.pid))
    return describe(core, call.pid, cid)


def close_context(core: Core, call: Call, args: abi.OfContext) -> abi.Done:
    """Close a context and let go of its pages."""
    core.kernel.close(core.clock(), call.pid, args.context)
    core.transcripts.get(call.pid, {}).pop(args.context, None)
    return abi.Done()


def fork_context(core: Core, call: Call, args: abi.OfContext) -> abi.ContextInfo:
    """Make a twin of a context that shares every page with it; a page is copied when one of the two writes to it."""
    transcript = core.transcript(call.pid, args.context)
    twin = core.kernel.fork_context(core.clock(), call.pid, args.context)
    core.keep(twin, transcript.fork(call.pid, len(core.kernel.context(call.pid, twin).tokens)))
    return describe(core, call.pid, twin)


def truncate(core: Core, call: Call, args: abi.Truncate) -> abi.ContextInfo:
    """Keep the first `length` tokens of a context."""
    transcript = core.transcript(call.pid, args.context)
    _demand_idle(transcript, args.context)
    core.kernel.truncate(core.clock(), call.pid, args.context, args.length)
    transcript.truncate(args.length)
    return describe(core, call.pid, args.context)


def context_info(core: Core, call: Call, args: abi.OfContext) -> abi.ContextInfo:
    """Tell the model, the length and the messages of a context."""
    return describe(core, call.pid, args.context)


def context_tokens(core: Core, call: Call, args: abi.Tokens) -> abi.TokenList:
    """Read token ids out of a context."""
    context = core.kernel.context(call.pid, args.context)
    demand_tokens(core, context.device)
    tokens = context.tokens
    return abi.TokenList(tokens[args.start : args.start + args.count])


async def append(core: Core, call: Call, args: abi.Append) -> abi.ContextInfo:
    """Append messages, text or tokens to a context and sleep until its pages are filled, so that a fork shares them."""
    pid, cid, kernel = call.pid, args.context, core.kernel
    if args.messages is None and args.text is None and args.tokens is None:
        raise InvalidArgument("append: give messages, text or tokens")
    transcript = core.transcript(pid, cid)
    _demand_idle(transcript, cid)
    transcript.busy = True
    try:
        addition = await prepare(core, kernel.context(pid, cid), transcript, args, reply=False)
        begin = len(kernel.context(pid, cid).tokens)
        bid = kernel.append(core.clock(), pid, cid, addition.tokens) if addition.tokens else None
        transcript.add(addition.messages, begin, begin + len(addition.tokens))
        if bid is not None:
            burst = kernel.burst(pid, bid)
            try:
                while not burst.done:
                    await sleep(("burst", bid))
            finally:
                settle(core, burst)
            raise_failure(burst)
    finally:
        transcript.busy = False
    return describe(core, pid, cid)


def demand_tokens(core: Core, model: str) -> None:
    """Raises NotSupported if the ids of the model are not to be had."""
    if core.text(model).private:
        raise NotSupported(f"{model} runs elsewhere: its token ids are not known here; give messages, and take text")


# --- what generate shares -----------------------------------------------------------------------------------------


def _demand_idle(transcript: Transcript, cid: int) -> None:
    if transcript.busy:
        raise TryAgain(f"another call is adding to context {cid}; wait for it to end, or fork the context")


def settle(core: Core, burst: Burst) -> None:
    """The call has done with a burst: end it if it still runs, and let the kernel forget it."""
    if burst.bid not in core.kernel.bursts:
        return  # its process is gone, and took it along
    if not burst.done:
        core.kernel.finish(core.clock(), burst.process.pid, burst.bid, "cancelled")
    core.kernel.release(core.clock(), burst.process.pid, burst.bid)


def raise_failure(burst: Burst) -> None:
    """Raises what a burst ended with, if it did not end well."""
    if burst.fault is not None:
        raise type(burst.fault)(*burst.fault.args)
    if burst.reason == "failed":
        raise Fault(f"burst {burst.bid} failed without a reason")
    if burst.sampling is None and burst.reason in ("cancelled", "interrupted"):
        raise Cancelled("the append was ended before its pages were filled; the tokens are in the context")


@dataclass(frozen=True, slots=True)
class Addition:
    """Tokens to append, and the messages that they are."""

    tokens: list[int]
    messages: list[tuple[str, str]]
    chat: bool
    """What is generated next is an assistant's turn."""
    resumes: bool = False
    """It goes on with the open turn at the end of the context."""


async def prepare(core: Core, context: Context, transcript: Transcript, args: abi.Content, *, reply: bool) -> Addition:
    """Turn content into tokens; with `reply`, followed by what asks the model for its turn. Raises TooLong over the window.

    Templates and tokenizers are the model's, whoever made it: a chat template is a program, a tokenizer has regular expressions.
    So both run on another thread, however short the text. The caller has marked the transcript as busy: nothing moves meanwhile.
    """
    text, length = core.text(context.device), len(context.tokens)
    if args.tokens is not None:
        demand_tokens(core, context.device)
        vocabulary = context.memory.geometry.vocabulary
        if args.tokens and max(args.tokens) >= vocabulary:
            raise InvalidArgument(f"token {max(args.tokens)} is out of bounds: {context.device} has ids below {vocabulary}")
        addition = Addition(args.tokens, [], chat=False)
    elif args.text is not None:
        words = args.text
        addition = Addition(await offload(lambda: text.encode(words)), [], chat=False)
    elif args.messages is not None:
        addition = await _messages(text, context, transcript, args.messages, reply=reply)
    else:
        addition = await _turn(text, context, transcript)
    _demand_room(context, length, len(addition.tokens), reply=reply)
    return addition


def _known(text: Text, context: Context, transcript: Transcript) -> list[dict[str, str]]:
    return transcript.messages(lambda start, end: text.decode(context.tokens[start:end]))


async def _messages(text: Text, context: Context, transcript: Transcript, new: list[abi.Message], *, reply: bool) -> Addition:
    old = _known(text, context, transcript)
    every = old + [{"role": message.role, "content": message.content} for message in new]
    prefill = bool(new) and new[-1].role == "assistant"  # its turn is left open, for the model to go on with
    tokens = await offload(lambda: text.chat(every, after=len(old), reply=reply and not prefill))
    return Addition(tokens, [(message.role, message.content) for message in new], chat=bool(every), resumes=prefill)


async def _turn(text: Text, context: Context, transcript: Transcript) -> Addition:
    """Nothing new but a request for the model's turn; nothing at all if the context does not end with a chat message."""
    last = transcript.last(len(context.tokens))
    if last is None:
        return Addition([], [], chat=False)
    if last.role == "assistant" and not last.settled:
        return Addition([], [], chat=True, resumes=True)
    old = _known(text, context, transcript)
    return Addition(await offload(lambda: text.chat(old, after=len(old), reply=True)), [], chat=True)


def _demand_room(context: Context, length: int, more: int, *, reply: bool) -> None:
    window = context.memory.geometry.window
    if length + more + reply > window:
        parts = f" ({length} in the context and {more} more)" if length else ""
        full = ", which leaves no room for a reply" if length + more == window else ""
        raise TooLong(
            f"the prompt has {length + more} tokens{parts} and the window of {context.device} is {window} tokens{full}: "
            "shorten it, or truncate the context"
        )
