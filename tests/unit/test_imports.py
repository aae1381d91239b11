"""Imports point down, the kernel knows no library, and `import llmos` is light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import llmos

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "kernel": (),
    "drivers": ("llmos.kernel",),
    "syscalls": ("llmos.kernel",),
    "sdk": ("llmos.syscalls.abi", "llmos.syscalls.wire", "llmos.syscalls.schema", "llmos.syscalls.peer", "llmos.kernel.errno"),
    "services": ("llmos.sdk", "llmos.kernel.errno", "llmos.syscalls.abi"),
    "services/init": ("llmos.sdk", "llmos.kernel", "llmos.drivers", "llmos.syscalls", "llmos.services"),
    "shell": ("llmos.sdk", "llmos.services"),
}
"""Folder -> what it may import of the others; the folder itself, and in the shell the public names of `llmos`, always."""


def imports(path: Path) -> Iterator[tuple[int, str, int]]:
    """Line, dotted name, and level (leading dots) of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, 0
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, ".".join(filter(None, (node.module, alias.name))), node.level


def python_files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, f"{folder}/ has no code: is the test looking in the right place?"
    return found


def test_the_kernel_imports_only_the_standard_library() -> None:
    for path in python_files("kernel"):
        for line, name, level in imports(path):
            where = f"{path.relative_to(ROOT)}:{line} imports {'.' * level}{name}"
            if level:
                assert level <= len(path.relative_to(ROOT / "kernel").parts), f"{where}, which is outside the kernel"
            else:
                assert name.partition(".")[0] in sys.stdlib_module_names, where


def folder_of(path: Path) -> str:
    """The most particular key of ALLOWED that a file lies in."""
    relative = path.relative_to(ROOT).as_posix()
    return max((folder for folder in ALLOWED if relative.startswith(folder + "/")), key=len)


@pytest.mark.parametrize("root", sorted({folder.partition("/")[0] for folder in ALLOWED}))
def test_imports_point_down(root: str) -> None:
    for path in python_files(root):
        folder = folder_of(path)
        for line, name, level in imports(path):
            if level or not (name == "llmos" or name.startswith("llmos.")):
                continue
            if root == "shell" and name.count(".") <= 1 and not (ROOT / name.rpartition(".")[2]).is_dir():
                continue  # a public name: from llmos import System
            own = f"llmos.{root}"
            fine = any(name == allowed or name.startswith(allowed + ".") for allowed in (own, *ALLOWED[folder]))
            assert fine, f"{path.relative_to(ROOT)}:{line} imports {name}; {folder}/ may import {', '.join(ALLOWED[folder]) or 'no other'}"


def run(code: str) -> str:
    """What a new interpreter prints that finds the same llmos as this one."""
    place = Path(llmos.__file__).parent.parent
    path = os.pathsep.join(filter(None, (str(place), os.environ.get("PYTHONPATH"))))
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_llmos_loads_nothing_heavy() -> None:
    loaded = set(run("import llmos, sys; print(*sys.modules)").split())
    assert "llmos" in loaded
    assert not loaded & {"torch", "transformers", "triton", "numpy", "tokenizers", "huggingface_hub", "gguf"}


def test_a_client_of_a_daemon_is_thin() -> None:
    loaded = set(run("import llmos, sys; llmos.connect; print(*sys.modules)").split())
    assert "llmos.sdk.link" in loaded
    assert not loaded & {
        "mcp",
        "jsonschema",
        "torch",
        "transformers",
        "numpy",
        "tokenizers",
        "pydantic",
        "pydantic_settings",
        "rich",
        "llmos.kernel.kernel",
    }


def test_all_names_what_is_exported() -> None:
    """Every name of __all__ is there, and nothing of ours is there that __all__ leaves out."""
    assert len(llmos.__all__) == len(set(llmos.__all__))
    for name in llmos.__all__:
        assert getattr(llmos, name) is not None
    public = {name for name in dir(llmos) if not name.startswith("_") and not isinstance(getattr(llmos, name), ModuleType)}
    ours = {name for name in public if getattr(getattr(llmos, name), "__module__", "").startswith("llmos")}
    assert ours <= set(llmos.__all__)


def test_type_checkers_see_the_same_names() -> None:
    """What is imported under `if TYPE_CHECKING` is what is imported on first use."""
    tree = ast.parse((ROOT / "src/llmos/__init__.py").read_text())
    lazy = [node for block in tree.body if isinstance(block, ast.If) for node in ast.walk(block) if isinstance(node, ast.ImportFrom)]
    seen = {alias.asname or alias.name for node in lazy for alias in node.names}
    assert seen == {name for name in llmos.__all__ if not name.startswith("__")}
