"""One request to an endpoint: sent, sent again where that is safe, its stream read to the end.

    send -> refused, or no answer   -> wait, longer each time -> send        at most `attempts` times, and only before any answer
         -> an answer that streams  -> Received ...           -> Settled     what breaks now is a fault, and what came is kept

However slow, endless or senseless an endpoint is, a conversation ends: each wait has a deadline that only parts of a reply move,
and bytes that are no part of one are counted. Cancelling the task closes the connection.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from llmos.kernel.errno import DeviceFailed
from llmos.kernel.slot import Counted, Event, Order, Received, Settled

from .answer import MAX_SAID, Part, final, part_of, refusal, retry_after
from .events import Events
from .form import CallText, fields_of
from .text import messages_of, tokens_of

DONE = b"[DONE]"
SLACK = 0.9
"""A silence is noticed after this part of what is allowed, at least."""
MAX_REFUSAL = 65_536
"""Bytes of a refusal that are read."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an endpoint is waited for, in seconds, and how often it is asked again."""

    connect: float = 10.0
    first: float = 300.0
    """For the first part of a reply: a busy endpoint queues."""
    silence: float = 120.0
    """Between two parts. Comments that keep a connection alive are none."""
    total: float = 3600.0
    tail: float = 5.0
    """For what follows the last part: the usage, and the end of the body."""
    attempts: int = 5
    retry: float = 0.5
    """Before the second attempt; doubled each time, and anything between half of it and all."""
    longest: float = 60.0
    """Longest wait before another attempt; an endpoint that asks for more is a fault."""
    idle_bytes: int = 64 << 20
    """Bytes between two parts."""


def body_of(order: Order, model: str, window: int) -> bytes:
    """The request. A number of tokens that fills the window is none: the endpoint knows its window better."""
    sampling = order.sampling
    body = {
        "model": model,
        "messages": [{**each, "role": "user"} if each["role"] == "tool" else each for each in messages_of(order.tokens)],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": sampling.temperature,
    }
    if order.form is not None:
        body |= fields_of(order.form)
    if len(order.tokens) + order.max_tokens < window:
        body["max_tokens"] = order.max_tokens
    if sampling.temperature > 0:
        body["seed"] = sampling.seed
        if sampling.top_p < 1:
            body["top_p"] = sampling.top_p
    return json.dumps(body, ensure_ascii=False).encode()


class Conversation:
    """See the module. `asked` says whether the endpoint may be at work, and take money for it."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        order: Order,
        *,
        model: str,
        window: int,
        key: str,
        patience: Patience,
        tell: Callable[[Event], None],
    ) -> None:
        self._client, self._order, self._model, self._window = client, order, model, window
        self._key, self._patience, self._tell = key, patience, tell
        self._body = b""
        self._ended: Settled | None = None
        self._counted: Counted | None = None
        self.asked = False

    async def run(self) -> Settled:
        """To the end. Raises Fault."""
        self._body, attempt = body_of(self._order, self._model, self._window), 1
        while True:
            settled, wait = await self._attempt(attempt)
            if settled is not None:
                return settled
            await asyncio.sleep(wait)
            attempt += 1

    async def _attempt(self, attempt: int) -> tuple[Settled | None, float]:
        """What became of it, or how long to wait before the next."""
        patience, answered = self._patience, False
        try:
            async with asyncio.timeout(patience.first) as deadline:
                self.asked = True
                async with self._client.stream("POST", "chat/completions", content=self._body) as response:
                    if response.status_code == 200:
                        answered = True
                        return await self._reply(response, deadline), 0.0
                    said = await _beginning(response)
                    self.asked = False
                    fault, after = refusal(response.status_code, said, self._key), retry_after(response.headers)
                    if final(response.status_code, said) or after > patience.longest:
                        raise fault
        except (httpx.TransportError, TimeoutError) as error:
            if self._ended is not None:  # all of the reply is there; what should have followed it is not missed
                return self._ended, 0.0
            if answered:
                what = "went silent" if isinstance(error, TimeoutError) else "broke the connection off"
                raise DeviceFailed(f"the endpoint {what} in the middle of the reply; what came is kept") from None
            if isinstance(error, TimeoutError):
                raise DeviceFailed(f"the endpoint did not answer within {patience.first:g} s; is it overloaded?") from None
            self.asked = False
            fault, after = DeviceFailed(f"the endpoint cannot be reached: {_why(error)}; see to the network and the URL"), 0.0
        if attempt >= patience.attempts:
            raise type(fault)(f"{fault.args[0]} (after {attempt} attempts)")
        wait = min(patience.longest, patience.retry * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        return None, max(wait, after)

    async def _reply(self, response: httpx.Response, deadline: asyncio.Timeout) -> Settled:
        """Read the stream. Raises DeviceFailed, and TimeoutError and what httpx does."""
        _demand_stream(response)
        order, patience, clock = self._order, self._patience, asyncio.get_running_loop().time
        end = clock() + patience.total
        events, parts, idle = Events(), 0, 0
        call = CallText(order.form) if order.form is not None and order.form.kind == "tools" else None
        async for chunk in response.aiter_raw():
            tokens: list[int] = []
            alive = False
            for part in map(self._part, events.feed(chunk)):
                text = part.text if call is None else _said(call, part)
                if text and self._ended is None:
                    tokens += tokens_of(text)
                    parts += 1
                alive = alive or part.alive
                self._note(part)
            if tokens:
                self._tell(Received(order.burst, tuple(tokens)))
            if parts > order.max_tokens:  # a part is a token at least: it was told how many, and goes on
                return self._ended or Settled(order.burst, "length")
            idle = 0 if tokens else idle + len(chunk)
            if idle > patience.idle_bytes:
                raise DeviceFailed(f"the endpoint sent {idle} bytes without a word of the reply; what came is kept")
            now, due = clock(), deadline.when() or end
            if self._ended is not None:
                deadline.reschedule(min(due, now + patience.tail))
            elif alive and not now + SLACK * patience.silence < due <= now + patience.silence:  # to move it costs more than a token
                deadline.reschedule(min(now + patience.silence, end))
        if self._ended is None:
            raise DeviceFailed("the endpoint ended the stream in the middle of the reply; what came is kept")
        return self._ended

    def _part(self, data: bytes) -> Part:
        return Part(reason="stop") if data == DONE else part_of(data, len(self._body), self._window, self._key)

    def _note(self, part: Part) -> None:
        """Keep how the reply ended, and what was counted, which comes with that or after it."""
        before = self._ended
        if part.counted is not None:
            self._counted = part.counted
        if before is not None or part.reason:
            self._ended = Settled(self._order.burst, before.reason if before is not None else part.reason, self._counted)


def _said(call: CallText, part: Part) -> str:
    """The text of a part, of a reply that is to be a call."""
    return part.text + call.push(part.calls) + (call.end() if part.reason == "stop" else "")


async def _beginning(response: httpx.Response) -> bytes:
    """As much of a refusal as can be made use of."""
    if response.headers.get("content-encoding", "identity") != "identity":
        return b""
    said = b""
    async for chunk in response.aiter_raw():
        said += chunk
        if len(said) > MAX_REFUSAL:
            break
    return said


def _demand_stream(response: httpx.Response) -> None:
    """Raises DeviceFailed if an answer is no stream of events in plain bytes: one in a compressed form could unfold without end."""
    kind = response.headers.get("content-type", "")[:64]
    if not kind.startswith("text/event-stream"):
        raise DeviceFailed(f"the endpoint answered with {kind or 'no type'!r} and not with a stream: is it an OpenAI-compatible endpoint?")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise DeviceFailed("the endpoint compressed its answer although it was not to")


def _why(error: httpx.TransportError) -> str:
    """What httpx says of it, which has neither headers nor bodies in it."""
    return str(error)[:MAX_SAID] or type(error).__name__
