"""A state machine over mailboxes: nothing is lost, doubled or signed by another, and nobody fills what is others' too."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from llmos.kernel.errno import Fault, NoSuchProcess, Panic, QuotaExceeded, TooLong, TryAgain
from llmos.kernel.kernel import Kernel, Wake
from llmos.kernel.param import Params

MAIL, BYTES, POST = 8, 2_000, 3_000
ENVELOPE = 64


class Mailboxes(RuleBasedStateMachine):
    pids = Bundle("pids")

    def __init__(self) -> None:
        super().__init__()
        self.kernel = Kernel(Params(max_mail=MAIL, max_mail_bytes=BYTES, max_post_bytes=POST, max_processes=12))
        self.boxes: dict[int, list[tuple[int, bytes]]] = {}
        """What each should have in its box."""
        self.sent = 0

    @rule(target=pids, parent=pids | st.just(1))
    def spawn(self, parent: int) -> object:
        try:
            pid = self.kernel.spawn(0, parent, name="a")
        except Fault:
            return multiple()
        self.boxes[pid] = []
        return pid

    @rule(sender=pids, to=pids, size=st.sampled_from([0, 1, 10, 500, BYTES // 2 - ENVELOPE, BYTES // 2 - ENVELOPE + 1]))
    def send(self, sender: int, to: int, size: int) -> None:
        self.sent += 1
        data = self.sent.to_bytes(4, "big").rjust(size, b".")[:size] if size >= 4 else b"." * size
        self.kernel.drain()
        box = self.boxes.get(to, [])
        try:
            self.kernel.send(self.sent, sender, to, data)
        except TooLong:
            assert size + ENVELOPE > BYTES // 2
        except NoSuchProcess:
            assert not {sender, to} <= self.boxes.keys()
        except TryAgain:
            own = [each for each in box if each[0] == sender]
            bulk = sum(len(each[1]) + ENVELOPE for each in own)
            all_bulk = sum(len(each[1]) + ENVELOPE for each in box)
            free, room = MAIL - len(box) - 1, BYTES - all_bulk - size - ENVELOPE
            assert free < 0 or room < 0 or len(own) + 1 > free or bulk + size + ENVELOPE > room
            assert own or free < 0 or room < 0
            assert own or len({each[0] for each in box}) > 1, "one sender alone does not fill a box for others"
        except QuotaExceeded:
            assert sum(len(data) + ENVELOPE for box in self.boxes.values() for _, data in box) + size + ENVELOPE > POST // 2
        else:
            box.append((sender, data))
            assert Wake(("mail", to)) in self.kernel.drain()

    @rule(pid=pids)
    def receive(self, pid: int) -> None:
        self.kernel.drain()
        try:
            mail = self.kernel.receive(0, pid)
        except TryAgain:
            assert not self.boxes[pid]
        except NoSuchProcess:
            assert pid not in self.boxes
        else:
            assert (mail.sender, mail.data) == self.boxes[pid].pop(0)
            assert Wake(("room", pid)) in self.kernel.drain()

    @rule(pid=pids, dice=st.integers(0, 3))
    def exit(self, pid: int, dice: int) -> None:
        if dice or pid not in self.boxes:
            return
        self.kernel.drain()
        self.kernel.exit(0, pid, 0)
        waiting = self.boxes.pop(pid)
        assert (Wake(("room", pid)) in self.kernel.drain()) == bool(waiting), "who waits for room is told"

    @rule()
    def reap(self) -> None:
        try:
            self.kernel.reap(0, 1)
        except Fault:
            pass

    @invariant()
    def holds(self) -> None:
        try:
            self.kernel.check_integrity()
        except Panic as panic:  # a BaseException, which Hypothesis would not shrink
            raise AssertionError(str(panic)) from panic
        assert {pid: [(m.sender, m.data) for _, m in box.queue] for pid, box in self.kernel.mailboxes.items()} == {
            pid: box for pid, box in self.boxes.items() if box
        }

    def teardown(self) -> None:
        for pid in list(self.boxes):
            self.kernel.exit(0, pid, 0)
        self.kernel.check_integrity()
        assert not self.kernel.mailboxes
        assert self.kernel.table.init.usage.tree_mail == 0


TestMailboxes = Mailboxes.TestCase
TestMailboxes.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
