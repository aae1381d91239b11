"""The fork server: one OS process that has imported what every program needs, and forks a supervisor whenever it is sent a socket.

A fork takes milliseconds and shares the memory of all that was imported, where a new interpreter takes a quarter of a second and
20 MiB. It has no threads and no sockets of its own but the one to the daemon. It inherits what supervisors that were killed
leave behind, and kills that: whatever is its child and no supervisor has lost its own. When the daemon is gone it waits for the
supervisors, who see that too, and goes.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
from importlib import import_module
from typing import NoReturn

from llmos.sdk import runner

from . import supervisor
from .descendants import call_oneself, end_all, inherit_orphans, kill_below, reap

LEAVE_SECONDS = 12.0
"""How long supervisors have to end when the daemon is gone."""


def main() -> NoReturn:
    """Serve on the socket whose descriptor is the last word of the command line."""
    control = socket.socket(fileno=int(sys.argv[-1]))
    preload()
    gc.collect()
    gc.freeze()  # what is there now is never looked at again, and so not copied
    for number in (signal.SIGINT, signal.SIGTERM):  # they are the daemon's to understand
        signal.signal(number, signal.SIG_IGN)
    inherit_orphans()
    call_oneself("llmos-fork")
    news = supervisor.signal_pipe()
    supervisors: set[int] = set()
    while True:
        ready = select.select([control.fileno(), news], [], [])[0]
        if news in ready:
            os.read(news, 4096)
            reap(lambda pid, status, cpu, memory: supervisors.discard(pid))
            kill_below(spared=supervisors)  # those who end by it wake this loop again
        if control.fileno() in ready:
            descriptors = _taken(control)
            if not descriptors:
                break
            for descriptor in descriptors:
                supervisors.add(_fork(control, news, descriptor))
    _leave(supervisors, news)


def preload() -> None:
    """Import what a program in a runner needs whatever it does."""
    for module in ("anyio._backends._asyncio", "anyio.to_thread", "llmos.sdk.prompt"):
        import_module(module)
    runner.prepare()


def _taken(control: socket.socket) -> list[int]:
    """Descriptors that were sent; none at the end."""
    try:
        data, descriptors, _, _ = socket.recv_fds(control, 16, 16)
    except OSError:
        return []
    return descriptors if data else []


def _fork(control: socket.socket, news: int, descriptor: int) -> int:
    pid = os.fork()
    if pid:
        os.close(descriptor)
        return pid
    try:
        signal.set_wakeup_fd(-1)
        os.close(news)
        control.close()
        supervisor.main(socket.socket(fileno=descriptor))
    except BaseException as error:  # noqa: BLE001 - the last that can be said of it; nothing of the fork server may run here
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(1)


def _leave(supervisors: set[int], news: int) -> NoReturn:
    """The daemon is gone: each supervisor sees the end of its own socket, kills what is below it, and ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    waited = 0.0
    while waited < LEAVE_SECONDS and reap(lambda pid, status, cpu, memory: supervisors.discard(pid)):
        kill_below(spared=supervisors)
        signal.sigtimedwait({signal.SIGCHLD}, 0.1)
        waited += 0.1
    end_all(1.0, lambda pid, status, cpu, memory: None)
    os._exit(0)


if __name__ == "__main__":
    main()
