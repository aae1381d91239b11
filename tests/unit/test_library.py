"""The store of models: what is in it is whole, what comes from this machine is checked, and names lead where they should."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import config_json, random_weights, write_directory, write_gguf

from llmos.drivers.checkpoint import open_checkpoint
from llmos.drivers.config import config_from_hf
from llmos.drivers.examine import examine
from llmos.kernel.errno import AlreadyExists, BadFormat, IntegrityError, InvalidArgument, NoSpace, NotFound, NotPermitted, NotSupported
from llmos.services.library import Library
from llmos.services.library.catalogue import CATALOGUE, DEFAULT
from llmos.services.library.index import DEFAULT as PUBLIC_INDEX, index_of_pip
from llmos.services.library.manifest import checked_name, is_name, name_from


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home", examine, environ={}, pause=lambda _: None)


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "Tiny Model.Q8.gguf"
    config = config_from_hf(config_json())
    write_gguf(path, random_weights(config), config)
    return path


def tree(root: Path) -> list[str]:
    """Everything there but the locks, which stay."""
    return sorted(name for path in root.rglob("*") if not (name := str(path.relative_to(root))).startswith(".locks"))


def test_a_gguf_file_comes_in(library: Library, gguf_file: Path) -> None:
    steps: list[tuple[str, int, int | None]] = []
    model = library.pull(str(gguf_file), lambda *step: steps.append(step))
    size = gguf_file.stat().st_size
    assert (model.name, model.tag, model.size, model.source) == ("tiny-model.q8", "local", size, str(gguf_file))
    assert model.files[gguf_file.name].sha256 == hashlib.sha256(gguf_file.read_bytes()).hexdigest()
    assert (f"copying {gguf_file.name}", size, size) in steps
    assert model.path.read_bytes() == gguf_file.read_bytes()
    assert not model.path.is_symlink()
    assert open_checkpoint(model.path, model.cache).config == open_checkpoint(gguf_file).config
    assert library.find("tiny-model.q8") == library.find("tiny-model.q8:local") == library.models()[0] == model
    assert tree(library.root / ".incoming") == []
    assert library.verify(model.name) == model


def test_pulling_again_changes_nothing(library: Library, gguf_file: Path) -> None:
    first = library.pull(str(gguf_file))
    stamp = first.path.stat().st_mtime_ns
    assert library.pull(str(gguf_file), lambda *_: pytest.fail("pulled again")) == first
    assert first.path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("shards", [1, 3])
def test_a_directory_comes_in_without_what_is_not_used(shards: int, library: Library, tmp_path: Path) -> None:
    source = tmp_path / "My-Model"
    write_directory(source, shards=shards)
    for name in ("pytorch_model.bin", "modeling_x.py", "README.md", "model.onnx", "consolidated.safetensors", "training_args.bin"):
        (source / name).write_bytes(b"not wanted")
    (source / "LICENSE").write_text("MIT")
    (source / "original").mkdir()
    model = library.pull(str(source))
    assert model.name == "my-model"
    weights = ["model.safetensors"] if shards == 1 else [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = [] if shards == 1 else ["model.safetensors.index.json"]
    assert sorted(model.files) == sorted(["LICENSE", "config.json", *weights, *index, "tokenizer.json", "tokenizer_config.json"])
    assert sorted(model.files) == sorted(os.listdir(model.path))
    assert open_checkpoint(model.path, model.cache).digest == open_checkpoint(source).digest


def test_a_directory_of_links_as_the_hubs_cache_has_them(library: Library, tmp_path: Path) -> None:
    write_directory(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    model = library.pull(str(tmp_path / "snapshot"))
    shutil.rmtree(tmp_path / "blobs")
    assert library.verify("snapshot") == model


def test_a_directory_that_holds_one_gguf_file(library: Library, gguf_file: Path) -> None:
    assert library.pull(str(gguf_file.parent)).path.name == gguf_file.name


def test_a_name_of_ones_own(library: Library, gguf_file: Path) -> None:
    assert library.pull(str(gguf_file), name="mine").name == "mine"
    for name in ("../x", "", "a/b", "A", ".hidden", "x" * 97, "a\nb", "é"):
        with pytest.raises(InvalidArgument, match=r"name|\.\."):
            library.pull(str(gguf_file), name=name or " ")
    assert library.pull(str(gguf_file), name="x" * 96).name == "x" * 96


def test_two_sources_cannot_have_one_name(library: Library, gguf_file: Path, tmp_path: Path) -> None:
    first = library.pull(str(gguf_file))
    other = tmp_path / gguf_file.name
    other.write_bytes(gguf_file.read_bytes())
    with pytest.raises(AlreadyExists, match="llmos rm"):
        library.pull(str(other))
    assert library.pull(str(other), name="other").name == "other"
    assert [model.name for model in library.models()] == ["other", first.name]


def test_the_licence_is_what_the_file_states(library: Library, tmp_path: Path) -> None:
    import tiny

    config = config_from_hf(config_json())
    metadata = tiny.gguf_metadata(tiny.byte_level(), "smollm") | {"general.license": "mit"}
    write_gguf(tmp_path / "m.gguf", random_weights(config), config, metadata=metadata)
    assert library.pull(str(tmp_path / "m.gguf")).licence == "mit"


def test_removing(library: Library, gguf_file: Path) -> None:
    model = library.pull(str(gguf_file))
    library.pull(str(gguf_file), name="other")
    mapped = open_checkpoint(model.path, model.cache)
    assert library.remove(model.name) == model
    assert [left.name for left in library.models()] == ["other"]
    assert tree(library.root / ".incoming") == []
    assert not model.directory.parent.exists()
    assert mapped.array("model.norm.weight").shape == (64,)  # who runs it goes on
    with pytest.raises(NotFound):
        library.remove(model.name)
    assert library.pull(str(gguf_file)).files == model.files


def test_names_that_lead_nowhere(library: Library, gguf_file: Path) -> None:
    library.pull(str(gguf_file), name="tinyllama")
    with pytest.raises(NotFound, match=r"did you mean tinyllama\?.*llmos pull"):
        library.find("tinylama")
    with pytest.raises(NotFound, match=r"did you mean smollm2\?"):
        library.find("smollm")
    with pytest.raises(NotFound, match="did you mean smollm2"):
        library.pull("smolm2")
    for name in ("", "tinyllama:nope", "../tinyllama", "..", "a/../tinyllama:local", "tinyllama:../local", "\0", "x" * 10_000):
        with pytest.raises(NotFound):
            library.find(name)
        with pytest.raises(NotFound):
            library.remove(name)


@pytest.mark.parametrize("reference", ["", " ", "\0", "a\0b", "x/" * 5000, "x" * 5000 + ".gguf", "~nobody-has-this-name/x"])
def test_references_that_are_none(reference: str, library: Library) -> None:
    with pytest.raises(InvalidArgument, match=r"which model|no path"):
        library.pull(reference)
    assert not library.root.exists()


@pytest.mark.parametrize(
    "reference", ["hf:", "hf:x", "hf:a/b/c", "hf:a/b@", "hf:../x", "hf:a/../b.gguf", "hf:a/b@../c", "hf:a/b/x.bin", "hf:a b/c", "hf:é/x"]
)
def test_hub_references_that_are_none(reference: str, library: Library) -> None:
    with pytest.raises(InvalidArgument, match="hf:OWNER/REPO"):
        library.pull(reference)
    assert not library.root.exists()


def test_the_newest_of_several_tags_is_found(library: Library, gguf_file: Path) -> None:
    old = library.pull(str(gguf_file))
    shutil.copytree(old.directory, old.directory.parent / "newer")
    manifest = old.directory.parent / "newer/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"created": "2999-01-01T00:00:00+00:00"}))
    assert library.find(old.name).tag == "newer"
    assert library.find(f"{old.name}:local") == old


# --- damage


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": []}', '{"files": {"a": {"size": "x"}}}'])
def test_a_damaged_manifest(content: str, library: Library, gguf_file: Path) -> None:
    model = library.pull(str(gguf_file))
    (model.directory / "manifest.json").write_text(content)
    assert library.models() == []
    for name in (model.name, f"{model.name}:local"):
        with pytest.raises(BadFormat, match="llmos rm"):
            library.find(name)
    library.remove(model.name)
    assert library.pull(str(gguf_file)).files == model.files


def test_a_place_without_a_manifest_is_no_model(library: Library, gguf_file: Path) -> None:
    model = library.pull(str(gguf_file))
    (model.directory / "manifest.json").unlink()
    assert library.models() == []
    with pytest.raises(NotFound):
        library.find(model.name)
    assert library.pull(str(gguf_file)).files == model.files


def test_files_that_changed_are_noticed(library: Library, gguf_file: Path) -> None:
    model = library.pull(str(gguf_file))
    content = bytearray(model.path.read_bytes())
    content[-1] ^= 1
    model.path.write_bytes(content)
    with pytest.raises(IntegrityError, match="has changed"):
        library.verify(model.name)
    model.path.unlink()
    with pytest.raises(IntegrityError, match="has changed"):
        library.verify(model.name)


# --- what is refused, and that nothing is left of it


def refused(library: Library, path: Path, fault: type[Exception], words: str) -> None:
    with pytest.raises(fault, match=words):
        library.pull(str(path))
    assert library.models() == []
    assert [name for name in tree(library.root) if name != ".incoming"] == []


def test_what_is_not_a_model(library: Library, tmp_path: Path) -> None:
    refused(library, tmp_path / "nowhere.gguf", NotFound, "does not exist")
    (tmp_path / "empty").mkdir()
    refused(library, tmp_path / "empty", BadFormat, r"config\.json")
    for name in ("m.bin", "m.pt", "m.pth", "m.ckpt", "m.pkl"):
        (tmp_path / name).write_bytes(b"\x80\x04")
        refused(library, tmp_path / name, NotSupported, "pickled")
    (tmp_path / "notes.txt").write_text("hello")
    refused(library, tmp_path / "notes.txt", BadFormat, "not a GGUF file")
    (tmp_path / "m.gguf").write_text("hello")
    refused(library, tmp_path / "m.gguf", BadFormat, "GGUF")
    (tmp_path / "folder.gguf").mkdir()
    refused(library, tmp_path / "folder.gguf", BadFormat, r"config\.json")
    os.mkfifo(tmp_path / "pipe.gguf")
    refused(library, tmp_path / "pipe.gguf", InvalidArgument, "regular")


def test_a_truncated_gguf_file(library: Library, gguf_file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(gguf_file.read_bytes()[:-1])
    refused(library, tmp_path / "cut.gguf", BadFormat, "cut short")


def test_several_gguf_files(library: Library, gguf_file: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "both").mkdir(exist_ok=True)
        (tmp_path / "both" / name).write_bytes(gguf_file.read_bytes())
    refused(library, tmp_path / "both", BadFormat, "2 GGUF files")


def test_directories_that_cannot_run(library: Library, tmp_path: Path) -> None:
    source = tmp_path / "m"
    write_directory(source)
    (source / "config.json").write_text(json.dumps(config_json(auto_map={"AutoModel": "m.M"})))
    refused(library, source, NotSupported, "auto_map")
    (source / "config.json").write_text(json.dumps(config_json("gpt2")))
    refused(library, source, NotSupported, "llama, mistral, qwen2, qwen3")
    (source / "config.json").write_text(json.dumps(config_json()))
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    refused(library, source, NotSupported, "pickled")
    (source / "pytorch_model.bin").unlink()
    refused(library, source, NotSupported, r"model\.safetensors")
    write_directory(source)
    weights = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(weights[:-1])
    refused(library, source, BadFormat, r"model\.safetensors")
    write_directory(source)
    (source / "tokenizer.json").unlink()
    refused(library, source, NotSupported, r"tokenizer\.json")
    write_directory(source, template="{% for x in")
    refused(library, source, BadFormat, "chat template")
    write_directory(source, vocab_size=419)
    refused(library, source, BadFormat, "two models")


@pytest.mark.parametrize("shard", ["../../secret.safetensors", "missing.safetensors", "/etc/passwd"])
def test_shards_elsewhere(shard: str, library: Library, tmp_path: Path) -> None:
    write_directory(tmp_path / "m", shards=2)
    (tmp_path.parent / "secret.safetensors").write_bytes(b"secret")
    index = tmp_path / "m/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    refused(library, tmp_path / "m", BadFormat, "index")


@contextmanager
def largest_file(nbytes: int) -> Iterator[None]:
    """Writing beyond this fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_becomes_full(library: Library, gguf_file: Path) -> None:
    with largest_file(gguf_file.stat().st_size // 2), pytest.raises(NoSpace, match="free some space"):
        library.pull(str(gguf_file))
    assert library.models() == []
    assert tree(library.root) == [".incoming"]
    library.pull(str(gguf_file))


def test_a_disk_that_is_too_small(library: Library, gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 5 << 20))
    refused(library, gguf_file, NoSpace, "5 MiB left")


def test_interrupted_copies_leave_nothing(library: Library, gguf_file: Path) -> None:
    def interrupt(what: str, done: int, total: int | None) -> None:
        if what.startswith("copying"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.pull(str(gguf_file), interrupt)
    assert tree(library.root) == [".incoming"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_that_cannot_be_written(tmp_path: Path, gguf_file: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o500)
    with pytest.raises(NotPermitted, match="LLMOS_HOME"):
        Library(tmp_path / "home", examine, environ={}).pull(str(gguf_file))


def test_a_home_that_is_a_file(tmp_path: Path, gguf_file: Path) -> None:
    (tmp_path / "home").write_text("x")
    with pytest.raises(NotPermitted, match="LLMOS_HOME"):
        Library(tmp_path / "home", examine, environ={}).pull(str(gguf_file))


def test_an_empty_home_is_no_error(library: Library) -> None:
    assert library.models() == []
    assert Library.default == DEFAULT == CATALOGUE[0].name


def test_leftovers_of_long_ago_are_cleaned_up(library: Library, gguf_file: Path) -> None:
    for name, age in (("old--local", 15), ("new--local", 13)):
        folder = library.root / ".incoming" / name
        (folder / "parts").mkdir(parents=True)
        (folder / "parts/x.part").write_bytes(b"x")
        then = folder.stat().st_mtime - age * 24 * 3600
        os.utime(folder, (then, then))
    (library.root / ".incoming/.removed-1-1").mkdir()
    library.pull(str(gguf_file))
    assert tree(library.root / ".incoming") == ["new--local", "new--local/parts", "new--local/parts/x.part"]


# --- names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("SmolLM2-135M", "smollm2-135m"),
        ("a b/c", "a-b-c"),
        ("..", "model"),
        ("", "model"),
        ("_x_", "x"),
        ("é", "model"),
        ("A" * 200, "a" * 96),
    ],
)
def test_names_from_texts(text: str, name: str) -> None:
    assert name_from(text) == checked_name(name) == name
    assert is_name(name)


# --- pip's settings


def test_pip_settings_are_read_as_pip_reads_them(tmp_path: Path) -> None:
    home, prefix = tmp_path / "home", tmp_path / "venv"
    none = {"PIP_CONFIG_FILE": "/dev/null"}
    assert index_of_pip(none, home, prefix).urls == (PUBLIC_INDEX,)
    (home / ".config/pip").mkdir(parents=True)
    prefix.mkdir()
    (home / ".config/pip/pip.conf").write_text(
        "[global]\nindex-url = http://user/simple\ncert = /user.pem\n[install]\nextra-index-url = http://a\n  http://b\n"
    )
    assert index_of_pip({}, home, prefix).urls[0] == "http://user/simple"
    assert index_of_pip({}, home, prefix).urls[1:] == ("http://a", "http://b")
    (prefix / "pip.conf").write_text("[global]\nindex_url = http://venv/simple\n")
    found = index_of_pip({}, home, prefix)
    assert found.urls[0] == "http://venv/simple"
    assert found.certificates == "/user.pem"
    (tmp_path / "chosen").write_text("[global]\nindex-url = http://chosen\nproxy = http://p:1\n")
    assert index_of_pip({"PIP_CONFIG_FILE": str(tmp_path / "chosen")}, home, prefix).urls[0] == "http://chosen"
    assert index_of_pip({"PIP_CONFIG_FILE": str(tmp_path / "chosen")}, home, prefix).proxy == "http://p:1"
    environ = {"PIP_INDEX_URL": "http://env", "PIP_EXTRA_INDEX_URL": "", "PIP_CERT": "/env.pem"}
    assert index_of_pip(environ, home, prefix).urls[0] == "http://env"
    assert index_of_pip(environ, home, prefix).certificates == "/env.pem"
    (prefix / "pip.conf").write_bytes(b"\xff\xfe garbage [")
    assert index_of_pip({}, home, prefix).urls[0] == "http://user/simple"
    (tmp_path / "xdg/pip").mkdir(parents=True)
    (tmp_path / "xdg/pip/pip.conf").write_text("[download]\nindex-url = http://xdg\n")
    assert index_of_pip({"XDG_CONFIG_HOME": str(tmp_path / "xdg")}, home, prefix).urls[0] == "http://xdg"
