"""The models of this machine, as the shell shows them, and the pull of one, with a bar that shows how far it is.

A pull runs in the main thread, before any event loop, so that Ctrl-C stops it at once; what was fetched is kept by the
library and the next pull goes on from there. Knows nothing of sources and files: that is services/library.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmos import Fault, NotFound
from llmos.services.library import Library, Remotes

from .remote import remote_models
from .terminal import VISIBLE, complain

if TYPE_CHECKING:
    from llmos.services.init.settings import Settings
    from llmos.services.library import Manifest
    from llmos.services.library.transfer import Progress


def library(home: Path) -> Library:
    """The store of this home."""

    def inspect(path: Path, *, weights: bool) -> Mapping[str, str]:
        from llmos.services.init.inspect import inspect_model  # numpy and the file formats: loaded when something is pulled

        return inspect_model(path, weights=weights)

    return Library(home, inspect)


def stored_models(home: Path, default: str, loaded: set[str]) -> list[dict[str, Any]]:
    """A row for each model that is here, for `models` and `llmos models`. default, loaded: names, each of which means one model."""
    models = library(home)
    here = models.models()

    def meant(name: str) -> Manifest | None:
        try:
            return models.look_up(name, here)
        except Fault:
            return None

    first, running = meant(default), [meant(name) for name in loaded]
    local = [
        {
            "name": model.name,
            "tag": model.tag,
            "size": model.size,
            "licence": model.licence,
            "source": model.source,
            "created": model.created,
            "weights": model.weights,
            "default": model == first,
            "damaged": model.damage is not None,
            "loaded": model in running,
            "kind": "local",
        }
        for model in here
    ]
    return local + remote_models(home, default, loaded)


def provide(settings: Settings) -> None:
    """See that the model is here. The default one is pulled if it is not: that is the first run.

    Raises NotFound for another, and what a pull raises.
    """
    if settings.device == "dummy":
        return
    if Remotes(settings.home).has(settings.model):
        return
    models = library(settings.home)
    try:
        models.find(settings.model)
    except NotFound:
        if settings.model != models.default:
            raise
        print(f"llmsh: this is the first run: getting the model {models.default}, once", file=sys.stderr)
        pull(settings.home, models.default)


def pull(home: Path, reference: str, name: str | None = None) -> Manifest:
    """Pull a model under a bar on standard error, or without a terminal under a line for each thing it does."""
    with _bar() if sys.stderr.isatty() else _plain() as progress:
        return library(home).pull(reference, progress, name)


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        current: list[tuple[str, TaskID]] = []

        def show(what: str, done: int, total: int | None) -> None:
            if not current or current[0][0] != what:  # a bar for each thing it does, one at a time
                for _, task in current:
                    bar.remove_task(task)
                current[:] = [(what, bar.add_task(escape(what.translate(VISIBLE)), total=total))]
            bar.update(current[0][1], completed=done, total=total)

        yield show


@contextmanager
def _plain() -> Iterator[Progress]:
    said = ""

    def show(what: str, done: int, total: int | None) -> None:
        nonlocal said
        if what != said:
            said = what
            complain("llmos", what + (f" ({total >> 20} MiB)" if total else ""))

    yield show
