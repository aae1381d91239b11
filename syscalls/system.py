"""Handlers of the system family: what there is, and how it goes."""

from __future__ import annotations

from . import abi
from .call import Call
from .channel import offload
from .core import Core


async def models(core: Core, call: Call, args: abi.Nothing) -> abi.ModelList:
    """List the models of the store, and which of them are loaded."""
    sizes = await offload(core.models.sizes)
    return abi.ModelList(core.models.inventory(sizes))


def statistics(core: Core, call: Call, args: abi.Nothing) -> abi.SystemStatistics:
    """Counters since boot, and what every tier holds now."""
    ledger = core.ledger
    return abi.SystemStatistics(core.clock() - core.booted, ledger.count, ledger.errors, core.sleeping, core.kernel.statistics())
