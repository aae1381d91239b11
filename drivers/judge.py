"""The judge of grammars: has each tried in another OS process first, which can be killed.

A schema or a regular expression of a few hundred bytes can ask for any amount of time and memory, and llguidance's own limits
do not bound all of it. So a grammar is compiled here only after the trial (trial.py) compiled it, within a time and a memory
that hold up nobody. Owns that process: it starts with the first grammar, serves one at a time, and dies with a trial that
takes too long. Its methods may be called from any thread.
"""

from __future__ import annotations

import json
import re
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmos.kernel.errno import InvalidArgument, NotSupported, TimedOut

SECONDS = 2.0
"""Of one trial; an ordinary schema takes 0.002."""
START_SECONDS = 20.0
"""The first one, while the process starts: a fifth of a second unless the machine is very busy."""


_LISTING = re.compile(r"^ *(\d+ \||-*\^).*$", re.MULTILINE)
"""Of the grammar, which nobody but this system has seen."""
_REGEX_ERROR = re.compile(r"regex parse error:\n    (?P<pattern>[^\n]*)\n    (?P<before> *)\^+\nerror: (?P<what>[^\n]*)")


def readable(problem: str) -> str:
    """What llguidance says, in one line; of a regular expression where it is wrong."""
    found = _REGEX_ERROR.search(problem)
    if found is not None:
        return f"{found['what']}, at character {len(found['before']) + 1} of {found['pattern'][:200]!r}"
    said = _LISTING.sub("", problem.replace("<non-verbose/>", ""))
    return " ".join(said.split())[:500]


class Judge:
    """One trial process, or none at the moment."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def examine(self, grammar: str, limits: Mapping[str, Any]) -> None:
        """Raises InvalidArgument for a grammar that is wrong or too large, TimedOut, NotSupported where no process can be started."""
        with self._lock:
            if self._process is None:
                self._start()
                self._ask("start: /a/", limits, START_SECONDS)
            problem = self._ask(grammar, limits, self._seconds)
        if problem:
            raise InvalidArgument(readable(problem))

    def _start(self) -> None:
        if self._closed:
            raise NotSupported("the system is going down")
        program = [sys.executable, "-P", str(Path(__file__).with_name("trial.py"))]
        try:
            self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except OSError as error:
            raise NotSupported(f"grammars are tried in a process of their own, and none can be started ({error})") from None

    def _ask(self, grammar: str, limits: Mapping[str, Any], seconds: float) -> str:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise NotSupported("there is no process to try a grammar in; try again")
        try:
            process.stdin.write(json.dumps([grammar, dict(limits)]).encode() + b"\n")
            process.stdin.flush()
            line = self._line(process, time.monotonic() + seconds)
        except BrokenPipeError:
            line = b""
        except TimedOut:
            self._kill()
            raise
        if not line.endswith(b"\n"):
            self._kill()
            return "it takes more memory than a grammar may; make it smaller"
        answer: str = json.loads(line)
        return answer

    def _line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        """What the process says, up to the end of a line or of itself. Raises TimedOut."""
        assert process.stdout is not None
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not said.endswith(b"\n"):
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    raise TimedOut(f"it takes longer than {self._seconds:g} s to compile; make it smaller")
                part = process.stdout.read1(65_536)  # type: ignore[attr-defined]
                if not part:
                    break
                said += part
        return said

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def close(self) -> None:
        """End the process. Nothing is examined any more."""
        self._closed = True
        if self._process is not None:
            self._process.kill()  # whoever waits for an answer now gets none
        with self._lock:
            self._kill()
