"""llmos: an operating system for language-model agents.

    async with llmos.boot() as system:
        child = await system.spawn("summarise", stdin="...")
        async for piece in child.stdout: print(piece, end="")
        print((await child.wait()).status)

Names are imported when they are first used, so that `import llmos` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from llmos import sync as sync
    from llmos.kernel.device import Logprobs as Logprobs
    from llmos.kernel.errno import (
        AlreadyExists as AlreadyExists,
        BadFormat as BadFormat,
        BadHandle as BadHandle,
        BrokenPipe as BrokenPipe,
        Cancelled as Cancelled,
        DeviceFailed as DeviceFailed,
        Fault as Fault,
        IntegrityError as IntegrityError,
        Interrupted as Interrupted,
        InvalidArgument as InvalidArgument,
        NoSpace as NoSpace,
        NoSuchChild as NoSuchChild,
        NoSuchProcess as NoSuchProcess,
        NotFound as NotFound,
        NotPermitted as NotPermitted,
        NotSupported as NotSupported,
        OutOfPages as OutOfPages,
        Panic as Panic,
        QuotaExceeded as QuotaExceeded,
        ShutDown as ShutDown,
        TimedOut as TimedOut,
        TooLong as TooLong,
        TryAgain as TryAgain,
    )
    from llmos.kernel.process import Limits as Limits
    from llmos.kernel.view import Explanation as Explanation
    from llmos.sdk.agentfile import AgentFile as AgentFile
    from llmos.sdk.child import Child as Child, Exit as Exit
    from llmos.sdk.context import Context as Context
    from llmos.sdk.files import Files as Files
    from llmos.sdk.generation import Generation as Generation
    from llmos.sdk.offer import Offer as Offer
    from llmos.sdk.process import Process as Process
    from llmos.sdk.stream import Reader as Reader, Writer as Writer
    from llmos.sdk.system import System as System
    from llmos.sdk.tool import Tool as Tool
    from llmos.sdk.toolcalls import tools_prompt as tools_prompt
    from llmos.services.init.boot import boot as boot
    from llmos.services.init.connect import connect as connect
    from llmos.syscalls.abi import ProcessInfo as ProcessInfo
    from llmos.syscalls.results import (
        Approval as Approval,
        FileInfo as FileInfo,
        Mail as Mail,
        Piece as Piece,
        Reply as Reply,
        ToolInfo as ToolInfo,
        ToolResult as ToolResult,
        VersionInfo as VersionInfo,
    )

_ERRORS = (
    "AlreadyExists", "BadFormat", "BadHandle", "BrokenPipe", "Cancelled", "DeviceFailed", "Fault", "IntegrityError",
    "Interrupted", "InvalidArgument", "NoSpace", "NoSuchChild", "NoSuchProcess", "NotFound", "NotPermitted", "NotSupported",
    "OutOfPages", "Panic", "QuotaExceeded", "ShutDown", "TimedOut", "TooLong", "TryAgain",
)  # fmt: skip

_WHERE: dict[str, tuple[str, str]] = {
    **{name: ("llmos.kernel.errno", name) for name in _ERRORS},
    "AgentFile": ("llmos.sdk.agentfile", "AgentFile"),
    "Approval": ("llmos.syscalls.results", "Approval"),
    "Child": ("llmos.sdk.child", "Child"),
    "Context": ("llmos.sdk.context", "Context"),
    "Exit": ("llmos.sdk.child", "Exit"),
    "Explanation": ("llmos.kernel.view", "Explanation"),
    "FileInfo": ("llmos.syscalls.results", "FileInfo"),
    "Files": ("llmos.sdk.files", "Files"),
    "Generation": ("llmos.sdk.generation", "Generation"),
    "Limits": ("llmos.kernel.process", "Limits"),
    "Logprobs": ("llmos.kernel.device", "Logprobs"),
    "Mail": ("llmos.syscalls.results", "Mail"),
    "Offer": ("llmos.sdk.offer", "Offer"),
    "Piece": ("llmos.syscalls.results", "Piece"),
    "Process": ("llmos.sdk.process", "Process"),
    "ProcessInfo": ("llmos.kernel.view", "ProcessView"),
    "Reader": ("llmos.sdk.stream", "Reader"),
    "Reply": ("llmos.syscalls.results", "Reply"),
    "System": ("llmos.sdk.system", "System"),
    "Writer": ("llmos.sdk.stream", "Writer"),
    "VersionInfo": ("llmos.syscalls.results", "VersionInfo"),
    "Tool": ("llmos.sdk.tool", "Tool"),
    "ToolInfo": ("llmos.syscalls.results", "ToolInfo"),
    "ToolResult": ("llmos.syscalls.results", "ToolResult"),
    "boot": ("llmos.services.init.boot", "boot"),
    "connect": ("llmos.services.init.connect", "connect"),
    "tools_prompt": ("llmos.sdk.toolcalls", "tools_prompt"),
    "sync": ("llmos.sync", ""),
}

__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'llmos' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    found = import_module(module)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
