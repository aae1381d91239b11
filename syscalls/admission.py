"""Admission: may whoever says hello come in? Asked once for a connection, before there is a session.

Of the same user, with an identity that libzmq gave, of the same version, while there is room. Knows no session and makes no process.
"""

from __future__ import annotations

import os

from llmos.kernel.errno import NotPermitted, NotSupported, TryAgain

from . import param, wire
from .peer import Peer


def demand_admission(identity: bytes, peer: Peer, hello: wire.Hello | wire.Claim, sessions: int) -> None:
    """Raises NotPermitted for one who may never come in, NotSupported for another version, TryAgain where `sessions` are the most."""
    if peer.user != os.getuid():
        raise NotPermitted(f"this system belongs to the user with the uid {os.getuid()}, and you are {peer.user}")
    if not identity.startswith(b"\0"):
        raise NotPermitted("a client has no identity of its own choice")
    if hello.protocol != wire.PROTOCOL or hello.shape != wire.shape():
        raise NotSupported("this client and the daemon are of different versions of llmos: restart the daemon with: llmos down; llmos up")
    if sessions >= param.MAX_SESSIONS:
        raise TryAgain(f"{sessions} clients are connected, the most there may be; wait until one has left")
