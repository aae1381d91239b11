"""How fast a device is: measured once, right after it has loaded, through the protocol that everybody uses."""

from __future__ import annotations

from dataclasses import replace

from llmos.kernel.device import Copy, Device, Geometry, Row, Step, Tier

TOKENS = 64
COPIES = 8


def measured(device: Device) -> Geometry:
    """Its geometry with the tokens/s of a short prefill and the pages/s of copies to the host, each the best of two."""
    here = device.geometry
    count = min(TOKENS, here.window, here.device_frames * here.page_slots)
    row = Row(0, (0,) * count, 0, tuple(range(-(-count // here.page_slots))))
    copies = tuple(Copy(Tier.DEVICE, frame, Tier.HOST, frame) for frame in range(min(COPIES, here.device_frames, here.host_frames)))
    prefill = min(device.execute(Step(0, (row,))).seconds for _ in range(2))
    copying = min(device.execute(Step(0, (), copies)).seconds for _ in range(2))
    return replace(here, prefill_rate=count / prefill, copy_rate=len(copies) / copying if copies else 0.0)
