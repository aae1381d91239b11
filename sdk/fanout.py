"""Fan-out: a child for each line of a process's input, several at once, and what they write in the order of the lines, a line each.

    line --spawn--> child --stdout--> held until all before it are written --> our stdout
                          --status--> told on our stderr if it failed; its line of output is empty

At most AT_ONCE children of our class run, or fewer by `at_once`, and few more wait to be written: an input without end takes no
memory. No child is left when this returns or is cancelled.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import anyio

from llmos.syscalls.abi import Fault, Interrupted, InvalidArgument, param

from .agentfile import MOST_AT_ONCE
from .unwrapped import unwrapped

if TYPE_CHECKING:
    from .child import Child
    from .process import Process
    from .prompt import State

AT_ONCE: Final = {"interactive": 4, "normal": 8, "batch": MOST_AT_ONCE, "idle": 8}
"""Children that run at once, by the class of who spawns them: whoever waits in front of a screen shares the device with others."""
_BREAK: Final = re.compile(r"[\r\n]+")
HELD: Final = 4
"""For each of those, children whose output waits for that of an earlier one."""


async def fan_out(me: Process, state: State) -> int:
    """Put every line to the agent `state.agent.each`; how many of them failed. Raises InvalidArgument: too many at once."""
    (own,) = [each for each in await me.ps() if each.pid == me.pid]
    cls = own.cls.name.lower()
    at_once = state.agent.at_once or AT_ONCE[cls]
    if at_once > AT_ONCE[cls]:
        raise InvalidArgument(
            f"a map of class {cls} runs at most {AT_ONCE[cls]} children at once, not {at_once}; class batch allows {MOST_AT_ONCE}"
        )
    course = _Course(me, state, at_once)
    with unwrapped():
        async with anyio.create_task_group() as tasks:
            number, before = 0, anyio.Event()
            before.set()
            while (line := await _line(me, state)) is not None:
                number, after = number + 1, anyio.Event()
                await course.held.acquire()
                await course.running.acquire()
                tasks.start_soon(course.one, number, line, before, after)
                before = after
    return course.failed


async def _line(me: Process, state: State) -> str | None:
    """The next line that is not blank; None if there is none."""
    while state.given is not None:
        given, _, rest = state.given.partition("\n")
        state.given = rest or None
        if given.strip():
            return given
    while line := await me.stdin.readline(param.MAX_TEXT):
        if line.strip():
            return line.removesuffix("\n")
    return None


def _in_a_line(said: str) -> str:
    """What a child wrote, in one line: line n of the output is the reply to line n that was not blank."""
    return " ".join(part for part in (each.strip() for each in _BREAK.split(said)) if part)


class _Course:
    """What the children of one fan-out share."""

    def __init__(self, me: Process, state: State, at_once: int) -> None:
        self._me, self._state = me, state
        self.running, self.held = anyio.Semaphore(at_once), anyio.Semaphore(at_once * HELD)
        self.failed = 0

    async def one(self, number: int, line: str, before: anyio.Event, after: anyio.Event) -> None:
        """One line: run its child, wait for one's turn, write."""
        try:
            try:
                said, problem = await self._run(line)
            finally:
                self.running.release()
            await before.wait()
            if problem:
                self.failed += 1
                await self._me.stderr.write(f"line {number}: {problem}\n")
            await self._me.write(_in_a_line(said) + "\n")
            after.set()
        finally:
            self.held.release()

    async def _run(self, line: str) -> tuple[str, str]:
        """What a child wrote, and why it failed."""
        agent = self._state.agent
        assert agent.each is not None
        try:
            child = await self._me.spawn(agent.each, line, stdin="", model=self._state.model, schema=agent.output_schema)
        except Interrupted:
            raise
        except Fault as fault:
            return "", str(fault)
        try:
            stdout, stderr = child.stdout, child.stderr
            assert stdout is not None
            assert stderr is not None
            said, errors = "", ""
            async with anyio.create_task_group() as tasks:

                async def drain() -> None:
                    nonlocal errors
                    async for piece in stderr:
                        errors = (errors + piece)[-param.MAX_REASON :]

                tasks.start_soon(drain)
                async for piece in stdout:
                    said += piece
            exit_ = await child.wait()
        except BaseException:
            await _end(child)
            raise
        if exit_.status == 0:
            return said, ""
        return "", (exit_.error or errors or f"it ended with status {exit_.status}").strip()


async def _end(child: Child) -> None:
    """Kill a child that nobody will hear. If our own process has ended the kernel takes nothing from us any more."""
    with anyio.CancelScope(shield=True):
        try:
            await child.kill("KILL")
            await child.wait()
        except Fault:
            pass
