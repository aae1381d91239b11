"""Keys: who may come to the daemon over the network.

    HOME/keys/daemon    0600   the daemon's own pair, made when the first client is
    HOME/keys/clients   0600   NAME PUBLIC, a line for each client that may come in

Read whenever somebody comes, so that a change holds at once. A client's secret is in the file that `new` gives, and nowhere here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from llmos.kernel.errno import AlreadyExists, BadFormat, InvalidArgument, NotFound, NotSupported
from llmos.sdk.clientkey import Z85, ClientKey

from .place import one_at_a_time, private_folder

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MOST = 1_000
"""Clients."""


def daemon_pair(home: Path) -> tuple[bytes, bytes]:
    """The daemon's public and secret key. Raises NotFound before there is one, BadFormat."""
    try:
        words = (_folder(home) / "daemon").read_text().split()
    except FileNotFoundError:
        raise NotFound("the daemon has no key yet: llmos keys new NAME makes one, and a client's beside it") from None
    if len(words) != 2 or not all(map(Z85.fullmatch, words)):
        raise BadFormat(f"{_folder(home) / 'daemon'} is damaged: move it away, and make new keys for all clients")
    return words[0].encode(), words[1].encode()


def clients(home: Path) -> dict[str, str]:
    """Public keys of those who may come in, by name. Raises BadFormat if they cannot be read."""
    path = _folder(home) / "clients"
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadFormat(f"{path} cannot be read, so that nobody may come in over the network: {error}") from None
    pairs = [line.split() for line in lines if line.strip()]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and NAME.fullmatch(pair[0]) and Z85.fullmatch(pair[1])}


def new(home: Path, name: str) -> ClientKey:
    """A key pair for a client, who may come in from now on. Raises AlreadyExists, InvalidArgument, NotSupported."""
    if not zmq.has("curve"):
        raise NotSupported("this libzmq was built without CURVE: install pyzmq from its wheel")
    public, secret = (each.decode() for each in zmq.curve_keypair())
    add(home, name, public)
    return ClientKey(daemon_pair(home)[0].decode(), public, secret)


def add(home: Path, name: str, public: str) -> None:
    """Let a client in whose public key is known. Raises AlreadyExists, InvalidArgument."""
    if not NAME.fullmatch(name):
        raise InvalidArgument(f"a client's name is letters, digits, '.', '-' and '_', at most 64, not {name[:80]!r}")
    if not Z85.fullmatch(public):
        raise InvalidArgument("a public key is 40 characters of Z85")
    with _changing(home) as folder:
        known = clients(home)
        if name in known:
            raise AlreadyExists(f"there is a client {name} already: llmos keys remove {name} takes its key away")
        if public in known.values():
            raise AlreadyExists("this key is another client's already")
        if len(known) >= MOST:
            raise InvalidArgument(f"there are {MOST} clients, the most there may be")
        if not (folder / "daemon").exists():
            pair = zmq.curve_keypair()
            _write(folder / "daemon", f"{pair[0].decode()} {pair[1].decode()}\n")
        _write(folder / "clients", _lines({**known, name: public}))


def remove(home: Path, name: str) -> None:
    """Let a client in no more; who is there with its key is hung up within a second. Raises NotFound."""
    with _changing(home) as folder:
        known = clients(home)
        if known.pop(name, None) is None:
            raise NotFound(f"there is no client {name[:80]!r}; there are {', '.join(known) or 'none'}")
        _write(folder / "clients", _lines(known))


def _lines(known: dict[str, str]) -> str:
    return "".join(f"{name} {public}\n" for name, public in sorted(known.items()))


def _folder(home: Path) -> Path:
    return home.absolute() / "keys"


@contextmanager
def _changing(home: Path) -> Iterator[Path]:
    """One at a time."""
    folder = private_folder(_folder(home))
    with one_at_a_time(folder / "lock"):
        yield folder


def _write(path: Path, text: str) -> None:
    """Whole, or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
