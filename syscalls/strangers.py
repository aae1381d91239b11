"""Strangers: who has not said hello yet, how much of it is listened to, and the secrets by which runners make themselves known.

A secret is drawn for one process, goes to its runner over a descriptor that nobody else has, is good once, and is kept only as its
digest: who reads this memory, or a record of it, cannot claim anything. Owns no process.
"""

from __future__ import annotations

import secrets
from hashlib import sha256

from llmos.kernel.errno import NotPermitted

from . import param


class Strangers:
    """Belongs to the kernel's thread. Invariant: as many counts are kept as there may be clients, at most."""

    def __init__(self) -> None:
        self._said: dict[bytes, int] = {}
        self._expected: dict[bytes, int] = {}
        """Digest of a secret -> the process that who knows it is."""

    def heard(self, identity: bytes) -> None:
        """It has said something that led nowhere."""
        self._said[identity] = self._said.get(identity, 0) + 1
        if len(self._said) > param.MAX_SESSIONS:
            del self._said[next(iter(self._said))]

    def spent(self, identity: bytes) -> bool:
        """It has said too much without a hello, and is not listened to any more."""
        return self._said.get(identity, 0) >= param.MAX_STRANGE

    def welcomed(self, identity: bytes) -> None:
        self._said.pop(identity, None)

    def expect(self, pid: int) -> bytes:
        """A secret for whoever is to be this process."""
        secret = secrets.token_bytes(32)
        self._expected[sha256(secret).digest()] = pid
        return secret

    def claimed(self, secret: bytes) -> int:
        """The process that a secret stands for; it stands for none from now on. Raises NotPermitted."""
        pid = self._expected.pop(sha256(secret).digest(), None)
        if pid is None:
            raise NotPermitted("this secret stands for no process: it was used, or its process has ended, or it was never drawn")
        return pid

    def forget(self, pid: int) -> None:
        """The process has ended: nobody can be it any more."""
        for digest in [each for each, expected in self._expected.items() if expected == pid]:
            del self._expected[digest]
