"""Contexts: what a model has read and written so far, as a program holds it.

    context = await me.open(system="You argue briefly.")
    await context.append(user="Tabs or spaces?")
    twin = await context.fork()                       shares every page
    reply = await twin.generate(max_tokens=64)        the reply stays in the context

One call at a time adds to a context; a second gets TryAgain. `length` is as of the last call that ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from llmos.syscalls.abi import ContextInfo, Embedding, Fault, InvalidArgument, Reply, Scores, param

from .arguments import form_of, listed, messages_of
from .generation import Generation
from .port import Port


def content(
    *,
    user: str | None = None,
    assistant: str | None = None,
    system: str | None = None,
    tool: str | None = None,
    messages: Sequence[Mapping[str, str]] | None = None,
    text: str | None = None,
    tokens: Sequence[int] | None = None,
) -> dict[str, Any]:
    """The arguments of a call that adds one of these to a context."""
    roles = {"user": user, "assistant": assistant, "system": system, "tool": tool}
    given = [{"role": role, "content": words} for role, words in roles.items() if words is not None]
    kinds = len(given) + sum(part is not None for part in (messages, text, tokens))
    if kinds > 1:
        raise InvalidArgument("add one thing at a time: user, assistant, system, tool, messages, text or tokens")
    if given or messages is not None:
        return {"messages": given or messages_of(messages)}
    if text is not None:
        return {"text": text}
    return {} if tokens is None else {"tokens": listed(tokens, "tokens")}


class Context:
    """One context of a process."""

    def __init__(self, port: Port, pid: int, info: ContextInfo) -> None:
        self._port, self.pid, self._info = port, pid, info

    @property
    def handle(self) -> int:
        return self._info.context

    @property
    def model(self) -> str:
        return self._info.model

    @property
    def window(self) -> int:
        """Most tokens that it may hold."""
        return self._info.window

    @property
    def length(self) -> int:
        """Tokens in it when the last call on it ended."""
        return self._info.length

    async def _call(self, name: str, **arguments: Any) -> Any:
        return await self._port.call(self.pid, name, context=self.handle, **arguments)

    async def info(self) -> ContextInfo:
        """Ask the kernel how it stands."""
        self._info = await self._call("context_info")
        return self._info

    async def append(
        self,
        *,
        user: str | None = None,
        assistant: str | None = None,
        system: str | None = None,
        tool: str | None = None,
        messages: Sequence[Mapping[str, str]] | None = None,
        text: str | None = None,
        tokens: Sequence[int] | None = None,
    ) -> int:
        """Add a chat message, several, plain text, or token ids, and fill its pages. Returns the new length."""
        added = content(user=user, assistant=assistant, system=system, tool=tool, messages=messages, text=text, tokens=tokens)
        self._info = await self._call("append", **added)
        return self._info.length

    def generate(
        self,
        *,
        user: str | None = None,
        messages: Sequence[Mapping[str, str]] | None = None,
        text: str | None = None,
        tokens: Sequence[int] | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        ignore_stop: bool = False,
        logprobs: int = 0,
        schema: Any = None,
        regex: str | None = None,
        choice: Sequence[str] | None = None,
        tools: Mapping[str, Any] | None = None,
        tool_choice: str = "required",
    ) -> Generation:
        """Sample a reply; it begins at once. What is given first (user, messages, text or tokens) is added before it.

        The defaults are greedy, up to what is left of the window. Without a seed each call draws the next of the
        process's own. See Generation for the ways to take the reply.

        At most one of these gives the reply a form: `schema` (a JSON schema as text or dict, or a pydantic model's class), `regex`,
        `choice` (one of these texts), or `tools` (name -> schema of its arguments; the reply is a call of one). It is whole if its
        reason is "stop"; `reply.json()` parses it. With `tool_choice="auto"` it is text that may call: what it writes in <tool_call> tags
        is such a call.
        """
        arguments: dict[str, Any] = {
            "context": self.handle,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "seed": seed,
            "stop": listed(stop, "stop"),
            "stop_ids": listed(stop_ids, "stop_ids"),
            "ignore_stop": ignore_stop,
            "logprobs": logprobs,
        }
        arguments |= form_of(schema, regex, choice, tools, tool_choice)
        arguments |= content(user=user, messages=messages, text=text, tokens=tokens)
        return Generation(self._port, self.pid, arguments, self._replied)

    async def sample(self, n: int, *, temperature: float = 1.0, seed: int | None = None, **given: Any) -> list[Reply]:
        """`n` replies to the same, in one batch: the prompt is computed once, and its pages are shared. The context stays as it is.

        All else is as `generate` takes it. With a seed, reply i has the seed + i. Raises what the first of them that fails does.
        """
        if not isinstance(n, int) or not 1 <= n <= param.MAX_SAMPLES:
            raise InvalidArgument(f"n must be a number from 1 to {param.MAX_SAMPLES}, not {str(n)[:20]}")
        added = {name: given.pop(name) for name in ("user", "messages", "text", "tokens") if name in given}
        async with AsyncExitStack() as stack:
            twins = [await stack.enter_async_context(await self.fork())]
            if content(**added):
                await twins[0].append(**added)
            twins += [await stack.enter_async_context(await twins[0].fork()) for _ in range(n - 1)]
            seeds = [None if seed is None else seed + turn for turn in range(n)]
            running = [twin.generate(temperature=temperature, seed=own, **given) for twin, own in zip(twins, seeds, strict=True)]
            return [await each for each in running]

    async def score(self, *, text: str | None = None, tokens: Sequence[int] | None = None) -> Scores:
        """The log-probability of each token of a text, or of these tokens, after what is in the context, which stays as it is."""
        more = content(text=text, tokens=tokens)
        scores: Scores = await self._call("score", **more)
        return scores

    async def embed(self, *, text: str | None = None, tokens: Sequence[int] | None = None) -> Embedding:
        """The embedding of what is in the context and of what is given after it: a vector of length 1. The context stays as it is."""
        more = content(text=text, tokens=tokens)
        embedding: Embedding = await self._call("embed", **more)
        return embedding

    def _replied(self, reply: Reply) -> None:
        info = self._info
        self._info = ContextInfo(info.context, info.model, reply.length, info.window, info.messages, info.reply)

    async def fork(self) -> Context:
        """A twin that shares every page with this one until one of the two writes to it."""
        return Context(self._port, self.pid, await self._call("fork_context"))

    async def truncate(self, length: int) -> None:
        """Keep the first `length` tokens."""
        self._info = await self._call("truncate", length=length)

    async def tokens(self, start: int = 0, count: int | None = None) -> list[int]:
        """Ids of the tokens in it."""
        more = {} if count is None else {"count": count}
        ids: list[int] = (await self._call("context_tokens", start=start, **more)).tokens
        return ids

    async def close(self) -> None:
        """Let go of its pages. A generation under way is cancelled."""
        await self._call("close")

    async def __aenter__(self) -> Context:
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            await self.close()
        except Fault:  # it is closed already, or its process has ended
            pass
