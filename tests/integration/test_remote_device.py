"""The driver of remote models against an endpoint that streams, refuses, breaks off, drips, floods and lies."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from endpoint import HEAD, Endpoint, Exchange, Script, forever, hang_up, status, stream
from slots import geometry

from llmos.drivers.remote.conversation import Patience
from llmos.drivers.remote.device import RemoteDevice, Target
from llmos.drivers.remote.events import MAX_EVENT
from llmos.drivers.remote.text import RemoteText, text_of
from llmos.kernel.device import GREEDY
from llmos.kernel.errno import DeviceFailed, Fault, InvalidArgument, NotPermitted, TooLong, TryAgain
from llmos.kernel.slot import Counted, Event, Order, Received, Settled

KEY = "sk-very-secret"
SECONDS = 20.0
"""Longer than anything here takes unless it hangs."""
SHORT = Patience(first=SECONDS, silence=SECONDS, tail=SECONDS, attempts=3, retry=0.01, longest=1.0)
PROMPT = tuple(RemoteText("far").chat([{"role": "user", "content": "count"}], reply=True))


def order(burst: int = 1, most: int = 900) -> Order:
    return Order(burst, PROMPT, GREEDY, most)


@dataclass
class Ear:
    """What the device tells, taken in on its thread."""

    device: RemoteDevice
    events: list[Event] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.device.listen(self._hear)

    def _hear(self, events: Sequence[Event]) -> None:
        with self.news:
            self.events += events
            self.news.notify_all()

    def wait(self, until: Callable[[], bool]) -> None:
        with self.news:
            assert self.news.wait_for(until, SECONDS), self.events

    def settled(self, burst: int = 1) -> Settled:
        """The last event of a request; there is one."""
        self.wait(lambda: any(isinstance(event, Settled) and event.burst == burst for event in self.events))
        (found,) = [event for event in self.events if isinstance(event, Settled) and event.burst == burst]
        assert [event for event in self.events if event.burst == burst][-1] is found
        return found

    def text(self, burst: int = 1) -> str:
        return "".join(text_of(event.tokens) for event in self.events if isinstance(event, Received) and event.burst == burst)


@contextmanager
def driving(endpoint: Endpoint, patience: Patience = SHORT, slots: int = 4, window: int = 1000) -> Iterator[Ear]:
    device = RemoteDevice(geometry(slots=slots, window=window), Target(endpoint.url, "big", KEY), patience)
    try:
        yield Ear(device)
    finally:
        device.close()


def asked(script: Script, patience: Patience = SHORT, most: int = 900) -> tuple[Settled, str, Endpoint]:
    """What becomes of a request that a script answers."""
    with Endpoint() as endpoint, driving(endpoint, patience) as ear:
        endpoint.scripts.append(script)
        ear.device.send(order(most=most))
        return ear.settled(), ear.text(), endpoint


def failure(script: Script, patience: Patience = SHORT, most: int = 900) -> tuple[Fault, str]:
    settled, text, endpoint = asked(script, patience, most)
    assert settled.reason == "failed"
    assert settled.fault is not None
    assert KEY not in str(settled.fault)
    assert len(endpoint.seen) == 1, "it is not asked again"
    return settled.fault, text


# --- good replies


def test_a_reply_streams_and_is_counted() -> None:
    with Endpoint(held=2) as endpoint, driving(endpoint) as ear:
        ear.device.send(order(most=5))
        ear.wait(lambda: ear.text() == "w0 w1 ")  # while the rest is held back
        endpoint.release()
        assert ear.settled() == Settled(1, "length", Counted(5, 5))
        assert ear.text() == "w0 w1 w2 w3 w4 "
        assert endpoint.seen[0].headers["authorization"] == f"Bearer {KEY}"
        assert endpoint.seen[0].body["model"] == "big"


def test_without_usage_the_endpoint_has_not_counted() -> None:
    with Endpoint(usage=False) as endpoint, driving(endpoint) as ear:
        ear.device.send(order())
        assert ear.settled() == Settled(1, "stop", None)


def test_many_at_once_go_over_as_many_connections_and_those_are_used_again() -> None:
    with Endpoint(rate=500) as endpoint, driving(endpoint, slots=16) as ear:
        for burst in range(48):
            ear.device.send(order(burst, most=3 + burst % 4))
            if burst % 16 == 15:  # the kernel gives no more than it has slots
                for done in range(burst - 15, burst + 1):
                    assert ear.settled(done).reason == "length"
        assert [len(ear.text(burst).split()) for burst in range(48)] == [3 + burst % 4 for burst in range(48)]
        assert len({exchange.writer for exchange in endpoint.seen}) <= 16


def test_the_stream_may_end_without_done_and_without_usage() -> None:
    settled, text, _ = asked(stream(b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'))
    assert (settled, text) == (Settled(1, "stop"), "a")


def test_a_stream_that_says_done_and_stays_open_is_over_after_a_while() -> None:
    patience = Patience(first=SECONDS, tail=0.05)
    settled, text, _endpoint = asked(stream(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n', end=False), patience)
    assert (settled, text) == (Settled(1, "stop"), "a")


def test_a_connection_that_breaks_after_the_last_word_is_no_loss() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.delta("a")
        await exchange.event({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})
        exchange.writer.close()

    settled, text, _ = asked(script)
    assert (settled, text) == (Settled(1, "stop", Counted(3, 1)), "a")


def test_thinking_aloud_is_no_reply() -> None:
    events = [b'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\n\n'] * 5
    settled, text, _ = asked(stream(*events, b'data: {"choices":[{"delta":{"content":"4"},"finish_reason":"stop"}]}\n\n'))
    assert (settled.reason, text) == ("stop", "4")


# --- cancellation


def test_a_recalled_request_hangs_up_at_once() -> None:
    with Endpoint(held=2) as endpoint, driving(endpoint) as ear:
        ear.device.send(order())
        ear.wait(lambda: ear.text() == "w0 w1 ")
        ear.device.recall(1)
        assert ear.settled() == Settled(1, "cancelled", None)
        endpoint.wait(lambda: endpoint.hung_up == 1)
        ear.device.recall(1)  # it is over
        ear.device.recall(99)
        ear.device.send(order(2))
        endpoint.release()
        assert ear.settled(2).reason == "stop"


def test_a_request_recalled_before_it_began_costs_nothing() -> None:
    with Endpoint() as endpoint, driving(endpoint) as ear:
        gate = threading.Event()
        ear.device._soon(gate.wait)
        ear.device.send(order())
        ear.device.recall(1)
        gate.set()
        assert ear.settled() == Settled(1, "cancelled", Counted(0, 0))
        assert not endpoint.seen


def test_a_request_recalled_in_its_back_off_costs_nothing() -> None:
    with Endpoint() as endpoint, driving(endpoint, Patience(retry=1000.0, longest=1000.0)) as ear:
        endpoint.scripts.append(status(503))
        ear.device.send(order())
        endpoint.wait(lambda: len(endpoint.seen) == 1 and endpoint.running == 0)
        ear.device.recall(1)
        assert ear.settled().reason == "cancelled"


def test_close_ends_all_that_is_under_way() -> None:
    with Endpoint(held=1) as endpoint, driving(endpoint) as ear:
        for burst in range(4):
            ear.device.send(order(burst))
        ear.wait(lambda: len(ear.events) == 4)
        ear.device.close()
        assert all(ear.settled(burst).reason == "cancelled" for burst in range(4))
        endpoint.wait(lambda: endpoint.hung_up == 4)
        ear.device.send(order(9))  # nobody is there any more
        ear.device.recall(9)


# --- retries


@pytest.mark.parametrize("script", [status(429), status(500), status(502), status(503, {"retry-after": "0"}), status(529), hang_up()])
def test_where_nothing_was_received_it_is_asked_again(script: Script) -> None:
    with Endpoint() as endpoint, driving(endpoint) as ear:
        endpoint.scripts += [script, script]
        ear.device.send(order())
        assert ear.settled() == Settled(1, "stop", Counted(5, 8))
        assert ear.text() == "w0 w1 w2 w3 w4 w5 w6 w7 "
        assert len(endpoint.seen) == 3


@pytest.mark.parametrize(("script", "fault"), [(status(429), TryAgain), (status(500), DeviceFailed), (hang_up(), DeviceFailed)])
def test_attempts_are_counted(script: Script, fault: type[Fault]) -> None:
    with Endpoint() as endpoint, driving(endpoint) as ear:
        endpoint.scripts += [script] * 3
        ear.device.send(order())
        settled = ear.settled()
        assert isinstance(settled.fault, fault)
        assert "after 3 attempts" in str(settled.fault)
        assert settled.counted == Counted(0, 0)
        assert len(endpoint.seen) == 3


def test_nobody_listens() -> None:
    with Endpoint() as endpoint:
        pass
    with driving(endpoint) as ear:
        ear.device.send(order())
        assert "cannot be reached" in str(ear.settled().fault)


def test_an_endpoint_that_comes_back_is_found_by_a_retry() -> None:
    with Endpoint() as gone:
        pass
    with driving(gone, Patience(attempts=50, retry=0.02, longest=0.05)) as ear:
        ear.device.send(order())
        with Endpoint(port=gone.port):
            assert ear.settled().reason == "stop"


def test_retry_after_is_waited_for_up_to_a_bound() -> None:
    with Endpoint() as endpoint, driving(endpoint) as ear:
        endpoint.scripts.append(status(429, {"retry-after": "0.3"}))
        ear.device.send(order())
        ear.settled()
        endpoint.scripts.append(status(429, {"retry-after": "86400"}))
        ear.device.send(order(2))
        assert isinstance(ear.settled(2).fault, TryAgain)
        assert len(endpoint.seen) == 3


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (status(400), InvalidArgument),
        (status(401, body={"error": {"message": f"Incorrect API key provided: {KEY}"}}), NotPermitted),
        (status(400, body={"error": {"code": "context_length_exceeded", "message": "too long"}}), TooLong),
        (status(429, body={"error": {"code": "insufficient_quota"}}), Fault),
        (status(501), DeviceFailed),
    ],
)
def test_a_refusal_that_no_retry_mends_is_a_fault_at_once(script: Script, fault: type[Fault]) -> None:
    found, _ = failure(script)
    assert isinstance(found, fault)


def test_a_redirect_is_not_followed() -> None:
    with Endpoint() as other:
        found, _ = failure(status(307, {"location": f"{other.url}/chat/completions"}))
        assert "not followed" in str(found)
        assert not other.seen


def test_after_the_first_word_nothing_is_asked_again() -> None:
    found, text = failure(hang_up(after=3))
    assert isinstance(found, DeviceFailed)
    assert text == "w0 w1 w2 "


# --- what an endpoint may do to us


@pytest.mark.parametrize(
    "events",
    [
        [b"data: no json\n\n"],
        [b"data: " + b"[" * 100_000 + b"\n\n"],
        [b'data: {"choices":[{"delta":{"content":7}}]}\n\n'],
        [b'data: {"error":{"message":"cuda"}}\n\n'],
        [b""],
        [b"data: " + b"x" * (MAX_EVENT + 1)],
        [b"x" * 65_536] * 20,
        [b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'],
    ],
)
def test_a_stream_that_makes_no_sense_or_ends_too_soon(events: list[bytes]) -> None:
    found, _ = failure(stream(*(event for event in events if event)))
    assert isinstance(found, DeviceFailed)


def answer(head: bytes, body: bytes = b"") -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\n" + head + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    return script


@pytest.mark.parametrize("head", [b"content-type: application/json", b"content-type: text/html", b"x: y"])
def test_an_answer_that_is_no_stream(head: bytes) -> None:
    found, _ = failure(answer(head, b'{"choices": []}'))
    assert "not with a stream" in str(found)


def test_an_answer_that_could_unfold_is_not_read() -> None:
    found, _ = failure(answer(b"content-type: text/event-stream\r\ncontent-encoding: gzip", b"\x1f\x8b"))
    assert "compressed" in str(found)


def test_an_answer_that_is_no_http() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.raw(b"\0\0\0 garbage\r\n\r\n")
        exchange.writer.close()

    with Endpoint() as endpoint, driving(endpoint) as ear:
        endpoint.scripts += [script] * 3
        ear.device.send(order())
        assert isinstance(ear.settled().fault, DeviceFailed)


def test_headers_without_end_are_refused() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\n")
        while True:
            await exchange.raw(b"x: " + b"y" * 60_000 + b"\r\n")

    with Endpoint() as endpoint, driving(endpoint) as ear:
        endpoint.scripts += [script] * 3
        ear.device.send(order())
        assert isinstance(ear.settled().fault, DeviceFailed)


def test_a_reply_longer_than_asked_for_is_cut_off() -> None:
    settled, text, endpoint = asked(forever(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'), most=20)
    assert settled.reason == "length"
    assert 20 < len(text) < 1000
    assert endpoint.running == 0


def test_comments_keep_no_request_alive() -> None:
    found, _ = failure(forever(b": still here\n\n", 0.01), Patience(first=0.2))
    assert "did not answer" in str(found) or "silent" in str(found)


def test_a_slow_drip_of_one_line_keeps_no_request_alive() -> None:
    found, _ = failure(forever(b"d", 0.005), Patience(first=0.2))
    assert "silent" in str(found)


def test_a_flood_without_a_word_is_cut_off() -> None:
    found, _ = failure(forever(b": " + b"x" * 30_000 + b"\n\n"), Patience(first=SECONDS, idle_bytes=1 << 20))
    assert "without a word" in str(found)


def test_thinking_without_end_is_cut_off() -> None:
    found, _ = failure(forever(b'data: {"choices":[{"delta":{"reasoning":"hm"}}]}\n\n', 0.005), Patience(first=SECONDS, total=0.2))
    assert "silent" in str(found)


def test_silence_in_the_middle() -> None:
    found, text = failure(stream(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', end=False), Patience(first=SECONDS, silence=0.1))
    assert "silent" in str(found)
    assert text == "a"


def test_silence_before_the_answer() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.endpoint._go.wait()

    found, _ = failure(script, Patience(first=0.1))
    assert "did not answer" in str(found)


def test_a_refusal_without_end_is_not_read_to_it() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.raw(HEAD.replace(b"200 OK", b"400 No"))
        while True:
            await exchange.chunk(b"x" * 10_000)

    found, _ = failure(script)
    assert isinstance(found, InvalidArgument)


def test_counts_that_are_lies_are_taken_for_not_said() -> None:
    usage: Any = {"prompt_tokens": 10**12, "completion_tokens": 10**12}
    data = json.dumps({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "usage": usage})
    settled, _, _ = asked(stream(b"data: " + data.encode() + b"\n\n"))
    assert settled == Settled(1, "stop", None)


def test_one_bad_reply_harms_no_other() -> None:
    with Endpoint(held=4) as endpoint, driving(endpoint) as ear:
        ear.device.send(order(1))
        ear.wait(lambda: bool(ear.text(1)))
        endpoint.scripts += [stream(b"data: {\n\n"), forever(b"x" * 65_536)]
        ear.device.send(order(2))
        ear.device.send(order(3))
        assert ear.settled(2).reason == ear.settled(3).reason == "failed"
        endpoint.release()
        assert ear.settled(1).reason == "stop"


# --- the key


def test_the_key_is_in_no_log_and_no_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Endpoint() as endpoint, driving(endpoint) as ear:
        endpoint.scripts += [status(500), hang_up(), status(401, body={"error": f"bad {KEY}"})]
        ear.device.send(order())
        assert KEY not in str(ear.settled().fault)
        ear.device.send(order(2))
        ear.settled(2)
        target = Target(endpoint.url, "big", KEY)
        assert KEY not in repr((ear.device, vars(ear.device), target, ear.events))
    assert "httpcore" in caplog.text, "the libraries have said what they say"
    assert KEY not in caplog.text


def test_proxies_and_netrc_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login a password other-secret\n")
    netrc.chmod(0o600)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", str(netrc))
    with Endpoint() as endpoint, driving(endpoint) as ear:
        ear.device.send(order())
        assert ear.settled().reason == "stop"
        assert endpoint.seen[0].headers["authorization"] == f"Bearer {KEY}"
