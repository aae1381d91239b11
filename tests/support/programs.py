"""Programs that tests run in runners: imported there by name, never here."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import time
from typing import Any

import anyio


async def echo(me: Any, *args: Any) -> list[Any]:
    """What it was given."""
    return list(args)


async def copy(me: Any) -> str:
    """What it reads, written and returned."""
    text: str = await me.stdin.read()
    await me.print(text, end="")
    return text


async def fails(me: Any) -> None:
    raise ValueError("on purpose")


async def gives_a_set(me: Any) -> set[int]:
    return {1}


async def gives(me: Any, size: int) -> bytes:
    return b"x" * size


async def prints(me: Any, size: int) -> None:
    """Writes to the OS process's own streams, and a child of it too."""
    print("a" * size)
    print("to stderr", file=sys.stderr)
    subprocess.run(["echo", "from a subprocess"], check=True)


async def ends(me: Any, status: int) -> None:
    os._exit(status)


async def segfaults(me: Any) -> None:
    ctypes.string_at(0)


async def sleeps(me: Any) -> None:
    await anyio.sleep_forever()


async def spins(me: Any) -> None:
    while True:
        pass


async def takes(me: Any, size: int) -> int:
    return len(bytearray(size))


async def bounds(me: Any) -> dict[str, Any]:
    """Where it is, and within which bounds."""
    return {
        "memory": resource.getrlimit(resource.RLIMIT_DATA)[0],
        "cpu": resource.getrlimit(resource.RLIMIT_CPU)[0],
        "folder": os.getcwd(),
        "pid": os.getpid(),
        "session": os.getsid(0),
        "files": sorted(os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd") if int(each) < 3),
    }


async def family(me: Any) -> None:
    """Starts what a kill must reach: a child, a grandchild, and one of a double fork in another session. Prints their pids."""
    shell = "sleep 1000 & echo $!; exec sleep 1000"
    child = subprocess.Popen(["sh", "-c", shell], stdout=subprocess.PIPE)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    orphan = subprocess.run(["setsid", "sh", "-c", "setsid sleep 1000 >&2 & echo $!"], stdout=subprocess.PIPE, check=True)
    await me.print(os.getpid(), child.pid, grandchild, int(orphan.stdout))
    await anyio.sleep_forever()


async def forks_without_end(me: Any) -> None:
    """A small fork bomb: each child leaves two more behind, in sessions of their own, up to a bound."""
    await me.print("begun")
    for _ in range(40):
        if not os.fork():
            os.setsid()
            for _ in range(2):
                if not os.fork():
                    time.sleep(1000)
            os._exit(0)
    await anyio.sleep_forever()


async def knows_its_secrets(me: Any) -> dict[str, str]:
    """What others could read of this OS process and of those above it."""
    found: dict[str, str] = {}
    pid = os.getpid()
    for name in ("self", "supervisor", "forkserver"):
        for what in ("cmdline", "environ"):
            with open(f"/proc/{pid}/{what}", "rb") as file:
                found[f"{name} {what}"] = file.read().decode(errors="replace")
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            pid = int(file.read().rpartition(")")[2].split()[1])
    return found


async def spawns(me: Any) -> list[Any]:
    """Children of its own: a function, here, and a program, in a runner."""

    async def inner(child: Any, word: str) -> str:
        return f"{word} {os.getpid()}"

    here = await (await me.spawn(inner, "here")).wait()
    there = await (await me.spawn("programs:echo", os.getpid())).wait()
    return [os.getpid(), here.value, there.value]


async def asks(me: Any, text: str) -> str:
    """A reply of the model."""
    context = await me.open(system="s")
    reply: str = (await context.generate(user=text, max_tokens=3)).text
    return reply


async def waits_for_term(me: Any) -> str:
    await me.print("waiting")
    try:
        await me.stdin.read()
    except BaseException as error:
        await me.stderr.write(f"{type(error).__name__}\n")
        raise
    return "read"


async def ticks(me: Any, path: str) -> None:
    """Goes on for ever, and shows it."""
    await me.print("begun")
    count = 0
    while True:
        count += 1
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {count}")
        os.replace(path + ".new", path)
        await anyio.sleep(0.01)


async def prints_for_ever(me: Any, lines: int) -> None:
    for number in range(lines):
        await me.print(f"{number} " + "x" * 60_000)


not_a_program = 7


async def connects(me: Any) -> str:
    """Tries to become a client of the daemon beside what it is."""
    import llmos

    try:
        async with llmos.connect() as system:
            return f"came in as {system.pid}"
    except llmos.Fault as fault:
        return f"{type(fault).__name__}: {fault}; own calls work: {len(await me.ps()) > 0}"
