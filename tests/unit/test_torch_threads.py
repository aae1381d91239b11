"""How many threads a torch device uses: those it was given, whatever other devices time meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from tiny import write_directory

from llmos.drivers import linear
from llmos.drivers.checkpoint import open_checkpoint
from llmos.drivers.torch_cpu import TorchDevice
from llmos.kernel.device import Row, Step


@pytest.fixture
def threads() -> Iterator[int]:
    """More than one, as a machine has; and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def test_a_device_serves_with_its_own_number_of_threads(threads: int, tmp_path: Path) -> None:
    write_directory(tmp_path / "m")
    device = TorchDevice(open_checkpoint(tmp_path / "m"), name="m", frames=4, dtype="fp32", threads=threads)
    seen = []
    forward = device.decoder.forward
    device.decoder.forward = lambda *given: (seen.append(torch.get_num_threads()), forward(*given))[1]  # type: ignore[method-assign]
    torch.set_num_threads(1)  # another model times its products
    device.execute(Step(0, (Row(0, (1,), 0, (0,)),)))
    assert seen == [threads]
    assert f"{threads} threads" in device.describe()


def test_the_number_found_is_never_that_of_a_timing_under_way(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go, found = threading.Event(), threading.Event(), []
    monkeypatch.setattr(linear, "Linear", lambda *_, **__: [inside.set(), go.wait(10), lambda x: x][2])
    timing = threading.Thread(target=linear.seconds_per_product, args=(torch.float32, 1, 4, 4))
    finding = threading.Thread(target=lambda: found.append(linear.machine_threads()))
    timing.start()
    assert inside.wait(10)
    finding.start()
    finding.join(0.05)
    assert finding.is_alive()  # it waits
    go.set()
    timing.join(10)
    finding.join(10)
    assert found != [1]
