"""The arguments of system calls: strict pydantic models, every number, length and count bounded (param.py).

Given out by abi.py when they are first asked for: a client that only makes calls does without them, and without pydantic.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from llmos.kernel.capability import check
from llmos.kernel.errno import InvalidArgument
from llmos.kernel.process import LIMITS, Limits

from . import param


def _meant(capability: str) -> str:
    """A capability of a form that means something, for pydantic, which wants ValueErrors."""
    try:
        return check(capability)
    except InvalidArgument as invalid:
        raise ValueError(invalid.args[0]) from None


Pid: TypeAlias = Annotated[int, Field(ge=1, le=param.MAX_ID)]
Handle: TypeAlias = Annotated[int, Field(ge=0, le=param.MAX_ID)]
TokenId: TypeAlias = Annotated[int, Field(ge=0, le=param.MAX_TOKEN_ID)]
Text: TypeAlias = Annotated[str, Field(max_length=param.MAX_TEXT)]
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=param.MAX_NAME, pattern=r"^[^\x00-\x1f\x7f]+$")]
StopString: TypeAlias = Annotated[str, Field(min_length=1, max_length=param.MAX_STOP)]
Model: TypeAlias = Annotated[str, Field(min_length=1, max_length=param.MAX_MODEL, pattern=r"^[^\x00-\x1f\x7f]+$")]
Capability: TypeAlias = Annotated[
    str, Field(min_length=1, max_length=param.MAX_CAPABILITY, pattern=r"^[^\x00-\x20\x7f]+$"), AfterValidator(_meant)
]
Seconds: TypeAlias = Annotated[float, Field(ge=0, le=param.MAX_SECONDS)]
ToolName: TypeAlias = Annotated[str, Field(min_length=1, max_length=param.MAX_TOOL_NAME, pattern=param.TOOL_NAME)]
Nice: TypeAlias = Annotated[int, Field(ge=-20, le=19)]
ClassName: TypeAlias = Literal["interactive", "normal", "batch", "idle"]
SignalName: TypeAlias = Literal["INT", "KILL", "TERM", "CONT", "STOP"]
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Choice: TypeAlias = Annotated[str, Field(min_length=1, max_length=param.MAX_CHOICE)]
Schema: TypeAlias = Annotated[str, Field(min_length=1, max_length=param.MAX_SCHEMA)]
Count: TypeAlias = Annotated[int, Field(ge=0, le=param.MAX_ID)]


class Arguments(BaseModel):
    """Base of every argument model: nothing is converted, nothing unknown passes, no NaN, no infinity."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class LimitsArguments(Arguments):
    tokens: Count | None = None
    pages: Count | None = None
    wall_seconds: Annotated[float, Field(ge=0, le=1e9)] | None = None
    children: Count | None = None
    tool_calls: Count | None = None
    tool_seconds: Annotated[float, Field(ge=0, le=1e9)] | None = None
    cost: Annotated[float, Field(ge=0, le=1e9)] | None = None

    def to_limits(self) -> Limits:
        return Limits(**{name: getattr(self, name) for name in LIMITS})


class Message(Arguments):
    role: Role
    content: Text


class Nothing(Arguments):
    """No arguments."""


class Spawn(Arguments):
    name: Name
    user: Name | None = None
    """This and what follows: None inherits the caller's."""
    cls: ClassName | None = None
    nice: Nice | None = None
    limits: LimitsArguments = LimitsArguments()
    capabilities: Annotated[list[Capability], Field(max_length=param.MAX_CAPABILITIES, fail_fast=True)] | None = None
    tools: Annotated[list[ToolName], Field(max_length=param.MAX_CAPABILITIES, fail_fast=True)] = []
    """Names of tools that it may call, besides its other capabilities."""
    stdin: Handle | None = None
    """A pipe of the caller's to read from; None makes one and gives the caller its write end. The same for the other two."""
    stdout: Handle | None = None
    stderr: Handle | None = None


class ExitArguments(Arguments):
    status: Annotated[int, Field(ge=0, le=255)]
    reason: Annotated[str, Field(max_length=param.MAX_REASON)] = ""
    value: Annotated[bytes, Field(max_length=param.MAX_VALUE)] = b""


class Wait(Arguments):
    pid: Pid | None = None


class Kill(Arguments):
    pid: Pid
    signal: SignalName = "TERM"
    tree: bool = False


class Renice(Arguments):
    pid: Pid
    nice: Nice


class Reclass(Arguments):
    pid: Pid
    cls: ClassName


class SetLimits(Arguments):
    pid: Pid
    limits: LimitsArguments


class ListProcesses(Arguments):
    """A page of the process table: those with a higher pid than `after`."""

    after: Count = 0
    limit: Annotated[int, Field(ge=1, le=param.MAX_PROCESSES)] = param.PROCESSES


class OfProcess(Arguments):
    pid: Pid


class Fork(Arguments):
    pid: Pid
    name: Name | None = None


class Open(Arguments):
    model: Model | None = None


class OfContext(Arguments):
    context: Handle


class Truncate(Arguments):
    context: Handle
    length: Count


class Tokens(Arguments):
    context: Handle
    start: Count = 0
    count: Annotated[int, Field(ge=0, le=param.MAX_TOKENS)] = param.MAX_TOKENS


class Content(Arguments):
    """What to add to a context: chat messages, plain text or token ids."""

    context: Handle
    messages: Annotated[list[Message], Field(max_length=param.MAX_MESSAGES, fail_fast=True)] | None = None
    text: Text | None = None
    tokens: Annotated[list[TokenId], Field(max_length=param.MAX_TOKENS, fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Content:
        if sum(part is not None for part in (self.messages, self.text, self.tokens)) > 1:
            raise ValueError("give one of messages, text and tokens, not several")
        return self


class Append(Content):
    pass


class Sampled(Arguments):
    """How a reply is sampled, and where it ends."""

    max_tokens: Annotated[int, Field(ge=1, le=param.MAX_TOKENS)] | None = None
    """None: what is left of the model's window."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    top_k: Annotated[int, Field(ge=0, le=param.MAX_TOKEN_ID)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """None: drawn from the process's own sequence of seeds."""
    stop: Annotated[list[StopString], Field(max_length=param.MAX_STOPS, fail_fast=True)] = []


class Tool(Arguments):
    name: Annotated[str, Field(min_length=1, max_length=param.MAX_TOOL_NAME)]
    json_schema: Schema
    """Of its arguments: a JSON schema of an object, as text."""


class Generate(Content, Sampled):
    json_schema: Schema | None = None
    """The reply is JSON of this schema, given as text. At most one of this and the next three; they decide where the reply ends."""
    regex: Annotated[str, Field(min_length=1, max_length=param.MAX_REGEX)] | None = None
    choice: Annotated[list[Choice], Field(min_length=1, max_length=param.MAX_CHOICES, fail_fast=True)] | None = None
    """The reply is one of these texts."""
    tools: Annotated[list[Tool], Field(min_length=1, max_length=param.MAX_REPLY_TOOLS, fail_fast=True)] | None = None
    """The reply calls one of these: {"name": ..., "arguments": {...}}."""
    tool_choice: Literal["required", "auto"] = "required"
    """auto: the reply is text, and what stands in it between <tool_call> and </tool_call> is such a call."""
    stop_ids: Annotated[list[TokenId], Field(max_length=param.MAX_STOP_IDS, fail_fast=True)] = []
    ignore_stop: bool = False
    """Generate exactly max_tokens: neither stop ids nor stop strings end it."""
    logprobs: Annotated[int, Field(ge=0, le=20)] = 0

    @model_validator(mode="after")
    def _one_form(self) -> Generate:
        forms = sum(part is not None for part in (self.json_schema, self.regex, self.choice, self.tools))
        if forms > 1:
            raise ValueError("give one of schema, regex, choice and tools, not several")
        if self.tool_choice == "auto":
            if self.tools is None:
                raise ValueError("tool_choice says how tools are called: give tools")
            if self.ignore_stop:
                raise ValueError("a call of a tool says where it ends: leave out ignore_stop")
        elif forms and (self.stop or self.stop_ids or self.ignore_stop):
            raise ValueError("schema, regex, choice and tools say where the reply ends: leave out stop, stop_ids and ignore_stop")
        return self


class Given(Arguments):
    """One of text and tokens."""

    context: Handle
    text: Text | None = None
    tokens: Annotated[list[TokenId], Field(max_length=param.MAX_TOKENS, fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Given:
        if self.text is not None and self.tokens is not None:
            raise ValueError("give one of text and tokens, not both")
        return self


class Score(Given):
    pass


class Embed(Given):
    pass


class Tokenize(Arguments):
    text: Text
    model: Model | None = None


class Detokenize(Arguments):
    tokens: Annotated[list[TokenId], Field(max_length=param.MAX_TOKENS, fail_fast=True)]
    model: Model | None = None


class PipeArguments(Arguments):
    capacity: Annotated[int, Field(ge=1, le=param.MAX_PIPE)] = 65_536


class Read(Arguments):
    pipe: Handle
    most: Annotated[int, Field(ge=1, le=param.MAX_BYTES)] = 65_536


class Write(Arguments):
    pipe: Handle
    data: Annotated[bytes, Field(max_length=param.MAX_BYTES)]


class ClosePipe(Arguments):
    pipe: Handle
    read: bool = False
    write: bool = False


class Send(Arguments):
    pid: Pid
    data: Annotated[bytes, Field(max_length=param.MAX_MAIL)]
    timeout: Seconds | None = None
    """How long to wait for room in the mailbox; 0 does not wait, None waits for ever."""


class Receive(Arguments):
    timeout: Seconds | None = None
    """How long to wait for mail."""


class Sleep(Arguments):
    seconds: Seconds


class ListApprovals(Arguments):
    id: Count | None = None
    """One of them, with its arguments in full; None lists all."""


class NextApproval(Arguments):
    after: Count = 0
    """The highest id that one knows of."""


class Answer(Arguments):
    id: Count
    allow: bool
    reason: Annotated[str, Field(max_length=1_000, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    """Told to the process if it is refused."""
    digest: Annotated[str, Field(max_length=64)] | None = None
    """Of what was shown: an approval of anything else is refused."""
