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
    from llmos.kernel.device import Logprobs as Logprobs
    from llmos.kernel.errno import AlreadyExists as AlreadyExists
    from llmos.kernel.errno import BadFormat as BadFormat
    from llmos.kernel.errno import BadHandle as BadHandle
    from llmos.kernel.errno import BrokenPipe as BrokenPipe
    from llmos.kernel.errno import Cancelled as Cancelled
    from llmos.kernel.errno import DeviceFailed as DeviceFailed
    from llmos.kernel.errno import Fault as Fault
    from llmos.kernel.errno import IntegrityError as IntegrityError
    from llmos.kernel.errno import Interrupted as Interrupted
    from llmos.kernel.errno import InvalidArgument as InvalidArgument
    from llmos.kernel.errno import NoSpace as NoSpace
    from llmos.kernel.errno import NoSuchChild as NoSuchChild
    from llmos.kernel.errno import NoSuchProcess as NoSuchProcess
    from llmos.kernel.errno import NotFound as NotFound
    from llmos.kernel.errno import NotPermitted as NotPermitted
    from llmos.kernel.errno import NotSupported as NotSupported
    from llmos.kernel.errno import OutOfPages as OutOfPages
    from llmos.kernel.errno import Panic as Panic
    from llmos.kernel.errno import QuotaExceeded as QuotaExceeded
    from llmos.kernel.errno import ShutDown as ShutDown
    from llmos.kernel.errno import TimedOut as TimedOut
    from llmos.kernel.errno import TooLong as TooLong
    from llmos.kernel.errno import TryAgain as TryAgain
    from llmos.kernel.process import Limits as Limits
    from llmos.kernel.view import Explanation as Explanation
    from llmos.sdk.agentfile import AgentFile as AgentFile
    from llmos.sdk.child import Child as Child
    from llmos.sdk.child import Exit as Exit
    from llmos.sdk.context import Context as Context
    from llmos.sdk.files import Files as Files
    from llmos.sdk.generation import Generation as Generation
    from llmos.sdk.offer import Offer as Offer
    from llmos.sdk.process import Process as Process
    from llmos.sdk.stream import Reader as Reader
    from llmos.sdk.stream import Writer as Writer
    from llmos.sdk.system import System as System
    from llmos.sdk.tool import Tool as Tool
    from llmos.sdk.toolcalls import tools_prompt as tools_prompt
    from llmos.services.init import sync as sync
    from llmos.services.init.boot import boot as boot
    from llmos.services.init.connect import connect as connect
    from llmos.syscalls.abi import ProcessInfo as ProcessInfo
    from llmos.syscalls.results import Approval as Approval
    from llmos.syscalls.results import FileInfo as FileInfo
    from llmos.syscalls.results import Mail as Mail
    from llmos.syscalls.results import Piece as Piece
    from llmos.syscalls.results import Reply as Reply
    from llmos.syscalls.results import ToolInfo as ToolInfo
    from llmos.syscalls.results import ToolResult as ToolResult
    from llmos.syscalls.results import VersionInfo as VersionInfo

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
    "sync": ("llmos.services.init.sync", ""),
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
