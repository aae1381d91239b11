"""The fair policy: while two processes of a class both want the device, their weighted service stays close."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st
from machine import Machine
from slots import Rig

from llmos.kernel.param import NICE_STEP
from llmos.kernel.process import Class


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(64, 200), min_size=3, max_size=6),
    nices=st.lists(st.integers(-3, 3), min_size=6, max_size=6),
)
def test_the_service_gap_of_backlogged_processes_is_bounded(lengths, nices):
    """Each agent keeps prefilling new contexts of its own size: nobody gets ahead by more than two chunks, the credit and a page rent."""
    machine = Machine(frames=4096, max_tokens=64, vocabulary=10**9)
    agents = [(machine.spawn(nice=nice, capabilities=frozenset({"*"})), length) for length, nice in zip(lengths, nices, strict=False)]
    fresh = iter(range(10**9))

    def submit(pid: int, length: int) -> None:
        machine.append(pid, machine.open(pid), [next(fresh) for _ in range(length)])

    for pid, length in agents * 3:  # always more than a step can take, so that everybody is backlogged within it too
        submit(pid, length)
    bound = (2 * (64 + 200 / 16) + 64) * max(NICE_STEP**nice for nice in nices)
    for _ in range(150):
        step = machine.plan()
        assert step is not None
        machine.retire(step)
        for pid, length in agents:
            process = machine.kernel.table.get(pid)
            for bid in list(process.bursts):
                burst = machine.kernel.bursts[bid]
                if burst.done:
                    machine.kernel.release(machine.now, pid, bid)
                    machine.kernel.close(machine.now, pid, burst.context.cid)
                    submit(pid, length)
        service = [machine.kernel.table.get(pid).service for pid, _ in agents]
        assert max(service) - min(service) <= bound


def test_a_newcomer_is_served_at_once_beside_long_work():
    machine = Machine(frames=4096, max_tokens=64, vocabulary=10**9)
    for i in range(8):
        pid = machine.spawn()
        machine.append(pid, machine.open(pid), [(i * 97 + j) % 1000 for j in range(3000)])
    machine.run(20)
    pid = machine.spawn()
    short = machine.generate(pid, machine.open(pid), 1, [1, 2, 3])
    machine.run(2)
    assert short.done


def test_fcfs_makes_the_newcomer_wait():
    machine = Machine(policy="fcfs", frames=4096, max_tokens=64, vocabulary=1000)
    for i in range(8):
        pid = machine.spawn()
        machine.append(pid, machine.open(pid), [(i * 97 + j) % 1000 for j in range(3000)])
    pid = machine.spawn()
    short = machine.generate(pid, machine.open(pid), 1, [1, 2, 3])
    machine.run(300)
    assert not short.done


def test_classes_come_before_service():
    machine = Machine(frames=4096, max_tokens=64, vocabulary=10**9)
    idle = machine.spawn(cls=Class.IDLE)
    machine.append(idle, machine.open(idle), [j % 1000 for j in range(3000)])
    fast = machine.spawn(cls=Class.INTERACTIVE)
    burst = machine.append(fast, machine.open(fast), [j * 3 % 1000 for j in range(640)])
    machine.run(10)
    assert burst.done


def test_decodes_go_on_beside_a_long_prefill():
    machine = Machine(frames=4096, max_tokens=64, vocabulary=10**9)
    pid = machine.spawn()
    stream = machine.generate(pid, machine.open(pid), 40, [1, 2, 3])
    machine.run(1)
    other = machine.spawn()
    machine.append(other, machine.open(other), [j % 1000 for j in range(3000)])
    machine.run(30)
    assert len(stream.output) == 31, "a token a step, whatever else is in it"


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(2, 63), min_size=2, max_size=10))
def test_of_prompts_that_come_together_as_many_are_done_as_the_budget_allows(lengths):
    """A prompt that a step cut short goes on in the next, though others have had nothing yet: at most one is half done."""
    machine = Machine(frames=4096, max_tokens=64, vocabulary=10**9)
    bursts = []
    for number, length in enumerate(lengths):
        pid = machine.spawn()
        bursts.append(machine.append(pid, machine.open(pid), range(number * 100, number * 100 + length)))
    while (step := machine.plan()) is not None:
        machine.retire(step)
        assert sum(0 < burst.context.computed < len(burst.context.tokens) for burst in bursts) <= 1
    assert len(machine.steps) == -(-sum(lengths) // 64), "no step has room to spare but the last"


def test_a_long_prompt_goes_on_for_one_budget_at_most_while_others_wait():
    machine = Machine(frames=4096, max_tokens=64, vocabulary=10**9)
    for start, length in [(0, 40), (10_000, 3000), (20_000, 40), (30_000, 40), (40_000, 40)]:
        pid = machine.spawn()
        machine.append(pid, machine.open(pid), range(start, start + length))
    machine.run(4)
    assert [[(row.tokens[0] // 10_000, len(row.tokens)) for row in step.rows] for step in machine.steps] == [
        [(0, 40), (1, 24)],
        [(1, 40), (2, 24)],
        [(2, 16), (3, 40), (4, 8)],
        [(4, 32), (1, 32)],
    ]


def test_a_better_class_interrupts_a_turn():
    machine = Machine(frames=4096, max_tokens=64, vocabulary=10**9)
    for start in (0, 10_000):
        pid = machine.spawn()
        machine.append(pid, machine.open(pid), range(start, start + 40))
    machine.run(1)
    fast = machine.spawn(cls=Class.INTERACTIVE)
    urgent = machine.append(fast, machine.open(fast), range(20_000, 20_064))
    machine.run(1)
    assert urgent.done
    assert [row.tokens[0] for row in machine.steps[1].rows] == [20_000]


@settings(max_examples=25, deadline=None)
@given(
    slots=st.integers(1, 4),
    shapes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40), st.integers(-3, 3)), min_size=3, max_size=6),
    data=st.data(),
)
def test_the_service_gap_at_slots_is_bounded(slots, shapes, data):
    """Each agent keeps more requests of its own size waiting than there are slots: nobody gets ahead by more than fills them."""
    rig = Rig(slots=slots)
    agents = {rig.spawn(nice=nice): (prompt, reply) for prompt, reply, nice in shapes}
    for pid, (prompt, _) in list(agents.items()) * (slots + 1):
        rig.ask(pid, prompt=prompt)
    rig.advance()
    most = max(prompt + 2 * reply for prompt, reply, _ in shapes)
    bound = (slots * most + 64) * max(NICE_STEP**nice for *_, nice in shapes)
    for _ in range(150):
        bid = data.draw(st.sampled_from(sorted(rig.far.under_way)))
        burst = rig.kernel.bursts[bid]
        pid, cid = burst.process.pid, burst.context.cid
        prompt, reply = agents[pid]
        rig.speak(burst, reply)
        rig.settle(burst)
        rig.kernel.release(rig.now, pid, bid)
        rig.kernel.close(rig.now, pid, cid)
        rig.ask(pid, prompt=prompt)
        rig.advance()
        service = [rig.kernel.table.get(pid).service for pid in agents]
        assert max(service) - min(service) <= bound


def test_who_asks_much_does_not_keep_the_slots_from_who_asks_little():
    """A hundred requests of one agent are there first; each of another's still gets one of the next slots."""
    rig = Rig(slots=2)
    greedy, modest = rig.spawn(), rig.spawn()
    for _ in range(100):
        rig.ask(greedy, prompt=20)
    waited = []
    for turn in range(40):
        if turn % 4 == 0:
            mine, since = rig.ask(modest, prompt=20), turn
        for order in rig.advance():
            if order.burst == mine.bid:
                waited.append(turn - since)
        burst = rig.kernel.bursts[min(rig.far.under_way)]
        rig.speak(burst, 10)
        rig.settle(burst)
    assert len(waited) == 10
    assert max(waited) <= 2
