"""Every bound of the system-call interface, in one place. The kernel's own are in kernel/param.py."""

from __future__ import annotations

from typing import Final

MAX_TEXT: Final = 4 << 20  # characters of text in one argument
MAX_TOKENS: Final = 1 << 20  # token ids in one argument; tokens asked of one generate
MAX_TOKEN_ID: Final = (1 << 31) - 1
MAX_MESSAGES: Final = 4_096  # chat messages in one call
MAX_NAME: Final = 64  # characters of a process's name
MAX_MODEL: Final = 128  # characters of a model's name
MAX_REASON: Final = 1 << 16  # characters of the text a process leaves on exit
MAX_VALUE: Final = 1 << 18  # bytes of what a program returns, packed
MAX_PROGRAM: Final = 4_096  # characters of "module:function", or of the path of a file in its place
MAX_ARGUMENTS: Final = 1 << 20  # bytes of a program's arguments, packed
MAX_PLACES: Final = 64  # folders in which a runner looks for modules
MAX_PLACE: Final = 4_096  # characters of one
PLACE: Final = r"^/[^\x00]*$"  # what they may be
MAX_RUNNERS: Final = 512  # programs in runners at once
MAX_BYTES: Final = 1 << 20  # bytes of one read or write
MAX_PIPE: Final = 16 << 20  # capacity of a pipe
MAX_STOPS: Final = 16  # stop strings of one generate
MAX_STOP: Final = 256  # characters of one stop string
MAX_STOP_IDS: Final = 1_024
MAX_SCHEMA: Final = 1 << 16  # characters of the JSON schema of one reply, or of all its tools
MAX_SCHEMA_DEPTH: Final = 64  # lists and objects in each other, in a schema
MAX_SCHEMA_COUNT: Final = 65_536  # that minItems, minLength and the like may ask for
MAX_REGEX: Final = 4_096  # characters of a regular expression
MAX_CHOICES: Final = 1_024  # texts that a reply may be one of
MAX_CHOICE: Final = 1_024  # characters of one
MAX_SAMPLES: Final = 64  # replies of one sample
MAX_REPLY_TOOLS: Final = 128  # tools that one reply may call
MAX_CAPABILITIES: Final = 128  # of one spawn
MAX_CAPABILITY: Final = 256  # characters of one
MAX_PATH: Final = 256  # characters of a task path
MAX_CALLS: Final = 4_096  # calls of one process that may sleep at once
MAX_PROCESSES: Final = 1_024  # processes of one ps
PROCESSES: Final = 128  # of one that does not say: a page takes about 2 ms of the kernel's thread
MAX_RECORDS: Final = 4_096  # calls remembered in memory
MAX_RECORDED: Final = 4_096  # bytes of arguments, or of a result, above which the record keeps their size only
INLINE_TEXT: Final = 4_096  # characters above which text is tokenized off the loop

MAX_TOOLS: Final = 1_024  # tools of one offer, and of one page of tool_list
MAX_OFFERS: Final = 64  # offers of one process
MAX_OWN_TOOLS: Final = 4_096  # tools of one process, in all its offers
INLINE_TOOLS: Final = 1_024  # from more than these a page is made on another thread
MAX_TOOL_NEEDS: Final = 8  # capabilities that a tool asks for besides its own
MAX_TOOL_NAME: Final = 128  # characters of a tool's name
TOOL_NAME: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"  # what they may be
MAX_TOOL_DESCRIPTION: Final = 8_192  # characters that say what it does
MAX_TOOL_SCHEMA: Final = 65_536  # characters of the schema of its arguments
MAX_OFFER: Final = 8 << 20  # characters of all descriptions and schemas of an offer
MAX_TOOL_ARGUMENTS: Final = 262_144  # characters of the arguments of one call
MAX_TOOL_RESULT: Final = 1 << 20  # bytes of a result, mark included
TOOL_RESULT: Final = 65_536  # of one whose caller does not say
MAX_TOOL_SECONDS: Final = 86_400.0  # that a call may take
TOOL_SECONDS: Final = 60.0  # of a tool that does not say
MAX_TOOL_CALLS: Final = 1_024  # of one offer under way
MAX_TOOL_CHECKS: Final = 200_000  # parts of a schema looked at to check the arguments of one call
MAX_TOOL_DEPTH: Final = 64  # lists and maps in each other, in arguments and in schemas
TOOL_BATCH: Final = 64  # calls that an offerer is given at once

MAX_MAIL: Final = 64 << 10  # bytes of one message between processes
MAX_SECONDS: Final = 1e9  # of one sleep or time-out
MAX_ASKS: Final = 16  # calls of one process that wait for a person
MAX_APPROVALS: Final = 1_024  # of all; a tree of processes may have as many as it leaves to others
MAX_SHOWN: Final = 65_536  # characters of a call's arguments that a person is shown; what is cut is marked
LISTED: Final = 512  # of them in a list of several
APPROVAL_SECONDS: Final = 3_600.0  # until a call that nobody answers ends with TimedOut
MAX_BRIEF: Final = 2_048  # characters of a call's arguments in the audit log
MAX_ID: Final = (1 << 53) - 1  # pids, handles and counts: exact in JSON and msgpack alike

MAX_FILE_PATH: Final = 4_096  # bytes of a path
MAX_PART: Final = 255  # bytes of a name in it
MAX_DEPTH: Final = 64  # names in it: whoever walks a tree has a folder open for each
MAX_FILE_WRITE: Final = 16 << 20  # bytes of one write of a file: what one message can bring
MAX_ENTRIES: Final = 1_024  # of one page of a folder
ENTRIES: Final = 256  # of one that does not say
MAX_VERSIONS: Final = 10  # earlier contents kept of one file
ENTRY_BYTES: Final = 1_024  # counted for each file, folder and kept version, beside its bytes: their number has a bound too

MAX_MESSAGE: Final = 17 << 20  # bytes of one message from a client: the longest text in UTF-8, and what is around it
MAX_REPLY: Final = 256 << 20  # bytes of one message to a client
MAX_ITEMS: Final = 4_096  # entries of one list or map in a message; lists of numbers come packed, and may be longer
MAX_CONTAINERS: Final = 16_384  # lists and maps in one message from a client
MAX_SESSIONS: Final = 1_024  # clients at once
MAX_CREDIT: Final = 4_096  # pieces of one stream that may be on their way
MAX_GARBAGE: Final = 100  # messages without sense after which a client is hung up
MAX_STRANGE: Final = 8  # of somebody who has not said hello yet
PUSHBACK_BYTES: Final = 32 << 20  # sent to a client and not read, above which its new calls are refused
MAX_UNREAD: Final = 384 << 20  # above which it is hung up
MARK_BYTES: Final = 1 << 20  # after which it is asked how far it has read
HEARTBEAT_SECONDS: Final = 5.0  # between two pings of a client
SILENCE_SECONDS: Final = 600.0  # of a client whose process is there, after which it is hung up: its loop may be busy
UNWATCHED_SECONDS: Final = 30.0  # of one whose process cannot be watched
