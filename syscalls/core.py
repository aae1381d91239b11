"""Core: what the handlers work on. The kernel, the clock, the models' texts, the tools, and what the calls keep about contexts.

Everything here belongs to the kernel's thread. Knows no event loop, no thread and no transport: boot gives it a real clock,
tests a virtual one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING, Protocol

from llmos.kernel.errno import BadHandle, Fault
from llmos.kernel.kernel import Kernel

from .approval import Approvals
from .audit import Auditor
from .call import Ledger
from .channel import Channels
from .disk.disk import Disk
from .grammar import Grammars
from .results import ModelInfo
from .text import Text
from .toolbox import Toolbox
from .transcript import Transcript

if TYPE_CHECKING:
    from .runner import Runners


class Loading(Protocol):
    """A model on its way to a device. ("model", name) is woken when it is done."""

    @property
    def done(self) -> bool: ...

    @property
    def fault(self) -> Fault | None: ...


class Models(Protocol):
    """The models of this system. Init wires it to the library and the drivers."""

    @property
    def texts(self) -> Mapping[str, Text]:
        """Of every loaded model, by the name of its device."""
        ...

    @property
    def grammars(self) -> Mapping[str, Grammars]:
        """The same; those of a model whose replies cannot be held to a form are not there."""
        ...

    def resolve(self, name: str | None) -> str:
        """The full name of a model, or of the default one; NotFound names the nearest."""
        ...

    def load(self, name: str) -> Loading:
        """Begin to load it, or join a load under way."""
        ...

    def sizes(self) -> dict[str, int]:
        """Every model there is, and its bytes on disk. May be called on any thread, and may be slow."""
        ...

    def inventory(self, sizes: Mapping[str, int]) -> list[ModelInfo]:
        """The same with what is known of those that are loaded."""
        ...


@dataclass(slots=True)
class Core:
    kernel: Kernel
    clock: Callable[[], float]
    models: Models
    seed: int
    """From which every process's seeds are drawn."""
    booted: float
    disk: Disk
    ledger: Ledger = field(default_factory=Ledger)
    channels: Channels = field(default_factory=Channels)
    transcripts: dict[int, dict[int, Transcript]] = field(default_factory=dict)
    """pid -> its contexts -> their transcripts."""
    sleeping: int = 0
    """Calls that sleep now."""
    runners: Runners | None = None
    """None where programs run in the OS process of whoever spawned them."""
    approvals: Approvals = field(default_factory=Approvals)
    audit: Auditor | None = None
    """Where every call is written down; None in a system that keeps no such log."""
    wall: Callable[[], float] = time.time
    tickets: Iterator[int] = field(default_factory=lambda: count(1))
    """Numbers for channels that only one call sleeps on."""
    drawn: dict[int, int] = field(default_factory=dict)
    """pid -> how many seeds it has drawn."""
    tools: Toolbox = field(init=False)
    """What tools are offered, and by whom."""

    def __post_init__(self) -> None:
        self.tools = Toolbox(self.kernel.wake)

    def draw_seed(self, pid: int) -> int:
        """The next of a process's own sequence of seeds: a function of the boot's seed, the pid and a counter."""
        count = self.drawn.get(pid, 0)
        self.drawn[pid] = count + 1
        words = b"".join(n.to_bytes(8, "big") for n in (self.seed, pid, count))
        return int.from_bytes(blake2b(words, digest_size=8).digest(), "big") >> 1

    def transcript(self, pid: int, context: int) -> Transcript:
        """Raises BadHandle if the context is not the process's."""
        found = self.transcripts.get(pid, {}).get(context)
        if found is None:
            raise BadHandle(f"pid {pid} has no context {context}; open one, or use the handle that open or fork gave")
        return found

    def keep(self, context: int, transcript: Transcript) -> None:
        self.transcripts.setdefault(transcript.pid, {})[context] = transcript

    def text(self, device: str) -> Text:
        return self.models.texts[device]

    def forget(self, pid: int) -> None:
        """The process is gone, and its contexts with it."""
        self.drawn.pop(pid, None)
        self.transcripts.pop(pid, None)
        self.tools.forget(pid)
