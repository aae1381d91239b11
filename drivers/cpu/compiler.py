"""The compiled native functions of this machine: made by its own compiler at first use, then kept.

Owns the cache: one shared object for each hash of sources, flags, compiler and processor, put in place whole, so that
processes that start together may each compile but none loads half a file. Each ends in the SHA-256 of what comes before
(a loader does not look there): mapping a damaged one can kill the process, so it is compiled again. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmos.kernel.errno import NotSupported

Isa = Literal["amx", "avx512", "avx2"]

SOURCES = Path(__file__).parent
SECONDS = 300
DIGEST = hashlib.sha256().digest_size
COMPILERS = ("g++", "c++", "clang++")
# No contraction: a * b + c must round alike wherever the compiler meets it, or a row would depend on its batch.
FLAGS = ("-O3", "-std=c++20", "-shared", "-fPIC", "-pthread", "-ffp-contract=off", "-fno-math-errno", "-w")

_NEEDS: dict[Isa, frozenset[str]] = {
    "amx": frozenset(("amx_tile", "amx_bf16", "amx_int8", "avx512f", "avx512bw", "avx512vl", "avx512_bf16")),
    "avx512": frozenset(("avx512f", "avx512bw", "avx512vl", "avx512dq")),
    "avx2": frozenset(("avx2", "fma")),
}
_FLAGS: dict[Isa, tuple[str, ...]] = {
    "amx": ("-march=native", "-mamx-tile", "-mamx-bf16", "-mamx-int8", "-DLLMOS_AMX"),
    "avx512": ("-march=native",),
    "avx2": ("-march=x86-64-v3",),
}


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A shared object, and what it was compiled for."""

    path: Path
    isa: Isa
    fresh: bool
    """It was compiled just now."""


def supported(flags: frozenset[str]) -> list[Isa]:
    """The instruction sets that a processor with these flags (as /proc/cpuinfo names them) has, best first."""
    return [isa for isa, needs in _NEEDS.items() if needs <= flags]


def cpu_flags() -> frozenset[str]:
    """What this processor can do; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def compile_native(
    cache: Path, isa: Isa | None = None, *, source: str = "step.cpp", path: str | None = None, extra: tuple[str, ...] = ()
) -> Compiled:
    """The native functions for `isa` (None: the best this processor has), compiled if the cache does not have them.

    `source`: what to compile, beside this file or a path of its own. `path`: where compilers are looked for (None: the PATH). Raises
    NotSupported, and says what is missing.
    """
    flags = cpu_flags()
    have = supported(flags)
    if not have or (isa is not None and isa not in have):
        raise NotSupported(f"this processor has no {isa or 'AVX2 with FMA'}")
    isa = isa or have[0]
    compiler = next((found for name in COMPILERS if (found := shutil.which(name, path=path))), None)
    if compiler is None:
        raise NotSupported("there is no C++ compiler; install one (Debian: apt install g++, Fedora: dnf install gcc-c++)")
    command = [compiler, *FLAGS, *_FLAGS[isa], *extra]
    sources = sorted({file for file in SOURCES.iterdir() if file.suffix in (".hpp", ".cpp")} | {SOURCES / source})
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, timeout=SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise NotSupported(f"{compiler} does not run ({str(error)[:200]})") from None
    key = hashlib.sha256(repr((command, source, version, sorted(flags))).encode())
    for file in sources:
        key.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    target = cache / f"llmos-{isa}-{key.hexdigest()[:32]}.so"
    if _whole(target):
        return Compiled(target, isa, fresh=False)
    log.warning("compiling the native functions for this processor (%s): some 10 seconds, once", isa)
    _compile([*command, str(SOURCES / source)], target)
    return Compiled(target, isa, fresh=True)


def _whole(target: Path) -> bool:
    """Whether this file is there, readable, and as it was written."""
    try:
        data = target.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(data[:-DIGEST]).digest() == data[-DIGEST:]


def _compile(command: list[str], target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=".part")
        os.close(handle)
    except OSError as error:
        raise NotSupported(f"{target.parent} cannot be written ({error.strerror}), so compiled functions cannot be kept") from None
    partial = Path(name)
    try:
        done = subprocess.run([*command, "-o", name], capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode:
            wrong = next((line for line in done.stderr.splitlines() if "error" in line), "it says nothing")
            raise NotSupported(f"{command[0]} could not compile the native functions: {wrong.strip()[:200]}")
        with partial.open("rb+") as file:
            file.write(hashlib.sha256(file.read()).digest())
        partial.replace(target)
    except subprocess.TimeoutExpired:
        raise NotSupported(f"{command[0]} took more than {SECONDS} s to compile the native functions") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise NotSupported(f"{command[0]} could not compile the native functions ({str(error)[:200]})") from None
    finally:
        partial.unlink(missing_ok=True)
