"""The commands of llmsh: one table, name -> Builtin. Each noun has a file; this one only collects them."""

from __future__ import annotations

from . import agents, approvals, control, files, grep, information, language, manual, plain, processes, screen, talk
from .call import Builtin


def table() -> dict[str, Builtin]:
    """Every command by its name."""
    families = (agents, approvals, control, files, grep, information, language, manual, plain, processes, screen, talk)
    collected = [builtin for family in families for builtin in family.BUILTINS]
    return {builtin.name: builtin for builtin in collected}
