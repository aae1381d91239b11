"""The system as one process sees it: processes, signals, pipes, contexts, and what there is.

`System` is the host process of the program that booted it, the parent of what it spawns. A program's own `Process` has all of
this too, and its standard streams. Every method is a system call or a few; errors are Faults.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import anyio.to_thread

from llmos.syscalls.abi import (
    ContextInfo,
    ExitRecord,
    Explanation,
    Forked,
    InvalidArgument,
    Limits,
    ModelInfo,
    NoSuchProcess,
    NotPermitted,
    NotSupported,
    PipeHandle,
    ProcessInfo,
    ProcessList,
    Running,
    Spawned,
    SystemStatistics,
    param,
)

from . import agentfile, agentnames, prompt
from .agentfile import AgentFile
from .arguments import demand_name, encoded, limits_of, listed, words_of
from .child import Child, Exit, exit_of, signal_name
from .context import Context
from .files import Files
from .job import demand_bound, job_of, rights
from .offer import ToolCalls
from .port import Port, ignore
from .program import Attached, Programs
from .reference import function_of, is_async, is_reference, name_of
from .stream import Reader, Writer, ends_of
from .talk import Talk

if TYPE_CHECKING:
    from llmos.syscalls.wire import Welcome

    from .process import Process

Program: TypeAlias = "Callable[..., Awaitable[Any]] | str | AgentFile"
"""An async function that is given its Process, an agent's name or file, "module:function" or "file.py:function"."""


class System(Talk, ToolCalls):
    """One process's way into the system."""

    def __init__(self, port: Port, pid: int, programs: Programs, folders: tuple[Path, ...], model: str | None) -> None:
        super().__init__()
        self._port, self.pid, self._programs, self._folders, self.model = port, pid, programs, folders, model
        self._late: list[asyncio.Future[ExitRecord]] = []
        """Waits that were cancelled, and may have taken a child off the table all the same."""
        self._unclaimed: list[ExitRecord] = []
        """The ends of those children."""
        self.files = Files(port, pid)
        """/home, /tmp, /output, /proc, /models, /tools and host:PATH, as this process may use them."""
        self.daemon: Welcome | None = None
        """What a daemon said of itself when one connected; None in a system of one's own."""

    @property
    def lost(self) -> bool:
        """The daemon has gone, or the connection to it: every call raises ShutDown, and there is nothing but to connect again."""
        return self._port.closed

    # --- processes

    async def spawn(
        self,
        program: Program,
        *args: Any,
        name: str | None = None,
        nice: int | None = None,
        cls: str | None = None,
        limits: Limits | None = None,
        capabilities: Iterable[str] | None = None,
        tools: Iterable[str] = (),
        model: str | None = None,
        stdin: str | bytes | Reader | None = None,
        stdout: Writer | None = None,
        stderr: Writer | None = None,
        detached: bool = False,
        memory: int | None = None,
        cpu_seconds: int | None = None,
        schema: Any = None,
    ) -> Child:
        """Run a program in a child process.

        In a system of one's own it runs as a task of this loop. In a daemon's a program that is named runs in a runner, an OS process
        of its own with at most `memory` bytes and `cpu_seconds`; a function runs here. Agents run here too, unless `detached`: then
        in a runner, which goes on when this client leaves. What is written where no `stdout` is given is kept in `Child.log`.

        What is not said is as the agent's file says, else inherited. `stdin` is text to read, or the read end of a pipe;
        `stdout` and `stderr` may be write ends; ends that are given away are closed here. The child has a subset of one's own
        capabilities, and may call `tools`, by name, besides. Every reply of an agent is JSON of `schema` (text, dict, or a pydantic
        model's class), if one is given, or its file has one.
        Raises NotFound for an agent that does not exist, NotPermitted, QuotaExceeded, TryAgain.
        """
        resolved = agentfile.with_schema(await self._resolve(program), schema)
        job = self._job(resolved, args, detached, memory, cpu_seconds)
        agent = resolved if isinstance(resolved, AgentFile) else None
        text = None if stdin is None or isinstance(stdin, Reader) else encoded(stdin, "stdin")
        ends = ends_of(stdin, stdout, stderr)
        demand_name(model, "model")
        given = None if agent is None else words_of(args)
        of_file, of_tools = await rights(resolved, self._resolve)
        if limits is None:
            limits = agent.limits if agent is not None else Limits()
        arguments = {
            "name": _name(resolved) if name is None else name,
            "limits": limits_of(limits),
            "capabilities": of_file if capabilities is None else listed(capabilities, "capabilities"),
            "tools": sorted({*listed(tools, "tools"), *of_tools}),
            **{key: end.pipe for key, end in ends.items()},
        }
        streams = await self._spawn(agent, nice, cls, arguments)
        if job is not None:
            used = model or (agent.model if agent is not None else None) or self.model
            child = await self._run(job, streams, used)
            self._give(child, ends, text, close=detached)
            return child
        # From here on nothing waits, so that no cancellation comes between a child that is born and the caller who is given it.
        try:
            if isinstance(resolved, AgentFile):
                self._interpret(prompt.State(resolved, given, model or resolved.model or self.model), streams, name or resolved.name)
            elif not isinstance(resolved, str):
                self._start(resolved, args, streams, name or _name(resolved), model)
        except BaseException:
            self._take_back(streams)
            raise
        child = self._child(streams)
        self._give(child, ends, text)
        return child

    def _give(self, child: Child, ends: dict[str, Reader | Writer], text: bytes | None, *, close: bool = False) -> None:
        """Give a child what it is to read, and up the ends that are its own now. With `close` it reads nothing but that."""
        for end in ends.values():
            end.let_go()
        if child.stdin is not None and text is not None:
            self._programs.feed(child.stdin, text)
        elif child.stdin is not None and close:
            child.stdin.let_go()

    def _job(
        self, program: Callable[..., Awaitable[Any]] | AgentFile | str, args: tuple[Any, ...], detached: bool, memory: Any, cpu: Any
    ) -> dict[str, Any] | None:
        """What a runner is to be told; None if the program is to run here."""
        demand_bound(memory, "memory")
        demand_bound(cpu, "cpu_seconds")
        bounded = memory is not None or cpu is not None
        if detached and not self._programs.remote:
            raise NotSupported("a system of one's own ends with its program, and all in it: start a daemon with llmos up, and connect()")
        if isinstance(program, str) or (isinstance(program, AgentFile) and detached):
            job = job_of(program, args, self._folders)
            return {**job, "detached": detached, "memory": memory, "cpu_seconds": cpu}
        if detached or bounded:
            raise InvalidArgument(
                f"{_name(program)} runs in this OS process, so it can be neither detached nor bounded by memory or cpu_seconds: "
                "in a daemon's system name a program, as in 'module:function'"
            )
        return None

    async def _run(self, job: dict[str, Any], streams: Spawned, model: str | None) -> Child:
        """Have a child run in a runner. What the daemon keeps of its output is not read here."""
        ends = {"stdin": streams.child_stdin, "stdout": streams.child_stdout, "stderr": streams.child_stderr}
        try:
            running: Running = await self._call("run", pid=streams.pid, model=model, **ends, **job)
        except BaseException:
            self._take_back(streams)
            raise
        child = self._child(streams if running.log is None else replace(streams, stdout=None, stderr=None))
        child.log = running.log
        return child

    def _child(self, streams: Spawned) -> Child:
        child = Child(self._port, self.pid, self._programs, streams)
        self._programs.keep(child.pid, (child.stdin, child.stdout, child.stderr))
        return child

    def _take_back(self, streams: Spawned) -> None:
        """End a child that nobody will be given, and in which no program has begun."""
        child = Child(self._port, self.pid, self._programs, streams)
        for end in (child.stdin, child.stdout, child.stderr):
            if end is not None:
                end.let_go()
        for call, arguments in (("kill", {"pid": child.pid, "signal": "KILL"}), ("wait", {"pid": child.pid})):
            _, slot = self._port.request(self.pid, call, arguments)
            slot.future.add_done_callback(ignore)

    async def _spawn(self, agent: AgentFile | None, nice: int | None, cls: str | None, arguments: dict[str, Any]) -> Spawned:
        """Make the process. What an agent's file says of its class and nice value holds as far as the caller may grant it."""
        wishes = {"nice": nice, "cls": cls}
        if agent is not None:
            wishes = {"nice": agent.nice if nice is None else nice, "cls": agent.cls if cls is None else cls}
        try:
            streams: Spawned = await self._port.claim(self.pid, "spawn", {**wishes, **arguments}, self._take_back)
        except NotPermitted:
            if wishes == {"nice": nice, "cls": cls}:
                raise
            streams = await self._port.claim(self.pid, "spawn", {"nice": nice, "cls": cls, **arguments}, self._take_back)
        return streams

    def _start(self, program: Callable[..., Awaitable[Any]], args: tuple[Any, ...], streams: Spawned, name: str, model: str | None) -> None:
        """Start a Python program in a process that has just been made."""
        me, attached = self._attach(streams, name, model or self.model, args)
        self._programs.start(attached, partial(program, me, *args))

    def _interpret(self, state: prompt.State, streams: Spawned, name: str) -> None:
        me, attached = self._attach(streams, name, state.model, ())
        attached.state, attached.plain = None if state.agent.each else state, True
        self._programs.start(attached, partial(prompt.interpret, me, state))

    def _attach(self, streams: Spawned, name: str, model: str | None, args: tuple[Any, ...]) -> tuple[Process, Attached]:
        from .process import Process  # a Process is a System: it cannot be imported before this class exists

        me = Process(self._port, streams, self._programs, self._folders, model, args)
        return me, Attached(streams.pid, self.pid, name, streams.child_stderr, ends=(me.stdin, me.stdout, me.stderr))

    async def _resolve(self, program: Program) -> Callable[..., Awaitable[Any]] | AgentFile | str:
        """A function or an agent that runs here, or the name of a program that runs in a runner."""
        if isinstance(program, AgentFile):
            return program
        if isinstance(program, str):
            if is_reference(program):
                return program if self._programs.remote else function_of(program)
            return await self.agent(program)
        if not is_async(program):
            raise InvalidArgument(f"{_name(program)} is not a program: give an async function, an agent's name, or an AgentFile")
        return program

    async def fork(self, pid: int, *, name: str | None = None) -> Child:
        """A twin of a running prompt program: it goes on from where the original is, with contexts and streams of its own.

        A Python program cannot be copied while it runs: NotSupported.
        """
        if not isinstance(pid, int):
            raise InvalidArgument(f"fork: pid must be an integer, not a {type(pid).__name__}")
        attached = self._programs.get(pid)
        if attached is None:
            raise NoSuchProcess(f"no program runs here as pid {pid}; see ps")
        if attached.state is None:
            raise NotSupported(
                f"pid {pid} ({attached.name}) is a Python function, or has children of its own, and cannot be copied while it "
                "runs; other agents (prompt programs) can be forked, and so can contexts"
            )
        snapshot = attached.state.snapshot()  # as the call leaves: the port keeps calls in order, see prompt.py
        forked: Forked = await self._port.claim(self.pid, "fork", {"pid": pid, "name": name}, lambda late: self._take_back(late.streams))
        try:
            self._interpret(snapshot.twin(forked.contexts), forked.streams, name or attached.name)
        except BaseException:
            self._take_back(forked.streams)
            raise
        return self._child(forked.streams)

    async def wait(self, pid: int | None = None) -> Exit:
        """Sleep until a child has ended, any if none is named. Raises NoSuchChild if there is none."""
        while self._late:
            future = self._late[0]
            await asyncio.wait([future])
            if future in self._late:
                self._late.remove(future)
                if future.exception() is None:
                    self._unclaimed.append(future.result())
        for record in self._unclaimed:
            if pid in (None, record.pid):
                self._unclaimed.remove(record)
                return exit_of(record, self._programs)
        request, slot = self._port.request(self.pid, "wait", {"pid": pid})
        try:
            return exit_of(await asyncio.shield(slot.future), self._programs)
        except asyncio.CancelledError:
            self._port.cancel(request)
            self._late.append(slot.future)
            slot.future.add_done_callback(ignore)
            raise

    async def kill(self, pid: int, signal: str | int = "TERM", *, tree: bool = False) -> None:
        """Send a signal: TERM, KILL, STOP, CONT or INT; with `tree`, to everything below it too."""
        await self._call("kill", pid=pid, signal=signal_name(signal), tree=tree)

    async def interrupt(self, pid: int) -> None:
        """End what the process is generating, with what it has. Not the process."""
        await self.kill(pid, "INT")

    async def nice(self, pid: int, value: int) -> None:
        """Set a nice value, from -20 (most favoured) to 19."""
        await self._call("renice", pid=pid, nice=value)

    async def reclass(self, pid: int, cls: str) -> None:
        """Set a scheduling class: interactive, normal, batch or idle."""
        await self._call("reclass", pid=pid, cls=cls)

    async def setlimits(self, pid: int, limits: Limits) -> None:
        await self._call("setlimits", pid=pid, limits=limits_of(limits))

    async def ps(self) -> list[ProcessInfo]:
        """Every process, by pid. They come in pages, each as it stands when it is asked for."""
        found: list[ProcessInfo] = []
        more = True
        while more:
            page: ProcessList = await self._call("ps", after=found[-1].pid if found else 0)
            found += page.processes
            more = page.more
        return found

    async def explain(self, pid: int) -> Explanation:
        """Where the wall time of a process went."""
        explanation: Explanation = await self._call("explain", pid=pid)
        return explanation

    # --- contexts and pipes

    async def open(self, system: str | None = None, model: str | None = None) -> Context:
        """An empty context on a model, or one that begins with a system message. Loads the model if it is not loaded."""
        info: ContextInfo = await self._port.claim(self.pid, "open", {"model": self.model if model is None else model}, self._close)
        context = Context(self._port, self.pid, info)
        if system is not None:
            try:
                await context.append(system=system)
            except BaseException:
                self._close(info)
                raise
        return context

    def _close(self, info: ContextInfo) -> None:
        """Close a context that nobody will use."""
        self._port.later(self.pid, "close", {"context": info.context})

    async def context(self, handle: int) -> Context:
        """A context that this process has open, by its handle."""
        return Context(self._port, self.pid, await self._call("context_info", context=handle))

    async def pipe(self, capacity: int = 65_536) -> tuple[Reader, Writer]:
        """A pipe, as its read end and its write end."""
        made: PipeHandle = await self._port.claim(self.pid, "pipe", {"capacity": capacity}, self._close_pipe)
        return Reader(self._port, self.pid, made.pipe), Writer(self._port, self.pid, made.pipe)

    def _close_pipe(self, made: PipeHandle) -> None:
        """Close both ends of a pipe that nobody will use."""
        self._port.later(self.pid, "close_pipe", {"pipe": made.pipe, "read": True, "write": True})

    # --- text

    async def tokenize(self, text: str, model: str | None = None) -> list[int]:
        """The token ids of a text, as plain text."""
        tokens: list[int] = (await self._call("tokenize", text=text, model=self.model if model is None else model)).tokens
        return tokens

    async def detokenize(self, tokens: Iterable[int], model: str | None = None) -> str:
        text: str = (await self._call("detokenize", tokens=listed(tokens, "tokens"), model=self.model if model is None else model)).text
        return text

    # --- what there is

    async def models(self) -> list[ModelInfo]:
        models: list[ModelInfo] = (await self._call("models")).models
        return models

    async def statistics(self) -> SystemStatistics:
        """Counters since boot, and what every tier holds now."""
        statistics: SystemStatistics = await self._call("statistics")
        return statistics

    async def agent(self, name: str) -> AgentFile:
        """The agent that spawn finds by this name, or the path of its file. Raises NotFound, BadFormat."""
        return await anyio.to_thread.run_sync(agentfile.find, name, self._folders)

    async def agents(self) -> list[str]:
        """Names of the agents that spawn finds."""
        return await anyio.to_thread.run_sync(agentnames.names, self._folders)


def _name(program: Any) -> str:
    """A process's name from its program."""
    if isinstance(program, AgentFile):
        return program.name
    name = program.rpartition(":")[2] if isinstance(program, str) else name_of(program)
    return name[: param.MAX_NAME] or "program"
