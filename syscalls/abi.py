"""The ABI: what a system call takes and gives, as it crosses the border between user space and the kernel.

Arguments are the pydantic models of arguments.py and *_arguments.py, given out here on first use; results are the frozen
dataclasses of results.py. The errors of kernel/errno.py are part of the ABI and are given out here, since user space may not import the
kernel. Knows nothing of handlers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llmos.kernel.device import Logprobs
from llmos.kernel.errno import (
    FAULTS,
    AlreadyExists,
    BadFormat,
    BadHandle,
    BrokenPipe,
    Cancelled,
    DeviceFailed,
    Fault,
    IntegrityError,
    Interrupted,
    InvalidArgument,
    NoSpace,
    NoSuchChild,
    NoSuchProcess,
    NotFound,
    NotPermitted,
    NotSupported,
    OutOfPages,
    Panic,
    QuotaExceeded,
    ShutDown,
    TimedOut,
    TooLong,
    TryAgain,
)
from llmos.kernel.process import Limits
from llmos.kernel.view import DeviceStatistics, ExitRecord, Explanation, ProcessView as ProcessInfo, Statistics

from . import param
from .cut import Collected, cut
from .results import (
    Approval,
    ApprovalList,
    Clock,
    ContextInfo,
    Data,
    Done,
    Embedding,
    FileData,
    FileInfo,
    FileList,
    Forked,
    GenerationUsage,
    Job,
    Mail,
    ModelInfo,
    ModelList,
    OfferHandle,
    Piece,
    PipeHandle,
    ProcessList,
    Reply,
    Running,
    Scores,
    Spawned,
    SystemStatistics,
    TextResult,
    TokenList,
    ToolInfo,
    ToolList,
    ToolRequest,
    ToolRequests,
    ToolResult,
    VersionInfo,
    VersionList,
    Written,
)

__all__ = [
    "FAULTS",
    "AlreadyExists",
    "Approval",
    "ApprovalList",
    "BadFormat",
    "BadHandle",
    "BrokenPipe",
    "Cancelled",
    "Clock",
    "Collected",
    "ContextInfo",
    "Data",
    "DeviceFailed",
    "DeviceStatistics",
    "Done",
    "Embedding",
    "ExitRecord",
    "Explanation",
    "Fault",
    "FileData",
    "FileInfo",
    "FileList",
    "Forked",
    "GenerationUsage",
    "IntegrityError",
    "Interrupted",
    "InvalidArgument",
    "Job",
    "Limits",
    "Logprobs",
    "Mail",
    "ModelInfo",
    "ModelList",
    "NoSpace",
    "NoSuchChild",
    "NoSuchProcess",
    "NotFound",
    "NotPermitted",
    "NotSupported",
    "OfferHandle",
    "OutOfPages",
    "Panic",
    "Piece",
    "PipeHandle",
    "ProcessInfo",
    "ProcessList",
    "QuotaExceeded",
    "Reply",
    "Running",
    "Scores",
    "ShutDown",
    "Spawned",
    "Statistics",
    "SystemStatistics",
    "TextResult",
    "TimedOut",
    "TokenList",
    "TooLong",
    "ToolInfo",
    "ToolList",
    "ToolRequest",
    "ToolRequests",
    "ToolResult",
    "TryAgain",
    "VersionInfo",
    "VersionList",
    "Written",
    "cut",
    "param",
    "refusal",
]

if TYPE_CHECKING:
    from .arguments import (
        Answer as Answer,
        Append as Append,
        Arguments as Arguments,
        Capability as Capability,
        ClassName as ClassName,
        ClosePipe as ClosePipe,
        Content as Content,
        Count as Count,
        Detokenize as Detokenize,
        Embed as Embed,
        ExitArguments as ExitArguments,
        Fork as Fork,
        Generate as Generate,
        Handle as Handle,
        Kill as Kill,
        LimitsArguments as LimitsArguments,
        ListApprovals as ListApprovals,
        ListProcesses as ListProcesses,
        Message as Message,
        Model as Model,
        Name as Name,
        NextApproval as NextApproval,
        Nice as Nice,
        Nothing as Nothing,
        OfContext as OfContext,
        OfProcess as OfProcess,
        Open as Open,
        Pid as Pid,
        PipeArguments as PipeArguments,
        Read as Read,
        Receive as Receive,
        Reclass as Reclass,
        Renice as Renice,
        Role as Role,
        Sampled as Sampled,
        Schema as Schema,
        Score as Score,
        Send as Send,
        SetLimits as SetLimits,
        SignalName as SignalName,
        Sleep as Sleep,
        Spawn as Spawn,
        StopString as StopString,
        Text as Text,
        TokenId as TokenId,
        Tokenize as Tokenize,
        Tokens as Tokens,
        Tool as Tool,
        ToolName as ToolName,
        Truncate as Truncate,
        Wait as Wait,
        Write as Write,
    )
    from .file_arguments import (
        FileListing as FileListing,
        FileMake as FileMake,
        FilePair as FilePair,
        FileRead as FileRead,
        FileRemove as FileRemove,
        FileRestore as FileRestore,
        FileWrite as FileWrite,
        OfFile as OfFile,
    )
    from .refusal import refusal
    from .runner_arguments import Begun as Begun, Run as Run
    from .tool_arguments import (
        OfOffer as OfOffer,
        ToolAnswer as ToolAnswer,
        ToolCall as ToolCall,
        ToolListArguments as ToolListArguments,
        ToolNext as ToolNext,
        ToolOffer as ToolOffer,
        ToolSpec as ToolSpec,
    )

# --- how a call crosses -------------------------------------------------------------------------------------------


class Sink(Protocol):
    """Where the answers to one request go. Its methods are called on the kernel's thread and return at once."""

    def push(self, piece: Piece) -> None:
        """A part of the result, before its end."""
        ...

    def finish(self, result: Any) -> None: ...

    def fail(self, fault: Fault) -> None: ...


@dataclass(slots=True, eq=False)
class Request:
    """One system call on its way. (pid, path, sequence) is its id: which call of which task of the process it is."""

    pid: int
    name: str
    arguments: Mapping[str, Any]
    path: str
    sequence: int
    sink: Sink


@dataclass(frozen=True, slots=True)
class Died:
    """A process ended; what ran it must end too."""

    pid: int
    status: int


def __getattr__(name: str) -> Any:
    """The argument models, and how a refused one is explained: both need pydantic, which takes 0.2 s to import."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import arguments, file_arguments, refusal, runner_arguments, tool_arguments

    models = {
        name: model for module in (arguments, file_arguments, runner_arguments, tool_arguments) for name, model in vars(module).items()
    }
    found = refusal.refusal if name == "refusal" else models.get(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found
