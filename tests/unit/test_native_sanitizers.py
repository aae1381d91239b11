"""The native driver under the compiler's sanitizers: no access outside of what is its own, nothing undefined, no race."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from native import CACHE, ISAS, compiled

from llmos.drivers.cpu.compiler import SOURCES, Isa, compile_native
from llmos.kernel.errno import NotSupported

SANITIZED = Path(__file__).parents[1] / "support" / "sanitized.py"
FLAGS = ("-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

POOL = """
#include <chrono>
#include <cstdio>
#include "pool.hpp"
int main() {
    std::vector<long> sums(64);
    for (int round = 0; round < 150; round++) {
        llmos::Pool pool(1 + round % 4);
        for (int loop = 0; loop < 30; loop++) {
            const int chunks = (loop * 7 + round) % 64;
            long seen = 0;
            pool.run(chunks, [&](int chunk) { sums[chunk] += chunk + loop; });
            for (int chunk = 0; chunk < chunks; chunk++) seen += sums[chunk], sums[chunk] = 0;
            if (seen != chunks * (chunks - 1) / 2 + chunks * loop) return std::printf("loop %d of %d: %ld\\n", loop, chunks, seen), 1;
            const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(loop % 10 ? 0 : round * 2);
            while (std::chrono::steady_clock::now() < until) {}
        }
    }
    std::printf("done\\n");
}
"""


def built(isa: Isa) -> Path:
    """functions.cpp with the sanitizers, kept like any other. Skips where the compiler has none."""
    compiled(isa)
    try:
        return compile_native(CACHE, isa, source="functions.cpp", extra=FLAGS).path
    except NotSupported as error:
        if "asan" in str(error) or "ubsan" in str(error):
            pytest.skip(f"the compiler has no sanitizers: {error}")
        raise


def ran(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa != "avx512"])
def test_every_access_is_its_own(isa: Isa) -> None:
    """AVX2's loads are all seen; AMX's tiles are not, but what is around them differs most. Together they are everything."""
    library = built(isa)
    runtime = ran(["g++", "-print-file-name=libasan.so"]).stdout.strip()
    done = ran(
        [sys.executable, str(SANITIZED), str(library), isa],
        LD_PRELOAD=runtime,
        PYTHONPATH=os.pathsep.join([str(SANITIZED.parent), *sys.path]),
        ASAN_OPTIONS="detect_leaks=0:abort_on_error=0:detect_stack_use_after_return=1",
        PYTHONMALLOC="malloc",
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "done\n"


def test_threads_do_not_race(tmp_path: Path) -> None:
    """Loops one after the other, pools that end at any moment after: no data race, no loop that lacks a chunk, no hang."""
    compiled()
    source = tmp_path / "main.cpp"
    source.write_text(POOL)
    compiler = shutil.which("g++") or "c++"
    flags = ["-std=c++20", "-O1", "-g1", "-march=x86-64-v2", "-pthread", "-fsanitize=thread", f"-I{SOURCES}"]
    done = ran([compiler, *flags, str(source), "-o", str(tmp_path / "main")])
    if "tsan" in done.stderr:
        pytest.skip(done.stderr[-200:])
    assert done.returncode == 0, done.stderr
    done = ran([str(tmp_path / "main")], TSAN_OPTIONS="halt_on_error=1")
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this kernel lays memory out in a way that the sanitizer does not know")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-3000:]
