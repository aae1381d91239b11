"""The log: takes what is to be written down from the kernel's thread, and writes it on its own.

    put --> queue --every BATCH_SECONDS--> lines --write--> file, fdatasync at most once a SYNC_SECONDS --> head

`put` returns at once, and nothing waits for the disk: after kill -9 what was put in the last BATCH_SECONDS is missing, after a power
cut what was not synced. If the disk is full or slow, lines wait in the queue; when MOST_WAITING of them do, `stuck` says so, and the trap
refuses calls that change the world until there is room again. Calls that were refused or only looked have half of the queue, so that a
flood of them stops nobody; those that find no place any more are counted, and the next line that is written says how many they were.

Invariant: files are only appended to, by one writer (it holds the lock); a file that a crash tore is never touched again: the next
one begins after it and says so. The oldest files go when all have more than MOST_BYTES, and a line says that they went. Knows nothing
of calls.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, Protocol

from llmos.kernel.errno import AlreadyExists, Fault, NoSpace, NotPermitted

from .chain import GENESIS, MAX_LINE, START, Broken, Head, digest, forge, read_line

log = logging.getLogger("llmos.audit")

FILE_BYTES = 16 << 20
"""From which size on a new file begins."""
MOST_BYTES = 1 << 30
"""Of all files that are kept."""
MOST_FILES = 10_000
"""However small: every boot begins one."""
MOST_WAITING = 65_536
BATCH_SECONDS = 0.05
SYNC_SECONDS = 1.0
RETRY_SECONDS = 1.0
"""Between two attempts to write to a disk that takes nothing."""
CLOSE_SECONDS = 5.0
"""How long the end waits for such a disk."""


class Entry(Protocol):
    """What is put: it is asked for its record on the log's thread."""

    @property
    def spare(self) -> bool:
        """Nothing was done: it may be left out, and counted, before there is no room at all."""
        ...

    def plain(self, *, full: bool) -> dict[str, Any]: ...


def files(folder: Path) -> list[Path]:
    """The files of a log, in order."""
    return sorted(path for path in folder.glob("*.jsonl") if path.stem.isdigit())


class Log:
    """One writer of one folder. Raises AlreadyExists if there is another, NotPermitted, NoSpace, OSError."""

    def __init__(self, folder: Path, *, full: bool = False, file_bytes: int = FILE_BYTES, most_bytes: int = MOST_BYTES) -> None:
        self.folder, self._full, self._file_bytes, self._most_bytes = folder, full, file_bytes, most_bytes
        self._queue: deque[Entry] = deque()
        self._dropped = 0
        """Entries that found no place; counted on the kernel's thread."""
        self._told = 0
        """How many of them the log tells of; counted on its own."""
        self._failing = ""
        self._over = False
        self._news = threading.Event()
        self._file = -1
        self._size = 0
        self._synced = 0.0
        self._lock = _locked(folder)
        try:
            self.head, torn = _resume(folder)
            self._open(self.head, torn)
        except BaseException:
            os.close(self._lock)
            raise
        self._thread = threading.Thread(target=self._run, name="llmos-audit", daemon=True)
        self._thread.start()

    # --- on the kernel's thread

    def put(self, entry: Entry) -> None:
        """Take a record."""
        if len(self._queue) >= (MOST_WAITING // 2 if entry.spare else MOST_WAITING):
            self._dropped += 1
            return
        self._queue.append(entry)
        if not self._news.is_set():
            self._news.set()

    def stuck(self) -> Fault | None:
        """Why nothing that changes the world should be done now."""
        if len(self._queue) < MOST_WAITING:
            return None
        why = self._failing or "the disk is slow"
        return NoSpace(f"the audit log in {self.folder} cannot be written ({why}), and nothing is done unrecorded: make room there")

    # --- on any thread, once

    def close(self) -> None:
        """Write what waits, and end. What a full disk does not take within CLOSE_SECONDS is lost, and the log of the system says so."""
        self._over = True
        self._news.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            log.error("the audit log in %s could not be written to its end: %d calls are missing", self.folder, len(self._queue))
            return  # the thread still has the file: it goes with the process, and the lock with it
        os.close(self._file)
        os.close(self._lock)

    # --- on the log's own thread

    def _run(self) -> None:
        while True:
            self._news.wait()
            if not self._over:
                time.sleep(BATCH_SECONDS)
            self._news.clear()
            while self._queue or self._dropped > self._told:
                try:
                    self._write_batch()
                    self._failing = ""
                except OSError as error:
                    self._fail(error)
            if self._over:
                return

    def _fail(self, error: OSError) -> None:
        if not self._failing:
            log.error("the audit log in %s cannot be written: %s; calls that change the world will be refused", self.folder, error)
        self._failing = error.strerror or str(error)
        time.sleep(RETRY_SECONDS)

    def _write_batch(self) -> None:
        """Write what waits, as far as it fits the file. What was written only in part is cut off again before anything follows."""
        head, lines, size, taken = self.head, [], 0, 0
        lost = self._dropped - self._told
        if lost:
            line, head = forge(head, {"time": time.time(), "kind": "lost", "calls": lost})
            lines.append(line)
        while taken < len(self._queue) and self._size + size < self._file_bytes:
            line, head = forge(head, self._record(self._queue[taken]))
            lines.append(line)
            size += len(line)
            taken += 1
        self._append(b"".join(lines))
        self.head = head
        self._told += lost
        for _ in range(taken):
            self._queue.popleft()
        self._mark()
        if self._size >= self._file_bytes:
            os.fdatasync(self._file)
            self._open(self.head, [])

    def _record(self, entry: Entry) -> dict[str, Any]:
        """What an entry says. The thread must outlive whatever it may say."""
        try:
            return entry.plain(full=self._full)
        except Exception as bug:
            log.error("an entry of the audit log cannot be read: this is a bug in llmos", exc_info=bug)
            return {"time": time.time(), "kind": "unreadable", "error": type(bug).__name__}

    def _append(self, data: bytes) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, memoryview(data)[done:])
        except OSError:
            os.ftruncate(self._file, self._size)  # half a line, of a disk that is full: nobody was told of it
            raise
        self._size += done

    def _mark(self) -> None:
        """Say how far the log goes, in the second file. After the lines: a head is never ahead of what it is the head of."""
        now = time.monotonic()
        if self._over or now - self._synced >= SYNC_SECONDS:
            os.fdatasync(self._file)
            self._synced = now
        _write_head(self.folder, self.head)

    def _open(self, head: Head, torn: list[dict[str, Any]]) -> None:
        """Begin a file. Every boot does, and every file that is full."""
        present = files(self.folder)
        number = int(present[-1].stem) + 1 if present else 1
        record: dict[str, Any] = {"time": time.time(), "kind": "file", "previous": head.hash}
        if torn:
            record["torn"] = torn
        if gone := self._surplus(present):
            record["removed"] = [path.name for path in gone]
        line, head = forge(head, record)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self.folder / f"{number:06}.jsonl", flags, 0o600)
        old, self._file, self._size = self._file, file, 0
        if old >= 0:
            os.close(old)
        self._append(line)
        self.head = head
        _write_head(self.folder, head)
        for path in gone:
            path.unlink()

    def _surplus(self, present: list[Path]) -> list[Path]:
        """The oldest files, until the rest and a new one are as much as is kept."""
        sizes = [path.stat().st_size for path in present]
        gone = max(0, len(present) + 1 - MOST_FILES)
        while gone < len(present) and sum(sizes[gone:]) + self._file_bytes > self._most_bytes:
            gone += 1
        return present[: min(gone, len(present) - 1)]  # the last one holds the line that the next one follows


def _locked(folder: Path) -> int:
    """Be the writer of a folder, which is made if there is none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    found = folder.lstat()
    if folder.is_symlink() or not folder.is_dir() or found.st_uid != os.getuid():
        raise NotPermitted(f"{folder} is not a folder of yours: somebody has put it there; remove it, or use another home")
    folder.chmod(0o700)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise AlreadyExists(f"another system writes the audit log in {folder}: end it, or give this one a home of its own") from None
    return lock


def _resume(folder: Path) -> tuple[Head, list[dict[str, Any]]]:
    """The head of what is there, and what a crash tore off at its end."""
    torn: list[dict[str, Any]] = []
    present = files(folder)
    for path in reversed(present):
        data = path.read_bytes()
        whole, newline, rest = data.rpartition(b"\n")
        if rest:
            torn.append({"file": path.name, "bytes": len(rest), "hash": digest(rest)})
            log.warning("%s ends in the middle of a line: %d bytes that a crash left there; the log goes on after them", path, len(rest))
        if newline:
            try:
                record = read_line(whole.rpartition(b"\n")[2][-MAX_LINE:])
            except Broken as broken:
                log.error("the last line of %s %s; the log begins a new chain after it: see llmos audit --verify", path, broken)
                return _known_head(folder) or START, torn
            return Head(record["n"], record["hash"]), torn
    return Head(0, GENESIS), torn


def _known_head(folder: Path) -> Head | None:
    try:
        told = json.loads((folder / "head").read_bytes())
        return Head(int(told["n"]), str(told["hash"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_head(folder: Path, head: Head) -> None:
    """In place: it always takes as many bytes, which are one write."""
    data = f'{{"n":{head.number:20},"hash":"{head.hash}"}}\n'.encode()
    file = os.open(folder / "head", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.pwrite(file, data, 0)
    finally:
        os.close(file)
