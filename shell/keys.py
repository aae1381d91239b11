"""`llmos keys`: who may come to the daemon over the network.

new NAME          a pair for a client: its file goes to stdout or --out FILE, once, and is to be carried to it
add NAME PUBLIC   a client that made its pair itself
remove NAME       hung up within a second, and let in no more
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TextIO

from llmos import AlreadyExists, InvalidArgument, NotFound
from llmos.services.init import keys as kept
from llmos.services.init.place import home_of


def keys(found: argparse.Namespace) -> int:
    """Do what the command line says."""
    home = home_of(found.home)
    wanted = {"list": (), "new": ("name",), "add": ("name", "public"), "remove": ("name",)}[found.action]
    for word in ("name", "public"):
        if (getattr(found, word) is None) == (word in wanted):
            said = " ".join(each.upper() for each in wanted)
            raise InvalidArgument(f"it is: llmos keys {found.action} {said}".rstrip())
    if found.action == "list":
        return _list(found)
    if found.action == "new":
        file = None if found.out is None else _private(Path(found.out))
        key = kept.new(home, found.name)
        text = f"# the key of {found.name}: who has this file may do what you may; keep it at 0600\n{key.text}"
        if file is not None:
            with file:
                file.write(text)
            print(
                json.dumps({"client": found.name, "path": str(found.out)}) if found.json else f"{found.name} may come in with {found.out}"
            )
        elif found.json:
            print(json.dumps({"client": found.name, "daemon": key.daemon, "public": key.public, "secret": key.secret}))
        else:
            print(text, end="")
            print(
                f"llmos: {found.name} may come in: give it this file; llmos up --listen tcp://HOST:PORT lets it reach the daemon",
                file=sys.stderr,
            )
        return 0
    if found.action == "add":
        kept.add(home, found.name, found.public)
    else:
        kept.remove(home, found.name)
    done = "may come in" if found.action == "add" else "is let in no more"
    print(json.dumps({"client": found.name, "done": found.action}) if found.json else f"{found.name} {done}")
    return 0


def _private(path: Path) -> TextIO:
    """A new file that only this user can read. Raises AlreadyExists for one that is there, InvalidArgument."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w")
    except FileExistsError:
        raise AlreadyExists(f"{path} is there already: take another name, or remove it") from None
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be written: {error.strerror}") from None


def _list(found: argparse.Namespace) -> int:
    place = home_of(found.home)
    clients = kept.clients(place)
    try:
        daemon = kept.daemon_pair(place)[0].decode()
    except NotFound as none:
        if found.json:
            print(json.dumps({"daemon": None, "clients": clients}))
        else:
            print(f"llmos: keys: {none}", file=sys.stderr)
        return 0
    if found.json:
        print(json.dumps({"daemon": daemon, "clients": clients}))
        return 0
    width = max(map(len, ["(daemon)", *clients]))
    print("\n".join(f"{name:<{width}}  {public}" for name, public in {"(daemon)": daemon, **clients}.items()))
    return 0
