"""Frame storage: what is copied, gathered and written is what was asked for, and what was not asked for stays."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from llmos.drivers.config import ModelConfig, Rope
from llmos.drivers.frames import Frames
from llmos.drivers.snapshots import KEPT_STEPS, Snapshots
from llmos.kernel.device import Copy, Tier
from llmos.kernel.errno import DeviceFailed

CONFIG = ModelConfig("llama", 2, 12, 3, 3, 4, 8, 16, 64, 1e-5, Rope(1e4), True, False, False, False, False, (None, None))
D, H = Tier.DEVICE, Tier.HOST


@pytest.fixture
def frames() -> Frames:
    """Six device frames, each filled with its own number; three host frames."""
    made = Frames(CONFIG, frames=6, host_frames=3, page_slots=2, dtype=torch.float32)
    for number in range(6):
        made.page(D, number).fill_(number)
    return made


def held(frames: Frames, tier: Tier, number: int) -> set[float]:
    return set(frames.page(tier, number).flatten().tolist())


def test_a_fresh_frame_is_zero_and_a_page_has_the_bytes_it_says() -> None:
    made = Frames(CONFIG, frames=2, host_frames=1, page_slots=2, dtype=torch.bfloat16)
    assert held(made, D, 1) == {0.0}
    assert held(made, H, 0) == {0.0}
    for tier in Tier:
        assert made.page(tier, 0).nbytes == made.page_bytes == 2 * 2 * 3 * 2 * 4 * 2


def test_copies_go_in_order(frames: Frames) -> None:
    frames.copy([Copy(D, 5, H, 0), Copy(D, 1, D, 5), Copy(H, 0, H, 2), Copy(H, 2, D, 1), Copy(D, 3, D, 3)])
    assert [held(frames, D, number) for number in range(6)] == [{0}, {5}, {2}, {3}, {4}, {1}]
    assert [held(frames, H, number) for number in range(3)] == [{5}, {0}, {5}]


@pytest.mark.parametrize("copy", [Copy(D, 6, H, 0), Copy(D, -1, H, 0), Copy(D, 0, H, 3), Copy(H, 3, D, 0), Copy(D, 0, D, 6)])
def test_a_frame_that_does_not_exist_is_refused(frames: Frames, copy: Copy) -> None:
    with pytest.raises(DeviceFailed, match="frame"):
        frames.copy([copy])


def test_gather_gives_pages_in_order(frames: Frames) -> None:
    got = frames.gather(1, frames.gather_index(torch.tensor([[4, 2], [2, 0]])))
    assert got.shape == (2, 3, 8, 4)
    assert (got == torch.tensor([4.0, 4, 2, 2, 2, 2, 0, 0])[:, None]).all()


def test_write_changes_its_slots_only(frames: Frames) -> None:
    before = frames.device.clone()
    keys, values = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    frames.write(1, torch.tensor([5, 8]), keys, values)  # the second slot of frame 2, the first of frame 4
    for kind, new in enumerate((keys, values)):
        assert torch.equal(frames.device[1, kind, :, 2, 1], new[0])
        assert torch.equal(frames.device[1, kind, :, 4, 0], new[1])
        before[1, kind, :, 2, 1], before[1, kind, :, 4, 0] = new[0], new[1]
    assert torch.equal(frames.device, before)


def test_scrub_zeroes_damaged_pages_only(frames: Frames) -> None:
    frames.page(D, 2)[1, 0, 0, 0, 0] = float("nan")
    frames.page(D, 3)[0, 1, 2, 1, 3] = float("inf")
    frames.scrub([1, 2, 3])
    assert [held(frames, D, number) for number in range(6)] == [{0}, {1}, {0}, {0}, {4}, {5}]


def read(snapshots: Snapshots, snapshot: object, layer: int = 0) -> list[float]:
    """The first number of each token."""
    return snapshots.read(snapshot, layer)[0, 0, :, 0].tolist()  # type: ignore[arg-type]


def test_a_snapshot_is_found_until_a_frame_of_it_is_written(frames: Frames) -> None:
    snapshots = Snapshots(frames, 2, 10 * frames.page_bytes)
    snapshots.begin()
    taken = snapshots.take([[1, 2], [3]])
    assert taken is not None
    assert read(snapshots, taken) == [1, 1, 2, 2, 3, 3, 0, 0]
    assert snapshots.find([[1, 2], [3]], 0) is taken
    assert snapshots.find([[1, 2, 4], [3, 5]], 1) is taken, "rows grow"
    assert snapshots.find([[1, 2, 4], [3, 5]], 0) is None, "one page is too many behind"
    assert snapshots.find([[1], [3]], 2) is None, "a row that was cut"
    assert snapshots.find([[1, 4], [3]], 2) is None, "another page"
    assert snapshots.find([[3], [1, 2]], 2) is None, "another order"
    assert snapshots.find([[1, 2]], 2) is None, "fewer rows"
    frames.touch([0, 4, 5])
    assert snapshots.find([[1, 2], [3]], 0) is taken, "frames of others, and the padding"
    frames.copy([Copy(D, 5, D, 3)])
    assert snapshots.find([[1, 2], [3]], 0) is None
    again = snapshots.take([[1, 2], [3]])
    assert read(snapshots, again) == [1, 1, 2, 2, 5, 5, 0, 0]


def test_snapshots_keep_to_their_budget_and_are_dropped_when_unused(frames: Frames) -> None:
    snapshots = Snapshots(frames, 2, 4 * frames.page_bytes)
    snapshots.begin()
    assert snapshots.take([[1, 2, 3, 4, 5]]) is None, "larger than the budget"
    first = snapshots.take([[1, 2, 3]])
    assert first is not None
    assert snapshots.take([[4, 5]]) is None, "the first is in use in this step"
    snapshots.begin()
    second = snapshots.take([[4, 5]])
    assert second is not None
    assert snapshots.find([[1, 2, 3]], 0) is None, "gave way"
    for _ in range(KEPT_STEPS):
        snapshots.begin()
    assert snapshots.find([[4, 5]], 0) is second
    for _ in range(KEPT_STEPS + 1):
        snapshots.begin()
    assert snapshots.find([[4, 5]], 0) is None
