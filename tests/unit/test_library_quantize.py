"""The same model in 8 bits: another tag of linked files, beside the one it was made from and independent of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from native import checkpoint, compiled, config as native_config, random_weights as native_weights
from needs import needs_torch
from tiny import config_json, random_weights, write_directory, write_gguf

from llmos.drivers.checkpoint import open_checkpoint
from llmos.drivers.config import config_from_hf
from llmos.drivers.cpu.device import NativeDevice
from llmos.drivers.examine import examine
from llmos.kernel.errno import AlreadyExists, BadFormat, IntegrityError, InvalidArgument, NotFound, NotPermitted, NotSupported
from llmos.services.init import cpu
from llmos.services.init.settings import Settings, read_settings
from llmos.services.init.store import StoreCatalogue
from llmos.services.library import Library, Manifest, store as store_module
from llmos.shell.store import stored_models


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home", examine, environ={}, pause=lambda _: None)


@pytest.fixture(params=["gguf", "directory"])
def model(request: pytest.FixtureRequest, library: Library, tmp_path: Path) -> Manifest:
    """In the store, and opened once, so that something is derived from it."""
    path = tmp_path / "tiny.gguf"
    if request.param == "gguf":
        config = config_from_hf(config_json())
        write_gguf(path, random_weights(config), config)
    else:
        path = tmp_path / "tiny"
        write_directory(path, shards=2)
    found = library.pull(str(path), name="mine")
    open_checkpoint(found.path, found.cache).digest  # noqa: B018
    (found.cache / ".lock").touch()
    return found


def contents(folder: Path) -> dict[str, int]:
    """Files and their inodes."""
    return {path.name: path.stat().st_ino for path in folder.iterdir() if not path.name.startswith(".")}


def test_another_tag_whose_files_take_no_room(library: Library, model: Manifest) -> None:
    made = library.quantize("mine", "int8")
    assert (made.name, made.tag, made.weights) == ("mine", "local-int8", "int8")
    assert (made.files, made.licence, made.source, made.created) == (model.files, model.licence, model.source, model.created)
    assert contents(made.directory / "files") == contents(model.directory / "files")
    assert contents(made.cache) == contents(model.cache) != {}
    assert not (made.cache / ".lock").exists()  # who holds the one knows nothing of the other
    assert library.find("mine:local-int8") == library.verify("mine:local-int8") == made
    assert library.find("mine") == library.find("mine:local") == model
    assert [each.tag for each in library.models()] == ["local", "local-int8"]
    assert list((library.root / ".incoming").iterdir()) == []
    assert open_checkpoint(made.path, made.cache).digest == open_checkpoint(model.path, model.cache).digest
    assert json.loads((made.directory / "manifest.json").read_text())["weights"] == "int8"
    assert "weights" not in json.loads((model.directory / "manifest.json").read_text())


def test_twice_is_once(library: Library, model: Manifest) -> None:
    made = library.quantize("mine", "int8")
    inode = made.directory.stat().st_ino
    assert library.quantize("mine:local", "int8") == made
    assert made.directory.stat().st_ino == inode
    assert len(library.models()) == 2


@pytest.mark.parametrize("first", ["mine", "mine:local-int8"])
def test_either_can_be_removed(library: Library, model: Manifest, first: str) -> None:
    made = library.quantize("mine", "int8")
    gone, left = (model, made) if first == "mine" else (made, model)
    assert library.remove(first) == gone
    assert library.models() == [left]
    assert library.find("mine") == library.verify("mine") == left  # there is no other that the name could mean
    open_checkpoint(left.path, left.cache).array("model.norm.weight")
    library.remove("mine")
    assert not model.directory.parent.exists()
    with pytest.raises(NotFound):
        library.find("mine:local")


def test_what_is_refused(library: Library, model: Manifest) -> None:
    library.quantize("mine", "int8")
    for to in ("", "int3", "INT8", "../x", "x" * 5000):
        with pytest.raises(InvalidArgument, match=r"can be held as bf16, int8, int4, w8a8 or w4a8, not '.{0,40}' "):
            library.quantize("mine", to)
    with pytest.raises(InvalidArgument, match=r"mine:local-int8 is int8 already; name the model it was made from"):
        library.quantize("mine:local-int8", "int8")
    with pytest.raises(NotFound, match="did you mean mine"):
        library.quantize("min", "int8")
    library.remove("mine:local")
    with pytest.raises(InvalidArgument, match="int8 already"):
        library.quantize("mine", "int8")


def test_a_tag_that_is_another_models(library: Library, model: Manifest, tmp_path: Path) -> None:
    place = model.directory.parent / "local-int8"
    place.mkdir()
    (place / "files").mkdir()
    text = json.loads((model.directory / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps(text | {"files": {}, "source": "elsewhere"}))
    with pytest.raises(AlreadyExists, match=r"from elsewhere; `llmos rm mine:local-int8`"):
        library.quantize("mine:local", "int8")
    library.remove("mine:local-int8")
    assert library.quantize("mine", "int8").weights == "int8"


def test_a_tag_that_is_too_long(library: Library, model: Manifest) -> None:
    model.directory.rename(model.directory.parent / ("x" * 95))
    with pytest.raises(InvalidArgument, match="cannot be the tag"):
        library.quantize("mine", "int8")
    assert len(library.models()) == 1


def test_what_an_interrupted_one_left_does_no_harm(library: Library, model: Manifest) -> None:
    staging = library.root / ".incoming/mine--local-int8/staging/files"
    staging.mkdir(parents=True)
    (staging / "half.gguf").write_bytes(b"x")
    (staging.parent / "manifest.json").write_text("{")
    assert [each.tag for each in library.models()] == ["local"]
    made = library.quantize("mine", "int8")
    assert contents(made.directory / "files") == contents(model.directory / "files")
    assert list((library.root / ".incoming").iterdir()) == []


def test_a_place_without_a_manifest_is_no_model(library: Library, model: Manifest) -> None:
    place = model.directory.parent / "local-int8"
    (place / "files").mkdir(parents=True)
    (place / "files/x").write_text("left")
    assert contents(library.quantize("mine", "int8").directory / "files") == contents(model.directory / "files")


def test_one_that_stops_in_the_middle_leaves_nothing(library: Library, model: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(error: BaseException) -> Callable[[Path, Path], None]:
        def link(source: Path, target: Path) -> None:
            raise error

        return link

    for error, seen in ((KeyboardInterrupt(), KeyboardInterrupt), (PermissionError(1, "Operation not permitted", "x"), NotPermitted)):
        monkeypatch.setattr(store_module.os, "link", broken(error))
        with pytest.raises(seen):
            library.quantize("mine", "int8")
        assert [each.tag for each in library.models()] == ["local"]
        assert list((library.root / ".incoming").iterdir()) == []
    monkeypatch.undo()
    assert library.quantize("mine", "int8").damage is None


def test_one_whose_files_are_damaged_is_mended_as_its_fault_says(library: Library, model: Manifest) -> None:
    made = library.quantize("mine", "int8")
    name = next(iter(made.files))
    with (made.directory / "files" / name).open("r+b") as file:
        file.truncate(10)  # both: it is one file
    with pytest.raises(IntegrityError) as raised:
        library.find("mine:local-int8")
    assert f"`llmos pull {model.source} --name mine && llmos quantize mine:local --to int8` mends it" in str(raised.value)
    library.pull(model.source, name="mine")
    assert library.quantize("mine:local", "int8").damage is None
    assert library.verify("mine:local-int8").weights == "int8"
    (made.directory / "files" / name).unlink()  # only here
    assert library.quantize("mine", "int8") == library.verify("mine:local-int8")


@pytest.mark.parametrize(("weights", "says"), [("int3", "'int3' weights, which this llmos does not know"), (["int8"], "is damaged")])
def test_weights_of_another_version(library: Library, model: Manifest, weights: object, says: str) -> None:
    made = library.quantize("mine", "int8")
    manifest = made.directory / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"weights": weights}))
    assert library.models() == [model]
    with pytest.raises(BadFormat, match=says) as raised:
        library.find("mine:local-int8")
    assert "`llmos rm mine:local-int8`" in str(raised.value)
    assert library.find("mine") == model
    library.remove("mine:local-int8")
    assert library.quantize("mine", "int8") == made


def test_a_manifest_from_before_there_were_weights(library: Library, model: Manifest) -> None:
    manifest = model.directory / "manifest.json"
    text = json.loads(manifest.read_text())
    assert "weights" not in text
    manifest.write_text(json.dumps(text | {"weights": ""}))
    assert library.find("mine") == model


# --- what is listed, and what runs


def rows(library: Library, default: str, *loaded: str) -> dict[str, list[str]]:
    found = stored_models(library.root.parent, default, set(loaded))
    assert [row["weights"] for row in found] == ["", "int8"]
    return {row["tag"]: [state for state in ("default", "loaded", "damaged") if row[state]] for row in found}


@pytest.mark.parametrize("model", ["gguf"], indirect=True)
def test_a_name_is_the_default_of_one_model(library: Library, model: Manifest) -> None:
    library.quantize("mine", "int8")
    assert rows(library, "mine") == {"local": ["default"], "local-int8": []}
    assert rows(library, "mine:local") == {"local": ["default"], "local-int8": []}
    assert rows(library, "mine:local-int8", "mine") == {"local": ["loaded"], "local-int8": ["default"]}
    assert rows(library, "nobody", "mine:local-int8", "dummy") == {"local": [], "local-int8": ["loaded"]}
    (model.directory / "files" / model.path.name).unlink()
    assert rows(library, "mine") == {"local": ["default", "damaged"], "local-int8": []}


def small(home: Path) -> Settings:
    return read_settings(home=home, device="cpu", device_memory=1 << 20, host_memory=1 << 20, threads=1)


@pytest.mark.parametrize("model", ["gguf"], indirect=True)
def test_its_name_runs_it_in_levels(library: Library, model: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "compile_native", lambda *_: compiled())
    library.quantize("mine", "int8")
    catalogue = StoreCatalogue(small(library.root.parent))
    assert catalogue.resolve("mine") == catalogue.resolve("mine:local") == "mine"
    assert catalogue.resolve("mine:local-int8") == "mine:local-int8"
    assert set(catalogue.sizes()) == {"mine", "mine:local-int8"}
    loaded = {name: catalogue.load(name) for name in ("mine", "mine:local-int8")}
    assert "int8" in loaded["mine:local-int8"].device.describe()
    assert "bf16" in loaded["mine"].device.describe()
    assert len({one.device.geometry.digest for one in loaded.values()}) == 2
    for one in loaded.values():
        assert one.text.decode(one.text.encode("quick fox")) == "quick fox"
        one.device.close()


@pytest.mark.parametrize("model", ["gguf"], indirect=True)
def test_a_tokenizer_that_cannot_be_read_closes_the_device(library: Library, model: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two are read side by side: neither's failure leaves the other behind."""

    def broken(*_: object) -> None:
        raise BadFormat("no tokenizer")

    closed: list[NativeDevice] = []
    close = NativeDevice.close
    monkeypatch.setattr(cpu, "compile_native", lambda *_: compiled())
    monkeypatch.setattr("llmos.services.init.store.load_text", broken)
    monkeypatch.setattr(NativeDevice, "close", lambda device: closed.append(device) or close(device))
    catalogue = StoreCatalogue(small(library.root.parent))
    with pytest.raises(BadFormat, match="no tokenizer"):
        catalogue.load(catalogue.resolve("mine"))
    assert len(closed) == 1


@needs_torch
def test_weights_that_cannot_be_had_are_said_to_be_plain(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from llmos.drivers.torch_cpu import TorchDevice

    def no_compiler(*_: object) -> None:
        raise NotSupported("there is no C++ compiler")

    monkeypatch.setattr(cpu, "compile_native", no_compiler)
    caplog.set_level(logging.INFO)
    shape = native_config()
    one = cpu.open_device("small:t-int8", checkpoint(shape, native_weights(shape)), small(Path("/nowhere")), "int8")
    assert isinstance(one, TorchDevice)
    one.close()
    first, second = (record.getMessage() for record in caplog.records)
    assert "no C++ compiler" in first
    assert second == "small:t-int8 runs with plain weights: only the native functions compute in int8"
