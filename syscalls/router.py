"""The router: the socket under the endpoint, and the thread that it lives on. Knows no message and no session."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol

import zmq

from llmos.kernel.errno import NotSupported

from . import param
from .door import Door, mark

_LINGER = 500
"""Milliseconds for what is queued to leave when the socket closes."""


class Turns(Protocol):
    """The kernel's thread. What it is given runs in a breath."""

    def listen(self, descriptor: int, act: Callable[[], None]) -> None: ...

    def deafen(self, descriptor: int) -> None: ...

    def after(self, seconds: float, act: Callable[[], None]) -> None: ...


def bound(path: Path, waiting: int, guests: Callable[[], Collection[int]]) -> tuple[zmq.Context[Any], zmq.Socket[Any], Door]:
    """A ROUTER that listens at a path that only this user can open; `waiting` messages of a client are taken in before it must wait.

    `guests` as in Door. Raises NotSupported for a path that cannot be.
    """
    context = zmq.Context(io_threads=1)
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a peer that is gone is an error and no silent loss
    router.setsockopt(zmq.MAXMSGSIZE, param.MAX_MESSAGE)
    router.setsockopt(zmq.SNDHWM, 0)  # bounded by bytes, in the session
    router.setsockopt(zmq.RCVHWM, waiting)  # a client that sends faster than is read waits in its own send
    router.setsockopt(zmq.LINGER, _LINGER)
    router.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
    router.setsockopt(zmq.BACKLOG, 1024)
    door = Door(context, router, guests, mark())
    try:
        router.bind(f"ipc://{path}")
        path.chmod(0o600)
    except (zmq.ZMQError, OSError) as error:
        door.close()
        router.close(0)
        context.term()
        raise NotSupported(f"cannot make the socket {path}: {error}") from None
    return context, router, door


_FIRST, _LAST = int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.NOBLOCK)
"""As numbers: pyzmq's names for them cost as much as the sending."""


def sent(router: zmq.Socket[Any], identity: bytes, data: bytes) -> bool:
    """Send to a client. False if libzmq has dropped it."""
    try:
        router.send(identity, _FIRST)  # what refuses a message refuses this frame
        router.send(data, _LAST)
    except zmq.ZMQError as error:
        if error.errno != zmq.EHOSTUNREACH:
            raise
        return False
    return True
