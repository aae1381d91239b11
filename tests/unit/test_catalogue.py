"""Names of models: what the disk said of them is asked again only when the store has changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmos.kernel.errno import BadFormat, NotFound
from llmos.services.init.settings import read_settings
from llmos.services.init.store import MAX_ANSWERS, StoreCatalogue
from llmos.services.library import store


def add(home: Path, name: str, tag: str = "t", created: str = "2026") -> None:
    place = home / "models" / name / tag
    place.mkdir(parents=True)
    facts = {"files": {}, "licence": "", "source": "s", "created": created, "size": 0}
    (place / "manifest.json").write_text(json.dumps(facts))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Manifests that were read."""
    found: list[Path] = []
    read = store.read_manifest
    monkeypatch.setattr(store, "read_manifest", lambda place: found.append(place) or read(place))
    return found


@pytest.fixture
def catalogue(tmp_path: Path) -> StoreCatalogue:
    for number in range(9):
        add(tmp_path, f"m{number}")
    return StoreCatalogue(read_settings(home=tmp_path))


def test_aliases_and_unknown_names_are_read_from_disk_once(catalogue: StoreCatalogue, reads: list[Path]) -> None:
    assert catalogue.resolve("m1:t") == "m1"
    before = len(reads)
    for _ in range(5):
        assert catalogue.resolve("m1:t") == "m1"
        assert catalogue.resolve("m2:t") == catalogue.resolve("m2") == "m2"
        for name in ("nobody", "m1:x", None, "../m1", "x" * 128):
            with pytest.raises(NotFound, match="llmos pull"):
                catalogue.resolve(name)
    assert len(reads) == before


def test_a_store_that_changed_is_seen(catalogue: StoreCatalogue, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        catalogue.resolve("new")
    add(tmp_path, "new")
    assert catalogue.resolve("new") == catalogue.resolve("new:t") == "new"
    with pytest.raises(NotFound):
        catalogue.resolve("new:u")
    add(tmp_path, "new", "u", created="2027")
    assert catalogue.resolve("new:u") == "new:u"  # "new" means until the next boot what it meant first
    assert catalogue.resolve("new") == "new"
    (tmp_path / "models/m3/t/manifest.json").unlink()
    (tmp_path / "models/m3/t").rmdir()
    (tmp_path / "models/m3").rmdir()
    with pytest.raises(NotFound):
        catalogue.resolve("m3")


def test_a_damaged_model_is_looked_at_again(catalogue: StoreCatalogue, tmp_path: Path) -> None:
    manifest = tmp_path / "models/odd/t/manifest.json"
    add(tmp_path, "odd")
    sound = manifest.read_text()
    manifest.write_text("{")
    with pytest.raises(BadFormat):
        catalogue.resolve("odd")
    manifest.write_text(sound)
    add(tmp_path, "another")  # what the store holds is read again when it changes
    assert catalogue.resolve("odd") == "odd"


def test_what_is_remembered_is_bounded(catalogue: StoreCatalogue) -> None:
    for number in range(MAX_ANSWERS * 2 + 9):
        with pytest.raises(NotFound):
            catalogue.resolve(f"no{number}")
    assert len(catalogue._answers) <= MAX_ANSWERS


def test_there_may_be_no_store(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        StoreCatalogue(read_settings(home=tmp_path / "nowhere")).resolve(None)
