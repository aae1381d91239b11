"""The HTTP client for streamable HTTP: it goes where the file says, and takes no more than it should.

A redirect that leaves the url's origin is not followed (the SDK sees to that), no proxy is used but that of the environment, an
answer that is no stream of events is bounded, and compressed answers, whose size nobody knows, are refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2

MAX_ANSWER = 32 << 20
"""Bytes of one answer; the SDK bounds the events of a stream."""
CONNECT_SECONDS = 10.0


class _Counted(httpx2.AsyncByteStream):
    """The body of an answer, up to a bound."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_ANSWER
        async for piece in self._inner:
            left -= len(piece)
            if left < 0:
                raise httpx2.ReadError(f"the answer is longer than {MAX_ANSWER:,} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Bounded(httpx2.AsyncHTTPTransport):
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx2.ReadError("the answer is compressed, though that was not asked for")
        if "text/event-stream" not in response.headers.get("content-type", ""):
            response.stream = _Counted(response.stream)
        return response


def client(headers: Mapping[str, str], seconds: float) -> httpx2.AsyncClient:
    """For one server. `seconds` is how long it may say nothing."""
    return httpx2.AsyncClient(
        headers={"Accept-Encoding": "identity", **headers},
        timeout=httpx2.Timeout(CONNECT_SECONDS, read=seconds),
        transport=_Bounded(),
        follow_redirects=False,
    )
