"""The sandbox: a command under bubblewrap. What it may see, and what it may use up.

    /usr, and a few files of /etc: read only       /tmp, /work: private, in memory, of a bounded size; or /work is a folder of the user's
    own namespaces of everything: no network, no process outside it to be seen or signalled; no capability, no terminal, no variable

What holds: time, by a timer that kills the whole namespace. Memory and the number of processes, by limits inside (the address space
of each process, the processes of the namespace) and by a look at all of them together every tenth of a second (watch.py). Where this
user is root of the machine the kernel does not apply the limit of processes to it: a control group does (cgroup.py), or the look alone.
Not bounded: what is written to a folder of the user's, but for the size of each file.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

from llmos.syscalls.abi import NotSupported

from .config import Command

INSTALL = "install it (apt install bubblewrap, dnf install bubblewrap), or say sandbox = false for this command if you trust it"
_ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime")
_ETC_OF_NETWORK = ("resolv.conf", "hosts", "nsswitch.conf", "ssl", "ca-certificates", "pki")
_PROC = ("sys", "sysrq-trigger", "irq", "bus", "acpi", "scsi")
"""What of /proc would be root's to write to, where this user is root: whoever owns those files may write to them in any namespace."""
_FILE_BYTES = 1 << 30
"""Largest file that it may write."""
_OPEN_FILES = 1024
_PROBE_SECONDS = 10.0

_LIMITS = 'ulimit -c 0 -n "$1" 2>/dev/null; ulimit -f "$2"; ulimit -v "$3"; ulimit -t "$4"; '
_PROCESSES = 'ulimit -u "$5" 2>/dev/null || ulimit -p "$5" 2>/dev/null; '  # the same, as bash and as dash call it
_SCRIPT = _LIMITS + _PROCESSES + 'shift 5; exec "$@"'
"""For sh: set limits, then become the command. Inside the namespace, since processes are counted there."""


def find() -> str:
    """The path of bubblewrap. Raises NotSupported."""
    found = shutil.which("bwrap")
    if found is None:
        raise NotSupported(f"bubblewrap (bwrap) is not installed, and without it no command is run: {INSTALL}")
    return found


def probe() -> None:
    """See that bubblewrap works here. Raises NotSupported: user namespaces may be forbidden."""
    argv = [find(), "--unshare-all", "--ro-bind", "/", "/", "true"]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotSupported(f"bubblewrap does not run: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[:300]
        raise NotSupported(f"bubblewrap does not work here ({said}): allow user namespaces, or say sandbox = false for commands you trust")


def _limited(command: Command, argv: list[str]) -> list[str]:
    cpu = max(1, math.ceil(command.seconds))
    figures = (_OPEN_FILES, _FILE_BYTES // 512, command.memory // 1024, cpu, command.processes)
    return ["sh", "-c", _SCRIPT, "sh", *map(str, figures), *argv]


def bare(command: Command, argv: list[str]) -> list[str]:
    """Without a sandbox: limits only. That of processes would count all those of this user: it is left to the look.

    A process that leaves the group and whose parents have ended is not found again, and lives on.
    """
    return _limited(command.model_copy(update={"processes": 1 << 22}), argv)


def wrapped(command: Command, argv: list[str]) -> list[str]:
    """The command line of bubblewrap around `argv`. Raises NotSupported where that is missing."""
    size = ["--size", str(int(command.memory))]
    line = [find(), "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL", "--hostname", "sandbox"]
    if command.network:
        line.append("--share-net")
    line += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        place = Path("/", name)
        if place.is_symlink():
            line += ["--symlink", str(place.readlink()), str(place)]
        elif place.exists():
            line += ["--ro-bind", str(place), str(place)]
    for name in (*_ETC, *(_ETC_OF_NETWORK if command.network else ())):
        line += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    line += ["--proc", "/proc", "--dev", "/dev", *size, "--tmpfs", "/tmp"]
    for name in _PROC:
        line += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    for folder in command.read:
        line += ["--ro-bind", folder, folder]
    line += [*size, "--tmpfs", "/work"] if command.folder is None else ["--bind", command.folder, "/work"]
    for key, value in {**environment(command), **command.env}.items():
        line += ["--setenv", key, value]
    return [*line, "--chdir", "/work", "--remount-ro", "/", "--", *_limited(command, argv)]


def environment(command: Command) -> dict[str, str]:
    """All that it is told."""
    home = "/work" if command.sandbox else command.folder or "/tmp"
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, "LANG": "C.UTF-8", "TERM": "dumb"}
