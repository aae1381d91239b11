"""A program that needs a person's word, in a system of one's own and over the socket."""

from __future__ import annotations

import pytest

import llmos

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


async def careful(me: llmos.Process) -> list[str]:
    """Makes three pipes, as far as it may."""
    found = []
    for capacity in (1, 2, 3):
        try:
            await me.pipe(capacity)
        except llmos.NotPermitted as refused:
            found.append(str(refused))
        else:
            found.append(f"made {capacity}")
    return found


async def test_each_call_waits_for_its_own_word(system: llmos.System) -> None:
    child = await system.spawn(careful, capabilities=["ask:pipe:*"])
    known = 0
    for capacity in (1, 2, 3):
        (one,) = await system.next_approvals(known)
        known = one.id
        assert (one.pid, one.call, one.capability) == (child.pid, "pipe", "pipe:new")
        assert one.arguments == f'{{"capacity": {capacity}}}'
        state = next(each for each in await system.ps() if each.pid == child.pid)
        assert (state.state, state.waiting_for) == ("blocked", "approval")
        assert [each.id for each in await system.approvals()] == [one.id]
        if capacity == 2:
            await system.deny(one.id, "two are enough")
        else:
            await system.allow(one.id, digest=one.digest)
        with pytest.raises(llmos.NotFound):
            await system.allow(one.id)
    first, second, third = (await child.wait()).value
    assert (first, third) == ("made 1", "made 3")
    assert "two are enough" in second


async def test_a_child_asks_for_what_its_parent_must_ask_for_and_its_parent_cannot_say_yes(system: llmos.System) -> None:
    async def parent(me: llmos.Process) -> list[str]:
        child = await me.spawn(careful, capabilities=["pipe:*"])
        await me.stdin.read()  # until the child waits
        found = [str(await me.approvals())]
        for attempt in (me.allow(1), me.spawn(careful, capabilities=["*"])):
            try:
                await attempt
            except llmos.NotPermitted as refused:
                found.append(refused.code)
        await child.kill("KILL")
        await child.wait()
        return found

    child = await system.spawn(parent, capabilities=["ask:pipe:*", "proc:spawn"])
    (one,) = await system.next_approvals()
    assert one.id == 1
    assert one.pid != child.pid
    assert child.stdin is not None
    await child.stdin.close()
    assert (await child.wait()).value == ["[]", "EPERM", "EPERM"]


async def test_what_is_gone_is_not_listed(system: llmos.System) -> None:
    child = await system.spawn(careful, capabilities=["ask:pipe:*"])
    (one,) = await system.next_approvals()
    await child.kill("KILL")
    await child.wait()
    assert await system.approvals() == []
    with pytest.raises(llmos.NotFound, match="gone"):
        await system.allow(one.id)


async def test_families_have_names(system: llmos.System) -> None:
    with pytest.raises(llmos.InvalidArgument, match="did you mean 'pipe'"):
        await system.spawn(careful, capabilities=["pip:*"])
