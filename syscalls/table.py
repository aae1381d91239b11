"""The table: number -> call. One row each: arguments, result, capability, replayable, handler.

A handler is a plain function if it never sleeps, a coroutine function if it may. Its docstring is the call's entry in the
reference. `capability` is what the caller must hold when the call executes; "{model}" in it is the model of the context
that the call names, or that it opens, and any other name in braces the argument of that name. What is held only by asking
is asked for before the handler begins, whether that sleeps or not. What depends on more than that is asked for by handlers, and
by the kernel: `asks` tells of it. `replayable` says that making the call again changes
nothing in the world, so that a recorded result need not be waited for on disk. `always` calls go through with a signal
pending: they are how a process ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

from . import abi, clock, context, embed, file, generate, mail, permit, pipe, process, runner, score, system, tool


@dataclass(frozen=True, slots=True)
class Row:
    number: int
    name: str
    arguments: type[abi.Arguments]
    result: type[Any]
    handler: Callable[..., Any]
    """Called with (core, call, arguments)."""
    capability: str | None = None
    asks: str = ""
    """What its handler and the kernel ask for as they go, in words."""
    replayable: bool = True
    always: bool = False
    sleeps: bool = False

    @property
    def doc(self) -> str:
        return (self.handler.__doc__ or "").strip()


def _row(number: int, handler: Callable[..., Any], arguments: type[abi.Arguments], result: type[Any], **columns: Any) -> Row:
    name = columns.pop("name", handler.__name__)
    return Row(number, name, arguments, result, handler, sleeps=iscoroutinefunction(handler), **columns)


ROWS: tuple[Row, ...] = (
    # process
    _row(
        1,
        process.spawn,
        abi.Spawn,
        abi.Spawned,
        capability="proc:spawn",
        replayable=False,
        asks="proc:nice for a better class or nice value, user:NAME for another user",
    ),
    _row(2, process.exit_process, abi.ExitArguments, abi.Done, name="exit", replayable=False, always=True),
    _row(3, process.wait, abi.Wait, abi.ExitRecord, replayable=False),
    _row(
        4, process.kill, abi.Kill, abi.Done, replayable=False, always=True, asks="proc:kill of processes that are not its own or below it"
    ),
    _row(5, process.renice, abi.Renice, abi.Done, asks="proc:nice of processes that are not its own or below it, and for a better value"),
    _row(6, process.reclass, abi.Reclass, abi.Done, asks="proc:nice of processes that are not its own or below it, and for a better class"),
    _row(
        7,
        process.setlimits,
        abi.SetLimits,
        abi.Done,
        asks="proc:limits of processes that are not its own or below it, and to raise a limit",
    ),
    _row(8, process.ps, abi.ListProcesses, abi.ProcessList, always=True),
    _row(9, process.explain, abi.OfProcess, abi.Explanation, always=True),
    _row(
        10,
        process.fork,
        abi.Fork,
        abi.Forked,
        capability="proc:spawn",
        replayable=False,
        asks="proc:fork of processes that are not its own or below it",
    ),
    _row(
        11,
        runner.run,
        abi.Run,
        abi.Running,
        capability="proc:spawn",
        replayable=False,
        asks="proc:limits for more memory or CPU time than the settings give",
    ),
    _row(12, runner.job, abi.Nothing, abi.Job),
    _row(13, runner.begun, abi.Begun, abi.Done, replayable=False),
    # context
    _row(20, context.open_context, abi.Open, abi.ContextInfo, name="open", capability="llm:{model}"),
    _row(21, context.close_context, abi.OfContext, abi.Done, name="close", always=True),
    _row(22, context.append, abi.Append, abi.ContextInfo, capability="llm:{model}"),
    _row(23, context.fork_context, abi.OfContext, abi.ContextInfo, capability="llm:{model}"),
    _row(24, context.truncate, abi.Truncate, abi.ContextInfo, capability="llm:{model}"),
    _row(25, context.context_info, abi.OfContext, abi.ContextInfo),
    _row(26, context.context_tokens, abi.Tokens, abi.TokenList),
    # generate
    _row(30, generate.generate, abi.Generate, abi.Reply, capability="llm:{model}"),
    _row(31, generate.tokenize, abi.Tokenize, abi.TokenList, capability="llm:{model}"),
    _row(32, generate.detokenize, abi.Detokenize, abi.TextResult, capability="llm:{model}"),
    _row(33, score.score, abi.Score, abi.Scores, capability="llm:{model}"),
    _row(34, embed.embed, abi.Embed, abi.Embedding, capability="llm:{model}"),
    # pipe
    _row(40, pipe.pipe, abi.PipeArguments, abi.PipeHandle, capability="pipe:new"),
    _row(41, pipe.read, abi.Read, abi.Data, replayable=False),
    _row(42, pipe.write, abi.Write, abi.Written, replayable=False),
    _row(43, pipe.close_pipe, abi.ClosePipe, abi.Done, always=True),
    _row(44, pipe.share_pipe, abi.ClosePipe, abi.Done),
    # mail
    _row(45, mail.send, abi.Send, abi.Done, replayable=False, asks="ipc:send beyond its own tree"),
    _row(46, mail.receive, abi.Receive, abi.Mail, replayable=False),
    # system
    _row(50, system.models, abi.Nothing, abi.ModelList),
    _row(51, system.statistics, abi.Nothing, abi.SystemStatistics),
    # time
    _row(52, clock.sleep_for, abi.Sleep, abi.Done, name="sleep"),
    _row(53, clock.clock, abi.Nothing, abi.Clock),
    # file
    _row(60, file.file_read, abi.FileRead, abi.FileData, asks="file:r:PATH"),
    _row(61, file.file_write, abi.FileWrite, abi.FileInfo, replayable=False, asks="file:rw:PATH"),
    _row(62, file.file_copy, abi.FilePair, abi.FileInfo, replayable=False, asks="file:r: of the source and file:rw: of the target"),
    _row(63, file.file_move, abi.FilePair, abi.Done, replayable=False, asks="file:rw:PATH"),
    _row(64, file.file_list, abi.FileListing, abi.FileList, asks="file:r:PATH"),
    _row(65, file.file_stat, abi.OfFile, abi.FileInfo, asks="file:r:PATH"),
    _row(66, file.file_remove, abi.FileRemove, abi.Done, replayable=False, asks="file:rw:PATH"),
    _row(67, file.file_make, abi.FileMake, abi.FileInfo, replayable=False, asks="file:rw:PATH"),
    _row(68, file.file_versions, abi.OfFile, abi.VersionList, asks="file:r:PATH"),
    _row(69, file.file_restore, abi.FileRestore, abi.FileInfo, replayable=False, asks="file:rw:PATH"),
    # approval
    _row(70, permit.approvals, abi.ListApprovals, abi.ApprovalList, always=True, asks="approve:CAPABILITY of each that is to be listed"),
    _row(71, permit.next_approval, abi.NextApproval, abi.ApprovalList, asks="approve:CAPABILITY of each that is to be listed"),
    _row(72, permit.answer, abi.Answer, abi.Done, replayable=False, asks="approve:CAPABILITY of what is asked for"),
    # tool
    _row(80, tool.tool_list, abi.ToolListArguments, abi.ToolList, asks="tool:NAME of each that is to be listed"),
    _row(81, tool.tool_call, abi.ToolCall, abi.ToolResult, replayable=False, asks="tool:NAME, and what the tool needs besides"),
    _row(82, tool.tool_offer, abi.ToolOffer, abi.OfferHandle, replayable=False, asks="tools:public for all processes"),
    _row(83, tool.tool_next, abi.ToolNext, abi.ToolRequests, replayable=False),
    _row(84, tool.tool_result, abi.ToolAnswer, abi.Done, replayable=False),
    _row(85, tool.tool_withdraw, abi.OfOffer, abi.Done, always=True),
)

TABLE: dict[str, Row] = {row.name: row for row in ROWS}
"""By name, as the embedded transport calls them."""

NUMBERS: dict[int, Row] = {row.number: row for row in ROWS}
"""By number, as the wire names them."""
