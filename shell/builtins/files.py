"""Builtins over files: ls, cat, cp, mv, rm, mkdir, tee, versions, restore. What a word means is said in where.py.

All of it is done by the system, which asks for the capability; but files of the machine that are named as in a redirection are read
by `cat` itself, so that pipes and devices are files like any other.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import TYPE_CHECKING

from llmos import Fault, NotFound

from ..namespace import Contents
from ..streams import NotText, Source, describe, open_source
from ..where import Where, where
from .call import Builtin, Call, Refused, Usage, number, options

if TYPE_CHECKING:
    from llmos import FileInfo, Files

BATCH = 1 << 20
"""Bytes that tee writes at once."""


async def files_of(call: Call) -> Files:
    return (await call.system()).files


def flags_of(args: list[str], short: str, long: tuple[str, ...] = ()) -> tuple[set[str], list[str]]:
    """Options and words, where `-rn` is `-r -n`."""
    spread: list[str] = []
    for place, word in enumerate(args):
        if word == "--" or not word.startswith("-") or word == "-":
            spread += args[place:]
            break
        letters = word[1:]
        spread += [f"-{letter}" for letter in letters] if letters and all(letter in short for letter in letters) else [word]
    found, words = options(spread, flags=(*(f"-{letter}" for letter in short), *long))
    return set(found), words


def meant(call: Call, words: list[str]) -> list[Where]:
    for word in words:
        if not word:
            raise Usage("an empty name is no file")
    return [where(word, call.shell.variables) for word in words]


async def told(call: Call, place: Where, error: Fault | OSError | NotText) -> int:
    """Complain of one file and go on: status 1. What is missing in the system may be there on the machine."""
    message = describe(error) if isinstance(error, OSError) else str(error)
    if isinstance(error, NotFound) and place.word.startswith("/") and os.path.lexists(place.word):
        message += f"; the machine has one: host:{place.word}"
    await call.complain(message)
    return 1


async def source_of(call: Call, place: Where) -> Source:
    """What a file holds, to be read."""
    if place.plain:
        return await open_source(place.word)
    return Contents((await files_of(call)).chunks(place.path), place.word)


async def cat(call: Call) -> int:
    _, words = options(call.args)
    status = 0
    for word in words or ["-"]:
        if word == "-":
            while text := await call.stdin.read():
                await call.stdout.write(text)
            continue
        place = meant(call, [word])[0]
        try:
            source = await source_of(call, place)
            try:
                while text := await source.read():
                    await call.stdout.write(text)
            finally:
                source.close()
        except (OSError, Fault) as error:
            status = await told(call, place, error)
    return status


async def ls(call: Call) -> int:
    found, words = flags_of(call.args, "la", ("--json",))
    files = await files_of(call)
    status = 0
    rows: list[dict[str, object]] = []
    places = meant(call, words or ["."])
    for place in places:
        try:
            info = await files.stat(place.path)
            if info.kind == "folder":
                entries = [each for each in await files.list(place.path) if "-a" in found or not each.name.startswith(".")]
            else:
                entries = [info]
        except Fault as fault:
            status = await told(call, place, fault)
            continue
        if "--json" in found:
            rows += [
                {"folder": place.path, "name": each.name, "kind": each.kind, "size": each.size, "modified": each.modified}
                for each in entries
            ]
            continue
        if len(places) > 1 and info.kind == "folder":
            await call.say(f"{place.word}:")
        shown = [(each, each.name + "/" if each.kind == "folder" else each.name) for each in entries]
        if info.kind != "folder":
            shown = [(info, place.word)]
        width = max((len(str(each.size)) for each, _ in shown), default=0)
        await call.stdout.write("".join(_row(each, name, width) if "-l" in found else f"{name}\n" for each, name in shown))
    if "--json" in found:
        await call.say(json.dumps(rows))
    return status


def _row(info: FileInfo, name: str, width: int) -> str:
    """A line of `ls -l`. What is made when it is read has no time."""
    time = datetime.fromtimestamp(info.modified).strftime("%Y-%m-%d %H:%M:%S") if info.modified else " " * 19
    return f"{info.kind:6}  {info.size:>{width}}  {time}  {name}\n"


async def _destinations(call: Call, words: list[str]) -> list[tuple[Where, Where]]:
    """From where to where: into the last if that is a folder."""
    if len(words) < 2:
        raise Usage("from where, and to where?")
    *sources, target = meant(call, words)
    try:
        into = (await (await files_of(call)).stat(target.path)).kind == "folder"
    except NotFound:
        into = False
    if len(sources) > 1 and not into:
        raise Refused(f"{target.word} is no folder, and there is more than one file: make it with mkdir")
    return [(source, target.inside(source.name) if into else target) for source in sources]


async def cp(call: Call) -> int:
    found, words = flags_of(call.args, "r")
    files = await files_of(call)
    status = 0
    for source, target in await _destinations(call, words):
        try:
            info = await files.stat(source.path)
            if info.kind != "folder":
                await files.copy(source.path, target.path)
            elif "-r" not in found:
                raise Refused(f"{source.word} is a folder: cp -r copies it with what is in it")
            elif f"{target.path}/".startswith(f"{source.path}/"):
                raise Refused(f"{source.word} cannot be copied into itself")
            else:
                status |= await _copy_tree(call, files, source, target)
        except Fault as fault:
            status = await told(call, source, fault)
    return status


async def _copy_tree(call: Call, files: Files, source: Where, target: Where) -> int:
    """A folder and what is in it. One file that cannot be copied does not stop the others."""
    await files.make(target.path, parents=True)
    status = 0
    async for entry in files.entries(source.path):
        inner, copy = source.inside(entry.name), target.inside(entry.name)
        try:
            if entry.kind == "folder":
                status |= await _copy_tree(call, files, inner, copy)
            else:
                await files.copy(inner.path, copy.path)
        except Fault as fault:
            status = await told(call, inner, fault)
    return status


async def mv(call: Call) -> int:
    _, words = options(call.args)
    files = await files_of(call)
    status = 0
    for source, target in await _destinations(call, words):
        try:
            await files.move(source.path, target.path)
        except Fault as fault:
            status = await told(call, source, fault)
    return status


async def rm(call: Call) -> int:
    found, words = flags_of(call.args, "rf", ("--versions",))
    if not words:
        raise Usage("remove what?")
    files = await files_of(call)
    status = 0
    for place in meant(call, words):
        try:
            await files.remove(place.path, tree="-r" in found, versions="--versions" in found)
        except NotFound as missing:
            if "-f" not in found:
                status = await told(call, place, missing)
        except Fault as fault:
            status = await told(call, place, fault)
    return status


async def mkdir(call: Call) -> int:
    found, words = flags_of(call.args, "p")
    if not words:
        raise Usage("make which folder?")
    files = await files_of(call)
    status = 0
    for place in meant(call, words):
        try:
            await files.make(place.path, parents="-p" in found)
        except Fault as fault:
            status = await told(call, place, fault)
    return status


async def tee(call: Call) -> int:
    found, words = flags_of(call.args, "a")
    files = await files_of(call)
    places = meant(call, words)
    begun = "-a" in found
    held = ""

    async def flush() -> None:
        nonlocal begun, held
        for place in places:
            await (files.append if begun else files.write)(place.path, held)
        begun, held = True, ""

    while text := await call.stdin.read():
        held += text
        await call.stdout.write(text)
        if len(held) >= BATCH:
            await flush()
    if held or not begun:
        await flush()
    return 0


async def versions(call: Call) -> int:
    found, words = options(call.args, flags=("--json",))
    if len(words) != 1:
        raise Usage("of which file?")
    kept = await (await files_of(call)).versions(meant(call, words)[0].path)
    if "--json" in found:
        await call.say(json.dumps([{"version": each.version, "size": each.size, "modified": each.modified} for each in kept]))
        return 0
    width = max((len(str(each.size)) for each in kept), default=0)
    times = [datetime.fromtimestamp(each.modified).strftime("%Y-%m-%d %H:%M:%S") for each in kept]
    await call.stdout.write("".join(f"{each.version:>4}  {each.size:>{width}}  {time}\n" for each, time in zip(kept, times, strict=True)))
    return 0


async def restore(call: Call) -> int:
    _, words = options(call.args)
    if len(words) not in (1, 2):
        raise Usage("which file, and which of its versions?")
    version = number(words[1], "version: versions PATH shows those there are", least=1) if len(words) == 2 else None
    await (await files_of(call)).restore(meant(call, words[:1])[0].path, version)
    return 0


WORDS = """\
A path that begins with /home, /tmp, /output, /proc, /models or /tools is a file of the system; any other, and one below $HOME, is of this
machine, also in patterns. host:PATH is of the machine in any case, and so is /tmp behind < and >."""

BUILTINS = (
    Builtin(
        "cat",
        "cat [FILE]...",
        "write files, or the input, to the output",
        ("cat summary.txt", "cat /proc/7/status", "cat notes.txt | spawn summarise"),
        cat,
        WORDS,
    ),
    Builtin(
        "cp",
        "cp [-r] SOURCE... TARGET",
        "copy files; with -r, folders",
        ("cp notes.txt /home", "cp -r /home/drafts host:backup"),
        cp,
        WORDS,
    ),
    Builtin(
        "ls",
        "ls [-al] [--json] [PATH]...",
        "list a folder",
        ("ls", "ls -l /home", "ls /models"),
        ls,
        f"{WORDS}\n  -l       kind, size and time\n  -a       names that begin with a dot, too",
    ),
    Builtin("mkdir", "mkdir [-p] FOLDER...", "make folders; with -p, those above them too", ("mkdir /home/drafts",), mkdir, WORDS),
    Builtin("mv", "mv SOURCE... TARGET", "give files and folders another name, or another folder", ("mv /home/a /home/drafts",), mv, WORDS),
    Builtin(
        "restore",
        "restore FILE [VERSION]",
        "make an earlier content of a file in /home its content again",
        ("restore /home/plan.txt", "restore /home/plan.txt 3"),
        restore,
        "Without a version it is the newest. It brings back a file that was removed.",
    ),
    Builtin(
        "rm",
        "rm [-rf] [--versions] PATH...",
        "remove files; with -r, folders and all in them",
        ("rm /home/old.txt", "rm -r /tmp/work"),
        rm,
        f"""\
{WORDS} What a file in /home held last is kept, and counts
against the quota: restore brings it back, --versions removes that too. -f does not mind what is missing.""",
    ),
    Builtin(
        "tee",
        "tee [-a] FILE...",
        "write the input to files and to the output; with -a, to their ends",
        ("spawn summarise < README.md | tee /home/summary.txt",),
        tee,
        WORDS,
    ),
    Builtin(
        "versions",
        "versions [--json] FILE",
        "list what a file in /home held before",
        ("versions /home/plan.txt",),
        versions,
        "The number, the size, and when it was written. The last ten are kept.",
    ),
)  # fmt: skip
