"""A worker: steps are answered in order whatever happens in them, and its thread ends when told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from llmos.drivers.worker import Worker
from llmos.kernel.device import Outcome, Retired, Step, StepFailed
from llmos.kernel.errno import DeviceFailed, Fault, NotFound, Panic

DEADLINE = 10.0


class RustPanicked(BaseException):
    """Not an Exception, as pyo3's."""


class Moody:
    """Fails in every way a driver can, by the number of the step."""

    geometry: Any = None
    closed = False

    def execute(self, step: Step) -> Outcome:
        if step.number == 1:
            raise DeviceFailed("out of order")
        if step.number == 2:
            raise RuntimeError("CUDA error: or something like it")
        if step.number == 3:
            raise MemoryError
        if step.number == 4:
            raise RustPanicked("a library in Rust")
        if step.number == 9:
            raise Panic("broken")
        return Outcome(step.number, ())

    def close(self) -> None:
        self.closed = True


class Made:
    def __init__(self) -> None:
        self.device = Moody()


@pytest.fixture
def posts() -> SimpleQueue[Callable[[], None]]:
    return SimpleQueue()


@pytest.fixture
def worker(posts: SimpleQueue[Callable[[], None]]) -> Iterator[Worker[Made]]:
    worker: Worker[Made] = Worker("moody", posts.put)
    yield worker
    assert worker.close(DEADLINE)
    assert not [thread for thread in threading.enumerate() if thread.name == "llmos-moody"]


def started(worker: Worker[Made], posts: SimpleQueue[Callable[[], None]]) -> Made:
    found: list[Made | Fault] = []
    worker.start(Made, found.append)
    posts.get(timeout=DEADLINE)()
    (made,) = found
    assert isinstance(made, Made)
    return made


def test_steps_are_answered_in_order_and_failures_do_not_end_it(worker: Worker[Made], posts: SimpleQueue[Callable[[], None]]) -> None:
    made = started(worker, posts)
    answers: list[Retired] = []
    for number in range(6):
        worker.submit(Step(number, ()), answers.append)
    for _ in range(6):
        posts.get(timeout=DEADLINE)()
    assert [answer.number for answer in answers] == [0, 1, 2, 3, 4, 5]
    assert [isinstance(answer, StepFailed) for answer in answers] == [False, True, True, True, True, False]
    assert [answer.reason for answer in answers if isinstance(answer, StepFailed)] == [
        "out of order",
        "RuntimeError: CUDA error: or something like it",
        "MemoryError: ",
        "RustPanicked: a library in Rust",
    ]
    assert worker.close(DEADLINE)
    assert made.device.closed


def test_a_panic_is_raised_on_the_kernels_thread(worker: Worker[Made], posts: SimpleQueue[Callable[[], None]]) -> None:
    started(worker, posts)
    worker.submit(Step(9, ()), lambda _: None)
    with pytest.raises(Panic, match="broken"):
        posts.get(timeout=DEADLINE)()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (NotFound("no such file"), NotFound, "no such file"),
        (ValueError("bad"), DeviceFailed, "ValueError: bad"),
        (RustPanicked("bad"), DeviceFailed, "RustPanicked: bad"),
    ],
)
def test_a_load_that_fails_is_told(
    worker: Worker[Made], posts: SimpleQueue[Callable[[], None]], error: BaseException, kind: type[Fault], message: str
) -> None:
    def load() -> Made:
        raise error

    found: list[Made | Fault] = []
    worker.start(load, found.append)
    posts.get(timeout=DEADLINE)()
    assert isinstance(found[0], kind)
    assert message in str(found[0])


def test_one_that_was_never_started_closes(worker: Worker[Made]) -> None:
    assert worker.close(0)
