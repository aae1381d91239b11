"""Handlers of the system family: what there is, and how it goes."""

from __future__ import annotations

from . import abi
from .call import Call
from .core import Core


def models(core: Core, call: Call, args: abi.Nothing) -> abi.ModelList:
    """List the models of the store, and which of them are loaded."""
    return abi.ModelList(core.models.list())


def statistics(core: Core, call: Call, args: abi.Nothing) -> abi.SystemStatistics:
    """Counters since boot, and what every tier holds now."""
    ledger = core.ledger
    return abi.SystemStatistics(core.clock() - core.booted, ledger.count, ledger.errors, core.sleeping, core.kernel.statistics())
