"""Compiling at first use: what is kept, what is made again, and how a machine that cannot says so."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from native import ISAS, checkpoint, compiled, config, random_weights
from needs import needs_torch

from llmos.drivers.cpu import compiler
from llmos.drivers.cpu.compiler import Compiled, Isa, compile_native, supported
from llmos.drivers.cpu.device import NativeDevice
from llmos.drivers.cpu.native import Native
from llmos.kernel.errno import InvalidArgument, NotSupported
from llmos.services.init import cpu
from llmos.services.init.settings import Settings, read_settings

needs_processor = pytest.mark.skipif(not ISAS, reason="this processor has none of the instruction sets")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources that compile in no time."""
    compiled()  # or skip: there is nothing to compile with
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "step.cpp").write_text('#include "value.hpp"\nextern "C" int value() { return VALUE; }\n')
    (folder / "value.hpp").write_text("#define VALUE 1\n")
    monkeypatch.setattr(compiler, "SOURCES", folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "a" / "cache"


def program(folder: Path, text: str, name: str = "g++") -> str:
    """A folder with a compiler that is this shell script."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return str(folder)


def test_a_second_time_is_not_compiled(sources: Path, cache: Path) -> None:
    first = compile_native(cache)
    again = compile_native(cache)
    assert (first.fresh, again.fresh, first.path) == (True, False, again.path)
    assert [file.name for file in cache.iterdir()] == [first.path.name]


def test_other_sources_flags_and_compilers_are_compiled_anew(sources: Path, cache: Path, tmp_path: Path) -> None:
    paths = [compile_native(cache).path]
    (sources / "value.hpp").write_text("#define VALUE 2\n")
    paths.append(compile_native(cache).path)
    paths.append(compile_native(cache, extra=("-g",)).path)
    (sources / "other.cpp").write_text('extern "C" int other() { return 3; }\n')
    paths.append(compile_native(cache, source="other.cpp").path)
    newer = program(tmp_path / "bin", f'[ "$1" = --version ] && echo newer || exec {compiler.shutil.which("g++")} "$@"')
    paths.append(compile_native(cache, path=newer).path)
    assert len(set(paths)) == 5
    assert all(path.is_file() for path in paths)


@pytest.mark.parametrize("damage", ["truncated", "empty", "one bit", "not even ELF", "a folder's worth less"])
def test_a_damaged_file_is_compiled_again(sources: Path, cache: Path, damage: str) -> None:
    made = compile_native(cache).path
    whole = made.read_bytes()
    made.unlink()
    made.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "one bit": whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
            "not even ELF": b"hello" * 1000,
            "a folder's worth less": whole[:-1],
        }[damage]
    )
    again = compile_native(cache)
    assert again == Compiled(made, again.isa, fresh=True)
    assert made.read_bytes() == whole


def test_what_does_not_load_is_refused_in_words(tmp_path: Path) -> None:
    bad = tmp_path / "bad.so"
    bad.write_bytes(b"hello")
    with pytest.raises(NotSupported, match=r"do not load.*delete .*bad\.so"):
        Native(bad)


@needs_processor
def test_no_compiler(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match=r"no C\+\+ compiler; install one"):
        compile_native(cache, path=str(tmp_path))


@needs_processor
def test_a_compiler_that_does_not_run(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="does not run"):
        compile_native(cache, path=program(tmp_path / "bin", "exit 3"))


@needs_processor
def test_a_compiler_that_fails_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    path = program(tmp_path / "bin", '[ "$1" = --version ] && exit 0\necho "step.cpp:1: error: disk is full" >&2; exit 1')
    with pytest.raises(NotSupported, match=r"could not compile the native functions.*disk is full"):
        compile_native(cache, path=path)
    assert list(cache.iterdir()) == []


@needs_processor
def test_a_compiler_that_never_ends(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "SECONDS", 0.2)
    with pytest.raises(NotSupported, match=r"took more than 0\.2 s"):
        compile_native(cache, path=program(tmp_path / "bin", '[ "$1" = --version ] && exit 0\nexec sleep 60'))
    assert list(cache.iterdir()) == []


def test_sources_that_do_not_compile(sources: Path, cache: Path) -> None:
    (sources / "step.cpp").write_text("int value( { }")
    with pytest.raises(NotSupported, match="could not compile"):
        compile_native(cache)


@pytest.mark.parametrize("what", ["a file", "in a file", "no permission"])
def test_a_cache_that_cannot_be_written(sources: Path, tmp_path: Path, what: str) -> None:
    place = tmp_path / "place"
    if what == "no permission":
        if os.geteuid() == 0:
            place = Path("/proc/llmos")  # root may write anywhere else
        else:
            place.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    else:
        place.write_text("")
        place = place / "cache" if what == "in a file" else place
    with pytest.raises(NotSupported, match="cannot be written"):
        compile_native(place)


def test_instruction_sets_of_processors() -> None:
    avx512 = "avx2 fma avx512f avx512bw avx512vl avx512dq"
    processors = {
        "sse4_2 avx": [],
        "avx2": [],
        "avx2 fma": ["avx2"],
        avx512: ["avx512", "avx2"],
        f"{avx512} avx512_bf16 amx_tile amx_int8": ["avx512", "avx2"],
        f"{avx512} avx512_bf16 amx_tile amx_int8 amx_bf16": ["amx", "avx512", "avx2"],
    }
    for flags, expected in processors.items():
        assert supported(frozenset(flags.split())) == expected


@pytest.mark.parametrize(("isa", "text"), [("amx", "no amx"), (None, "no AVX2")])
def test_an_instruction_set_that_is_not_there(isa: compiler.Isa | None, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "cpu_flags", lambda: frozenset(("avx2", "fma") if isa else ("sse2",)))
    with pytest.raises(NotSupported, match=text):
        compile_native(tmp_path, isa)


SCRIPT = """
import sys
from pathlib import Path
from llmos.drivers.cpu import compiler
compiler.SOURCES = Path(sys.argv[1])
made = compiler.compile_native(Path(sys.argv[2]))
import ctypes
assert ctypes.CDLL(str(made.path)).value() == 1
print(made.fresh)
"""


def test_processes_that_compile_at_once_each_load_a_whole_file(sources: Path, cache: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, str(sources), str(cache)]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert "True" in said
    assert len(list(cache.iterdir())) == 1


def settings(**given: object) -> Settings:
    return read_settings(device="cpu", device_memory=1 << 20, host_memory=1 << 20, threads=1, **given)


@needs_torch
def test_where_nothing_compiles_torch_runs_and_one_line_says_why(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from llmos.drivers.torch_cpu import TorchDevice

    def no_compiler(*_: object, **__: object) -> None:
        raise NotSupported("there is no C++ compiler; install one")

    monkeypatch.setattr(cpu, "compile_native", no_compiler)
    caplog.set_level(logging.INFO)
    shape = config()
    one = cpu.open_device("small", checkpoint(shape, random_weights(shape)), settings())
    assert isinstance(one, TorchDevice)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "small runs on torch" in record.getMessage()
    assert "install one" in record.getMessage()
    assert "\n" not in record.getMessage()
    one.close()


@needs_torch
def test_a_model_that_only_torch_can_run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from llmos.drivers.torch_cpu import TorchDevice

    monkeypatch.setattr(cpu, "compile_native", lambda *_: compiled())
    shape = config(head_width=24)
    one = cpu.open_device("narrow", checkpoint(shape, random_weights(shape)), settings())
    assert isinstance(one, TorchDevice)
    assert "heads are 24 wide" in caplog.text
    one.close()


def test_a_machine_that_can_compile_runs_natively(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cpu, "compile_native", lambda *_: compiled())
    shape = config()
    one = cpu.open_device("small", checkpoint(shape, random_weights(shape)), settings())
    assert isinstance(one, NativeDevice)
    page = shape.layers * 2 * shape.kv_heads * shape.head_width * 16 * 2
    assert one.geometry.page_bytes == page
    assert (one.geometry.device_frames, one.geometry.host_frames) == ((1 << 20) // page,) * 2
    assert not caplog.records
    one.close()


def test_pages_in_levels_are_nearly_twice_as_many(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cpu, "compile_native", lambda *_: compiled())
    shape = config(head_width=64)
    plain, levels = (cpu.open_device("small", checkpoint(shape, random_weights(shape)), settings(kv=kv)) for kv in ("bf16", "int8"))
    page = shape.layers * 2 * shape.kv_heads * 16 * (64 + 4)
    assert levels.geometry.page_bytes == page
    assert (levels.geometry.device_frames, levels.geometry.host_frames) == ((1 << 20) // page,) * 2
    assert levels.geometry.device_frames > 1.85 * plain.geometry.device_frames
    assert not caplog.records
    with pytest.raises(InvalidArgument, match="LLMOS_KV"):
        settings(kv="int4")
    for one in (plain, levels):
        one.close()


@needs_torch
def test_where_torch_runs_pages_are_plain_and_a_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    shape = config()
    plain, asked = (
        cpu.open_device("small", checkpoint(shape, random_weights(shape)), read_settings(device="torch", device_memory=1 << 20, kv=kv))
        for kv in (None, "int8")
    )
    (record,) = caplog.records
    assert "plain pages" in record.getMessage()
    assert asked.geometry.page_bytes == plain.geometry.page_bytes
    for one in (plain, asked):
        one.close()


def test_memory_below_one_page_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "compile_native", lambda *_: compiled())
    shape = config(head_width=256, heads=64, kv_heads=64)  # 2 MiB a page
    with pytest.raises(InvalidArgument, match=r"2097152 bytes, more than device_memory.*LLMOS_DEVICE_MEMORY"):
        cpu.open_device("wide", checkpoint(shape, {}), settings())


@pytest.mark.skipif(len(ISAS) < 2, reason="this processor has one instruction set only")
def test_what_cannot_use_the_best_instruction_set_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse_best(cache: Path, isa: Isa) -> Compiled:
        if isa == ISAS[0]:
            raise NotSupported("the system does not let this process use it")
        return compiled(isa)

    monkeypatch.setattr(cpu, "compile_native", refuse_best)
    assert cpu.native_functions(Path()).isa == ISAS[1]
    record = caplog.records[-1]  # before it, on a fresh machine, that they are being compiled
    assert record.getMessage().startswith(f"native functions use {ISAS[1]}, slower than {ISAS[0]}: the system does not let this process")
