"""How fast a device is: measured once, right after it has loaded, through the protocol that everybody uses."""

from __future__ import annotations

from dataclasses import replace

from llmos.kernel.device import Copy, Device, Geometry, Row, Step, Tier

TOKENS = 64
COPIES = 8
LEAST_COST = 1e-3
"""Of a token more in a step: what noise makes less, or nothing at all."""


def measured(device: Device) -> Geometry:
    """Its geometry with the tokens/s of a short prefill and the pages/s of copies to the host, each the best of two.

    With a batch invariant device also what a guess costs: of the line through a step of one token and that prefill, its slope.
    """
    here = device.geometry
    count = min(TOKENS, here.window, here.device_frames * here.page_slots)
    copies = tuple(Copy(Tier.DEVICE, frame, Tier.HOST, frame) for frame in range(min(COPIES, here.device_frames, here.host_frames)))
    prefill = _seconds(device, _row(count, here.page_slots))
    copying = _seconds(device, None, copies)
    cost = 0.0
    if here.batch_invariant and count > 1:
        one = _seconds(device, _row(1, here.page_slots))
        cost = max((prefill / one - 1) / (count - 1), LEAST_COST)
    return replace(here, prefill_rate=count / prefill, copy_rate=len(copies) / copying if copies else 0.0, guess_cost=cost)


def _row(count: int, slots: int) -> Row:
    return Row(0, (0,) * count, 0, tuple(range(-(-count // slots))))


def _seconds(device: Device, row: Row | None, copies: tuple[Copy, ...] = ()) -> float:
    return min(device.execute(Step(0, (row,) if row else (), copies)).seconds for _ in range(2))
