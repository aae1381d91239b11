"""Commands of the host: `!ls -l` runs a program of the machine under the shell, as a member of its job.

    desk, file, pipe --stdin--> [program, a process group of its own] --stdout, stderr--> terminal, file, pipe

Where both ends are files of the host the program has them as they are, bytes and all; between it and an agent or a command of
llmsh goes text, in UTF-8. In front and alone it has the terminal itself, so that an editor or a pager works, and Ctrl-C and
Ctrl-Z are its own. Whatever ends the job kills its process group. It sees the exported variables. No shell reads its words.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import termios
import threading
from dataclasses import dataclass

import anyio

from llmos.sdk.unwrapped import unwrapped

from .jobs import Job
from .streams import Closed, FileSink, FileSource, NotText, Sink, Source
from .terminal import ErrorSink, Terminal, TerminalSink

TURNS = 10
"""How often a program that has been given the terminal and still waits for it is told to go on."""


class HostCommand:
    """One program under way. Only its own thread waits for it, and tells the loop of each change."""

    def __init__(self, process: subprocess.Popen[bytes], job: Job, terminal: int | None) -> None:
        self.pid = process.pid
        self._process, self._job, self._terminal = process, job, terminal
        self._loop = asyncio.get_running_loop()
        self._changes: asyncio.Queue[int] = asyncio.Queue()
        self._modes = None if terminal is None else termios.tcgetattr(terminal)
        self.ended = False
        threading.Thread(target=self._watch, name=f"host-{self.pid}", daemon=True).start()

    def _watch(self) -> None:
        while True:
            _, status = os.waitpid(self.pid, os.WUNTRACED)
            try:
                self._loop.call_soon_threadsafe(self._changes.put_nowait, status)
            except RuntimeError:  # the loop is closed: nobody wants to know
                return
            if not os.WIFSTOPPED(status):
                return

    async def change(self) -> int:
        """The next status that the host reports: it stopped, or it ended."""
        status = await self._changes.get()
        if not os.WIFSTOPPED(status):
            self.ended = True
            self._process.returncode = os.waitstatus_to_exitcode(status)
        return status

    async def kill(self, name: str = "TERM") -> None:
        if name == "CONT":
            self.give_terminal()
        self.signal(signal.Signals[f"SIG{name}"])

    def signal(self, number: int) -> None:
        """To its whole process group; one that is gone is gone."""
        if not self.ended:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                pass

    def give_terminal(self) -> None:
        """Keys and their signals go to it now, if it is in front."""
        if self._terminal is not None and self._job.foreground:
            _set_foreground(self._terminal, self.pid)

    def take_terminal(self) -> None:
        """They are the shell's again, and the terminal is as it was before the program."""
        if self._terminal is None or self._modes is None:
            return
        try:
            if os.tcgetpgrp(self._terminal) == os.getpgrp():
                return
            _set_foreground(self._terminal, os.getpgrp())
            termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._modes)
        except (OSError, termios.error):  # the terminal is gone
            pass


def _set_foreground(terminal: int, group: int) -> None:
    """Who is in front; whoever says so from behind would be stopped for it, if the signal were not held back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        os.tcsetpgrp(terminal, group)
    except OSError:  # the group has ended already, or the terminal is gone
        pass
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(slots=True)
class Ends:
    """The streams of one command."""

    stdin: Source
    stdout: Sink
    stderr: Sink


async def run_host(words: list[str], environment: dict[str, str], ends: Ends, job: Job, terminal: Terminal, *, alone: bool) -> int:
    """Run a program to its end; its status, or 128 + the signal that ended it. Raises OSError if there is none of that name."""
    own = alone and job.foreground and terminal.is_tty and ends.stdin is job.desk and os.isatty(0)
    out, err = _fd_out(ends.stdout, terminal, job), _fd_out(ends.stderr, terminal, job)
    fds = [_fd_in(ends.stdin, own), out, err]
    process = subprocess.Popen(  # nothing comes between its start and our knowing of it
        words,
        stdin=subprocess.PIPE if fds[0] is None else fds[0],
        stdout=subprocess.PIPE if fds[1] is None else fds[1],
        stderr=subprocess.PIPE if fds[2] is None else fds[2],
        env=environment,
        process_group=0,
        bufsize=0,
    )
    command = HostCommand(process, job, 0 if own else None)
    command.give_terminal()
    job.commands.append(command)
    job.begun.set()
    if job.stopped:
        command.signal(signal.SIGSTOP)
    problems: list[NotText | OSError] = []
    status = 1
    try:
        with unwrapped():
            async with anyio.create_task_group() as feeding:
                if process.stdin is not None:
                    feeding.start_soon(_feed, os.dup(process.stdin.fileno()), ends.stdin, command, problems)
                    process.stdin.close()
                async with anyio.create_task_group() as draining:
                    for pipe, sink in ((process.stdout, ends.stdout), (process.stderr, ends.stderr)):
                        if pipe is not None:
                            draining.start_soon(_drain, os.dup(pipe.fileno()), sink, command, problems)
                            pipe.close()
                    status = await _ended(command, job)
                feeding.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            while not command.ended:
                command.signal(signal.SIGKILL)
                await command.change()
        job.ended(command)
        command.take_terminal()
        if own:
            terminal.at_line_start = True
    if problems:
        raise problems[0]
    return status


async def _ended(command: HostCommand, job: Job) -> int:
    turns = 0
    while True:
        status = await command.change()
        if not os.WIFSTOPPED(status):
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if os.WSTOPSIG(status) in (signal.SIGTTIN, signal.SIGTTOU) and job.foreground and turns < TURNS:
            turns += 1  # it asked for the terminal before it was given
            await command.kill("CONT")
            continue
        if not job.stopped:
            command.take_terminal()
            await job.suspend()


def _fd_in(source: Source, own: bool) -> int | None:
    """The descriptor that the program may read itself; None: it is fed."""
    if own:
        return 0
    return _blocking(source.fd) if isinstance(source, FileSource) and not os.isatty(source.fd) else None


def _fd_out(sink: Sink, terminal: Terminal, job: Job) -> int | None:
    """The descriptor that the program may write itself; None: what it writes is carried."""
    if isinstance(sink, FileSink):
        return _blocking(sink.fd)
    if not (job.foreground and terminal.at_line_start):  # it would write in the middle of something else
        return None
    return terminal.out_fd if isinstance(sink, TerminalSink) else terminal.err_fd if isinstance(sink, ErrorSink) else None


def _blocking(fd: int) -> int:
    """A pipe that we opened to be waited for in the loop would surprise a program."""
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.set_blocking(fd, True)
    return fd


async def _feed(fd: int, source: Source, command: HostCommand, problems: list[NotText | OSError]) -> None:
    os.set_blocking(fd, False)
    sink = FileSink(fd, "its input", owned=True)
    try:
        while text := await source.read():
            await sink.write(text)
    except Closed:  # it reads no more
        source.close()
    except (NotText, OSError) as error:
        problems.append(error)
        command.signal(signal.SIGKILL)
    finally:
        sink.close()


async def _drain(fd: int, sink: Sink, command: HostCommand, problems: list[NotText | OSError]) -> None:
    os.set_blocking(fd, False)
    source = FileSource(fd, "its output", owned=True)
    try:
        while text := await source.read():
            await sink.write(text)
    except Closed:
        command.signal(signal.SIGPIPE)
    except (NotText, OSError) as error:
        problems.append(error)
        command.signal(signal.SIGKILL)
    finally:
        source.close()
