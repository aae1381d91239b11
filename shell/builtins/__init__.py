"""The commands of llmsh: one table, name -> Builtin. Each noun has a file; this one only collects them."""

from __future__ import annotations

from . import agents, control, information, plain, processes
from .call import Builtin


def table() -> dict[str, Builtin]:
    """Every command by its name."""
    collected = (*agents.BUILTINS, *control.BUILTINS, *information.BUILTINS, *plain.BUILTINS, *processes.BUILTINS)
    return {builtin.name: builtin for builtin in collected}
