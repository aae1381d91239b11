"""Admission: may whoever says hello come in? Asked once for a connection, before there is a session.

Of the same user, with an identity that libzmq gave, of the same version, while there is room, and not started by the daemon: a
hello gives all the rights of the user, and tools, MCP servers and programs in runners have their rights from their process. A runner
comes in by its secret instead. Knows no session and makes no process.

Not stopped: an OS process that has left the tree below the daemon, as a double fork of a command without a sandbox may, whose new
parent is the machine's init. What has the user's files and the user's uid is bounded by a sandbox and by nothing else.
"""

from __future__ import annotations

import os

from llmos.kernel.errno import NotPermitted, NotSupported, TryAgain

from . import param, wire
from .peer import Peer, is_below


def demand_admission(identity: bytes, peer: Peer, hello: wire.Hello | wire.Claim, sessions: int, above: int) -> None:
    """Raises NotPermitted for one who may never come in, NotSupported for another version, TryAgain where `sessions` are the most.

    `above` is the OS process below which nobody may say hello; 0: there is none.
    """
    if peer.user != os.getuid():
        raise NotPermitted(f"this system belongs to the user with the uid {os.getuid()}, and you are {peer.user}")
    if not identity.startswith(b"\0"):
        raise NotPermitted("a client has no identity of its own choice")
    if above and isinstance(hello, wire.Hello) and is_below(peer.pid, above):
        raise NotPermitted(
            f"process {peer.pid} was started by the daemon, as a tool or a program of it, or has ended: it has the rights of the "
            "process that it works for, and cannot be a client"
        )
    if hello.protocol != wire.PROTOCOL or hello.shape != wire.shape():
        raise NotSupported("this client and the daemon are of different versions of llmos: restart the daemon with: llmos down; llmos up")
    if sessions >= param.MAX_SESSIONS:
        raise TryAgain(f"{sessions} clients are connected, the most there may be; wait until one has left")
