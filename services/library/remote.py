"""Remote models: what this machine knows of endpoints elsewhere.

    <home>/remotes/NAME.json     url, the model's name there, slots, window, prices, and where the key is

Invariant: a file has where the key is (a variable's name, or a path) and never the key. URLs are https, or http to this machine
only, unless somebody has said that it may be otherwise; they hold no user, no password and no query. Opens no connection.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmos.kernel.errno import AlreadyExists, BadFormat, Fault, InvalidArgument, NotFound, NotPermitted

from .manifest import checked_name, is_name
from .transfer import read_small

MAX_URL = 2_048
MAX_SLOTS = 4_096
MAX_WINDOW = 1 << 24
MAX_PRICE = 1e9
"""Money for a million tokens."""
MAX_KEY = 8_192
MAX_MODEL = 256
"""Characters of a name at an endpoint."""
WINDOW = 131_072
"""Of a model whose window nobody has said."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


@dataclass(frozen=True, slots=True)
class Remote:
    """One model at an endpoint."""

    name: str
    url: str
    model: str
    """What the endpoint calls it."""
    slots: int = 4
    """Requests at once."""
    window: int = WINDOW
    """Tokens of a context, as the endpoint counts them; here they are estimated."""
    key_env: str = ""
    """The variable that holds the key, in the environment of whoever boots."""
    key_file: str = ""
    """Or the file."""
    price_in: float = 0.0
    """Money for a million tokens of prompts."""
    price_out: float = 0.0
    insecure: bool = False
    """http may go to other machines, the key included."""

    def check(self) -> None:
        """Raises InvalidArgument for whatever cannot be."""
        checked_name(self.name)
        _check_url(self.url, insecure=self.insecure)
        if not self.model.isprintable() or not 0 < len(self.model) <= MAX_MODEL:
            raise InvalidArgument(f"the endpoint's name of the model has 1 to {MAX_MODEL} printable characters")
        for what, value, most in (("slots", self.slots, MAX_SLOTS), ("window", self.window, MAX_WINDOW)):
            if not 1 <= value <= most:
                raise InvalidArgument(f"{what} is {value}; use 1 to {most}")
        for what, price in (("price-in", self.price_in), ("price-out", self.price_out)):
            if not (math.isfinite(price) and 0 <= price <= MAX_PRICE):
                raise InvalidArgument(f"{what} is {price}, money for a million tokens; use 0 to {MAX_PRICE:g}")
        if self.key_env and self.key_file:
            raise InvalidArgument("the key is in a variable or in a file, not in both")
        if self.key_env and not _VARIABLE.fullmatch(self.key_env):
            raise InvalidArgument("that is no name of a variable; say where the key is, never the key itself")
        if self.key_file and (not os.path.isabs(self.key_file) or not self.key_file.isprintable()):
            raise InvalidArgument("the key's file is named by its whole path")

    def key(self, environ: Mapping[str, str]) -> str:
        """The key, or "" if none is needed. Raises NotFound, NotPermitted, BadFormat; no message has a part of it."""
        if self.key_env:
            where, key = f"the variable {self.key_env}", environ.get(self.key_env, "")
            if not key:
                raise NotFound(f"the key of {self.name} is to be in {where}: set it where the system is started, then start it again")
        elif self.key_file:
            where, key = self.key_file, _read_key(self.key_file, self.name)
        else:
            return ""
        key = key.strip()
        if not 0 < len(key) <= MAX_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise BadFormat(f"{where} holds no key: it is one word of printable ASCII, at most {MAX_KEY} characters")
        return key


class Remotes:
    """Those of one llmos home."""

    def __init__(self, home: Path) -> None:
        self.root = home / "remotes"

    def all(self) -> list[Remote]:
        """Every one, by name. What cannot be read is left out; `find` says why."""
        found = []
        for path in sorted(self.root.glob("*.json")):
            try:
                found.append(_read(path))
            except Fault:
                continue
        return found

    def has(self, name: str) -> bool:
        return is_name(name) and (self.root / f"{name}.json").is_file()

    def find(self, name: str) -> Remote:
        """Raises NotFound, BadFormat."""
        if not self.has(name):
            raise NotFound(f"there is no remote model {name[:80]!r}; `llmos models` lists what there is")
        return _read(self.root / f"{name}.json")

    def add(self, remote: Remote) -> None:
        """Raises InvalidArgument, AlreadyExists; NotPermitted if the home cannot be written."""
        remote.check()
        if (self.root.parent / "models" / remote.name).exists():
            raise AlreadyExists(f"{remote.name} is a model on this machine; choose another name, or `llmos rm {remote.name}` first")
        text = json.dumps({key: value for key, value in asdict(remote).items() if key != "name"}, indent=2) + "\n"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root / f"{remote.name}.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise AlreadyExists(f"there is a remote model {remote.name} already; `llmos rm {remote.name}` first") from None
        except OSError as error:
            raise NotPermitted(f"{self.root}: {error.strerror}; check its permissions") from None
        with os.fdopen(descriptor, "w") as file:
            file.write(text)

    def remove(self, name: str) -> None:
        """Raises NotFound."""
        try:
            (self.root / f"{checked_name(name)}.json").unlink()
        except FileNotFoundError:
            raise NotFound(f"there is no remote model {name!r}; `llmos models` lists what there is") from None


def _read(path: Path) -> Remote:
    """Raises BadFormat."""
    types = {field.name: field.type for field in fields(Remote)}
    kinds: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
    try:
        said: Any = json.loads(read_small(path))
        for key, value in said.items():
            if key == "name" or type(value) not in kinds[str(types[key])]:
                raise TypeError(key)
        remote = Remote(name=path.stem, **said)
        remote.check()
    except (Fault, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadFormat(f"{path} is no remote model ({error}); `llmos rm {path.stem}` and add it again") from None
    return remote


def _check_url(url: str, *, insecure: bool) -> None:
    """Raises InvalidArgument, with a message that has nothing of a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if parts.scheme not in ("https", "http") or not host or port == 0 or len(url) > MAX_URL or not url.isascii() or not url.isprintable():
        raise InvalidArgument(f"a URL begins with https:// and a host, and has at most {MAX_URL} characters: https://HOST/v1")
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise InvalidArgument("the URL may not hold a name or a password: give the key with --key-env or --key-file")
    if parts.query or parts.fragment or "?" in url or "#" in url or " " in url or "\\" in url:
        raise InvalidArgument("the URL is the address that calls are put behind, without ? and #: https://HOST/v1")
    if parts.scheme == "http" and not insecure and not _is_here(host):
        raise InvalidArgument(f"http to {host} would send prompts and the key in the clear: use https, or --insecure if you mean it")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_key(path: str, name: str) -> str:
    """What is in the file of a key, which only its owner may read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"the key of {name} is to be in {path}, which cannot be read: {error.strerror}") from None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise NotPermitted(f"{path} is no file: put the key of {name} into one")
        if about.st_mode & 0o077 or about.st_uid not in (os.getuid(), 0):
            raise NotPermitted(f"others may read or change {path}, or it is another's: `chmod 600` it, and see that it is yours")
        return os.read(descriptor, MAX_KEY + 3).decode(errors="replace")
    finally:
        os.close(descriptor)
