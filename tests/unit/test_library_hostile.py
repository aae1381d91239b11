"""What a hub or a directory may try with the library: files that never end, checksums that are paths."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from tiny import config_json, random_weights, write_directory, write_gguf

from llmos.drivers.config import config_from_hf
from llmos.drivers.examine import examine
from llmos.kernel.errno import BadFormat, IntegrityError, InvalidArgument
from llmos.services.library import Library
from llmos.services.library.hub import HubSource
from llmos.services.library.source import Workplace


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home", examine, environ={}, pause=lambda _: None)


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    config = config_from_hf(config_json())
    write_gguf(tmp_path / "tiny.gguf", random_weights(config), config)
    return tmp_path / "tiny.gguf"


@pytest.mark.parametrize("kind", ["directory", "pipe", "device", "nested"])
def test_one_odd_manifest_harms_no_other_model(kind: str, library: Library, gguf_file: Path) -> None:
    good, odd = library.pull(str(gguf_file)), library.root / "odd/local"
    odd.mkdir(parents=True)
    path = odd / "manifest.json"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("[" * 100_000)
    assert library.models() == [good]
    assert library.find(good.name) == good
    with pytest.raises(BadFormat, match="odd:local"):
        library.find("odd")
    library.remove("odd")
    assert not odd.exists()


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_directory_with_files_that_never_end(kind: str, library: Library, tmp_path: Path) -> None:
    write_directory(tmp_path / "m", shards=2)
    for file in ("model.safetensors.index.json", "config.json"):
        (tmp_path / "m" / file).unlink()
        os.mkfifo(tmp_path / "m" / file) if kind == "pipe" else (tmp_path / "m" / file).symlink_to("/dev/zero")
        with pytest.raises((BadFormat, InvalidArgument), match=file):
            library.pull(str(tmp_path / "m"))


@pytest.mark.parametrize("lie", [{"sha256": "../../../../victim"}, {"sha256": "A" * 64}, {"sha256": "a" * 63}, {"blob": "../../x"}])
def test_a_checksum_that_names_a_path(lie: dict[str, str], tmp_path: Path) -> None:
    places = [tmp_path / "models/.incoming/x" / name for name in ("files", "parts")]
    for place in places:
        place.mkdir(parents=True)
    (tmp_path / "victim.part").write_text("mine")
    workplace = Workplace(*places, lambda *_: None, {}, tmp_path, lambda *_, **__: {})
    client = httpx.Client(transport=httpx.MockTransport(lambda _: pytest.fail("fetched")))
    lfs = SimpleNamespace(sha256=lie["sha256"]) if "sha256" in lie else None
    entry = SimpleNamespace(rfilename="config.json", size=None, lfs=lfs, blob_id=lie.get("blob"))
    with pytest.raises(IntegrityError, match="as the checksum of"):
        HubSource("a/b", None, None)._fetch(client, entry, "0" * 40, {}, workplace)
    assert (tmp_path / "victim.part").read_text() == "mine"
