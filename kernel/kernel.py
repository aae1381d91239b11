"""The kernel: every call of the machine's insides, as plain functions of a timestamp and arguments.

A call either takes effect at once or raises a Fault and changes nothing. What others must learn of it comes out as
effects, drained by the caller: channels to wake, processes that died, signals to deliver. Nothing here waits: a caller
that would block gets TryAgain or None, sleeps on the channel named by the call, and asks again when it is woken.

Channels: ("burst", bid) ("exit", pid) ("child", parent pid) ("pipe", number) ("mail", pid) ("room", pid) ("signal", pid), and
whatever a timer was set for.
Invariants: see `check_integrity`. Imports nothing outside the standard library; knows no clock, thread, tensor or text.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TypeAlias

from .account import Activity
from .capability import Verdict, attenuate, covers, judge
from .context import Context
from .errno import NotPermitted, Panic, QuotaExceeded
from .integrity import check_dispatcher, check_pipes, check_processes, check_scheduler
from .mailbox import Post
from .param import Params
from .pipe import Plumbing
from .policy import policy_of
from .process import LIMITS, Class, Limits, Phase, Process
from .signal import Signal
from .table import INIT, ProcessTable
from .timer import Timers
from .view import ExitRecord, Explanation, ProcessView, Statistics, explain_process, view_process
from .work import Work

Channel: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Wake:
    """Whoever sleeps on this channel should look again."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class Died:
    """The process is gone: stop running its program."""

    pid: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """A signal that the program of a process must see: STOP, CONT, TERM, XCPU or INT."""

    pid: int
    signal: Signal


Effect: TypeAlias = Wake | Died | Deliver


class Kernel(Work, Plumbing, Post, Timers):
    """Processes, signals and time here; contexts and bursts in work.py; pipes in pipe.py, mail in mailbox.py, timers in timer.py."""

    def __init__(self, params: Params | None = None, policy: str = "fair", clock_start: float = 0.0) -> None:
        params = params or Params()
        table = ProcessTable(params, clock_start)
        Work.__init__(self, table, params, policy_of(policy), self._wake)
        Plumbing.__init__(self, table, params, self._wake)
        Post.__init__(self, table, params, self._wake)
        Timers.__init__(self, self._wake)
        self._effects: list[Effect] = []
        self._deadlines: list[tuple[float, int]] = []

    def drain(self) -> list[Effect]:
        """What happened since the last drain."""
        effects, self._effects = self._effects, []
        return effects

    def stirred(self) -> bool:
        """True if something happened since the last drain."""
        return bool(self._effects)

    def _wake(self, channel: Channel) -> None:
        self._effects.append(Wake(channel))

    def wake(self, channel: Channel) -> None:
        """Wake whoever sleeps on a channel that is not the kernel's own: with the next drain, as for all else."""
        self._wake(channel)

    # processes -------------------------------------------------------------------------------------------------------

    def demand(self, pid: int, capability: str) -> None:
        """Raises NotPermitted unless the process holds the capability, outright: nobody can be asked in here."""
        if self.judge(pid, capability) is not Verdict.HELD:
            raise NotPermitted(f"pid {pid} holds {capability!r} only by asking, and here nobody can be asked; ask whoever spawned it")

    def judge(self, pid: int, capability: str) -> Verdict:
        """Whether the process holds the capability, or holds it by asking. Raises NotPermitted if neither."""
        verdict = judge(self.table.get(pid).capabilities, capability)
        if verdict is Verdict.DENIED:
            raise NotPermitted(f"pid {pid} lacks the capability {capability!r}; ask whoever spawned it")
        return verdict

    def may_send(self, pid: int, to: int) -> None:
        """Raises NotPermitted unless both belong to one user and one tree below init, or the sender holds ipc:send."""
        sender, receiver = self.table.get(pid), self.table.get(to)
        if (sender.user, sender.root) != (receiver.user, receiver.root) and not covers(sender.capabilities, "ipc:send"):
            raise NotPermitted(f"pid {to} is of another tree or user than pid {pid}: to send mail there takes the capability 'ipc:send'")

    def _authority(self, caller: int, pid: int, capability: str) -> Process:
        """The process `pid`, if `caller` is it, is above it, or holds the capability."""
        process, by = self.table.get(pid), self.table.get(caller)
        if pid == INIT:
            raise NotPermitted("init (pid 1) cannot be signalled or changed")
        if by not in process.lineage() and not covers(by.capabilities, capability):
            raise NotPermitted(f"pid {caller} may not touch pid {pid}: it is not below it, and {capability!r} is not held")
        return process

    def spawn(
        self,
        now: float,
        parent: int,
        *,
        name: str,
        user: str | None = None,
        cls: Class | None = None,
        nice: int | None = None,
        limits: Limits | None = None,
        capabilities: frozenset[str] | None = None,
    ) -> int:
        """A new process. What is not said is inherited; capabilities are the default ones, as far as the parent holds them."""
        process = self.table.spawn(now, self.table.get(parent), name, user, cls, nice, limits or Limits(), capabilities)
        self._set_alarm(process)
        return process.pid

    def fork(self, now: float, caller: int, pid: int, *, name: str | None = None) -> tuple[int, dict[int, int]]:
        """A twin of a process, child of the caller, with every context forked. Returns its pid, and old -> new context."""
        model = self._authority(caller, pid, "proc:fork")
        parent = self.table.get(caller)
        if (over := parent.over_pages(sum(len(self.contexts[cid].pages) for cid in model.contexts))) is not None:
            raise over
        capabilities = attenuate(parent.capabilities, model.capabilities)
        twin = self.table.spawn(now, parent, name or model.name, model.user, model.cls, model.nice, model.limits, capabilities)
        self._set_alarm(twin)
        return twin.pid, self.fork_contexts(model, twin)

    def exit(self, now: float, pid: int, status: int, reason: str = "", value: bytes = b"") -> None:
        """The process ends: its bursts are cancelled, everything it holds is closed, its children go to init."""
        process = self.table.get(pid)
        if process is self.table.init:
            raise NotPermitted("init (pid 1) does not exit; shut the system down instead")
        for bid in list(process.bursts):
            burst = self.bursts.pop(bid)
            if not burst.done:
                self._scheduler_of(burst).end(burst, now, "cancelled", cancelled=True)
        process.bursts.clear()
        for cid in list(process.contexts):
            self._close(self.contexts[cid])
        for number in set(process.readers) | set(process.writers):
            self._close_ends(process, number, process.readers.get(number, 0), process.writers.get(number, 0))
        self._drop_mail(pid)
        parent = process.parent
        if parent is None:
            raise Panic(f"pid {pid} has no parent")
        process.value = value
        self.table.bury(now, process, status, reason)
        self._effects += (Died(pid), Wake(("exit", pid)), Wake(("child", parent.pid)), Wake(("signal", pid)))

    def reap(self, now: float, parent: int, pid: int | None = None) -> ExitRecord | None:
        """What became of a dead child (of any, if pid is None); None if there is none yet: sleep on ("child", parent)."""
        return self.table.reap(self.table.get(parent), pid)

    def kill(self, now: float, sender: int, pid: int, signal: Signal) -> None:
        """Send a signal. See kernel/signal.py for what each does."""
        self._signal(now, self._authority(sender, pid, "proc:kill"), signal)

    def killpg(self, now: float, sender: int, pid: int, signal: Signal) -> None:
        """Send a signal to a process and everything below it."""
        for process in reversed(self._authority(sender, pid, "proc:kill").subtree()):
            if process.live:
                self._signal(now, process, signal)

    def _signal(self, now: float, process: Process, signal: Signal) -> None:
        bursts = [self.bursts[bid] for bid in sorted(process.bursts)]
        if signal is Signal.KILL:
            self.exit(now, process.pid, 128 + signal, "killed")
            return
        if signal is Signal.INT:
            for burst in bursts:
                if not burst.done:
                    self._scheduler_of(burst).end(burst, now, "interrupted")
        elif signal is Signal.STOP and process.phase is Phase.ALIVE:
            process.move(Phase.STOPPED)
            process.account.enter(Activity.BLOCKED, now)
            for burst in bursts:
                if not burst.done:
                    self._scheduler_of(burst).hold(burst, now)
        elif signal is Signal.CONT and process.phase is Phase.STOPPED:
            process.move(Phase.ALIVE)
            for burst in bursts:
                if not burst.done:
                    self._scheduler_of(burst).resume(burst, now)
            process.account.leave(Activity.BLOCKED, now)
        elif signal in (Signal.TERM, Signal.XCPU) and process.kill_at is None:
            process.pending = signal
            process.status = 128 + signal
            process.kill_at = now + self.params.term_grace_seconds
            self._set_alarm(process)
            self._wake(("signal", process.pid))
        self._effects.append(Deliver(process.pid, signal))

    def pending(self, pid: int) -> Signal | None:
        """TERM or XCPU, if the process has yet to see it; `acknowledge` says that it has."""
        return self.table.get(pid).pending

    def acknowledge(self, pid: int) -> None:
        self.table.get(pid).pending = None

    def renice(self, now: float, caller: int, pid: int, nice: int) -> None:
        """Raising one's nice value is free, lowering it takes proc:nice."""
        process = self._authority(caller, pid, "proc:nice")
        if nice < process.nice:
            self.demand(caller, "proc:nice")
        process.renice(nice)

    def reclass(self, now: float, caller: int, pid: int, cls: Class) -> None:
        process = self._authority(caller, pid, "proc:nice")
        if cls < process.cls:
            self.demand(caller, "proc:nice")
        process.cls = cls
        self.policy.moved(process)
        for bid in process.bursts:
            burst = self.bursts[bid]
            if not burst.done:
                self._scheduler_of(burst).reclass(burst)

    def setlimits(self, now: float, caller: int, pid: int, limits: Limits) -> None:
        """Lowering one's limits is free; raising or lifting one takes proc:limits."""
        process = self._authority(caller, pid, "proc:limits")
        for name in LIMITS:
            old, new = getattr(process.limits, name), getattr(limits, name)
            if old is not None and (new is None or new > old):
                self.demand(caller, "proc:limits")
        limits.check()
        process.limits = limits
        for below in self.table.all.values():
            if below.live and process in below.lineage():  # orphans included
                self._set_alarm(below)

    def block(self, now: float, pid: int, what: str) -> None:
        """A call of the process begins to sleep on `what`: "tool", "pipe", "child", "timer", ..."""
        process = self.table.get(pid)
        process.blocked_on.setdefault(what, []).append(now)
        process.account.enter(Activity.TOOL if what == "tool" else Activity.BLOCKED, now)

    def unblock(self, now: float, pid: int, what: str) -> None:
        """The call woke. Does nothing for a process that has died meanwhile."""
        process = self.table.all.get(pid)
        if process is None or not process.live or what not in process.blocked_on:
            return
        starts = process.blocked_on[what]
        process.account.blame(f"blocked: waited for {what}", now - starts.pop(0), self.params.max_causes)
        if not starts:
            del process.blocked_on[what]
        process.account.leave(Activity.TOOL if what == "tool" else Activity.BLOCKED, now)

    # time ------------------------------------------------------------------------------------------------------------

    def _set_alarm(self, process: Process) -> None:
        """Have `tick` look at a process when its grace or its wall time is over."""
        ends = [at for at in (process.kill_at, process.wall_deadline() if process.kill_at is None else None) if at is not None]
        if not ends or min(ends) == process.alarm:
            return
        process.alarm = min(ends)
        if len(self._deadlines) > 2 * len(self.table.all) + 64:  # mostly those of the dead: keep the valid ones
            live = (p for p in self.table.all.values() if p.live and p.alarm is not None)
            self._deadlines = [(p.alarm, p.pid) for p in live if p.alarm is not None and p is not process]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (process.alarm, process.pid))

    def next_deadline(self) -> float | None:
        """When `tick` has something to do next, if ever."""
        alarm, timer = self._deadlines[0][0] if self._deadlines else None, self.next_timer()
        return timer if alarm is None else alarm if timer is None else min(alarm, timer)

    def tick(self, now: float) -> None:
        """Do what is due: fire timers, kill those whose grace is over, and tell those whose wall time is."""
        self.fire(now)
        while self._deadlines and self._deadlines[0][0] <= now:
            at, pid = heapq.heappop(self._deadlines)
            process = self.table.all.get(pid)
            if process is None or not process.live or process.alarm != at:
                continue
            process.alarm = None
            if process.kill_at is not None and process.kill_at <= now:
                self.exit(now, pid, process.status, "killed after its grace period")
                continue
            end = process.wall_deadline()
            if process.kill_at is not None or end is None or end > now:  # its limits were raised meanwhile
                self._set_alarm(process)
                continue
            fault = QuotaExceeded(f"pid {pid} has used the wall time that it, or one above it, was given; spawn it with a higher limit")
            for bid in list(process.bursts):
                if not self.bursts[bid].done:
                    self._scheduler_of(self.bursts[bid]).end(self.bursts[bid], now, "failed", fault)
            self._signal(now, process, Signal.XCPU)

    # what it tells of itself -----------------------------------------------------------------------------------------

    def _contexts_of(self, process: Process) -> list[Context]:
        return [self.contexts[cid] for cid in sorted(process.contexts)]

    def processes(self, now: float) -> list[ProcessView]:
        """A line of `ps` each, by pid."""
        return [view_process(p, self._contexts_of(p), now) for _, p in sorted(self.table.all.items())]

    def explain(self, now: float, pid: int) -> Explanation:
        """Where the wall time of a process, alive or a zombie, went. Raises NoSuchProcess."""
        process = self.table.all.get(pid) or self.table.get(pid)
        return explain_process(process, self._contexts_of(process), now)

    def statistics(self) -> Statistics:
        return Statistics(len(self.table.all), len(self.contexts), len(self.pipes), self.device_statistics())

    def check_integrity(self) -> None:
        """Raises Panic if anything is lost, owned twice or charged wrongly. Costs time in proportion to everything."""
        check_processes(self.table.all, self.contexts)
        for name, scheduler in self.schedulers.items():
            check_scheduler(scheduler, [c for c in self.contexts.values() if c.device == name])
        for name, dispatcher in self.dispatchers.items():
            check_dispatcher(dispatcher, [c for c in self.contexts.values() if c.device == name])
        check_pipes(self.pipes, self.table.all)
        self.check_mail()
        self.check_timers()
