"""The conversation behind the prompt: one chat agent that runs as long as the shell and remembers what was said.

    line --stdin--> [chat agent] --stdout--> reply, then END_OF_REPLY      which closes each reply, so the shell knows that it is over

Owns that one process. It is started with the first question; when it has ended (its window is full, somebody killed it)
the next question starts another. Runs no commands.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmos import Fault

from .jobs import Job
from .session import Shell
from .streams import Sink
from .terminal import END_OF_REPLY

if TYPE_CHECKING:
    from llmos import Child


class Chat:
    """The conversation of one interactive shell."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._child: Child | None = None
        self._speaking: Job | None = None
        """The job in which a reply is under way."""
        shell.conversation = lambda: self._child.pid if self._child is not None else None

    async def say(self, job: Job, text: str, out: Sink) -> int:
        """Put `text` to the agent and write its reply. The status is 0, or that of an agent that ended instead."""
        if (speaking := self._speaking) is not None:
            state = "is stopped" if speaking.stopped else "has not ended"
            await self._shell.terminal.error(
                f"llmsh: the reply before {state}: fg %{speaking.number} brings it back, kill %{speaking.number} ends it"
            )
            return 1
        self._speaking = job
        try:
            child = self._child or await self._start(job)
            job.started(child)
            try:
                return await self._turn(child, " ".join(text.split("\n")), out)
            finally:
                job.ended(child)
        except Fault as fault:
            await self._shell.terminal.error(f"llmsh: {fault}")
            return 1
        finally:
            self._speaking = None

    async def _start(self, job: Job) -> Child:
        system = await self._shell.system()
        await self._shell.model_loaded(job)
        agent = replace(await system.agent("chat"), separator=END_OF_REPLY)
        self._child = await system.spawn(agent)
        self._shell.watch(self._watch, self._child)
        return self._child

    async def _turn(self, child: Child, text: str, out: Sink) -> int:
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("the chat agent was spawned without streams")
        await child.stdin.write(text + "\n")
        while piece := await child.stdout.read_some():
            reply, end, _ = piece.partition(END_OF_REPLY)
            await out.write(reply)
            if end:
                return 0
        return await self._over(child)

    async def _over(self, child: Child) -> int:
        """The agent ended in the middle of its turn."""
        why = await child.stderr.read() if child.stderr is not None else ""
        ended = await child.wait()
        await self._shell.terminal.error(f"{why}llmsh: the conversation is over; your next question begins a new one")
        return ended.status

    async def _watch(self, child: Child) -> None:
        """Take the agent's end whenever it comes, so that no zombie stays, and start anew with the next question."""
        try:
            ended = await child.wait()
            self._shell.ended(child.pid, ended.status)
        except Fault:  # the system has gone, and the agent with it
            pass
        finally:
            if self._child is child:
                self._child = None
