"""The package index that pip would use, and the files a project has there.

Owns finding it: pip's environment variables and configuration files, read as pip reads them (they are pip's settings, not ours, so
they are read here and not in llmos's own configuration). Speaks the simple repository API, in JSON (PEP 691) or HTML
(PEP 503), over http, https and file. Downloads no packages.
"""

from __future__ import annotations

import configparser
import json
import re
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

from llmos.kernel.errno import NotFound, TimedOut

if TYPE_CHECKING:
    import httpx

DEFAULT = "https://pypi.org/simple"
MAX_PAGE = 64 << 20
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


@dataclass(frozen=True, slots=True)
class Index:
    """Where packages come from. `urls` in the order to ask."""

    urls: tuple[str, ...]
    certificates: str | None = None
    """A file of certificate authorities to trust, if not the usual ones."""
    proxy: str | None = None


def index_of_pip(environ: Mapping[str, str], home: Path, prefix: Path = Path(sys.prefix)) -> Index:
    """What pip would use. Its files, weakest first: the machine's, the user's, the virtual environment's, PIP_CONFIG_FILE; then PIP_*."""
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), home / ".pip/pip.conf", config / "pip/pip.conf", prefix / "pip.conf"]
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen == "/dev/null":
        files = []
    elif chosen:
        files.append(Path(chosen))
    settings: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, "utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue  # pip's to complain about
        for section in ("global", "download", "install"):
            if parser.has_section(section):
                settings |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    settings |= {key[4:].lower().replace("_", "-"): value for key, value in environ.items() if key.startswith("PIP_") and value}
    urls = [settings.get("index-url") or DEFAULT, *settings.get("extra-index-url", "").split()]
    return Index(tuple(urls), settings.get("cert"), settings.get("proxy"))


def client_for(index: Index) -> httpx.Client:
    """An HTTP client with the index's certificates and proxy. Close it."""
    import httpx

    verify: ssl.SSLContext | bool = True
    if index.certificates and Path(index.certificates).is_file():
        verify = ssl.create_default_context(cafile=index.certificates)
    timeout = httpx.Timeout(60.0, connect=15.0)
    return httpx.Client(verify=verify, proxy=index.proxy, timeout=timeout, follow_redirects=True, headers={"User-Agent": "llmos"})


def find_file(client: httpx.Client, index: Index, project: str, filename: str) -> str:
    """The URL of a project's file: at the first index that has it. Raises NotFound, or TimedOut if one could not be asked."""
    import httpx

    project = re.sub(r"[-_.]+", "-", project).lower()
    unreachable = ""
    for url in index.urls:
        page = f"{url.rstrip('/')}/{project}/"
        try:
            links = _local(page) if urlsplit(page).scheme == "file" else _remote(client, page)
        except httpx.HTTPError as error:
            unreachable = f"{urlsplit(url).hostname}: {str(error)[:120] or type(error).__name__}"
            continue
        if filename in links:
            return links[filename]
    if unreachable:
        raise TimedOut(f"the package index could not be asked for {project} ({unreachable}); check the network and pull again")
    raise NotFound(f"no package index that pip is set to use has {filename}; see `pip config list`, or pull a model by path")


def _remote(client: httpx.Client, page: str) -> dict[str, str]:
    """{file name: URL} of a project's page; none if the index does not have the project."""
    import httpx

    with client.stream("GET", page, headers={"Accept": _ACCEPT}) as response:
        if response.status_code in (403, 404):
            return {}
        response.raise_for_status()
        body = b""
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MAX_PAGE:
                raise httpx.DecodingError("the answer is too long")
        base, kind = str(response.url), response.headers.get("Content-Type", "")
    return _links(body, base, "json" in kind)


def _local(page: str) -> dict[str, str]:
    file = Path(url2pathname(urlsplit(page).path)) / "index.html"
    return _links(file.read_bytes(), page, False) if file.is_file() else {}


def _links(body: bytes, base: str, is_json: bool) -> dict[str, str]:
    import httpx

    try:
        if is_json:
            return {str(entry["filename"]): urljoin(base, str(entry["url"])) for entry in json.loads(body)["files"]}
        parser = _Anchors()
        parser.feed(body.decode("utf-8", "replace"))
        parser.close()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise httpx.DecodingError(f"the answer is no package page: {str(error)[:80]}") from None
    urls = [urldefrag(urljoin(base, link))[0] for link in parser.links]
    return {unquote(urlsplit(url).path.rsplit("/", 1)[-1]): url for url in urls}


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for key, value in attrs if key == "href" and value]
