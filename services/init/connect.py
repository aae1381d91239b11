"""``llmos.connect``: the system of the daemon that runs, by the path of its socket or by its home. See sdk/connect.py.

Imports nothing that a client does not need: what it takes until a client has its first answer is measured (benchmarks/wire.py).
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from llmos.kernel.errno import InvalidArgument
from llmos.sdk.connect import connect as _connect
from llmos.sdk.system import System

from .place import folders_of, home_of, socket_path


def connect(
    path: Path | str | None = None,
    *,
    home: Path | str | None = None,
    model: str | None = None,
    name: str = "host",
    key: Path | str | None = None,
) -> AbstractAsyncContextManager[System]:
    """Connect to a running daemon (``llmos up``): the same System as ``llmos.boot`` gives, with programs in this OS process.

    `path` is a socket; without one it is that of the daemon of `home`, by default of LLMOS_HOME or the user's data folder.
    Or it is ``tcp://HOST:PORT``, and `key` the file that ``llmos keys new`` wrote there.
    `model` is what contexts use that name none, by default the daemon's. `name` is what ps calls this client.
    Raises NotFound if no daemon is there, NotPermitted, NotSupported if it is of another version of llmos, TimedOut.
    """
    place = home_of(home)
    if isinstance(path, str) and "://" in path:
        if key is None:
            raise InvalidArgument(f"{path[:200]} takes a key: connect({path[:200]!r}, key=FILE), with the file of llmos keys new")
        from llmos.sdk.clientkey import read_key

        return _connect(path, folders=folders_of(place), model=model, name=name, key=read_key(Path(key)))
    if key is not None:
        raise InvalidArgument("a key is for an address, such as tcp://HOST:PORT: over a unix socket the machine says who is there")
    socket = socket_path(place) if path is None else Path(path)
    return _connect(socket, folders=folders_of(place), model=model, name=name)
