"""A state machine over everything the kernel does: whatever is called in whatever order, nothing is lost or owned twice.

The dummy device checks that every slot a row reads holds the token that the context has there, so a wrong page, a missed
copy or a frame freed too early is a Panic. A model of each context's tokens is kept beside the kernel and compared.
"""

from __future__ import annotations

from typing import ClassVar

from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule
from slots import Far, geometry

from llmos.drivers.dummy import DummyDevice
from llmos.kernel.burst import Burst, State
from llmos.kernel.device import Outcome, Sampling, Step, StepFailed, Tier
from llmos.kernel.errno import Fault, Panic
from llmos.kernel.kernel import Kernel
from llmos.kernel.param import Params
from llmos.kernel.process import Class, Limits
from llmos.kernel.signal import Signal

POISON = 99
SIGNALS = [Signal.STOP, Signal.CONT, Signal.INT, Signal.KILL, Signal.TERM]
MOST_STEPS = 3_000
"""More than the bursts of an example can need together, if each step gets on with something."""
PARAMS = Params(low_water=2, write_back=4, min_progress=2, preempt_gap=8.0, max_processes=24, max_contexts=6, lookahead=4)


class Parrot(DummyDevice):
    """It knows three words, and the last three decide the next: it repeats itself, but two words do not say what comes next."""

    def __init__(self, **shape) -> None:
        super().__init__(**shape, memory=3, guess_cost=0.01)

    def next(self, context, sampling):
        return super().next(context, sampling) % 3


class KernelMachine(RuleBasedStateMachine):
    pids = Bundle("pids")
    contexts = Bundle("contexts")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.kernel = Kernel(PARAMS, policy=self.policy)
        shape = {"frames": 14, "host_frames": 6, "page_slots": 4, "vocabulary": 100, "window": 48, "max_rows": 4, "max_tokens": 10}
        self.device = self.kind(**shape)
        self.device.fail_when = {POISON}
        self.kernel.attach(self.device.geometry)
        self.flying: Step | None = None
        self.expected: dict[int, list[int]] = {}
        """Context -> the tokens its owner knows of: what was appended, and what its bursts have put out."""
        self.growing: dict[int, int] = {}
        """Context -> burst that generates into it."""
        self.begun: list[tuple[Burst, list[int]]] = []
        """Every burst that has generated, and what was in its context before."""
        self.appended = 0
        """Tokens given by callers."""

    kind: ClassVar[type[DummyDevice]] = DummyDevice
    policy = "fair"
    last_breath = True
    """What is under way at the end is let go on until it is done; otherwise it is killed where it stands."""

    def try_(self, call, *args, **kwargs):
        try:
            return call(*args, **kwargs)
        except Fault as fault:
            if not fault.args[0]:
                raise AssertionError("a fault says what to do") from fault
            return None
        except Panic as panic:  # a BaseException, which Hypothesis would not shrink
            raise AssertionError(str(panic)) from panic

    @initialize(target=contexts, count=st.integers(2, 6), length=st.sampled_from([0, 30]))
    def begin(self, count, length):
        """Some agents with a context each, so that memory is short from the start; maybe all of them want the same prefix."""
        tokens = [i * i % 7 for i in range(length)]
        made = []
        for i in range(count):
            pid = self.kernel.spawn(self.now, 1, name="worker", cls=Class(i % 4))
            cid = self.kernel.open(self.now, pid, "dummy")
            self.expected[cid] = list(tokens)
            if tokens:
                self.kernel.append(self.now, pid, cid, tokens)
                self.appended += length
            made.append((pid, cid))
        return multiple(*made)

    # processes

    @rule(target=pids, cls=st.sampled_from(Class), nice=st.integers(-20, 19), limit=st.none() | st.integers(0, 60))
    def spawn(self, cls, nice, limit):
        pid = self.try_(self.kernel.spawn, self.now, 1, name="a", cls=cls, nice=nice, limits=Limits(tokens=limit, pages=limit))
        return multiple() if pid is None else pid

    @rule(target=pids, parent=pids)
    def spawn_child(self, parent):
        pid = self.try_(self.kernel.spawn, self.now, parent, name="child", limits=Limits(children=2))
        return multiple() if pid is None else pid

    @rule(target=pids, pid=pids)
    def fork(self, pid):
        made = self.try_(self.kernel.fork, self.now, 1, pid)
        if made is None:
            return multiple()
        twin, mapping = made
        for old, new in mapping.items():
            self.expected[new] = list(self.kernel.contexts[new].tokens)
            assert self.kernel.contexts[new].tokens == self.kernel.contexts[old].tokens
        return twin

    @rule(context=contexts, signal=st.sampled_from(SIGNALS), dice=st.integers(0, 5))
    def kill(self, context, signal, dice):
        pid, _ = context
        if signal in (Signal.KILL, Signal.TERM) and dice:
            return
        self.try_(self.kernel.kill, self.now, 1, pid, signal)

    @rule(pid=pids, dice=st.integers(0, 5))
    def exit(self, pid, dice):
        if dice:
            return
        self.try_(self.kernel.exit, self.now, pid, 0)
        assert not any(c.process.pid == pid for c in self.kernel.contexts.values())

    @rule(parent=pids)
    def reap(self, parent):
        self.try_(self.kernel.reap, self.now, parent)

    @rule(pid=pids, nice=st.integers(-20, 19), cls=st.sampled_from(Class))
    def renice(self, pid, nice, cls):
        self.try_(self.kernel.renice, self.now, 1, pid, nice)
        self.try_(self.kernel.reclass, self.now, 1, pid, cls)

    # contexts

    @rule(target=contexts, pid=pids)
    def open(self, pid):
        cid = self.try_(self.kernel.open, self.now, pid, "dummy")
        if cid is None:
            return multiple()
        self.expected[cid] = []
        return (pid, cid)

    @rule(target=contexts, context=contexts)
    def fork_context(self, context):
        pid, cid = context
        frames = len(self.kernel.schedulers["dummy"].memory.device.free)
        twin = self.try_(self.kernel.fork_context, self.now, pid, cid)
        if twin is None:
            return multiple()
        assert len(self.kernel.schedulers["dummy"].memory.device.free) == frames, "a fork copies no page"
        self.expected[twin] = list(self.kernel.contexts[twin].tokens)
        return (pid, twin)

    @rule(context=contexts)
    def close(self, context):
        self.try_(self.kernel.close, self.now, *context)

    @rule(context=contexts, keep=st.floats(0, 1))
    def truncate(self, context, keep):
        pid, cid = context
        if cid in self.kernel.contexts:
            length = int(keep * len(self.kernel.contexts[cid].tokens))
            if self.kernel.contexts[cid].burst is None:
                self.kernel.truncate(self.now, pid, cid, length)
                del self.expected[cid][length:]

    # bursts: few different tokens, so that prefixes are shared; POISON makes a step fail

    @rule(context=contexts, start=st.integers(0, 1), length=st.integers(0, 40), poison=st.integers(0, 30))
    def append(self, context, start, length, poison):
        tokens = [start + i * i % 7 for i in range(length)]
        if poison == 7 and tokens:
            tokens[-1] = POISON
        pid, cid = context
        if self.try_(self.kernel.append, self.now, pid, cid, tokens) is not None:
            self.expected[cid] += tokens
            self.appended += length

    @rule(context=contexts, length=st.integers(0, 9), most=st.integers(0, 30), seed=st.integers(0, 1), stop=st.integers(0, 99))
    def generate(self, context, length, most, seed, stop):
        tokens = [i % 3 for i in range(length)]
        pid, cid = context
        sampling = Sampling(temperature=float(seed), seed=seed, repetition_penalty=1.0 + seed)
        bid = self.try_(
            self.kernel.generate, self.now, pid, cid, tokens=tokens, max_tokens=most, sampling=sampling, stop_ids=frozenset(range(stop % 8))
        )
        if bid is not None:
            self.expected[cid] += tokens
            self.appended += length
            self.growing[cid] = bid
            self.begun.append((self.kernel.bursts[bid], list(self.expected[cid])))

    @rule(context=contexts)
    def finish(self, context):
        pid, cid = context
        burst = self.kernel.contexts[cid].burst if cid in self.kernel.contexts else None
        if burst is not None:
            self.kernel.finish(self.now, pid, burst.bid, "finished")

    # the device

    @precondition(lambda self: self.flying is None)
    @rule()
    def plan(self):
        step = self.try_(self.kernel.plan, self.now, "dummy")
        if step is None:
            wants = (State.READY, State.PAGING, State.RUNNING, State.WAITING)
            idle = [b for b in self.kernel.bursts.values() if b.state in wants and b.context.device == "dummy"]
            assert not idle, "nothing is planned although bursts want the device"
            return
        rows = step.rows
        assert rows or step.copies
        assert len(rows) <= 4
        assert sum(len(row.tokens) for row in rows) <= 10
        for row in rows:
            process = self.kernel.bursts[row.burst].process
            assert process.live, "a dead process is never planned"
            assert process.phase.value == "alive", "a stopped process is never planned"
        written = [(row.frames[p // 4], p % 4) for row in rows if row.store for p in range(row.position, row.position + len(row.tokens))]
        assert len(set(written)) == len(written), "two rows write one slot"
        self.flying = step

    @precondition(lambda self: self.flying is not None)
    @rule(wait=st.floats(0, 2))
    def retire(self, wait):
        step, self.flying = self.flying, None
        outcome: Outcome | StepFailed
        try:
            outcome = self.device.execute(step)
        except Fault as fault:
            outcome = StepFailed(step.number, str(fault))
        except Panic as panic:
            raise AssertionError(str(panic)) from panic
        self.now += wait
        self.try_(self.kernel.retire, self.now, "dummy", outcome)
        self.kernel.tick(self.now)

    @rule(steps=st.integers(1, 5))
    def run(self, steps):
        for _ in range(steps):
            if self.flying is None:
                self.plan()
            if self.flying is None:
                break
            self.try_(self.kernel.check_integrity)
            self.retire(0.01)
            self.try_(self.kernel.check_integrity)

    # what must always hold

    @invariant()
    def integrity(self):
        self.try_(self.kernel.check_integrity)

    @invariant()
    def contents(self):
        """A context holds what was appended and what was generated, in that order, and nothing else."""
        for cid, bid in list(self.growing.items()):
            burst = self.kernel.bursts.get(bid)
            if cid not in self.kernel.contexts or burst is None:
                del self.growing[cid]
            elif burst.done:
                self.expected[cid] += burst.output
                del self.growing[cid]
                self.kernel.release(self.now, burst.process.pid, bid)
        for cid, context in self.kernel.contexts.items():
            output = self.kernel.bursts[self.growing[cid]].output if cid in self.growing else []
            if cid in self.expected:
                assert context.tokens == self.expected[cid] + output

    @invariant()
    def outputs(self):
        """A burst puts out what the device says one token at a time, up to a stop or its end, and no guess."""
        for burst, before in self.begun:
            output = burst.output
            if burst.context.device != "dummy":
                assert output == list(range(1000, 1000 + len(output)))
                continue
            said = [self.device.next(before + output[:i], burst.sampling) for i in range(len(output))]
            assert output == said
            assert len(output) <= burst.max_tokens
            assert not burst.stop_ids.intersection(output[:-1])

    @invariant()
    def charges(self):
        """Every token in a context has been charged once, and one for each row under way: guesses only once they stand."""
        flying = sum(row.sampling is not None for row in self.flying.rows) if self.flying is not None else 0
        made = sum(len(burst.output) if burst.counted is None else burst.counted.output for burst, _ in self.begun)
        assert self.kernel.table.init.usage.tree_tokens == self.appended + made + flying
        for name, scheduler in self.kernel.schedulers.items():
            assert scheduler.right <= min(scheduler.guessed, scheduler.decoded), name

    @invariant()
    def sealed(self):
        """A page that the prefix index names holds the tokens whose key it has, on the device and in the host tier."""
        memory = self.kernel.schedulers["dummy"].memory
        for context in self.kernel.contexts.values():
            for i, page in enumerate(context.pages[: context.computed // 4]):
                if page.key is not None and not page.copying:
                    assert page.key == context.key(i)
                    held = (Tier.DEVICE, page.device) if page.device >= 0 else (Tier.HOST, page.host)
                    assert self.device.frame(*held) == context.tokens[4 * i : 4 * i + 4]
        assert all(page.key == key for key, page in memory.index.items())

    @invariant()
    def accounts(self):
        """The parts of the wall time add up to the whole."""
        for process in self.kernel.table.all.values():
            if process.live:
                told = self.kernel.explain(self.now, process.pid)
                assert abs(sum(told.seconds.values()) - told.wall) < 1e-6
                assert all(seconds >= 0 for seconds in told.seconds.values())

    # the end: everything gets done, or dies; nothing is left behind

    def everybody(self):
        return [process for process in self.kernel.table.all.values() if process.live and process.pid != 1]

    def goes_on(self):
        """Liveness: once nobody is stopped, every burst ends within a bound, whatever has been done to it."""
        for process in self.everybody():
            self.kernel.kill(self.now, 1, process.pid, Signal.CONT)
        for _ in range(MOST_STEPS):
            if self.flying is None:
                self.plan()
            if self.flying is None:
                break
            self.retire(0.0)
            self.try_(self.kernel.check_integrity)
        left = [burst for burst in self.kernel.bursts.values() if not burst.done]
        assert not left, f"after {MOST_STEPS} steps these are not done: {left}"

    def dies(self):
        """Everything is free once what was in flight has retired."""
        for process in self.everybody():
            self.kernel.kill(self.now, 1, process.pid, Signal.KILL)
        if self.flying is not None:
            self.retire(0.0)
        self.try_(self.kernel.check_integrity)
        scheduler = self.kernel.schedulers["dummy"]
        memory = scheduler.memory
        assert not any(page.tables or page.wires for page in memory.live), "pages are held by nobody"
        assert len(memory.device.free) + len(memory.cached) == 14
        assert len(memory.host.free) + sum(page.host >= 0 for page in memory.live) == 6
        assert not scheduler.residents
        assert not scheduler.fills.claimed
        assert not self.kernel.contexts
        assert not self.kernel.bursts
        assert self.kernel.table.init.usage.tree_pages == 0

    def teardown(self):
        if self.last_breath:
            self.goes_on()
        self.dies()


class FcfsMachine(KernelMachine):
    policy = "fcfs"


class MortalMachine(KernelMachine):
    last_breath = False


class QuotingMachine(KernelMachine):
    """Guesses are made, and come true or not."""

    kind = Parrot


class SlotMachine(KernelMachine):
    """Some contexts are on a device without pages, which says what it likes when it likes."""

    contexts = Bundle("contexts")

    def __init__(self) -> None:
        super().__init__()
        self.far = Far(self.kernel, geometry(slots=2, window=64, price_in=0.5, price_out=2.0))

    def anyone(self, dice):
        under_way = sorted(self.far.under_way)
        return under_way[dice % len(under_way)] if under_way else None

    @initialize(target=contexts, count=st.integers(1, 5), cost=st.none() | st.floats(0, 60))
    def begin_far(self, count, cost):
        made = []
        for i in range(count):
            pid = self.kernel.spawn(self.now, 1, name="far", cls=Class(i % 4), limits=Limits(cost=cost, tokens=None if i % 2 else 40))
            cid = self.kernel.open(self.now, pid, "far")
            self.expected[cid] = []
            made.append((pid, cid))
        return multiple(*made)

    @rule(target=contexts, context=contexts)
    def open_far(self, context):
        cid = self.try_(self.kernel.open, self.now, context[0], "far")
        if cid is None:
            return multiple()
        self.expected[cid] = []
        return (context[0], cid)

    @rule(wait=st.floats(0, 1))
    def dispatch(self, wait):
        self.now += wait
        self.try_(self.far.advance, self.now)
        wanting = [b for b in self.kernel.bursts.values() if b.state is State.READY and b.context.device == "far"]
        assert not wanting or len(self.far.under_way) == 2, "no slot is free while somebody waits"

    @rule(dice=st.integers(0, 9), count=st.integers(0, 30))
    def speak(self, dice, count):
        if (bid := self.anyone(dice)) is not None:
            self.try_(self.far.speak, self.now, bid, count)

    @rule(dice=st.integers(0, 9), counts=st.lists(st.integers(1, 12), min_size=1, max_size=8))
    def long_reply(self, dice, counts):
        self.dispatch(0.01)
        for count in counts:
            self.speak(dice, count)
            self.dispatch(0.01)

    @rule(dice=st.integers(0, 9), counts=st.lists(st.integers(1, 3), max_size=3), ends=st.booleans())
    def pause(self, dice, counts, ends):
        """What comes for a process that is stopped is kept for it, and the slot is free when the device is done."""
        if (bid := self.anyone(dice)) is None or (burst := self.kernel.bursts.get(bid)) is None or burst.done:
            return
        pid, before = burst.process.pid, list(burst.output)
        self.kernel.kill(self.now, 1, pid, Signal.STOP)
        for count in counts:
            self.far.speak(self.now, bid, count)
        if ends:
            self.far.settle(self.now, bid)
        assert burst.output == before, "nothing gets to who is stopped"
        self.integrity()
        self.kernel.kill(self.now, 1, pid, Signal.CONT)
        assert burst.done or not ends

    @rule(
        dice=st.integers(0, 9),
        reason=st.sampled_from(["stop", "length", "failed"]),
        counted=st.none() | st.tuples(st.integers(0, 90), st.integers(0, 90)),
    )
    def settle(self, dice, reason, counted):
        if (bid := self.anyone(dice)) is not None:
            self.try_(self.far.settle, self.now, bid, reason, counted)

    @invariant()
    def bills(self):
        """Whatever was done for a burst is paid for, once, by its process and all above; slots are never given twice."""
        far = [burst for burst, _ in self.begun if burst.context.device == "far"]
        dispatcher, shape = self.kernel.dispatchers["far"], self.far.geometry
        assert dispatcher.prompted == sum(burst.billed[0] for burst in far)
        assert dispatcher.received == sum(burst.billed[1] for burst in far)
        assert abs(self.kernel.table.init.usage.tree_cost - sum(shape.cost(*burst.billed) for burst in far)) < 1e-6
        assert set(dispatcher.flying) == set(self.far.under_way)

    @invariant()
    def nothing_is_lost(self):
        """A burst that came to its end has all that was said to it; no limit is passed but by what the device counts otherwise."""
        far = [burst for burst, _ in self.begun if burst.context.device == "far"]
        for burst in far:
            if burst.done and burst.reason == "stop":
                assert len(burst.output) == self.far.said[burst.bid]
        slack = sum(max(0, burst.counted.output - len(burst.output)) for burst in far if burst.counted is not None)
        for process in self.kernel.table.all.values():
            if process.limits.tokens is not None:
                assert process.usage.tree_tokens <= process.limits.tokens + slack

    def goes_on(self):
        for process in self.everybody():
            self.kernel.kill(self.now, 1, process.pid, Signal.CONT)
        for _ in range(MOST_STEPS):
            self.try_(self.far.advance, self.now)
            if not self.far.under_way:
                break
            self.far.settle(self.now, min(self.far.under_way))
        super().goes_on()

    def dies(self):
        for process in self.everybody():
            self.kernel.kill(self.now, 1, process.pid, Signal.KILL)
        self.try_(self.far.advance, self.now)
        assert not self.kernel.dispatchers["far"].flying, "whose process is dead is recalled"
        super().dies()


SETTINGS = settings(
    max_examples=40,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
TestFair = KernelMachine.TestCase
TestFair.settings = SETTINGS
TestFcfs = FcfsMachine.TestCase
TestFcfs.settings = SETTINGS
TestMortal = MortalMachine.TestCase
TestMortal.settings = SETTINGS
TestSlots = SlotMachine.TestCase
TestSlots.settings = settings(SETTINGS, max_examples=80)
TestQuoting = QuotingMachine.TestCase
TestQuoting.settings = settings(SETTINGS, max_examples=80)
