"""Client keys: what a client needs to reach a daemon over the network, in one file that is carried to it.

    daemon = "..."    the daemon's public key: nobody else can stand in for it
    public = "..."    the client's, which the daemon knows by a name (llmos keys list)
    secret = "..."    the client's: who has it is the client

All three are CURVE25519 keys of 32 bytes, written in Z85 (40 characters), as libzmq takes them.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from llmos.syscalls.abi import BadFormat, NotFound

Z85 = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_MOST_BYTES = 4_096


@dataclass(frozen=True, slots=True, repr=False)
class ClientKey:
    daemon: str
    public: str
    secret: str

    @property
    def text(self) -> str:
        """Of its file."""
        return f'daemon = "{self.daemon}"\npublic = "{self.public}"\nsecret = "{self.secret}"\n'


def read_key(path: Path) -> ClientKey:
    """The key in a file. Raises NotFound, BadFormat; neither shows what is in it."""
    try:
        with path.expanduser().open("rb") as file:
            found = tomllib.loads(file.read(_MOST_BYTES).decode())
    except FileNotFoundError:
        raise NotFound(f"there is no key file {path}: llmos keys new NAME, on the daemon's machine, writes one") from None
    except OSError as error:
        raise BadFormat(f"the key file {path} cannot be read: {error.strerror}") from None
    except ValueError:  # also what is no UTF-8
        raise BadFormat(f"{path} is no key file: it has daemon, public and secret, each in a line") from None
    names = ("daemon", "public", "secret")
    if not all(isinstance(found.get(name), str) and Z85.fullmatch(found[name]) for name in names):
        raise BadFormat(f"{path} is no key file: daemon, public and secret are 40 characters each")
    return ClientKey(*(found[name] for name in names))
