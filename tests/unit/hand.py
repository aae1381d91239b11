"""The system driven by hand: kernel, trap and dummy device under a virtual clock, without threads and loops."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from llmos.drivers.dummy import DummyDevice
from llmos.drivers.dummy_text import DummyText
from llmos.kernel.errno import Fault, NotFound
from llmos.kernel.kernel import Kernel
from llmos.kernel.param import Params
from llmos.syscalls.abi import ModelInfo, Piece, Request
from llmos.syscalls.core import Core
from llmos.syscalls.disk.disk import Disk
from llmos.syscalls.text import Text
from llmos.syscalls.trap import Trap

INIT, HOST = 1, 2
QUOTA = 1 << 26


@dataclass
class Box:
    """A sink that keeps what it is given."""

    pieces: list[Piece] = field(default_factory=list)
    value: Any = None
    fault: Fault | None = None
    answers: int = 0
    request: Request | None = None

    def push(self, piece: Piece) -> None:
        assert not self.answers
        self.pieces.append(piece)

    def finish(self, result: Any) -> None:
        self.value = result
        self.answers += 1

    def fail(self, fault: Fault) -> None:
        self.fault = fault
        self.answers += 1

    @property
    def done(self) -> bool:
        return self.answers > 0

    @property
    def result(self) -> Any:
        """What the call gave; raises its fault."""
        assert self.answers == 1, f"{self.answers} answers"
        if self.fault is not None:
            raise self.fault
        return self.value

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


@dataclass
class Load:
    done: bool = False
    fault: Fault | None = None


class Shelf:
    """Models: "dummy" is loaded; "late" begins to load when asked for; "broken" fails to."""

    def __init__(self) -> None:
        self.texts: dict[str, Text] = {"dummy": DummyText()}
        self.grammars: dict[str, Any] = {}
        self.loads: dict[str, Load] = {}

    def resolve(self, name: str | None) -> str:
        if name is not None and name not in ("dummy", "late", "broken"):
            raise NotFound(f"there is no model {name!r}; did you mean 'dummy'?")
        return name or "dummy"

    def load(self, name: str) -> Load:
        if name not in self.loads or self.loads[name].fault is not None:
            self.loads[name] = Load()
        return self.loads[name]

    def sizes(self) -> dict[str, int]:
        return {"dummy": 0}

    def inventory(self, sizes: Mapping[str, int]) -> list[ModelInfo]:
        return [ModelInfo("dummy", True, True, 0, 512)]


def _leave(disk: Disk, home: Path) -> None:
    disk.close()
    shutil.rmtree(home, ignore_errors=True)


class Hand:
    """One system. Every public call settles at once; the device steps when told to."""

    def __init__(self, params: Params | None = None, **device: Any) -> None:
        self.now = 100.0
        self.kernel = Kernel(params, clock_start=self.now)
        self.device = DummyDevice(**{"frames": 256, "host_frames": 64, "vocabulary": 259, "window": 512, **device})
        self.kernel.attach(self.device.geometry)
        self.shelf = Shelf()
        self.core = Core(self.kernel, lambda: self.now, self.shelf, seed=1, booted=self.now, disk=self._disk())
        self.jobs: list[tuple[Callable[[], Any], Callable[[Any, Fault | None], None]]] = []
        self.dead: list[int] = []
        self.trap = Trap(self.core, lambda work, back: self.jobs.append((work, back)), self.dead.append)
        self.host = self.kernel.spawn(self.now, INIT, name="host", capabilities=frozenset({"*"}))
        self._sequence = count()
        self.hold = False
        """Leave what is to be done elsewhere until `work`, as a busy machine does."""

    def _disk(self) -> Disk:
        """In a folder of its own, which is there when it is used, and goes with this object."""
        home = Path(tempfile.gettempdir()) / f"llmos-hand-{secrets.token_hex(8)}"
        disk = Disk(home, QUOTA)
        weakref.finalize(self, _leave, disk, home)
        return disk

    def send(self, pid: int, name: str, /, **arguments: Any) -> Box:
        """Make a call and settle; it may still sleep."""
        box = Box()
        box.request = Request(pid, name, arguments, "0", next(self._sequence), box)
        self.trap.enter(box.request)
        self.trap.settle()
        while self.jobs and not self.hold:
            self.work()
        return box

    def call(self, pid: int, name: str, /, **arguments: Any) -> Any:
        """Make a call, let the device work until it is done, and give its result."""
        box = self.send(pid, name, **arguments)
        while not box.done and (self.jobs or self.step()):
            self.work()
        return box.result

    def cancel(self, box: Box) -> None:
        assert box.request is not None
        self.trap.cancel(box.request)
        self.trap.settle()

    def step(self) -> bool:
        """One step of the device. False if it has nothing to do."""
        step = self.kernel.plan(self.now, "dummy")
        if step is None:
            return False
        outcome = self.device.execute(step)
        self.now += outcome.seconds
        self.kernel.retire(self.now, "dummy", outcome)
        self.trap.settle()
        return True

    def work(self) -> None:
        """Do what handlers gave away to be done elsewhere."""
        jobs, self.jobs = self.jobs, []
        for work, back in jobs:
            try:
                back(work(), None)
            except Fault as fault:
                back(None, fault)
        self.trap.settle()

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.kernel.tick(self.now)
        self.trap.settle()

    def spawn(self, name: str = "child", parent: int | None = None, **arguments: Any) -> Any:
        return self.call(parent or self.host, "spawn", name=name, **arguments)

    def open(self, pid: int | None = None, **messages: str) -> int:
        """A context with messages in it."""
        pid = pid or self.host
        context: int = self.call(pid, "open").context
        if messages:
            every = [{"role": role, "content": content} for role, content in messages.items()]
            self.call(pid, "append", context=context, messages=every)
        return context

    def check(self) -> None:
        """Nothing is broken."""
        self.kernel.check_integrity()
        listed = [call for calls in self.core.channels.waiting.values() for call in calls]
        assert all(call.channel is not None and not call.over for call in listed)
        assert self.core.sleeping == len(listed) + len(self.jobs)
