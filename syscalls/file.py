"""Handlers of the file family: the one namespace.

    path -> place -> permit -> elsewhere: disk/          /home  /tmp  /output  host:
                            -> here: live.py             /proc  /models  /tools

What a call needs is `file:r:PATH` or `file:rw:PATH` at the moment it is made; for a folder and all below it, `file:rw:PATH/*`. A path of
the machine is asked for twice where it has links in it: as it was given, and as where it leads. Work on the disk goes on when its
call is cancelled half way: a write is done whole or not at all, but the caller may not learn which.
"""

from __future__ import annotations

from functools import partial
from typing import Final, Literal

from llmos.kernel.capability import covers
from llmos.kernel.errno import InvalidArgument, NotPermitted, TryAgain

from . import abi, live
from .call import Call
from .channel import offload
from .core import Core
from .permit import permit
from .place import MOUNTS, WRITABLE, Place, place_of

Right = Literal["r", "rw"]

_TURNS: Final = 8
"""Times that where a path leads is asked for: it changes only while somebody moves links about."""


async def _demand(core: Core, call: Call, right: Right, *objects: str) -> None:
    """Ask for the right to the first of these objects, unless the caller holds it to another. What may be written may be read."""
    rights = ("r", "rw") if right == "r" else ("rw",)
    wanted = [f"file:{each}:{path}" for path in objects for each in rights]
    held = core.kernel.table.get(call.pid).capabilities
    await permit(core, call, next((each for each in wanted if covers(held, each)), wanted[0]))


async def _reach(core: Core, call: Call, right: Right, path: str, *, folder: bool = False, own: bool = False, last: bool = True) -> Place:
    """The place a path means, if the caller may reach it: `folder`, everything in it; `own`, what a right to all in it gives as well.

    `last`: a link of the machine at the very end is meant by what it leads to.
    """
    place = place_of(path)
    if right == "rw" and place.mount not in WRITABLE:
        raise NotPermitted(f"{place}: it is read-only; /home and /tmp can be written to")
    for _ in range(_TURNS):
        objects = (place.within,) if folder else (str(place), place.within) if own else (str(place),)
        await _demand(core, call, right, *objects)
        if place.mount != "host":
            return place
        real = await offload(partial(core.disk.settled, place, last=last))
        if real == place:
            return place
        place = real
    raise TryAgain(f"{place}: the links on the way change all the time; try again")


def _user(core: Core, call: Call) -> str:
    return core.kernel.table.get(call.pid).user


async def file_read(core: Core, call: Call, args: abi.FileRead) -> abi.FileData:
    """Read a part of a file: at most `most` bytes from `offset` on. No bytes at all are its end."""
    place = await _reach(core, call, "r", args.path)
    if place.mount in live.LIVE or not place.mount:
        data = (await _text(core, call, place)).encode()
        return abi.FileData(data[args.offset : args.offset + args.most], len(data), 0)
    return await offload(partial(core.disk.read, _user(core, call), place, args.offset, args.most))


async def _text(core: Core, call: Call, place: Place) -> str:
    if not place.mount:
        raise InvalidArgument(f"{place}: it is a folder")
    return await live.text(core, call.pid, place)


async def file_write(core: Core, call: Call, args: abi.FileWrite) -> abi.FileInfo:
    """Replace the contents of a file, or make it: after a crash it holds the old or the new. Or append to it.

    What a file in /home held before is kept as a version. Appending keeps none.
    """
    place = await _reach(core, call, "rw", args.path)
    return await offload(partial(core.disk.write, _user(core, call), place, args.data, append=args.append))


async def file_copy(core: Core, call: Call, args: abi.FilePair) -> abi.FileInfo:
    """Copy a file over another, or to a new one, without its bytes passing through the caller."""
    source = await _reach(core, call, "r", args.source)
    target = await _reach(core, call, "rw", args.target)
    user = _user(core, call)
    if source.mount in live.LIVE:
        data = (await live.text(core, call.pid, source)).encode()
        return await offload(partial(core.disk.write, user, target, data, append=False))
    if not source.mount:
        raise InvalidArgument(f"{source}: it is a folder")
    return await offload(partial(core.disk.copy, user, source, target))


async def file_move(core: Core, call: Call, args: abi.FilePair) -> abi.Done:
    """Give a file another name, over the file that has it, or a folder one that nothing has. Versions stay with the old name."""
    source = await _reach(core, call, "rw", args.source, last=False)
    target = await _reach(core, call, "rw", args.target, last=False)
    user = _user(core, call)
    folders = (await offload(partial(core.disk.stat, user, source))).kind == "folder"
    if folders:  # everything in it changes its name: who may write one name only must not reach the rest by moving it
        await _demand(core, call, "rw", source.within)
        await _demand(core, call, "rw", target.within)
    await offload(partial(core.disk.move, user, source, target, folders=folders))
    return abi.Done()


async def file_list(core: Core, call: Call, args: abi.FileListing) -> abi.FileList:
    """List a folder by name, a page at a time: the names after `after`."""
    place = await _reach(core, call, "r", args.path, folder=True)
    if place.mount and place.mount not in live.LIVE:
        return await offload(partial(core.disk.page, _user(core, call), place, args.after, args.limit))
    every = await live.names(core, call.pid, place) if place.mount else [abi.FileInfo(name, "folder", 0, 0.0) for name in MOUNTS]
    rest = [each for each in every if each.name > args.after]
    return abi.FileList(rest[: args.limit], len(rest) > args.limit)


async def file_stat(core: Core, call: Call, args: abi.OfFile) -> abi.FileInfo:
    """Tell what is at a path. The size of /home and /tmp themselves is what all in them takes of the quota."""
    place = await _reach(core, call, "r", args.path, own=True)
    if not place.mount:
        return abi.FileInfo("/", "folder", 0, 0.0)
    if place.mount in live.LIVE:
        return await live.info(core, call.pid, place)
    return await offload(partial(core.disk.stat, _user(core, call), place))


async def file_remove(core: Core, call: Call, args: abi.FileRemove) -> abi.Done:
    """Remove a file, an empty folder, or with `tree` all of it. What a file in /home held last is kept, unless with `versions`."""
    place = await _reach(core, call, "rw", args.path, last=False)
    if args.tree:
        await _demand(core, call, "rw", place.within)
    await offload(partial(core.disk.remove, _user(core, call), place, tree=args.tree, versions=args.versions))
    return abi.Done()


async def file_make(core: Core, call: Call, args: abi.FileMake) -> abi.FileInfo:
    """Make a folder; with `parents`, those above it too: a right to a folder is one to have the way to it."""
    place = await _reach(core, call, "rw", args.path, own=True)
    return await offload(partial(core.disk.make, _user(core, call), place, parents=args.parents))


async def file_versions(core: Core, call: Call, args: abi.OfFile) -> abi.VersionList:
    """List what is kept of what a path in /home held before, the newest first."""
    place = await _reach(core, call, "r", args.path)
    return abi.VersionList(await offload(partial(core.disk.versions, _user(core, call), place)))


async def file_restore(core: Core, call: Call, args: abi.FileRestore) -> abi.FileInfo:
    """Write what a version holds to its file again, the newest if none is named. What the file holds now is kept."""
    place = await _reach(core, call, "rw", args.path)
    return await offload(partial(core.disk.restore, _user(core, call), place, args.version))
