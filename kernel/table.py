"""The process table: births, deaths, and who is whose child.

Invariants: every live process but init has a live parent; a zombie stays until its parent reaps it; what has no parent
left goes to init, which reaps at once. What an orphan does still counts against those who spawned it: nobody escapes a limit
by leaving its children behind.
"""

from __future__ import annotations

from .account import Account
from .capability import ALL, ASK, DEFAULT, Verdict, attenuate, covers, judge
from .errno import InvalidArgument, NoSuchChild, NoSuchProcess, NotPermitted, TooLong, TryAgain
from .param import Params
from .process import Class, Limits, Phase, Process
from .view import ExitRecord

INIT = 1


class ProcessTable:
    def __init__(self, params: Params, now: float) -> None:
        self.params = params
        init = Process(INIT, None, None, "init", "root", 0, now, ALL, Limits(), account=Account(now))
        init.move(Phase.ALIVE)
        self.init = init
        self.all: dict[int, Process] = {INIT: init}
        self._last = INIT

    def get(self, pid: int) -> Process:
        """A live process. Raises NoSuchProcess."""
        process = self.all.get(pid)
        if process is None or not process.live:
            raise NoSuchProcess(f"no process {pid}: see ps for those there are")
        return process

    def _pid(self) -> int:
        if len(self.all) >= self.params.max_processes:
            raise TryAgain(f"the process table is full ({self.params.max_processes}); wait for a process to end")
        self._last += 1
        return self._last

    def spawn(
        self,
        now: float,
        parent: Process,
        name: str,
        user: str | None,
        cls: Class | None,
        nice: int | None,
        limits: Limits,
        capabilities: frozenset[str] | None,
    ) -> Process:
        if not name or len(name) > 200:
            raise InvalidArgument(f"a process name has 1 to 200 characters, not {len(name)}")
        if parent.depth + 1 > self.params.max_depth:
            raise TryAgain(f"pid {parent.pid} is {parent.depth} generations below init, the most there may be; spawn from one further up")
        limits.check()
        user = parent.user if user is None else user
        if user != parent.user and not covers(parent.capabilities, "user:" + user):
            raise NotPermitted(f"pid {parent.pid} may not spawn as user {user!r}; it lacks the capability user:{user}")
        if capabilities is None:
            capabilities = attenuate(parent.capabilities, DEFAULT)
        for wanted in sorted(capabilities):
            if judge(parent.capabilities, wanted.removeprefix(ASK)) is Verdict.DENIED:
                raise NotPermitted(f"pid {parent.pid} cannot give {wanted!r} to a child, since it does not hold it")
        if any(each.startswith(ASK) for each in parent.capabilities):  # what it asks for, its child asks for
            capabilities = attenuate(parent.capabilities, capabilities)
        if len(capabilities) > self.params.max_capabilities:
            raise TooLong(
                f"{len(capabilities)} capabilities are more than the {self.params.max_capabilities} one process may hold: use patterns"
            )
        if (over := parent.over_children()) is not None:
            raise over
        process = Process(self._pid(), parent, parent, name, user, parent.depth + 1, now, capabilities, limits, account=Account(now))
        process.renice(parent.nice if nice is None else nice)
        process.cls = parent.cls if cls is None else cls
        if (process.cls < parent.cls or process.nice < parent.nice) and not covers(parent.capabilities, "proc:nice"):
            raise NotPermitted(f"pid {parent.pid} may not favour a child over itself; it lacks the capability proc:nice")
        process.move(Phase.ALIVE)
        self.all[process.pid] = process
        parent.children[process.pid] = process
        for above in parent.lineage():
            above.usage.tree_children += 1
        return process

    def bury(self, now: float, process: Process, status: int, reason: str) -> list[Process]:
        """The process, which holds nothing any more, becomes a zombie. Returns the orphans, now init's."""
        process.account.settle(now)
        process.move(Phase.ZOMBIE)
        process.status, process.reason, process.ended = status, reason, now
        process.pending = process.kill_at = None
        orphans = list(process.children.values())
        for orphan in orphans:
            self._adopt(orphan)
        if process.parent is self.init:
            self._forget(process)
        return orphans

    def _adopt(self, orphan: Process) -> None:
        """Hand a process to init, which forgets it at once if it is dead."""
        parent = orphan.parent
        if parent is None:
            return
        del parent.children[orphan.pid]
        orphan.parent = self.init
        if orphan.live:
            self.init.children[orphan.pid] = orphan
        else:
            self._forget(orphan)

    def reap(self, parent: Process, pid: int | None) -> ExitRecord | None:
        """The record of a dead child, which is then forgotten; None if no such child has died yet."""
        if pid is not None and pid not in parent.children:
            raise NoSuchChild(f"process {pid} is not a child of {parent.pid}, or has been waited for already")
        if not parent.children:
            raise NoSuchChild(f"pid {parent.pid} has no children to wait for")
        wanted = parent.children.values() if pid is None else [parent.children[pid]]
        dead = next((child for child in wanted if child.phase is Phase.ZOMBIE), None)
        if dead is None:
            return None
        self._forget(dead)
        wall = dead.ended - dead.started
        return ExitRecord(dead.pid, dead.name, dead.status, dead.reason, dead.usage.tree_tokens, wall, dead.value)

    def _forget(self, zombie: Process) -> None:
        del self.all[zombie.pid]
        if zombie.parent is not None:
            zombie.parent.children.pop(zombie.pid, None)
        for above in zombie.lineage():
            if above is not zombie:
                above.usage.tree_children -= 1
