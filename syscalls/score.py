"""The handler of score: how likely a model finds given tokens after a context.

    a burst that may say these tokens only, one after the other, with log-probabilities -> what was said is taken back

So there is one way to logits, through the sampler, and a score is what a reply with these very tokens would have reported.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmos.kernel.device import Sampling
from llmos.kernel.errno import Cancelled, InvalidArgument, TryAgain
from llmos.kernel.recital import Recital

from . import abi
from .call import Call
from .channel import offload, sleep
from .context import demand_tokens, raise_failure, settle
from .core import Core


class Only:
    """A grammar of one text. Implements `Grammar` of kernel/device.py."""

    def __init__(self, tokens: Sequence[int], vocabulary: int) -> None:
        self._tokens, self._bytes = tokens, (vocabulary + 7) // 8
        self._from = self._count = 0

    def ask(self, said: tuple[int, ...], guesses: tuple[int, ...]) -> None:
        self._from, self._count = len(said), len(guesses) + 1

    def masks(self, deadline: float) -> tuple[bytes, ...]:
        wanted = self._tokens[self._from : self._from + self._count]
        return tuple((1 << token).to_bytes(self._bytes, "little") for token in wanted)


async def score(core: Core, call: Call, args: abi.Score) -> abi.Scores:
    """Tell the log-probability of each of the given tokens, or of a text's, after what is in a context, which stays as it is."""
    pid, cid, kernel = call.pid, args.context, core.kernel
    transcript = core.transcript(pid, cid)
    if transcript.busy:
        raise TryAgain(f"another call is adding to context {cid}; wait for it to end, or fork the context")
    context = kernel.context(pid, cid)
    demand_tokens(core, context.device)
    vocabulary, begin = context.memory.geometry.vocabulary, len(context.tokens)
    transcript.busy = True
    try:
        tokens = args.tokens
        if tokens is None:
            text, words = core.text(context.device), args.text or ""
            tokens = await offload(lambda: text.encode(words))
        if not tokens or not begin:
            raise InvalidArgument(
                "score: give tokens or a text, and a context that is not empty: the first token is judged by what is before it"
            )
        if max(tokens) >= vocabulary:
            raise InvalidArgument(f"token {max(tokens)} is out of bounds: {context.device} has ids below {vocabulary}")
        only = Only(tokens, vocabulary)
        bid = kernel.generate(core.clock(), pid, cid, sampling=Sampling(logprobs=1), max_tokens=len(tokens), grammar=only)
        burst = kernel.burst(pid, bid)
        burst.lookup = Recital(tokens, begin)
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
    if len(burst.output) < len(tokens):
        raise Cancelled("the score was ended before all tokens had theirs")
    return abi.Scores(tuple(tokens), tuple(log.chosen for log in burst.logprobs))
