"""The process family: what no property test of the whole table says."""

from __future__ import annotations

import pytest

from llmos.kernel.errno import InvalidArgument
from llmos.syscalls import param

from .hand import Hand


def test_ps_gives_a_page_at_a_time() -> None:
    hand = Hand()
    pids = [hand.spawn().pid for _ in range(10)]
    first = hand.call(hand.host, "ps", limit=4)
    assert [each.pid for each in first.processes] == [1, hand.host, *pids[:2]]
    assert first.more
    hand.call(hand.host, "kill", pid=pids[2], signal="KILL")
    hand.call(hand.host, "wait", pid=pids[2])
    rest = hand.call(hand.host, "ps", after=pids[1], limit=param.MAX_PROCESSES)
    assert [each.pid for each in rest.processes] == pids[3:]
    assert not rest.more
    none = hand.call(hand.host, "ps", after=pids[-1])
    assert (none.processes, none.more) == ([], False)
    assert not hand.call(hand.host, "ps", after=pids[1], limit=7).more


@pytest.mark.parametrize("page", [{"limit": 0}, {"limit": param.MAX_PROCESSES + 1}, {"after": -1}, {"after": 1.0}])
def test_a_page_has_bounds(page: dict[str, int]) -> None:
    hand = Hand()
    with pytest.raises(InvalidArgument, match=next(iter(page))):
        hand.call(hand.host, "ps", **page)


def test_tokens_are_told_of_a_tree_and_of_each_alone() -> None:
    """A child that has ended leaves its tokens to those above it, and never to their own."""
    hand = Hand()
    parent = hand.spawn(capabilities=["llm:*", "proc:spawn", "pipe:*"])
    child = hand.call(parent.pid, "spawn", name="child")
    context = hand.open(child.pid, user="hello")
    for _ in range(20):
        hand.step()
    used = hand.call(child.pid, "context_info", context=context).length
    assert used > 0

    def counted() -> dict[int, tuple[int, int]]:
        return {each.pid: (each.tokens, each.own_tokens) for each in hand.call(hand.host, "ps").processes}

    assert counted() == {1: (used, 0), hand.host: (used, 0), parent.pid: (used, 0), child.pid: (used, used)}
    hand.call(parent.pid, "kill", pid=child.pid, signal="KILL")
    hand.call(parent.pid, "wait", pid=child.pid)
    assert counted() == {1: (used, 0), hand.host: (used, 0), parent.pid: (used, 0)}
