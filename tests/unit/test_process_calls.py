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
