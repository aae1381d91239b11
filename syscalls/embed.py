"""The handler of embed: a text as a vector, by what a model makes of its last token.

    a burst of one token that asks for the hidden state before it -> what was added and said is taken back

The last token of a decoder has seen all others, so its hidden state is the embedding (last-token pooling, as in Wang et al. 2024,
"Improving Text Embeddings with Large Language Models"). It is computed anew whatever pages are hit, as before any reply.
"""

from __future__ import annotations

import math

from llmos.kernel.device import Sampling
from llmos.kernel.errno import Cancelled, DeviceFailed, InvalidArgument, TryAgain

from . import abi
from .call import Call
from .channel import offload, sleep
from .context import demand_tokens, raise_failure, settle
from .core import Core


async def embed(core: Core, call: Call, args: abi.Embed) -> abi.Embedding:
    """Tell the embedding of what is in a context and of the tokens or the text given, a vector of length 1. The context stays as it is.

    Only models trained for it give vectors whose angles mean much; any other will do for a rough order.
    """
    pid, cid, kernel = call.pid, args.context, core.kernel
    transcript = core.transcript(pid, cid)
    if transcript.busy:
        raise TryAgain(f"another call is adding to context {cid}; wait for it to end, or fork the context")
    context = kernel.context(pid, cid)
    demand_tokens(core, context.device)
    begin = len(context.tokens)
    transcript.busy = True
    try:
        tokens = args.tokens or []
        if args.text is not None:
            text, words = core.text(context.device), args.text
            tokens = await offload(lambda: text.encode(words))
        if not tokens and not begin:
            raise InvalidArgument("embed: there is nothing to embed: give a text or tokens, or a context that is not empty")
        bid = kernel.generate(core.clock(), pid, cid, sampling=Sampling(hidden=True), max_tokens=1, tokens=tokens)
        burst = kernel.burst(pid, bid)
        try:
            while not burst.done:
                await sleep(("burst", bid))
        finally:
            settle(core, burst)
            if cid in core.transcripts.get(pid, {}) and len(context.tokens) > begin:
                kernel.truncate(core.clock(), pid, cid, begin)
    finally:
        transcript.busy = False
    raise_failure(burst)
    if not burst.hidden:
        raise Cancelled("the embedding was ended before it was there")
    length = math.sqrt(math.fsum(number * number for number in burst.hidden))
    if not 0 < length < math.inf:
        raise DeviceFailed(f"{context.device} gave a hidden state of no length: its weights or its pages are damaged; try again")
    return abi.Embedding(tuple(number / length for number in burst.hidden), len(tokens))
