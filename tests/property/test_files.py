"""The namespace against a plain model: whatever is called in whatever order, files, folders, versions and the quota are as they should be.

The model is three dictionaries. Every step compares all of them, and what the store has counted, with what the model adds up;
`reopen` does so after another system has counted it from the disk.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmos.kernel.errno import AlreadyExists, Fault, InvalidArgument, NotFound, QuotaExceeded
from llmos.syscalls import param
from llmos.syscalls.disk.disk import Disk
from llmos.syscalls.place import Place

USER = "somebody"
QUOTA = 24 * param.ENTRY_BYTES
ENTRY = param.ENTRY_BYTES

NAMES = st.sampled_from(["a", "b", "\u00e9", "e\u0301", "*", " "])
"""The third and fourth look alike."""
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
DATA = st.tuples(st.sampled_from("xyz"), st.sampled_from([0, 1, 64, ENTRY, 6 * ENTRY]))
"""A letter, and how many of it."""
Path_ = tuple[str, ...]


class FileMachine(RuleBasedStateMachine):
    versions = True
    mount = "home"

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="llmos-files-"))
        self.disk = Disk(self.folder, QUOTA)
        self.files: dict[Path_, bytes] = {}
        self.folders: set[Path_] = {()}
        self.kept: dict[Path_, list[tuple[int, bytes]]] = {}

    def teardown(self) -> None:
        if hasattr(self, "disk"):
            self.disk.close()
            shutil.rmtree(self.folder)

    # --- the model

    def place(self, path: Path_) -> Place:
        return Place(self.mount, path)

    @property
    def used(self) -> int:
        kept = [data for versions in self.kept.values() for _, data in versions]
        return sum(ENTRY + len(data) for data in [*self.files.values(), *kept]) + ENTRY * (len(self.folders) - 1)

    def need(self, size: int) -> None:
        if self.used + size > QUOTA:
            raise QuotaExceeded

    def keep(self, path: Path_) -> None:
        """What is at a path is about to be replaced."""
        if path in self.files and self.versions:
            versions = self.kept.setdefault(path, [])
            versions.append((max((number for number, _ in versions), default=0) + 1, self.files[path]))
            del versions[: -param.MAX_VERSIONS]

    def fits(self, path: Path_) -> None:
        """A file may be put there."""
        self.reach(path)
        if path in self.folders:
            raise InvalidArgument

    def reach(self, path: Path_) -> None:
        for end in range(len(path)):
            if path[:end] in self.files:
                raise InvalidArgument
            if path[:end] not in self.folders:
                raise NotFound

    def there(self, path: Path_) -> bool:
        return path in self.files or path in self.folders

    def both(self, real: Callable[[], object], model: Callable[[], object]) -> None:
        """Do it in both; they agree on whether it can be done, and on why not."""
        try:
            model()
        except Fault as fault:
            with pytest.raises(type(fault)):
                real()
        else:
            real()

    # --- what can be done

    @rule(path=PATHS, letters=DATA)
    def write(self, path: Path_, letters: tuple[str, int]) -> None:
        data = letters[0].encode() * letters[1]

        def model() -> None:
            self.need(ENTRY + len(data))
            self.fits(path)
            self.keep(path)
            self.files[path] = data

        self.both(lambda: self.disk.write(USER, self.place(path), data, append=False), model)

    @rule(path=PATHS, letters=DATA)
    def append(self, path: Path_, letters: tuple[str, int]) -> None:
        data = letters[0].encode() * letters[1]

        def model() -> None:
            self.fits(path)
            self.need(len(data) + (0 if self.there(path) else ENTRY))
            self.files[path] = self.files.get(path, b"") + data

        self.both(lambda: self.disk.write(USER, self.place(path), data, append=True), model)

    @rule(source=PATHS, to=PATHS)
    def copy(self, source: Path_, to: Path_) -> None:
        def model() -> None:
            if source == to:
                raise InvalidArgument
            self.fits(source)
            if source not in self.files:
                raise NotFound
            self.need(ENTRY + len(self.files[source]))
            self.fits(to)
            self.keep(to)
            self.files[to] = self.files[source]

        self.both(lambda: self.disk.copy(USER, self.place(source), self.place(to)), model)

    @rule(source=PATHS, to=PATHS)
    def move(self, source: Path_, to: Path_) -> None:
        def model() -> None:
            if source == to:
                raise InvalidArgument
            self.reach(source)
            if source in self.folders and to[: len(source)] == source and self.there(to[:-1]) and to[:-1] in self.files:
                raise InvalidArgument
            self.reach(to)
            if not self.there(source):
                raise NotFound
            if source in self.files:
                self.fits(to)
                self.keep(to)
                self.files[to] = self.files.pop(source)
                return
            if self.there(to):
                raise AlreadyExists
            if to[: len(source)] == source:
                raise InvalidArgument
            self.files = {renamed(path, source, to): data for path, data in self.files.items()}
            self.folders = {renamed(path, source, to) for path in self.folders}

        self.both(lambda: self.disk.move(USER, self.place(source), self.place(to), folders=True), model)

    @rule(path=PATHS, tree=st.booleans(), versions=st.booleans())
    def remove(self, path: Path_, tree: bool, versions: bool) -> None:
        def model() -> None:
            below = [each for each in self.files if each[: len(path)] == path]
            folders = [each for each in self.folders if each[: len(path)] == path]
            kept = [each for each in self.kept if each == path or (tree and each[: len(path)] == path)] if versions else []
            if any(path[:end] in self.files for end in range(len(path))):
                raise InvalidArgument
            if not self.there(path) and not kept:
                raise NotFound
            if path in self.folders and not tree and len(below) + len(folders) > 1:
                raise InvalidArgument
            for each in below:
                if not versions:
                    self.keep(each)
                    if each in self.kept:
                        del self.kept[each][:-1]
                del self.files[each]
            self.folders -= set(folders)
            for each in kept:
                self.kept.pop(each, None)

        self.both(lambda: self.disk.remove(USER, self.place(path), tree=tree, versions=versions), model)

    @rule(path=PATHS, parents=st.booleans())
    def make(self, path: Path_, parents: bool) -> None:
        def model() -> None:
            for end in range(1 if parents else len(path), len(path) + 1):
                self.reach(path[:end])
                if self.there(path[:end]) and not parents:
                    raise AlreadyExists
                if path[:end] in self.files:
                    raise InvalidArgument
                if path[:end] not in self.folders:
                    self.need(ENTRY)
                    self.folders.add(path[:end])

        self.both(lambda: self.disk.make(USER, self.place(path), parents=parents), model)

    @rule(path=PATHS, back=st.integers(0, 2))
    def restore(self, path: Path_, back: int) -> None:
        versions = self.kept.get(path, [])
        number, data = versions[-1 - back] if back < len(versions) else (99, b"")

        def model() -> None:
            if not versions or number == 99:
                raise NotFound
            for end in range(1, len(path)):
                if path[:end] in self.files:
                    raise InvalidArgument
                if path[:end] not in self.folders:
                    self.need(ENTRY)
                    self.folders.add(path[:end])
            self.need(ENTRY + len(data))
            self.fits(path)
            self.keep(path)
            self.files[path] = data

        self.both(lambda: self.disk.restore(USER, self.place(path), number), model)

    @rule()
    def reopen(self) -> None:
        self.disk.close()
        self.disk = Disk(self.folder, QUOTA)

    # --- what always holds

    @invariant()
    def as_the_model_says(self) -> None:
        if not hasattr(self, "disk"):
            return
        found: dict[Path_, bytes] = {}
        folders: set[Path_] = {()}
        waiting: list[Path_] = [()]
        while waiting:
            path = waiting.pop()
            page = self.disk.page(USER, self.place(path), "", param.MAX_ENTRIES)
            assert [each.name for each in page.entries] == sorted(each.name for each in page.entries)
            for each in page.entries:
                inner = (*path, each.name)
                if each.kind == "folder":
                    folders.add(inner)
                    waiting.append(inner)
                else:
                    found[inner] = self.disk.read(USER, self.place(inner), 0, 1 << 20).data
        assert found == self.files
        assert folders == self.folders
        for path, versions in self.kept.items():
            kept = self.disk.versions(USER, self.place(path)) if versions or self.there(path) else []
            assert [(each.version, each.size) for each in reversed(kept)] == [(number, len(data)) for number, data in versions]
        assert self.disk.stat(USER, self.place(())).size == self.used <= QUOTA
        assert not list((self.folder / "files" / USER / "staging").iterdir())


def renamed(path: Path_, source: Path_, target: Path_) -> Path_:
    return target + path[len(source) :] if path[: len(source)] == source else path


TestFiles = FileMachine.TestCase
TestFiles.settings = settings(max_examples=25, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.soak
class TestFilesAtLength(FileMachine.TestCase):
    settings = settings(max_examples=1_500, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck))
