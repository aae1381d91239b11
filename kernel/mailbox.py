"""Mailboxes: one inbox for each process, of whole messages, with back-pressure.

Sending to a box that has no room, and receiving from an empty one, is TryAgain: the caller sleeps on ("room", receiver) or on
("mail", receiver) until that is woken. A message carries the pid that the kernel knows its sender by, so that nobody can sign as
another. Messages of one sender come in the order in which they were sent. Knows nothing of text.

Nobody who has mail in a box adds to it beyond what is left free there, so that no sender alone fills it for others; nor has a tree
of processes more bytes in all boxes together than it leaves to others (dynamic thresholds, as for pipes). What waits is charged to
its sender until it is received, or its receiver ends.

Invariants: a box has at most `max_mail` messages and `max_mail_bytes` bytes; what is charged up the tree adds up to what waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .errno import NotPermitted, Panic, QuotaExceeded, TooLong, TryAgain
from .param import Params
from .process import Process
from .table import ProcessTable

_ENVELOPE = 64
"""Bytes that a message counts for beside its own, so that empty ones are not free."""


@dataclass(frozen=True, slots=True)
class Mail:
    """One message."""

    sender: int
    data: bytes
    sent: float
    """When, by the kernel's clock."""


@dataclass(slots=True)
class Mailbox:
    """What waits for one process."""

    queue: deque[tuple[Process, Mail]] = field(default_factory=deque)
    size: int = 0
    by_sender: dict[int, tuple[int, int]] = field(default_factory=dict)
    """pid -> messages and bytes of it that wait here."""

    def count(self, sender: int, messages: int, size: int) -> None:
        had, bulk = self.by_sender.get(sender, (0, 0))
        self.size += size
        if had + messages:
            self.by_sender[sender] = (had + messages, bulk + size)
        else:
            del self.by_sender[sender]


class Post:
    """All mailboxes. A part of the kernel: see kernel.py."""

    def __init__(self, table: ProcessTable, params: Params, wake: Callable[[tuple[str, int]], None]) -> None:
        self.table, self.params, self._wake = table, params, wake
        self.mailboxes: dict[int, Mailbox] = {}
        """pid -> its box; none for those who have no mail."""
        self._mail_bytes = 0

    def send(self, now: float, pid: int, to: int, data: bytes) -> None:
        """Put a message into the box of a process. Raises TryAgain: sleep on ("room", to)."""
        sender, receiver = self.table.get(pid), self.table.get(to)
        if len(data) > self.params.max_mail_bytes // 2 - _ENVELOPE:
            raise TooLong(f"a message of {len(data)} bytes is longer than the {self.params.max_mail_bytes // 2 - _ENVELOPE} there may be")
        if receiver is self.table.init:
            raise NotPermitted("init (pid 1) reads no mail; send to whoever spawned you: ps shows it")
        size = len(data) + _ENVELOPE
        box = self.mailboxes.get(to) or Mailbox()
        messages, bulk = box.by_sender.get(pid, (0, 0))
        free, room = self.params.max_mail - len(box.queue) - 1, self.params.max_mail_bytes - box.size - size  # with this one in it
        if free < 0 or room < 0 or (messages and (messages + 1 > free or bulk + size > room)):
            raise TryAgain(f"the mailbox of pid {to} has no room for more of pid {pid}; wait until it has read some")
        left = self.params.max_post_bytes - self._mail_bytes
        for above in sender.lineage():
            if above is not self.table.init and above.usage.tree_mail + size > left:
                unread = above.usage.tree_mail
                raise QuotaExceeded(
                    f"{unread} bytes of mail of pid {above.pid} and its tree are unread, as many as are left; wait until some is read"
                )
        self.mailboxes[to] = box
        box.queue.append((sender, Mail(pid, data, now)))
        box.count(pid, 1, size)
        self._charge_mail(sender, size)
        self._wake(("mail", to))

    def receive(self, now: float, pid: int) -> Mail:
        """The oldest message. Raises TryAgain: sleep on ("mail", pid)."""
        self.table.get(pid)
        box = self.mailboxes.get(pid)
        if box is None:
            raise TryAgain(f"pid {pid} has no mail; wait for some")
        sender, mail = box.queue.popleft()
        size = len(mail.data) + _ENVELOPE
        box.count(mail.sender, -1, -size)
        self._charge_mail(sender, -size)
        if not box.queue:
            del self.mailboxes[pid]
        self._wake(("room", pid))
        return mail

    def _charge_mail(self, sender: Process, size: int) -> None:
        self._mail_bytes += size
        for process in sender.lineage():
            process.usage.tree_mail += size

    def _drop_mail(self, pid: int) -> None:
        """The process ends: what waits for it is gone, and whoever waits for room there is told."""
        box = self.mailboxes.pop(pid, None)
        if box is not None:
            for sender, mail in box.queue:
                self._charge_mail(sender, -len(mail.data) - _ENVELOPE)
            self._wake(("room", pid))

    def check_mail(self) -> None:
        """Raises Panic."""
        charged: dict[Process, int] = {}
        total = 0
        for pid, box in self.mailboxes.items():
            by_sender: dict[int, tuple[int, int]] = {}
            for sender, mail in box.queue:
                size = len(mail.data) + _ENVELOPE
                had, bulk = by_sender.get(mail.sender, (0, 0))
                by_sender[mail.sender] = (had + 1, bulk + size)
                total += size
                for above in sender.lineage():
                    charged[above] = charged.get(above, 0) + size
            if by_sender != box.by_sender or box.size != sum(bulk for _, bulk in by_sender.values()):
                raise Panic(f"the mailbox of pid {pid} counts {box.by_sender}, and {by_sender} wait in it")
            if not 0 < len(box.queue) <= self.params.max_mail or box.size > self.params.max_mail_bytes or not self.table.all[pid].live:
                raise Panic(f"the mailbox of pid {pid} has {len(box.queue)} messages of {box.size} bytes, or its process is dead")
        if total != self._mail_bytes:
            raise Panic(f"{self._mail_bytes} bytes of mail are counted and {total} wait")
        for pid, process in self.table.all.items():
            if process.usage.tree_mail != charged.get(process, 0):
                raise Panic(f"pid {pid} is charged for {process.usage.tree_mail} bytes of mail and its tree has {charged.get(process, 0)}")
