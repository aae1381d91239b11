"""Counters of devices, as `statistics` tells them. Reads schedulers and changes nothing."""

from __future__ import annotations

from .dispatch import Dispatcher
from .scheduler import Scheduler
from .view import DeviceStatistics


def paged_statistics(name: str, s: Scheduler) -> DeviceStatistics:
    """Of a device that runs steps."""
    return DeviceStatistics(
        device=name,
        steps=s.steps,
        failures=s.failures,
        prefill_tokens=s.prefilled,
        decode_tokens=s.decoded,
        guessed_tokens=s.guessed,
        right_tokens=s.right,
        hit_tokens=s.hits,
        preemptions=s.preemptions,
        resident=len(s.residents),
        queued=len(s.decodes) + len(s.prefills),
        device_total=s.memory.device.total,
        device_free=len(s.memory.device.free),
        device_cached=len(s.memory.cached),
        host_total=s.memory.host.total,
        host_free=len(s.memory.host.free),
        swapped_out=s.memory.swapped_out,
        swapped_in=s.memory.swapped_in,
        copied=s.memory.copied,
        evicted=s.memory.evicted,
    )


def slot_statistics(name: str, d: Dispatcher) -> DeviceStatistics:
    """Of a device without pages."""
    return DeviceStatistics(
        device=name,
        failures=d.failures,
        prefill_tokens=d.prompted,
        decode_tokens=d.received,
        queued=len(d.ready),
        slots=d.geometry.slots,
        orders=d.orders,
        flying=len(d.flying),
    )
