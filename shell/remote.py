"""Remote models, as the llmos command adds them and `models` shows them. Opens no connection, and never reads a key."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmos.services.library import Remote


def options(command: argparse.ArgumentParser) -> None:
    """The options of `llmos models add`."""
    command.add_argument("name", metavar="NAME", help="what to call it here")
    command.add_argument("--url", required=True, help="where it is, such as https://HOST/v1: chat/completions is put behind it")
    command.add_argument("--model", metavar="REMOTE_NAME", help="what it is called there (default: NAME)")
    command.add_argument("--slots", type=int, default=4, metavar="N", help="requests at once (default: 4); more wait in line here")
    where = command.add_mutually_exclusive_group()
    where.add_argument("--key-env", metavar="VAR", help="the variable that holds the key, where the system is started")
    where.add_argument("--key-file", metavar="PATH", type=Path, help="the file that holds the key, which only you may read (chmod 600)")
    command.add_argument("--window", type=int, metavar="N", help="most tokens of a context (default: 131072)")
    command.add_argument("--price-in", type=float, default=0.0, metavar="X", help="money for a million tokens of prompts")
    command.add_argument("--price-out", type=float, default=0.0, metavar="Y", help="money for a million tokens of replies")
    command.add_argument(
        "--insecure", action="store_true", help="let http go to other machines: prompts and the key can be read on the way"
    )


def add(home: Path, found: argparse.Namespace) -> Remote:
    """Add what the options say. Raises InvalidArgument, AlreadyExists."""
    from llmos.services.library import Remote, Remotes  # 0.1 s, that --help does without

    window = {} if found.window is None else {"window": found.window}
    remote = Remote(
        name=found.name,
        url=found.url,
        model=found.name if found.model is None else found.model,
        slots=found.slots,
        key_env=found.key_env or "",
        key_file="" if found.key_file is None else os.path.abspath(found.key_file.expanduser()),
        price_in=found.price_in,
        price_out=found.price_out,
        insecure=found.insecure,
        **window,
    )
    Remotes(home).add(remote)
    return remote


def remote_models(home: Path, default: str, loaded: set[str]) -> list[dict[str, Any]]:
    """A row for each, with all that `stored_models` has of the others, and more."""
    from llmos.services.library import Remotes

    return [
        {
            "name": remote.name,
            "tag": "",
            "size": 0,
            "licence": "",
            "source": remote.url,
            "created": "",
            "weights": "",
            "default": remote.name == default,
            "damaged": False,
            "loaded": remote.name in loaded,
            "kind": "remote",
            "model": remote.model,
            "slots": remote.slots,
            "window": remote.window,
            "key": f"variable {remote.key_env}" if remote.key_env else remote.key_file,
            "price_in": remote.price_in,
            "price_out": remote.price_out,
        }
        for remote in Remotes(home).all()
    ]
