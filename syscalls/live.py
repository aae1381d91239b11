"""Live: the mounts whose files are made when they are read: what there is, as lines of text for people, agents and grep.

    /proc/PID/status   account   capabilities   contexts
    /models/NAME
    /tools/NAME

All of it is read-only, and says no more than ps, explain and models do. Only the sizes of models are asked of the disk, elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from llmos.kernel.errno import InvalidArgument, NotFound
from llmos.kernel.process import Process
from llmos.kernel.view import explain_process, view_process

from .channel import offload
from .core import Core
from .place import Place
from .results import FileInfo
from .tool import held, may_call

LIVE: Final = frozenset({"proc", "models", "tools"})


async def names(core: Core, pid: int, place: Place) -> list[FileInfo]:
    """What is in a folder, by name. Raises NotFound, and InvalidArgument for a file."""
    if place.mount == "proc":
        if not place.parts:
            return _folders(sorted(map(str, core.kernel.table.all)))
        _process(core, place)
        if len(place.parts) == 1:
            return _files(sorted(_PROC))
    elif not place.parts:
        return _files(sorted(await _models(core) if place.mount == "models" else [tool.name for tool in await held(core, pid)]))
    await text(core, pid, place)
    raise InvalidArgument(f"{place}: it is no folder")


async def text(core: Core, pid: int, place: Place) -> str:
    """What is in a file. Raises NotFound, and InvalidArgument for a folder."""
    if not place.parts or (place.mount == "proc" and len(place.parts) == 1 and _process(core, place)):
        raise InvalidArgument(f"{place}: it is a folder")
    found: str | None = None
    if place.mount == "proc":
        process = _process(core, place)
        if len(place.parts) == 2 and place.parts[1] in _PROC:
            found = _PROC[place.parts[1]](core, process)
    elif len(place.parts) == 1:
        name = place.parts[0]
        found = (await _models(core)).get(name) if place.mount == "models" else _tool(core, pid, name)
    if found is None:
        raise NotFound(f"{place}: there is no such file")
    return found


async def info(core: Core, pid: int, place: Place) -> FileInfo:
    """What is at a place."""
    if not place.parts:
        return FileInfo(place.mount, "folder", 0, 0.0)
    above = await names(core, pid, Place(place.mount, place.parts[:-1]))
    found = next((each for each in above if each.name == place.name), None)
    if found is None:
        raise NotFound(f"{place}: there is no such file")
    return found


def _tool(core: Core, pid: int, name: str) -> str | None:
    process = core.kernel.table.get(pid)
    tool = core.tools.meant(process, name)
    return f"{tool.description}\n\n{tool.schema.text}\n" if tool is not None and may_call(process.capabilities, tool) else None


def _folders(names: list[str]) -> list[FileInfo]:
    return [FileInfo(name, "folder", 0, 0.0) for name in names]


def _files(names: list[str]) -> list[FileInfo]:
    return [FileInfo(name, "file", 0, 0.0) for name in names]


def _flat(name: str) -> str:
    """A name that may have slashes in it, as a part of a path."""
    return name.replace("%", "%25").replace("/", "%2F")


async def _models(core: Core) -> dict[str, str]:
    sizes = await offload(core.models.sizes)
    return {
        _flat(each.name): _lines(
            name=each.name,
            loaded=_yes(each.loaded),
            default=_yes(each.default),
            size=each.size,
            window=each.window or "not known yet",
        )
        for each in core.models.inventory(sizes)
    }


def _process(core: Core, place: Place) -> Process:
    number = place.parts[0]
    process = core.kernel.table.all.get(int(number)) if number.isascii() and number.isdecimal() and len(number) < 16 else None
    if process is None or str(process.pid) != number:
        raise NotFound(f"{place}: there is no process {number[:16]}; see /proc for those there are")
    return process


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _lines(**values: object) -> str:
    return "".join(f"{name}: {value}\n" for name, value in values.items())


def _status(core: Core, process: Process) -> str:
    contexts = [core.kernel.contexts[cid] for cid in sorted(process.contexts)]
    view = view_process(process, contexts, core.clock())
    return _lines(
        name=view.name, pid=view.pid, parent=view.parent, user=view.user, state=view.state, waiting_for=view.waiting_for or "nothing",
        **{"class": view.cls.name.lower()}, nice=view.nice, tokens=view.tokens, device_pages=view.device_pages, host_pages=view.host_pages,
        contexts=len(contexts), children=len(process.children), seconds=f"{view.wall:.3f}",
    )  # fmt: skip


def _account(core: Core, process: Process) -> str:
    contexts = [core.kernel.contexts[cid] for cid in sorted(process.contexts)]
    found = explain_process(process, contexts, core.clock())
    seconds = {name: f"{value:.3f}" for name, value in found.seconds.items()}
    return _lines(
        wall=f"{found.wall:.3f}", **seconds, prefill_tokens=found.prefill_tokens, cached_tokens=found.cached_tokens,
        decode_tokens=found.decode_tokens, bursts=found.bursts, preemptions=found.preemptions,
    )  # fmt: skip


def _capabilities(core: Core, process: Process) -> str:
    return "".join(f"{each}\n" for each in sorted(process.capabilities))


def _contexts(core: Core, process: Process) -> str:
    every = [core.kernel.contexts[cid] for cid in sorted(process.contexts)]
    return "".join(f"{each.cid} model={each.device} tokens={len(each.tokens)} pages={len(each.pages)}\n" for each in every)


_PROC: Final[dict[str, Callable[[Core, Process], str]]] = {
    "account": _account,
    "capabilities": _capabilities,
    "contexts": _contexts,
    "status": _status,
}
