"""What is written down of an endpoint, where its key may be, and `llmos models add` and `llmos rm`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llmos.kernel.errno import AlreadyExists, BadFormat, Fault, InvalidArgument, NotFound, NotPermitted
from llmos.services.library.remote import MAX_KEY, MAX_PRICE, MAX_SLOTS, MAX_URL, MAX_WINDOW, Remote, Remotes
from llmos.shell.command import main

URL = "https://api.example.com/v1"


def test_what_was_added_is_found_again_and_can_be_removed(tmp_path: Path) -> None:
    remotes, remote = Remotes(tmp_path), Remote("big", URL, "big-2", 8, 1000, "BIG_KEY", price_in=0.15, price_out=0.6)
    remotes.add(remote)
    assert remotes.find("big") == remote
    assert remotes.all() == [remote]
    assert (tmp_path / "remotes" / "big.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(AlreadyExists):
        remotes.add(remote)
    remotes.remove("big")
    assert not remotes.has("big")
    for call in (remotes.find, remotes.remove):
        with pytest.raises(NotFound):
            call("big")


@pytest.mark.parametrize("name", ["", "../big", "a/b", ".big", "BIG", "a" * 97, "a\0", "big:tag"])
def test_a_name_is_a_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument):
        Remotes(tmp_path).add(Remote(name, URL, "m"))
    assert not Remotes(tmp_path).has(name)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1",
        "https://api.example.com:8443/a/b/",
        "http://127.0.0.1:8080/v1",
        "http://127.9.9.9",
        "http://[::1]:8080/v1",
        "http://localhost:11434/v1",
        "https://h/" + "a" * (MAX_URL - 10),
    ],
)
def test_urls_that_may_be(url: str) -> None:
    Remote("big", url, "m").check()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com",
        "ftp://api.example.com",
        "file:///etc/passwd",
        "https://",
        "https:///v1",
        "https://user:hunter2@api.example.com",
        "https://hunter2@api.example.com",
        "https://api.example.com/v1?key=hunter2",
        "https://api.example.com/v1#hunter2",
        "https://api.example.com/v1 x",
        "https://api.example.com\\@evil",
        "https://api.example.com/\r\nX: y",
        "https://[::1",
        "https://h:99999",
        "https://h:0",
        "https://exämple.com",
        "http://api.example.com/v1",
        "http://169.254.169.254/latest",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://10.0.0.1",
        "https://h/" + "a" * (MAX_URL - 9),
    ],
)
def test_urls_that_may_not_be(url: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        Remote("big", url, "m").check()
    assert "hunter2" not in str(raised.value)


def test_http_goes_elsewhere_only_if_somebody_says_so() -> None:
    Remote("big", "http://10.0.0.1/v1", "m", insecure=True).check()


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0}, {"slots": MAX_SLOTS + 1}, {"window": 0}, {"window": MAX_WINDOW + 1},
        {"price_in": -0.1}, {"price_in": MAX_PRICE * 2}, {"price_out": float("nan")}, {"price_out": float("inf")},
        {"model": ""}, {"model": "a" * 257}, {"model": "a\nb"},
        {"key_env": "sk-abc"}, {"key_env": "A" * 129}, {"key_env": "A", "key_file": "/k"}, {"key_file": "k"}, {"key_file": "/a\nb"},
    ],
)  # fmt: skip
def test_bounds(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument) as raised:
        Remote(**{"name": "big", "url": URL, "model": "m", **wrong}).check()  # type: ignore[arg-type]
    assert "sk-abc" not in str(raised.value)


@pytest.mark.parametrize(
    "right", [{"slots": 1}, {"slots": MAX_SLOTS}, {"window": 1}, {"window": MAX_WINDOW}, {"price_in": MAX_PRICE}, {"model": "a" * 256}]
)
def test_at_the_bounds(right: dict[str, object]) -> None:
    Remote(**{"name": "big", "url": URL, "model": "m", **right}).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        "{",
        "[" * 100_000,
        "{}",
        '{"url": "https://h", "model": 7}',
        '{"url": "https://h", "model": "m", "slots": true}',
        '{"url": "https://h", "model": "m", "slots": 0}',
        '{"url": "https://h", "model": "m", "name": "other"}',
        '{"url": "https://h", "model": "m", "unknown": 1}',
        '{"url": "http://elsewhere", "model": "m"}',
    ],
)
def test_a_file_that_is_no_remote_model(tmp_path: Path, text: str) -> None:
    remotes = Remotes(tmp_path)
    remotes.root.mkdir()
    (remotes.root / "big.json").write_text(text)
    with pytest.raises(BadFormat, match="llmos rm big"):
        remotes.find("big")
    assert remotes.all() == []
    remotes.remove("big")


# --- keys


def filed(tmp_path: Path, data: bytes, mode: int = 0o600) -> Remote:
    path = tmp_path / "key"
    path.write_bytes(data)
    path.chmod(mode)
    return Remote("big", URL, "m", key_file=str(path))


def test_a_key_comes_from_a_variable_or_a_file_or_is_not_needed(tmp_path: Path) -> None:
    assert Remote("big", URL, "m", key_env="K").key({"K": " sk-1 "}) == "sk-1"
    assert filed(tmp_path, b"sk-2\n").key({}) == "sk-2"
    assert filed(tmp_path, b"sk-2\n", 0o400).key({}) == "sk-2"
    assert filed(tmp_path, b"k" * MAX_KEY).key({}) == "k" * MAX_KEY
    assert Remote("big", URL, "m").key({}) == ""


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o644])
def test_a_key_that_others_may_read_or_change_is_not_used(tmp_path: Path, mode: int) -> None:
    with pytest.raises(NotPermitted, match="chmod 600"):
        filed(tmp_path, b"sk-2", mode).key({})


@pytest.mark.parametrize("data", [b"", b"\n", b"sk 2", b"sk\nX-Evil: 1", b"sk\0", b"sk\xff", "skü".encode(), b"k" * (MAX_KEY + 1)])
def test_what_is_no_key_is_not_said(tmp_path: Path, data: bytes) -> None:
    for remote, environ in ((filed(tmp_path, data), {}), (Remote("big", URL, "m", key_env="K"), {"K": data.decode(errors="replace")})):
        with pytest.raises(Fault) as raised:
            remote.key(environ)
        assert "sk" not in str(raised.value)


def test_a_key_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="variable K"):
        Remote("big", URL, "m", key_env="K").key({})
    with pytest.raises(NotFound):
        Remote("big", URL, "m", key_file=str(tmp_path / "none")).key({})
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("pipe", "."):
        with pytest.raises((NotPermitted, NotFound)):
            Remote("big", URL, "m", key_file=str(tmp_path / name)).key({})


# --- the command


def llmos(home: Path, *words: str) -> int:
    return main([*words, "--home", str(home)])


def test_models_are_added_listed_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIG_KEY", "sk-secret")
    words = ["models", "add", "big", "--url", URL, "--model", "big-2", "--slots", "8", "--key-env", "BIG_KEY", "--price-in", "0.15"]
    assert llmos(tmp_path, *words) == 0
    assert llmos(tmp_path, "models") == 0
    listed = capsys.readouterr().out
    assert listed.splitlines()[-1].split() == ["big", "remote", URL]
    assert llmos(tmp_path, "models", "--json") == 0
    said = capsys.readouterr().out
    (row,) = json.loads(said)
    assert {key: row[key] for key in ("name", "kind", "source", "model", "slots", "key", "price_in", "price_out", "window")} == {
        "name": "big", "kind": "remote", "source": URL, "model": "big-2", "slots": 8, "key": "variable BIG_KEY", "price_in": 0.15,
        "price_out": 0.0, "window": 131072,
    }  # fmt: skip
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"sk-secret" not in kept + said.encode() + listed.encode()
    assert llmos(tmp_path, "rm", "big") == 0
    assert llmos(tmp_path, "rm", "big") == 1


def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert llmos(tmp_path, "models", "add", "big", "--url", "http://elsewhere.example/v1") == 2
    assert "use https, or --insecure" in capsys.readouterr().err
    assert llmos(tmp_path, "models", "add", "big", "--url", "http://elsewhere.example/v1", "--insecure") == 0
    assert llmos(tmp_path, "models", "add", "big", "--url", URL) == 1
    assert "llmos rm big" in capsys.readouterr().err


def test_a_local_model_and_a_remote_one_do_not_share_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models" / "tiny" / "latest").mkdir(parents=True)
    assert llmos(tmp_path, "models", "add", "tiny", "--url", URL) == 1
    assert llmos(tmp_path, "models", "add", "smollm2", "--url", URL) == 0
    assert llmos(tmp_path, "pull", "smollm2") == 1
    assert "is a remote model" in capsys.readouterr().err
