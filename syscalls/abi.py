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
from llmos.kernel.view import DeviceStatistics, ExitRecord, Explanation, Statistics
from llmos.kernel.view import ProcessView as ProcessInfo

from . import param
from .cut import Collected, cut
from .results import (
    Approval,
    ApprovalList,
    Clock,
    ContextInfo,
    Data,
    Done,
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
    )
    from .arguments import (
        Append as Append,
    )
    from .arguments import (
        Arguments as Arguments,
    )
    from .arguments import (
        Capability as Capability,
    )
    from .arguments import (
        ClassName as ClassName,
    )
    from .arguments import (
        ClosePipe as ClosePipe,
    )
    from .arguments import (
        Content as Content,
    )
    from .arguments import (
        Count as Count,
    )
    from .arguments import (
        Detokenize as Detokenize,
    )
    from .arguments import (
        ExitArguments as ExitArguments,
    )
    from .arguments import (
        Fork as Fork,
    )
    from .arguments import (
        Generate as Generate,
    )
    from .arguments import (
        Handle as Handle,
    )
    from .arguments import (
        Kill as Kill,
    )
    from .arguments import (
        LimitsArguments as LimitsArguments,
    )
    from .arguments import (
        ListApprovals as ListApprovals,
    )
    from .arguments import (
        ListProcesses as ListProcesses,
    )
    from .arguments import (
        Message as Message,
    )
    from .arguments import (
        Model as Model,
    )
    from .arguments import (
        Name as Name,
    )
    from .arguments import (
        NextApproval as NextApproval,
    )
    from .arguments import (
        Nice as Nice,
    )
    from .arguments import (
        Nothing as Nothing,
    )
    from .arguments import (
        OfContext as OfContext,
    )
    from .arguments import (
        OfProcess as OfProcess,
    )
    from .arguments import (
        Open as Open,
    )
    from .arguments import (
        Pid as Pid,
    )
    from .arguments import (
        PipeArguments as PipeArguments,
    )
    from .arguments import (
        Read as Read,
    )
    from .arguments import (
        Receive as Receive,
    )
    from .arguments import (
        Reclass as Reclass,
    )
    from .arguments import (
        Renice as Renice,
    )
    from .arguments import (
        Role as Role,
    )
    from .arguments import (
        Sampled as Sampled,
    )
    from .arguments import (
        Schema as Schema,
    )
    from .arguments import (
        Score as Score,
    )
    from .arguments import (
        Send as Send,
    )
    from .arguments import (
        SetLimits as SetLimits,
    )
    from .arguments import (
        SignalName as SignalName,
    )
    from .arguments import (
        Sleep as Sleep,
    )
    from .arguments import (
        Spawn as Spawn,
    )
    from .arguments import (
        StopString as StopString,
    )
    from .arguments import (
        Text as Text,
    )
    from .arguments import (
        TokenId as TokenId,
    )
    from .arguments import (
        Tokenize as Tokenize,
    )
    from .arguments import (
        Tokens as Tokens,
    )
    from .arguments import (
        Tool as Tool,
    )
    from .arguments import (
        ToolName as ToolName,
    )
    from .arguments import (
        Truncate as Truncate,
    )
    from .arguments import (
        Wait as Wait,
    )
    from .arguments import (
        Write as Write,
    )
    from .file_arguments import (
        FileListing as FileListing,
    )
    from .file_arguments import (
        FileMake as FileMake,
    )
    from .file_arguments import (
        FilePair as FilePair,
    )
    from .file_arguments import (
        FileRead as FileRead,
    )
    from .file_arguments import (
        FileRemove as FileRemove,
    )
    from .file_arguments import (
        FileRestore as FileRestore,
    )
    from .file_arguments import (
        FileWrite as FileWrite,
    )
    from .file_arguments import (
        OfFile as OfFile,
    )
    from .refusal import refusal
    from .runner_arguments import Begun as Begun
    from .runner_arguments import Run as Run
    from .tool_arguments import (
        OfOffer as OfOffer,
    )
    from .tool_arguments import (
        ToolAnswer as ToolAnswer,
    )
    from .tool_arguments import (
        ToolCall as ToolCall,
    )
    from .tool_arguments import (
        ToolListArguments as ToolListArguments,
    )
    from .tool_arguments import (
        ToolNext as ToolNext,
    )
    from .tool_arguments import (
        ToolOffer as ToolOffer,
    )
    from .tool_arguments import (
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
