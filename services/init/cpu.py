"""The CPU as a device: native functions where this machine can compile and run them, else torch, and a line that says so."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

from platformdirs import user_cache_path

from llmos.drivers.cpu.compiler import Compiled, compile_native, cpu_flags, supported
from llmos.drivers.cpu.device import NativeDevice
from llmos.drivers.cpu.native import Native
from llmos.drivers.cpu.pages import page_bytes
from llmos.drivers.cpu.weights import Weights
from llmos.drivers.weights import Checkpoint
from llmos.kernel.device import Device
from llmos.kernel.errno import InvalidArgument, NotSupported

from .memory import tier_bytes
from .settings import Settings

PAGE_SLOTS = 16
MAX_FRAMES = 1 << 20
TORCH_BYTES = 4
"""Of one KV number at most: how many frames fit is decided before the driver has chosen its type."""

log = logging.getLogger(__name__)


def open_device(name: str, checkpoint: Checkpoint, settings: Settings, weights: Weights = "") -> Device:
    """A device for this model; weights: how to hold them where it runs natively.

    Raises InvalidArgument, BadFormat, DeviceFailed, NotSupported.
    """
    threads = settings.threads or usable_cores()
    if settings.device == "cpu":
        try:
            compiled = native_functions(user_cache_path("llmos") / "native")
            frames, host_frames = tiers(page_bytes(checkpoint.config, PAGE_SLOTS, settings.kv), settings)
            return NativeDevice(
                compiled,
                checkpoint,
                name=name,
                frames=frames,
                host_frames=host_frames,
                page_slots=PAGE_SLOTS,
                threads=threads,
                weights=weights,
                kv=settings.kv,
            )
        except NotSupported as error:
            log.warning("%s runs on torch, two to five times slower than natively: %s", name, error)
    if weights:
        log.warning("%s runs with plain weights: only the native functions compute in %s", name, weights)
    if settings.kv != "bf16":
        log.warning("%s runs with plain pages: only the native functions keep them in %s (LLMOS_KV)", name, settings.kv)
    config = checkpoint.config
    frames, host_frames = tiers(config.layers * 2 * config.kv_heads * config.head_width * PAGE_SLOTS * TORCH_BYTES, settings)
    # Torch's OpenMP threads wait for each other in a spin. Where something else wants a core too, the one that is not running
    # is waited for that way for a whole time slice, thousands of times a second: spin briefly, then sleep. Read when torch loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if settings.device == "reference":
        from llmos.drivers.reference import ReferenceDevice  # torch takes 2 s to import: only where it is used

        return ReferenceDevice(checkpoint, name=name, frames=frames, host_frames=host_frames, page_slots=PAGE_SLOTS)
    from llmos.drivers.torch_cpu import TorchDevice

    return TorchDevice(checkpoint, name=name, frames=frames, host_frames=host_frames, page_slots=PAGE_SLOTS, threads=threads)


def native_functions(cache: Path) -> Compiled:
    """The compiled functions for the best instruction set that processor, compiler and system all allow. Raises NotSupported."""
    known = supported(cpu_flags())
    problem = NotSupported("this processor has no AVX2 with FMA")
    for isa in known:
        try:
            compiled = compile_native(cache, isa)
            Native(compiled.path)
            if isa != known[0]:
                log.warning("native functions use %s, slower than %s: %s", isa, known[0], problem)
            return compiled
        except NotSupported as error:
            problem = error
    raise problem


def tiers(page: int, settings: Settings) -> tuple[int, int]:
    """Frames of the device and the host tier; page: its bytes. Raises InvalidArgument where not one page fits."""
    frames = min(MAX_FRAMES, tier_bytes(settings.device_memory) // page)
    if frames < 1:
        raise InvalidArgument(f"one page of this model takes {page} bytes, more than device_memory (LLMOS_DEVICE_MEMORY): give it more")
    return frames, min(MAX_FRAMES, tier_bytes(settings.host_memory) // page)


def usable_cores() -> int:
    """Cores this process may use, by its affinity and its control group's quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or "max": no quota
        return cores
