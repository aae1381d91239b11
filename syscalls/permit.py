"""Permit: the one question that handlers ask before they touch something that a capability names."""

from __future__ import annotations

from .call import Call
from .core import Core


async def permit(core: Core, call: Call, wanted: str) -> None:
    """Raise NotPermitted unless the caller holds `wanted` now."""
    core.kernel.demand(call.pid, wanted)
