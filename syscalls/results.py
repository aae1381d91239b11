"""The ABI: what system calls give. Frozen dataclasses of plain values, given out by abi.py.

They cross threads as they are; pydantic's TypeAdapter turns them into JSON and back where a socket needs that. What the
kernel tells of itself (kernel/view.py) is given out as it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from llmos.kernel.device import Logprobs
from llmos.kernel.errno import BadFormat
from llmos.kernel.view import ProcessView, Statistics


@dataclass(frozen=True, slots=True)
class Done:
    """The call has no result but that it was done."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """The caller's ends of the pipes made for the child; None where it gave one of its own."""

    pid: int
    stdin: int | None
    stdout: int | None
    stderr: int | None
    child_stdin: int
    child_stdout: int
    child_stderr: int


@dataclass(frozen=True, slots=True)
class Forked:
    streams: Spawned
    contexts: dict[int, int]
    """The original's context -> the copy's."""


@dataclass(frozen=True, slots=True)
class Running:
    """A program runs in a runner."""

    log: str | None
    """The file on the daemon's machine that takes what a detached process writes and nobody else reads; None if there is none."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a runner is to run."""

    kind: str
    """python or agent."""
    program: str
    arguments: bytes
    stdin: int
    stdout: int
    stderr: int
    name: str
    parent: int
    model: str | None
    folder: str | None
    path: list[str]
    folders: list[str]
    """Where agents are looked for."""


@dataclass(frozen=True, slots=True)
class ContextInfo:
    context: int
    model: str
    length: int
    window: int
    messages: int
    """Chat messages in it, an open reply included."""
    reply: int | None
    """Tokens of the reply at its end, if that may be gone on with; None if there is none or it is complete."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a reply, as it comes. Text that could be the start of a stop string is held back."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[Logprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationUsage:
    prompt_tokens: int
    """Tokens in the context before the first generated one."""
    added_tokens: int
    """Those of them that this call added."""
    tokens: int
    """Generated."""
    seconds: float
    first_token_seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    tokens: tuple[int, ...]
    reason: str
    """stop, length, interrupted or cancelled."""
    logprobs: tuple[Logprobs, ...]
    usage: GenerationUsage
    length: int
    """Of the context afterwards."""

    def json(self) -> Any:
        """The text as JSON. Raises BadFormat if it is not, as when max_tokens ended it."""
        try:
            return json.loads(self.text)
        except ValueError as error:
            cut = "max_tokens ended it before it was whole: ask for more" if self.reason == "length" else f"{error}; ask with a schema"
            raise BadFormat(f"the reply is not JSON: {cut}") from None


@dataclass(frozen=True, slots=True)
class Scores:
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Natural logarithm of each one's probability after what is before it."""

    @property
    def total(self) -> float:
        """Of all together."""
        return sum(self.logprobs)


@dataclass(frozen=True, slots=True)
class Embedding:
    vector: tuple[float, ...]
    """As many numbers as the model is wide; of length 1."""
    tokens: int
    """That were added for it."""


@dataclass(frozen=True, slots=True)
class TokenList:
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class TextResult:
    text: str


@dataclass(frozen=True, slots=True)
class PipeHandle:
    pipe: int


@dataclass(frozen=True, slots=True)
class Data:
    """Empty at end of file."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Written:
    count: int


@dataclass(frozen=True, slots=True)
class FileData:
    """Empty at the end of the file."""

    data: bytes
    size: int
    """Of the whole file now."""
    identity: int
    """Of the contents: they were replaced between two reads if it has changed."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    name: str
    kind: str
    """file, folder, or other: a link or device that somebody has put there, and that nothing here will follow or read."""
    size: int
    """Bytes; 0 for what is no file, and for what is made when it is read."""
    modified: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class FileList:
    entries: list[FileInfo]
    """By name."""
    more: bool
    """There are others: ask again, after the last of these."""


@dataclass(frozen=True, slots=True)
class VersionInfo:
    version: int
    size: int
    modified: float
    """When these contents were written."""


@dataclass(frozen=True, slots=True)
class VersionList:
    versions: list[VersionInfo]
    """The newest first."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    name: str
    loaded: bool
    default: bool
    size: int
    """Bytes on disk; 0 if it has no files."""
    window: int | None
    """None until it is loaded."""
    kind: str = "local"
    """local, or remote: an endpoint elsewhere."""


@dataclass(frozen=True, slots=True)
class ProcessList:
    processes: list[ProcessView]
    more: bool
    """There are others with higher pids: ask again, after the last of these."""


@dataclass(frozen=True, slots=True)
class ModelList:
    models: list[ModelInfo]


@dataclass(frozen=True, slots=True)
class SystemStatistics:
    uptime: float
    """Seconds since boot."""
    calls: int
    """System calls made."""
    errors: int
    """Those that ended with a fault."""
    sleeping: int
    """Calls that sleep now."""
    kernel: Statistics


@dataclass(frozen=True, slots=True)
class ToolInfo:
    name: str
    description: str
    schema: str
    """JSON schema of its arguments."""
    seconds: float
    """How long a call may take."""
    public: bool
    offerer: int
    """The pid of who answers."""
    needs: tuple[str, ...] = ()
    """What a caller must hold besides tool:NAME."""
    lacks: tuple[str, ...] = ()
    """What of that the process that asked does not hold."""


@dataclass(frozen=True, slots=True)
class ToolList:
    tools: list[ToolInfo]
    more: bool
    """There are others with later names: ask again, after the last of these."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool said. One that failed, hung or vanished is an error that a model can read, not a fault."""

    text: str
    is_error: bool
    missing: int
    """Bytes that were cut out of the text."""
    seconds: float


@dataclass(frozen=True, slots=True)
class OfferHandle:
    offer: int


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """One call, for who offers the tool."""

    call: int
    name: str
    arguments: str
    """A JSON object that fits the schema."""
    pid: int
    """Who calls."""
    most: int
    """Bytes of the result that the caller wants at most."""
    seconds: float
    """Until the deadline."""


@dataclass(frozen=True, slots=True)
class ToolRequests:
    requests: list[ToolRequest]
    cancelled: list[int]
    """Calls given out before whose caller waits no more: what they began must end."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A message of one process to another."""

    sender: int
    data: bytes
    sent: float
    """When it was sent, in seconds since boot."""

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Clock:
    uptime: float
    """Seconds since boot; never runs backwards."""
    wall: float
    """Seconds since 1970, as this machine believes."""


@dataclass(frozen=True, slots=True)
class Approval:
    """A call that waits for a person. An answer holds for exactly this call, once."""

    id: int
    pid: int
    name: str
    """Of the process."""
    user: str
    call: str
    capability: str
    """What it needs, and holds only by asking."""
    arguments: str
    """As JSON, on one line; what is too long is cut, and says so."""
    digest: str
    """Of the process, the call, the capability and all arguments."""
    waited: float
    """Seconds since it asked."""
    left: float
    """Seconds until it gives up."""


@dataclass(frozen=True, slots=True)
class ApprovalList:
    approvals: list[Approval]
