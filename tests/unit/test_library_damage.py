"""Models whose files were damaged after they came: seen before they are used, and mended by pulling them again."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import config_json, random_weights, write_gguf

from llmos.drivers.config import config_from_hf
from llmos.drivers.examine import examine
from llmos.kernel.errno import IntegrityError, InvalidArgument, NotFound
from llmos.services.library import Library, Manifest


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home", examine, environ={}, pause=lambda _: None)


@pytest.fixture
def model(library: Library, tmp_path: Path) -> Manifest:
    path = tmp_path / "tiny.gguf"
    config = config_from_hf(config_json())
    write_gguf(path, random_weights(config), config)
    return library.pull(str(path), name="mine")


@pytest.mark.parametrize("cut", [0, 100, None])
def test_a_file_that_is_gone_or_cut_short(library: Library, model: Manifest, cut: int | None) -> None:
    whole = model.path.read_bytes()
    if cut is None:
        model.path.unlink()
    else:
        model.path.write_bytes(whole[:cut])
    (listed,) = library.models()
    assert listed.damage is not None
    assert model.path.name in listed.damage
    with pytest.raises(IntegrityError, match="mine:local is damaged") as raised:
        library.find("mine")
    assert f"`llmos pull {model.source} --name mine`" in str(raised.value)  # what it says to do does it
    library.pull(model.source, name="mine")
    assert library.find("mine").path.read_bytes() == whole
    assert library.verify("mine").damage is None


def test_what_is_damaged_can_be_removed(library: Library, model: Manifest) -> None:
    model.path.unlink()
    library.remove("mine")
    assert library.models() == []


def test_an_empty_name_is_refused(library: Library, model: Manifest) -> None:
    with pytest.raises(InvalidArgument, match="cannot be the name"):
        library.pull(model.source, name="")


def test_only_what_can_be_pulled_by_name_is_offered(library: Library) -> None:
    for name, offered in (("nosuch", "llmos pull NAME"), ("smollm2", "llmos pull smollm2")):
        with pytest.raises(NotFound, match=offered):
            library.find(name)
