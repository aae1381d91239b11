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
MAX_BYTES: Final = 1 << 20  # bytes of one read or write
MAX_PIPE: Final = 16 << 20  # capacity of a pipe
MAX_STOPS: Final = 16  # stop strings of one generate
MAX_STOP: Final = 256  # characters of one stop string
MAX_STOP_IDS: Final = 1_024
MAX_CAPABILITIES: Final = 256
MAX_CAPABILITY: Final = 256  # characters of one
MAX_PATH: Final = 256  # characters of a task path
MAX_CALLS: Final = 4_096  # calls of one process that may sleep at once
MAX_PROCESSES: Final = 1_024  # processes of one ps
PROCESSES: Final = 128  # of one that does not say: a page takes about 2 ms of the kernel's thread
MAX_RECORDS: Final = 4_096  # calls remembered in memory
MAX_RECORDED: Final = 4_096  # bytes of arguments, or of a result, above which the record keeps their size only
INLINE_TEXT: Final = 4_096  # characters above which text is tokenized off the loop
MAX_ID: Final = (1 << 53) - 1  # pids, handles and counts: exact in JSON and msgpack alike
