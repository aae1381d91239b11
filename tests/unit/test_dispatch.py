"""The scheduler of a device without pages: who gets a slot, what ends a request, and who pays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from slots import Rig, geometry

from llmos.kernel.burst import State
from llmos.kernel.errno import DeviceFailed, InvalidArgument, Panic, QuotaExceeded, TooLong, TryAgain
from llmos.kernel.kernel import Kernel
from llmos.kernel.process import Class, Limits
from llmos.kernel.signal import Signal
from llmos.kernel.slot import Counted, Form, Received, Settled


def test_as_many_requests_as_slots_and_the_rest_waits():
    rig = Rig(slots=2)
    bursts = [rig.ask(rig.spawn()) for _ in range(5)]
    assert [order.burst for order in rig.advance()] == [bursts[0].bid, bursts[1].bid]
    assert not rig.advance(), "no slot is free"
    rig.speak(bursts[1], 3)
    rig.settle(bursts[1])
    assert bursts[1].done
    assert bursts[1].output == [1000, 1001, 1002]
    assert [order.burst for order in rig.advance()] == [bursts[2].bid]


def test_a_better_class_gets_the_next_slot():
    rig = Rig(slots=1)
    first, late = rig.ask(rig.spawn(cls=Class.BATCH)), rig.ask(rig.spawn(cls=Class.BATCH))
    rig.advance()
    urgent = rig.ask(rig.spawn(cls=Class.INTERACTIVE))
    rig.settle(first)
    assert rig.advance()[0].burst == urgent.bid
    rig.kernel.reclass(rig.now, 1, late.process.pid, Class.INTERACTIVE)
    rig.settle(urgent)
    assert rig.advance()[0].burst == late.bid


def test_nobody_is_preempted_of_a_slot():
    rig = Rig(slots=1)
    running = rig.ask(rig.spawn(cls=Class.IDLE))
    rig.advance()
    rig.ask(rig.spawn(cls=Class.INTERACTIVE))
    assert not rig.advance()
    assert running.state is State.RUNNING


@pytest.mark.parametrize("signal", [Signal.INT, Signal.KILL])
def test_who_is_interrupted_or_killed_is_recalled_and_the_slot_is_free_when_the_device_says_so(signal: Signal):
    rig = Rig(slots=1)
    burst, next_one = rig.ask(rig.spawn()), rig.ask(rig.spawn())
    rig.advance()
    rig.speak(burst, 2)
    rig.kernel.kill(rig.now, 1, burst.process.pid, signal)
    assert burst.done
    assert burst.output == [1000, 1001]
    assert rig.kernel.has_work("far")
    assert rig.kernel.recalls("far") == (burst.bid,)
    assert rig.kernel.recalls("far") == (), "it is told once"
    assert rig.kernel.dispatch(rig.now, "far") == (), "the device has not let go yet"
    rig.speak(burst, 1)  # it was on its way
    assert burst.output == [1000, 1001]
    assert burst.billed == (4, 3), "what was done is paid for"
    rig.settle(burst, "cancelled")
    assert rig.advance()[0].burst == next_one.bid


def test_who_is_stopped_before_its_slot_is_passed_over():
    rig = Rig(slots=1)
    burst, other = rig.ask(rig.spawn()), rig.ask(rig.spawn())
    rig.kernel.kill(rig.now, 1, burst.process.pid, Signal.STOP)
    assert rig.advance()[0].burst == other.bid
    rig.settle(other)
    assert not rig.advance()
    rig.kernel.kill(rig.now, 1, burst.process.pid, Signal.CONT)
    assert rig.advance()[0].burst == burst.bid


def test_what_comes_while_stopped_is_kept_until_the_process_goes_on():
    rig = Rig(slots=1)
    burst = rig.ask(rig.spawn())
    rig.advance()
    rig.speak(burst, 1)
    rig.kernel.kill(rig.now, 1, burst.process.pid, Signal.STOP)
    rig.speak(burst, 2)
    rig.settle(burst)
    assert burst.state is State.HELD
    assert burst.output == [1000]
    other = rig.ask(rig.spawn())
    assert rig.advance()[0].burst == other.bid, "the slot is free"
    rig.kernel.kill(rig.now, 1, burst.process.pid, Signal.CONT)
    assert burst.done
    assert burst.output == [1000, 1001, 1002]


def test_a_generate_of_a_stopped_process_is_held_and_its_append_is_over():
    rig = Rig()
    pid = rig.spawn()
    cid = rig.kernel.open(rig.now, pid, "far")
    rig.kernel.kill(rig.now, 1, pid, Signal.STOP)
    append = rig.kernel.burst(pid, rig.kernel.append(rig.now, pid, cid, [1, 2]))
    assert append.done
    assert append.reason == "stop"
    burst = rig.ask(pid, cid=cid)
    assert burst.state is State.HELD
    assert not rig.advance()


def test_time_is_queued_then_prefill_then_decode():
    rig = Rig(slots=1)
    first, burst = rig.ask(rig.spawn()), rig.ask(rig.spawn())
    rig.advance()
    rig.now = 2.0
    rig.settle(first)
    rig.advance()
    rig.now = 5.0
    rig.speak(burst)
    rig.now = 9.0
    rig.settle(burst)
    told = rig.kernel.explain(rig.now, burst.process.pid)
    assert (told.seconds["queued"], told.seconds["prefill"], told.seconds["decode"]) == (2.0, 3.0, 4.0)
    assert told.causes == {"queued: all slots are taken": 2.0}
    assert burst.first_token == 5.0


def test_what_the_device_counts_takes_the_place_of_the_estimate():
    rig = Rig(price_in=0.5, price_out=2.0)
    pid = rig.spawn()
    burst = rig.ask(pid, prompt=10)
    rig.advance()
    assert burst.process.usage.tree_cost == 5.0, "the prompt, when it is sent"
    rig.speak(burst, 3)
    assert burst.process.usage.tree_cost == 11.0
    rig.settle(burst, counted=(8, 4))
    usage = burst.process.usage
    assert (usage.tree_cost, usage.prefill_tokens, usage.decode_tokens) == (12.0, 8, 4)
    assert usage.tree_tokens == 14, "ten appended as they are here, four generated as the device says"
    assert rig.kernel.table.init.usage.tree_cost == 12.0
    assert rig.kernel.explain(rig.now, pid).cost == 12.0
    assert burst.process.service == 8 + 2 * 4


def test_a_request_that_was_refused_costs_nothing():
    rig = Rig(price_in=0.5, price_out=2.0)
    burst = rig.ask(rig.spawn(), prompt=10)
    rig.advance()
    rig.settle(burst, "failed", counted=(0, 0))
    assert isinstance(burst.fault, DeviceFailed)
    assert (burst.process.usage.tree_cost, burst.process.service) == (0.0, 0.0)


def test_a_budget_bounds_what_is_asked_for_and_ends_a_reply_that_passes_it():
    rig = Rig(price_out=1.0)
    burst = rig.ask(rig.spawn(limits=Limits(cost=5.0)), most=100)
    (order,) = rig.advance()
    assert order.max_tokens == 5
    rig.speak(burst, 5)
    assert not burst.done, "it has used what it may, and no more"
    rig.speak(burst, 1)
    assert isinstance(burst.fault, QuotaExceeded)
    assert rig.kernel.recalls("far") == (burst.bid,)
    rig.far.settle(rig.now, burst.bid, "cancelled")
    with pytest.raises(QuotaExceeded, match="may spend 5, has spent 6"):
        rig.ask(burst.process.pid)


def test_a_reply_cut_by_the_budget_is_a_fault_and_no_end_of_its_own():
    rig = Rig(price_out=1.0)
    burst = rig.ask(rig.spawn(limits=Limits(cost=5.0)), most=100)
    rig.advance()
    rig.speak(burst, 5)
    rig.settle(burst, "length")
    assert isinstance(burst.fault, QuotaExceeded)


def test_the_budget_of_a_parent_binds_its_children():
    rig = Rig(price_out=1.0)
    parent = rig.spawn(limits=Limits(cost=10.0))
    first, second = rig.ask(rig.spawn(parent)), rig.ask(rig.spawn(parent))
    rig.advance()
    rig.speak(first, 7)
    rig.speak(second, 4)
    assert isinstance(second.fault, QuotaExceeded)
    assert not first.done
    assert rig.kernel.table.get(parent).usage.tree_cost == 11.0


def test_a_budget_that_was_spent_while_it_waited_ends_a_burst_before_its_slot():
    rig = Rig(slots=1, price_out=1.0)
    pid = rig.spawn(limits=Limits(cost=10.0))
    first, second = rig.ask(pid), rig.ask(pid)
    rig.advance()
    rig.speak(first, 10)
    rig.settle(first, "stop")
    assert not rig.advance()
    assert isinstance(second.fault, QuotaExceeded)


def test_the_limit_of_tokens_is_asked_for_and_never_passed():
    rig = Rig()
    burst = rig.ask(rig.spawn(limits=Limits(tokens=10)), prompt=4)
    (order,) = rig.advance()
    assert order.max_tokens == 6
    rig.speak(burst, 20)
    assert burst.output == list(range(1000, 1006))
    assert isinstance(burst.fault, QuotaExceeded)
    assert burst.process.usage.tree_tokens == 10


def test_a_context_never_passes_the_window():
    rig = Rig(window=20)
    with pytest.raises(TooLong, match="window of 20"):
        rig.ask(rig.spawn(), prompt=4, most=17)
    burst = rig.ask(rig.spawn(), prompt=4, most=16)
    rig.advance()
    rig.speak(burst, 30)
    assert (burst.reason, len(burst.context.tokens)) == ("length", 20)


def test_a_fork_has_what_came_and_a_truncate_cuts_it():
    rig = Rig()
    burst = rig.ask(rig.spawn(), prompt=4)
    pid, cid = burst.process.pid, burst.context.cid
    rig.advance()
    rig.speak(burst, 2)
    twin = rig.kernel.fork_context(rig.now, pid, cid)
    rig.speak(burst, 2)
    assert rig.kernel.context(pid, twin).tokens == [0, 1, 2, 3, 1000, 1001]
    with pytest.raises(TryAgain):
        rig.kernel.truncate(rig.now, pid, cid, 2)
    rig.settle(burst)
    rig.kernel.truncate(rig.now, pid, cid, 5)
    assert burst.context.tokens == [0, 1, 2, 3, 1000]


def test_a_device_is_not_taken_away_while_a_request_is_under_way():
    rig = Rig()
    burst = rig.ask(rig.spawn())
    rig.advance()
    rig.kernel.kill(rig.now, 1, burst.process.pid, Signal.KILL)
    with pytest.raises(TryAgain):
        rig.kernel.detach(rig.now, "far")
    rig.advance()
    rig.kernel.detach(rig.now, "far")
    assert "far" not in rig.kernel.geometries()


@pytest.mark.parametrize("event", [Received(7, (1,)), Settled(7, "stop", Counted(1, 1))])
def test_a_device_that_speaks_of_what_it_was_not_asked_is_a_bug(event: Received | Settled):
    rig = Rig()
    with pytest.raises(Panic, match="no slot"):
        rig.kernel.hear(rig.now, "far", event)


@pytest.mark.parametrize(
    "wrong",
    [{"slots": -1}, {"window": 0}, {"price_in": -1.0}, {"price_out": float("inf")}, {"price_out": float("nan")}, {"device_frames": 1}],
)
def test_a_shape_that_cannot_be_is_refused(wrong: dict[str, float]):
    with pytest.raises(InvalidArgument):
        Kernel().attach(replace(geometry(), **wrong))


def test_statistics_tell_of_slots():
    rig = Rig(slots=2)
    bursts = [rig.ask(rig.spawn()) for _ in range(3)]
    rig.advance()
    rig.speak(bursts[0], 5)
    (told,) = rig.kernel.statistics().devices
    assert (told.slots, told.flying, told.orders, told.queued, told.prefill_tokens, told.decode_tokens) == (2, 2, 2, 1, 8, 5)


def test_a_form_goes_along_with_the_order_and_a_grammar_is_refused():
    rig, form = Rig(), Form("schema", "{}")
    pid = rig.spawn()
    cid = rig.kernel.open(rig.now, pid, "far")
    with pytest.raises(InvalidArgument, match="takes a form"):
        rig.kernel.generate(rig.now, pid, cid, tokens=[1], max_tokens=9, grammar=object())
    rig.kernel.generate(rig.now, pid, cid, tokens=[1], max_tokens=9, form=form)
    assert [order.form for order in rig.advance()] == [form]
