"""Generation by hand: what is streamed, where it ends, and what is left in the context."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.drivers.dummy_text import END, TURN
from llmos.kernel.errno import Cancelled, DeviceFailed, InvalidArgument, QuotaExceeded, TooLong, TryAgain
from llmos.kernel.param import Params

from .hand import Hand


@pytest.fixture
def hand() -> Hand:
    return Hand()


def tokens(hand: Hand, context: int) -> list[int]:
    found: list[int] = hand.call(hand.host, "context_tokens", context=context).tokens
    return found


def generate(hand: Hand, context: int, **arguments: object) -> object:
    return hand.call(hand.host, "generate", context=context, **arguments)


def test_a_turn_is_asked_for_and_stays_open(hand: Hand) -> None:
    context = hand.open(user="hi")
    assert tokens(hand, context) == [TURN, *b"uhi", END]
    reply = hand.call(hand.host, "generate", context=context, max_tokens=5, ignore_stop=True)
    assert tokens(hand, context) == [TURN, *b"uhi", END, TURN, *b"a", *reply.tokens]
    assert (reply.reason, reply.length, reply.usage.prompt_tokens, reply.usage.added_tokens) == ("length", 12, 7, 2)
    info = hand.call(hand.host, "context_info", context=context)
    assert (info.messages, info.reply) == (2, 5)
    hand.call(hand.host, "append", context=context, messages=[{"role": "user", "content": "so"}])
    assert tokens(hand, context)[12:] == [END, TURN, *b"uso", END]
    hand.check()


def test_an_unfinished_reply_is_gone_on_with(hand: Hand) -> None:
    whole, halves = hand.open(user="hi"), hand.open(user="hi")
    full = hand.call(hand.host, "generate", context=whole, max_tokens=8, ignore_stop=True)
    first = hand.call(hand.host, "generate", context=halves, max_tokens=3, ignore_stop=True)
    second = hand.call(hand.host, "generate", context=halves, max_tokens=5, ignore_stop=True)
    assert first.tokens + second.tokens == full.tokens
    assert tokens(hand, whole) == tokens(hand, halves)
    assert hand.call(hand.host, "context_info", context=halves).messages == 2


def test_an_appended_reply_is_gone_on_with(hand: Hand) -> None:
    context = hand.open(user="hi", assistant="Sure")
    hand.call(hand.host, "generate", context=context, max_tokens=2, ignore_stop=True)
    assert tokens(hand, context)[:-2] == [TURN, *b"uhi", END, TURN, *b"aSure"]
    assert hand.call(hand.host, "context_info", context=context).messages == 2


def test_plain_text_and_tokens_are_continued(hand: Hand) -> None:
    context = hand.open()
    hand.call(hand.host, "append", context=context, text="once")
    hand.call(hand.host, "generate", context=context, tokens=[1, 2], max_tokens=2, ignore_stop=True)
    assert tokens(hand, context)[:-2] == [*b"once", 1, 2]
    assert hand.call(hand.host, "context_info", context=context).messages == 0


def test_a_stop_id_ends_the_reply_and_is_not_part_of_it(hand: Hand) -> None:
    context = hand.open(user="hi")
    probe = hand.call(hand.host, "fork_context", context=context).context
    coming = hand.call(hand.host, "generate", context=probe, max_tokens=6, ignore_stop=True).tokens
    reply = hand.call(hand.host, "generate", context=context, max_tokens=6, stop_ids=[coming[3]])
    assert (reply.tokens, reply.reason) == (coming[:3], "stop")
    assert tokens(hand, context)[-3:] == list(coming[:3])
    assert hand.call(hand.host, "context_info", context=context).reply is None
    before = len(tokens(hand, context))
    hand.call(hand.host, "generate", context=context, max_tokens=1, ignore_stop=True)  # a settled turn: the next is another
    assert tokens(hand, context)[before:-1] == [END, TURN, *b"a"]
    hand.check()


def with_text(hand: Hand, tokens_: int = 40) -> tuple[str, list[int]]:
    """A prompt whose greedy reply has enough letters in it to stop at, and the reply."""
    for i in range(200):
        context = hand.open(user=f"try {i}")
        reply = hand.call(hand.host, "generate", context=context, max_tokens=tokens_, ignore_stop=True)
        hand.call(hand.host, "close", context=context)
        letters = [token for token in reply.tokens if 97 <= token < 123]
        if len(letters) >= 4 and END not in reply.tokens:
            return f"try {i}", list(reply.tokens)
    raise AssertionError("the dummy never says anything")


def test_a_stop_string_ends_the_reply_and_what_came_after_is_dropped(hand: Hand) -> None:
    prompt, coming = with_text(hand)
    at = next(i for i, token in enumerate(coming) if i > 4 and 97 <= token < 123)
    context = hand.open(user=prompt)
    reply = hand.call(hand.host, "generate", context=context, max_tokens=40, stop=[chr(coming[at])])
    assert reply.reason == "stop"
    assert reply.tokens == tuple(coming[: coming.index(coming[at]) + 1])
    assert chr(coming[at]) not in reply.text
    assert tokens(hand, context)[-len(reply.tokens) :] == list(reply.tokens)
    assert not hand.step()
    hand.check()


def test_pieces_add_up_to_the_reply(hand: Hand) -> None:
    context = hand.open(user="hi")
    box = hand.send(hand.host, "generate", context=context, max_tokens=50, ignore_stop=True, logprobs=2)
    while not box.done:
        hand.step()
    assert box.text == box.result.text
    assert tuple(token for piece in box.pieces for token in piece.tokens) == box.result.tokens
    assert tuple(logprob for piece in box.pieces for logprob in piece.logprobs) == box.result.logprobs
    assert len(box.result.logprobs) == len(box.result.tokens) == 50


def test_cancelling_stops_the_decode_and_keeps_what_there_is(hand: Hand) -> None:
    context = hand.open(user="hi")
    box = hand.send(hand.host, "generate", context=context, max_tokens=100, ignore_stop=True)
    for _ in range(4):
        hand.step()
    hand.cancel(box)
    reply = box.result
    assert reply.reason == "cancelled"
    assert len(reply.tokens) >= 2
    assert tokens(hand, context)[-len(reply.tokens) :] == list(reply.tokens)
    assert not hand.step()
    hand.check()


def test_interrupt_ends_the_burst_with_what_it_has(hand: Hand) -> None:
    child = hand.spawn()
    context = hand.open(child.pid, user="hi")
    box = hand.send(child.pid, "generate", context=context, max_tokens=100, ignore_stop=True)
    for _ in range(4):
        hand.step()
    hand.call(hand.host, "kill", pid=child.pid, signal="INT")
    assert box.result.reason == "interrupted"
    assert box.result.tokens
    hand.check()


def test_an_interrupted_append_says_so(hand: Hand) -> None:
    context = hand.open()
    box = hand.send(hand.host, "append", context=context, text="hello")
    hand.call(hand.host, "kill", pid=hand.host, signal="INT")
    with pytest.raises(Cancelled):
        _ = box.result
    assert tokens(hand, context) == list(b"hello")


def test_too_long_states_both_numbers(hand: Hand) -> None:
    context = hand.open()
    with pytest.raises(TooLong, match=r"has 513 tokens and the window of dummy is 512 tokens"):
        hand.call(hand.host, "append", context=context, text="x" * 513)
    hand.call(hand.host, "append", context=context, text="x" * 500)
    with pytest.raises(TooLong, match=r"has 520 tokens \(500 in the context and 20 more\) and the window of dummy is 512"):
        generate(hand, context, text="x" * 20)
    with pytest.raises(TooLong, match=r"prompt has 500 tokens and max_tokens is 13, .* 512 tokens: ask for at most 12"):
        generate(hand, context, max_tokens=13)
    hand.call(hand.host, "generate", context=context, max_tokens=12, ignore_stop=True)
    with pytest.raises(TooLong, match="leaves no room for a reply"):
        generate(hand, context)
    assert len(tokens(hand, context)) == 512
    hand.check()


def test_max_tokens_defaults_to_what_fits(hand: Hand) -> None:
    context = hand.open()
    reply = hand.call(hand.host, "generate", context=context, text="x" * 500, ignore_stop=True)
    assert (len(reply.tokens), reply.reason) == (12, "length")
    small = Hand(frames=4, host_frames=0)
    context = small.open()
    reply = small.call(small.host, "generate", context=context, text="x" * 20, ignore_stop=True)
    assert reply.reason == "length"
    assert 0 < len(reply.tokens) <= 4 * 16 - 20
    small.check()


def test_ids_beyond_the_vocabulary_are_refused(hand: Hand) -> None:
    context = hand.open()
    with pytest.raises(InvalidArgument, match="token 259 is out of bounds: dummy has ids below 259"):
        generate(hand, context, tokens=[1, 259])
    assert tokens(hand, context) == []


def test_an_empty_context_has_nothing_to_go_on_from(hand: Hand) -> None:
    with pytest.raises(InvalidArgument, match="empty"):
        generate(hand, hand.open())


def test_one_call_at_a_time_adds_to_a_context(hand: Hand) -> None:
    context = hand.open(user="hi")
    box = hand.send(hand.host, "generate", context=context, max_tokens=10, ignore_stop=True)
    for name, arguments in (
        ("generate", {}),
        ("append", {"text": "x"}),
        ("truncate", {"length": 0}),
    ):
        with pytest.raises(TryAgain):
            hand.call(hand.host, name, context=context, **arguments)
    twin = hand.call(hand.host, "fork_context", context=context)
    while not box.done:
        hand.step()
    other = hand.call(hand.host, "generate", context=twin.context, max_tokens=10 - (twin.reply or 0), ignore_stop=True)
    assert tokens(hand, context) == tokens(hand, twin.context)
    assert other.reason == "length"
    hand.check()


@pytest.mark.parametrize("content", [{"messages": [{"role": "user", "content": "x"}]}, {"text": "x"}, {}])
def test_templates_and_tokenizers_run_elsewhere_and_the_context_is_busy_meanwhile(content: dict[str, Any]) -> None:
    """However short the text: a template is a program that came with a model."""
    hand = Hand()
    context = hand.open(user="hi")
    hand.hold = True
    box = hand.send(hand.host, "generate", context=context, max_tokens=1, **content)
    assert len(hand.jobs) == 1
    with pytest.raises(TryAgain):
        hand.call(hand.host, "append", context=context, text="x")
    while not box.done:
        hand.work()
        hand.step()
    assert box.result.usage.added_tokens > 0
    hand.check()


def test_seeds_are_drawn_by_process_and_counter() -> None:
    def replies(seed: int) -> list[tuple[int, ...]]:
        hand = Hand()
        hand.core.seed = seed
        child = hand.spawn()
        found = []
        for pid in (hand.host, child.pid):
            for _ in range(2):
                context = hand.open(pid, user="hi")
                found.append(hand.call(pid, "generate", context=context, max_tokens=8, temperature=1.0, ignore_stop=True).tokens)
        return found

    assert replies(1) == replies(1)
    assert len({*replies(1), *replies(2)}) == 8


def test_a_device_that_fails_is_told_to_its_caller_only(hand: Hand) -> None:
    good, bad = hand.open(user="good"), hand.open(user="bad")
    hand.device.fail_when = {250}
    boxes = [
        hand.send(hand.host, "generate", context=good, max_tokens=3, ignore_stop=True),
        hand.send(hand.host, "generate", context=bad, tokens=[250], max_tokens=3, ignore_stop=True),
    ]
    from llmos.kernel.device import StepFailed

    while not all(box.done for box in boxes):
        step = hand.kernel.plan(hand.now, "dummy")
        assert step is not None
        try:
            outcome = hand.device.execute(step)
        except DeviceFailed as fault:
            hand.kernel.retire(hand.now, "dummy", StepFailed(step.number, str(fault)))
        else:
            hand.kernel.retire(hand.now, "dummy", outcome)
        hand.trap.settle()
    assert len(boxes[0].result.tokens) == 3
    with pytest.raises(DeviceFailed):
        _ = boxes[1].result
    hand.check()


@pytest.mark.parametrize("speculate", [False, True])
def test_a_stop_string_among_tokens_that_come_at_once(speculate: bool) -> None:
    """What the same step brought after it is in no reply, in no context, and charged to nobody."""
    hand = Hand(Params(speculate=speculate), memory=1, guess_cost=0.01)
    hand.device.next = lambda context, sampling: ord("a") + (context[-1] + 1) % 13  # type: ignore[method-assign]
    context = hand.open(user="hi")
    whole = hand.call(hand.host, "generate", context=context, max_tokens=60, ignore_stop=True)
    explained = hand.call(hand.host, "explain", pid=hand.host)
    assert (explained.right_tokens > 20) == speculate
    used = hand.kernel.table.get(hand.host).usage.tree_tokens
    other = hand.open(user="hi")
    given = hand.kernel.table.get(hand.host).usage.tree_tokens - used
    before = tokens(hand, other)
    reply = hand.call(hand.host, "generate", context=other, max_tokens=60, stop=[whole.text[35:38]])
    end = whole.text.index(whole.text[35:38])
    assert reply.text == whole.text[:end]
    assert reply.reason == "stop"
    assert reply.usage.tokens == end + 3
    assert list(reply.tokens) == list(whole.tokens[: end + 3])
    assert reply.length == len(tokens(hand, other))
    assert hand.kernel.table.get(hand.host).usage.tree_tokens == used + given + reply.usage.added_tokens + end + 3
    assert tokens(hand, other)[: len(before)] == before
    hand.check()


def test_a_token_limit_ends_a_generation(hand: Hand) -> None:
    child = hand.spawn(limits={"tokens": 20})
    context = hand.open(child.pid, user="hi")
    box = hand.send(child.pid, "generate", context=context, max_tokens=100, ignore_stop=True)
    while not box.done:
        assert hand.step()
    with pytest.raises(QuotaExceeded, match="20"):
        _ = box.result
    assert box.pieces
    hand.check()


def test_fork_of_a_process_takes_a_reply_under_way_along(hand: Hand) -> None:
    child = hand.spawn()
    context = hand.open(child.pid, user="hi")
    box = hand.send(child.pid, "generate", context=context, max_tokens=10, ignore_stop=True)
    for _ in range(5):
        hand.step()
    forked = hand.call(hand.host, "fork", pid=child.pid)
    copy = forked.contexts[context]
    info = hand.call(forked.streams.pid, "context_info", context=copy)
    assert (info.messages, info.reply) == (2, len(box.pieces))
    while not box.done:
        hand.step()
    rest = hand.call(forked.streams.pid, "generate", context=copy, max_tokens=10 - info.reply, ignore_stop=True)
    assert box.result.tokens[info.reply :] == rest.tokens
    hand.check()


def test_closing_a_context_ends_its_generation(hand: Hand) -> None:
    context = hand.open(user="hi")
    box = hand.send(hand.host, "generate", context=context, max_tokens=100, ignore_stop=True)
    hand.step()
    hand.call(hand.host, "close", context=context)
    assert box.result.reason == "cancelled"
    assert not hand.step()
    hand.check()


@pytest.mark.parametrize("length", range(20))
def test_truncation_anywhere_keeps_transcript_and_tokens_in_step(hand: Hand, length: int) -> None:
    context = hand.open(system="s", user="hi")
    hand.call(hand.host, "generate", context=context, max_tokens=6, ignore_stop=True)
    hand.call(hand.host, "truncate", context=context, length=min(length, len(tokens(hand, context))))
    info = hand.call(hand.host, "context_info", context=context)
    if info.reply is not None:
        assert info.length - info.reply == 11
    else:
        assert info.messages == (2 if length >= 9 else 0)  # the two were appended together
    hand.call(hand.host, "generate", context=context, text="more", max_tokens=2)
    hand.check()
