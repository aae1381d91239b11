"""References: "module:function" and "/path/file.py:function", found and imported.

What is not there is NotFound and names what is nearest; what raises while it is imported is BadFormat with the file, the line and what it
was. Importing runs the module's code: whoever calls this chooses the OS process in which that happens.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Awaitable, Callable
from difflib import get_close_matches
from functools import partial
from inspect import iscoroutinefunction
from pathlib import Path
from types import ModuleType
from typing import Any

from llmos.syscalls.abi import BadFormat, InvalidArgument, NotFound

_OF_THE_IMPORT = ("<frozen ", __file__, importlib.__file__)
Function = Callable[..., Awaitable[Any]]


def is_reference(text: str) -> bool:
    """Whether a text names a function, and not an agent or its file."""
    before, colon, _ = text.rpartition(":")
    return bool(colon) and ("/" not in text or before.endswith(".py"))


def is_async(program: Any) -> bool:
    return callable(program) and (iscoroutinefunction(program) or iscoroutinefunction(getattr(program, "__call__", None)))  # noqa: B004


def function_of(reference: str) -> Function:
    """The async function that a reference names. Raises NotFound, BadFormat, InvalidArgument."""
    place, _, name = reference.rpartition(":")
    try:
        if place.endswith(".py"):
            Path(place).open("rb").close()
    except (OSError, ValueError) as error:
        raise NotFound(f"there is no program {reference!r}: {place} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        module = _file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:
        if (line := _line_of(error)) is not None:
            raised = traceback.format_exception_only(error)[-1].strip()
            raise BadFormat(f"there is no program {reference!r}: {line} raised {raised}") from error
        raise NotFound(f"there is no program {reference!r}: {error}{_nearest(place, name)}") from None
    try:
        program = getattr(module, name)
    except AttributeError as error:
        raise NotFound(f"there is no program {reference!r}: {error}{_nearest(place, name)}") from None
    if not is_async(program):
        raise InvalidArgument(f"{reference} is not a program: it is not an async function")
    return program  # type: ignore[no-any-return]


def _line_of(error: Exception) -> str | None:
    """Where the code of a module raised this, or is no code; None if no code of it has run."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno},"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OF_THE_IMPORT)]
    return f"{frames[-1].filename}, line {frames[-1].lineno}," if frames else None


def _file(path: Path) -> ModuleType:
    """A module from a file; what lies beside it can be imported, as if the file had been run. Raises ImportError, and what it raises."""
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if before is None:
            del sys.modules[path.stem]
        else:
            sys.modules[path.stem] = before
        raise
    return module


def _nearest(place: str, name: str) -> str:
    """What may have been meant: a program of the module, or a module or file beside it."""
    module = sys.modules.get(Path(place).stem if place.endswith(".py") else place)
    if module is not None:
        near = get_close_matches(name, [each for each, value in vars(module).items() if is_async(value)], n=1)
        return f"; did you mean {near[0]!r}?" if near else ""
    folders = [Path(place).parent] if place.endswith(".py") else [Path(each) for each in sys.path]
    wanted = Path(place).stem if place.endswith(".py") else place.partition(".")[0]
    near = get_close_matches(wanted, {path.stem for folder in folders[:8] for path in _modules(folder)}, n=1)
    return f"; did you mean {near[0]!r}?" if near and near[0] != wanted else ""


def _modules(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    except OSError:
        return []


def name_of(program: Any) -> str:
    """What a function is called."""
    inner = program.func if isinstance(program, partial) else program
    return str(getattr(inner, "__name__", type(inner).__name__))
