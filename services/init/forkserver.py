"""The fork server, on the daemon's side: started when it is first needed, again when it has ended, and sent a socket for each fork.

A socket is queued until there is a server to send it to. Starting one takes a quarter of a second and happens elsewhere; all else is
on the kernel's thread and never waits. What the server is: services/runner/forkserver.py.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from llmos.kernel.errno import Fault, ShutDown

from .thread import KernelThread

log = logging.getLogger("llmos.init")

PLACE = Path(__file__).parents[3]
"""Where it finds the same llmos as this process."""
SERVE = "import sys; sys.path[:0] = {sys.argv[1]} - {*sys.path}; from llmos.services.runner.forkserver import main; main()"
AGAIN_SECONDS = 0.005
"""Until a server that has not taken what it was sent is tried again."""


class ForkServer:
    """See the module."""

    def __init__(self, thread: KernelThread, hopeless: Callable[[str], None]) -> None:
        self._thread = thread
        self._hopeless = hopeless
        """Told why none could be started, after the sockets that waited for it were closed."""
        self._asked: deque[socket.socket] = deque()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._launching = threading.Lock()
        """Held while one is started: the one other thread that may touch what is here."""
        self._starting = self._closed = False

    @property
    def pid(self) -> int:
        """Of the one that runs; 0 if none does."""
        return 0 if self._process is None else self._process.pid

    def fork(self, theirs: socket.socket) -> None:
        """Have a supervisor forked at the other end of this socket, which is closed here."""
        self._asked.append(theirs)
        self._send()

    def _send(self) -> None:
        if self._starting or self._closed or not self._asked:
            return
        if self._control is None:
            self._starting = True
            self._thread.elsewhere(self._launch, self._launched)
            return
        while self._asked:
            try:
                socket.send_fds(self._control, [b"F"], [self._asked[0].fileno()])
            except BlockingIOError:
                self._thread.after(AGAIN_SECONDS, self._send)
                return
            except OSError:
                self._lost()
                return
            self._asked.popleft().close()

    def _launch(self) -> None:
        with self._launching:
            if self._closed:
                raise ShutDown("the system is going down")
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", SERVE, str(PLACE), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), cwd="/", start_new_session=True,
                )  # fmt: skip
            mine.setblocking(False)
            self._control = mine

    def _launched(self, nothing: None, fault: Fault | None) -> None:
        self._starting = False
        if self._closed:
            return
        if self._control is None:
            why = f"no runner can be started: {fault.args[0] if fault is not None else 'there is no fork server'}"
            log.error("%s", why)
            self._hopeless(why)
            while self._asked:
                self._asked.popleft().close()
            return
        self._thread.listen(self._control.fileno(), self._lost)  # it says nothing: what is to be read is its end
        self._send()

    def _lost(self) -> None:
        """It has ended. Supervisors live on without it; those that it was asked for and did not fork see their sockets close."""
        if self._control is None or self._closed:
            return
        log.warning("the fork server %d of the runners has ended; another is started when it is needed", self.pid)
        self._thread.deafen(self._control.fileno())
        self._control.close()
        self._control = None
        process, self._process = self._process, None
        if process is not None:
            self._thread.elsewhere(process.wait, lambda status, fault: None)
        self._send()

    def shut(self) -> None:
        """No more forks. The server sees the end of its socket, waits for its supervisors, and ends."""
        self._closed = True
        for each in self._asked:
            each.close()
        if self._control is not None and not self._starting:
            self._thread.deafen(self._control.fileno())
            self._control.close()

    def join(self, seconds: float) -> None:
        """Until it has ended. On another thread, after `shut`."""
        with self._launching:  # one may have been on its way
            if self._control is not None:
                self._control.close()
            process = self._process
        if process is None:
            return
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            log.warning("the fork server %d does not end; it is killed", process.pid)
            process.kill()
            process.wait()
