"""Peers: who is at the other end of a connection over a unix socket, as the machine's own kernel says, and a handle on it.

libzmq asks SO_PEERCRED when a connection is made and puts what it was told on every frame. It offers no way to drop one peer
of a socket, so that is done underneath: a duplicate of the connection's descriptor can shut it down, and tells when it ends.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Final

import zmq

from llmos.kernel.errno import NotPermitted

_SOURCE: Final = 2
"""ZMQ_SRCFD: the property of a frame that is the descriptor of the connection it came by. pyzmq has no name for it."""

_CLIMBS: Final = 3
"""Attempts to find who is above a process."""


@dataclass(frozen=True, slots=True)
class Peer:
    user: int
    """Its uid."""
    pid: int
    """In the machine's own system; 0 if it lives in a namespace of its own."""
    descriptor: int
    """libzmq's own: only to be duplicated, at once."""


def peer_of(frame: zmq.Frame) -> Peer:
    """Who sent a frame. libzmq says "host:uid:gid:pid". Raises NotPermitted if it does not."""
    try:
        _, user, _, pid = str(frame.get("Peer-Address")).rsplit(":", 3)
        return Peer(int(user), int(pid), int(frame.get(_SOURCE)))
    except (ValueError, zmq.ZMQError):
        raise NotPermitted("the system does not say who is there") from None


def descriptor_of(frame: zmq.Frame) -> int:
    """libzmq's own descriptor of the connection that a frame came by: only to be duplicated, at once. -1 if it does not say."""
    try:
        return int(frame.get(_SOURCE))
    except (ValueError, zmq.ZMQError):
        return -1


def is_below(pid: int, above: int) -> bool:
    """Whether `pid` descends from `above`, or is no more, so that nobody can tell. 0, of a namespace that is none of ours, does not.

    Read from /proc. A process that ends while this climbs gives its children to one above it: that is looked at again.
    """
    for _ in range(_CLIMBS):
        each = pid
        while each > 1:
            parent = _parent(each)
            if parent is None:
                break
            if parent == above:
                return True
            each = parent
        else:
            return False
    return True


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def handle_on(descriptor: int) -> socket.socket | None:
    """Another handle on a connection; None if libzmq has closed it by now."""
    try:
        handle = os.dup(descriptor)
    except OSError:
        return None
    try:
        return socket.socket(fileno=handle)
    except OSError:  # the number is another file's
        os.close(handle)
        return None


def shut_down(connection: socket.socket) -> None:
    """End a connection for both sides, and give up this handle on it."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is over already
        pass
    connection.close()


def pidfd_of(pid: int) -> int:
    """A descriptor that becomes readable when the process ends; -1 where there is no such thing, or no such process."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1
