"""The door: who comes to a listening socket of the daemon, and how many descriptors of it they may take.

    libzmq accepts -> its monitor tells the number -> at the mark or above: shut at once
                                                   -> no guest after HELLO_SECONDS: shut

libzmq has no bound on the connections it accepts, and ends the process when the system has no descriptor left for one
(ipc_listener.cpp). A new descriptor has the lowest number that is free (POSIX, accept), so its number alone says how many are taken:
nothing is counted. The monitor holds a thousand events (libzmq's high-water mark) and then libzmq waits before it accepts more: no
crowd is faster than this thread. The descriptors above the mark are for that thousand, and for the daemon's own work.

Only the thread of the door reads the monitor; `look` and `close` belong to who owns the socket. Knows no message.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final, NamedTuple

import zmq

from llmos.kernel.errno import TryAgain

from .peer import handle_on, shut_down

HELLO_SECONDS: Final = 10.0
"""From the connection to the first word that makes somebody a guest."""
_LOOKS: Final = 2
"""Looks of the owner between: one that was away has not refused to listen to anybody."""
_LEFT: Final = 1_100
"""Descriptors: libzmq's thousand, and some."""
_ADDRESS: Final = "inproc://door"
_EVENTS: Final = int(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED)


def mark() -> int:
    """The number of a descriptor from which on nobody is let in: most of what this process may open, and at least half of it."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if limit == resource.RLIM_INFINITY else limit - min(max(limit // 4, _LEFT), limit // 2)


class _Came(NamedTuple):
    address: str
    """Where it came to, as libzmq says it."""
    at: float
    looks: int
    """Of the owner, by then."""


class Door:
    """Watches who comes to `router`, and is made before that is bound. `guests` tells the connections whose peers are known."""

    def __init__(self, context: zmq.Context[Any], router: zmq.Socket[Any], guests: Callable[[], Collection[int]], mark: int) -> None:
        self.mark = mark
        self.shut = 0
        """Connections that were not let in, or not left in."""
        self._router, self._guests = router, guests
        self._looks = 0
        self._came: dict[int, _Came] = {}
        self._after = 0.0
        self._over = False
        router.monitor(_ADDRESS, _EVENTS)
        self._monitor: zmq.Socket[bytes] = zmq.Context.shadow(context.underlying).socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.RCVHWM, 1)
        self._monitor.connect(_ADDRESS)
        self._probe: int = self._monitor.fileno()
        self._thread = threading.Thread(target=self._watch, name="llmos-door", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """The owner of the socket has read what had come."""
        self._looks += 1

    def demand_room(self) -> None:
        """Raises TryAgain if there is none for what a guest needs beside its connection: some way before the mark, so that it hears why."""
        try:
            number = os.dup(self._probe)
            os.close(number)
        except OSError:
            number = self.mark
        if number >= self.mark * 7 // 8:
            raise TryAgain(
                f"the daemon has {number} files and connections open, the most for clients; wait until one has left, "
                "or restart it where ulimit -n is higher"
            )

    def close(self) -> None:
        """Watch no more. Before the router is closed, by who owns it."""
        self._router.disable_monitor()
        self._thread.join()

    def _watch(self) -> None:
        with suppress(zmq.ContextTerminated):
            while not self._over:
                self._take(1_000 if self._came else -1)
                self._expel()
        self._monitor.close(0)

    def _take(self, milliseconds: int) -> None:
        """What libzmq has told by now, or tells within so long."""
        while not self._over and self._monitor.poll(milliseconds):
            milliseconds = 0
            told, address = self._monitor.recv_multipart()
            event, number = struct.unpack("=Hi", told)
            if event == zmq.EVENT_ACCEPTED and number < self.mark:
                self._came[number] = _Came(address.decode(), time.monotonic(), self._looks)
            elif event == zmq.EVENT_ACCEPTED:
                self._shut(handle_on(number), address.decode())
            elif event == zmq.EVENT_DISCONNECTED:  # told before the number is free again
                self._came.pop(number, None)
            else:
                self._over = True

    def _expel(self) -> None:
        """Shut the connections that came long ago and whose peers have not said who they are."""
        now = time.monotonic()
        if now < self._after:
            return
        self._after = now + 1.0
        late = {n: each for n, each in self._came.items() if now - each.at > HELLO_SECONDS and self._looks - each.looks >= _LOOKS}
        guests = self._guests() if late else ()
        for number, each in late.items():
            handle = None if number in guests else handle_on(number)
            self._take(0)  # had the handle been made on a newer connection of that number, this would tell
            if self._came.get(number) is each:
                del self._came[number]
                self._shut(handle, each.address)
            elif handle is not None:
                handle.close()

    def _shut(self, handle: socket.socket | None, address: str) -> None:
        """End a connection, if it is one of those that came to `address`: a number may be another file's by now."""
        if handle is None:
            return
        here = handle.getsockname()
        if address == f"ipc://{here}" if isinstance(here, str) else address.endswith(f":{here[1]}"):
            self.shut += 1
            shut_down(handle)
        else:
            handle.close()
