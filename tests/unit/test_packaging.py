"""The root folders ship as one package: links, pyproject.toml, import guards and the wheel say the same."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import llmos

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILD = PYPROJECT["tool"]["hatch"]["build"]
FOLDERS = sorted(path.name for path in (ROOT / "src/llmos").iterdir() if path.is_symlink())
CODE = [folder for folder in FOLDERS if any((ROOT / folder).rglob("*.py"))]
OWN = {path.relative_to(ROOT).as_posix() for path in (ROOT / "src/llmos").iterdir() if path.is_file()}


def sources() -> list[Path]:
    """Every file of the package, where it really lies."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return found + [ROOT / name for name in sorted(OWN)]


def test_links_lead_to_the_root_folders() -> None:
    for folder in FOLDERS:
        assert (ROOT / "src/llmos" / folder).readlink() == Path("../..") / folder
        assert (ROOT / folder).is_dir()


def test_links_only_include_and_sources_agree() -> None:
    assert set(BUILD["only-include"]) == set(FOLDERS) | OWN
    assert BUILD["targets"]["wheel"]["sources"] == {"src": "", **{folder: f"llmos/{folder}" for folder in FOLDERS}}


def test_every_package_at_the_root_is_linked() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages <= set(FOLDERS)


def test_tools_look_at_the_real_folders() -> None:
    assert set(PYPROJECT["tool"]["ruff"]["extend-exclude"]) == {f"src/llmos/{folder}" for folder in FOLDERS}
    assert set(PYPROJECT["tool"]["coverage"]["run"]["source"]) == {*CODE, "src/llmos"}


@pytest.mark.parametrize("folder", CODE)
def test_no_folder_is_imported_by_its_bare_name(folder: str) -> None:
    code = compile((ROOT / folder / "__init__.py").read_text(), folder, "exec")
    with pytest.raises(ImportError, match=re.escape(f"the folder {folder}/ is imported as llmos.{folder}")):
        exec(code, {"__name__": folder})


def test_one_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|a\d+|b\d+|rc\d+)?", llmos.__version__)
    assert metadata.version("llmos") == llmos.__version__, "the installed metadata is old: run make install again"
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert "Unreleased" in headings or llmos.__version__ in headings


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    wheels = pytest.importorskip("hatchling.builders.wheel")
    (built,) = wheels.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        names = wheel.namelist()
        entry_points = wheel.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    shipped = {name for name in names if ".dist-info/" not in name}
    paths = {path.relative_to(ROOT).as_posix().removeprefix("src/llmos/") for path in sources()}
    assert shipped == {f"llmos/{path}" for path in paths}
    assert len(names) == len(set(names))
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "llmsh = llmos.shell.main:main" in entry_points
    assert "llmos = llmos.shell.command:main" in entry_points


def test_entry_points_exist() -> None:
    for target in PYPROJECT["project"]["scripts"].values():
        module, name = target.split(":")
        path = ROOT / (module.removeprefix("llmos.").replace(".", "/") + ".py")
        tree = ast.parse(path.read_text())
        assert any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body), target


def third_party(path: Path) -> set[str]:
    """The top-level names, neither ours nor the standard library's, that a file imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"llmos"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_imported_library_is_a_declared_dependency() -> None:
    wanted = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"]["gpu"]]
    declared = {normal(re.split(r"[<>=!~;\[ ]", requirement)[0]) for requirement in wanted}
    declared.add("pydantic-core")  # pydantic pins it to the one version it fits
    distributions = metadata.packages_distributions()
    for path in sources():
        if path.suffix != ".py":
            continue
        for name in third_party(path):
            providers = {normal(provider) for provider in distributions.get(name, [name])}
            assert providers & declared, f"{path.relative_to(ROOT)} imports {name}, which pyproject.toml does not declare"
