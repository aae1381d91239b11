"""The daemon's commands: `llmos up`, `down`, `status`.

    up       make sure of the model -> start the daemon in the background -> wait for its word -> one line
    down     SIGTERM -> wait until its process has ended
    status   what the lock says, and then what the daemon says

Whether a daemon runs is told by the lock of its home, never by the socket. Knows nothing of what a daemon does.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import llmos
from llmos.services.init.place import daemon_folder, daemon_pid, home_of, one_at_a_time, private_folder, socket_path

if TYPE_CHECKING:
    from llmos.services.init.settings import Settings

DOWN_SECONDS = 60.0
"""How long an orderly end may take: a step, or the load of a model, may be under way."""
IDLE_MINUTES = 10.0
"""How long a daemon that nobody asked for stays without a client and without a process."""
LAST_LINES = 20
"""Of the log of a daemon that did not come up."""
LOG_BYTES = 8 << 20
"""From this size on the log of the daemon before is put aside when a new one starts."""


def up(found: argparse.Namespace) -> int:
    """Start the daemon, here or in the background."""
    from llmos.services.init.settings import read_settings

    from .store import provide

    settings = read_settings(model=found.model, device=found.device, home=found.home, idle_minutes=found.idle, listen=found.listen)
    if settings.listen is not None:
        from llmos.services.init.gate import demand_keys

        demand_keys(settings.home)
    if (pid := daemon_pid(settings.home)) is not None:
        raise llmos.AlreadyExists(f"a daemon runs already for {settings.home}, with pid {pid}; llmos status shows it, llmos down ends it")
    if found.pull:
        provide(settings)
    if not found.foreground:
        return _start(found, settings)
    from llmos.services.init.daemon import serve

    os.umask(0o077)
    if found.ready is not None:
        os.chdir(settings.home)  # in the background nothing should hold on to where we were called
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it has a line for each request to a remote model
    serve(settings, found.model, lambda: _say_ready(found.ready))
    return 0


def _say_ready(descriptor: int | None) -> None:
    if descriptor is not None:
        os.write(descriptor, b"ready\n")
        os.close(descriptor)


def _start(found: argparse.Namespace, settings: Settings) -> int:
    """Start the daemon, and wait until clients can connect."""
    began = time.monotonic()
    options = {name: value for name in ("model", "device", "idle", "listen") if (value := getattr(found, name)) is not None}
    home = settings.home
    with _starting(home):
        pid = _launch(home, options)
    where = socket_path(home) if settings.listen is None else f"{socket_path(home)} and {settings.listen}"
    print(f"llmos is up: pid {pid}, {where}, {time.monotonic() - began:.1f} s")
    return 0


def ensure(settings: Settings, model: str | None, say: Callable[[str], None]) -> None:
    """Have a daemon run for a home. One that is started here ends by itself when nobody has used it for a while.

    It pulls nothing: whoever needs a model has seen to it. Raises what a start raises.
    """
    if daemon_pid(settings.home) is not None:
        return
    with _starting(settings.home):
        if daemon_pid(settings.home) is not None:
            return
        say("no daemon runs yet: starting one in the background (llmos down ends it)")
        idle = IDLE_MINUTES if settings.idle_minutes is None else settings.idle_minutes
        _launch(settings.home, {"idle": idle} if model is None else {"idle": idle, "model": model}, "--no-pull")


@contextmanager
def _starting(home: Path) -> Iterator[None]:
    """Of several who find that no daemon runs, one starts it, and the others wait here until it is there."""
    with one_at_a_time(private_folder(daemon_folder(home)) / "starting"):
        yield


def _launch(home: Path, options: Mapping[str, object], *flags: str) -> int:
    """Start the daemon in a session of its own; its pid, when clients can connect. Raises ShutDown if it ends before that."""
    log = _log_file(private_folder(daemon_folder(home)) / "log")
    told, tell = os.pipe()
    command = [sys.executable, "-P", "-m", "llmos", "up", "--foreground", f"--home={home.absolute()}", f"--ready={tell}"]
    command += [*flags, *(f"--{name}={value}" for name, value in options.items())]
    with log, open(told, "rb") as word:
        start = log.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(tell,), start_new_session=True, umask=0o077
        )
        os.close(tell)
        if word.read() != b"ready\n":  # the end of the file: it has ended without a word
            status = process.wait()
            log.seek(start)
            last = log.read().decode(errors="replace").splitlines()[-LAST_LINES:]
            raise llmos.ShutDown("\n".join([f"the daemon ended with status {status} before it was ready; the end of its log:", *last]))
    process.returncode = 0  # it goes on without us
    return process.pid


def _log_file(path: Path) -> BinaryIO:
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".old"))
    return open(path, "a+b", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600))


def down(found: argparse.Namespace) -> int:
    """End the daemon in order, and wait for it."""
    home = home_of(found.home)
    pid = _demand_daemon(home)
    try:
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            if not select.select([descriptor], [], [], DOWN_SECONDS)[0]:
                raise llmos.TimedOut(
                    f"the daemon {pid} has not ended within {DOWN_SECONDS:g} s; llmos logs may say why, kill -9 {pid} ends it"
                )
        finally:
            os.close(descriptor)
    except ProcessLookupError:  # it was going already
        pass
    print(f"llmos is down: pid {pid} has ended")
    return 0


def _demand_daemon(home: Path) -> int:
    pid = daemon_pid(home)
    if pid is None:
        raise llmos.NotFound(f"no daemon runs for {home}; start one with: llmos up")
    return pid


def status(found: argparse.Namespace) -> int:
    """What runs."""
    import anyio

    home = home_of(found.home)
    pid = daemon_pid(home)
    if found.json and pid is None:
        print(json.dumps({"running": False, "home": str(home)}))
        return 1
    pid = _demand_daemon(home)
    told = anyio.run(_told, home)
    rows: dict[str, Any] = {"running": True, "pid": pid, "home": str(home), "socket": str(socket_path(home)), **told}
    if found.json:
        print(json.dumps(rows))
        return 0
    models = ", ".join(rows["loaded"]) or "none yet"
    print(f"llmos runs: pid {pid}, up {_span(rows['uptime'])}, {rows['socket']}")
    print(f"model {rows['model']} (loaded: {models}), {rows['processes']} processes, {rows['clients']} clients")
    return 0


async def _told(home: Path) -> dict[str, Any]:
    """What the daemon says of itself, without this client."""
    async with llmos.connect(home=home, name="status") as system:
        statistics = await system.statistics()
        models = await system.models()
        daemon = system.daemon
        return {
            "uptime": round(statistics.uptime, 3),
            "model": daemon.model if daemon is not None else "",
            "loaded": [model.name for model in models if model.loaded],
            "processes": statistics.kernel.processes - 2,
            "clients": daemon.sessions - 1 if daemon is not None else 0,
        }


def _span(seconds: float) -> str:
    whole = int(seconds)
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
