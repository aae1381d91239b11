"""The numbers of the calls, and what each gives, for those who make them over a socket.

The same as the columns of table.py (a test holds them together), without the handlers, which a client never imports. A
number that was given out once is never given to another call.
"""

from __future__ import annotations

from typing import Any, Final

from llmos.kernel.view import ExitRecord, Explanation

from . import results

CALLS: Final[dict[str, tuple[int, type[Any]]]] = {
    "spawn": (1, results.Spawned),
    "exit": (2, results.Done),
    "wait": (3, ExitRecord),
    "kill": (4, results.Done),
    "renice": (5, results.Done),
    "reclass": (6, results.Done),
    "setlimits": (7, results.Done),
    "ps": (8, results.ProcessList),
    "explain": (9, Explanation),
    "fork": (10, results.Forked),
    "run": (11, results.Running),
    "job": (12, results.Job),
    "begun": (13, results.Done),
    "open": (20, results.ContextInfo),
    "close": (21, results.Done),
    "append": (22, results.ContextInfo),
    "fork_context": (23, results.ContextInfo),
    "truncate": (24, results.ContextInfo),
    "context_info": (25, results.ContextInfo),
    "context_tokens": (26, results.TokenList),
    "generate": (30, results.Reply),
    "tokenize": (31, results.TokenList),
    "detokenize": (32, results.TextResult),
    "score": (33, results.Scores),
    "embed": (34, results.Embedding),
    "pipe": (40, results.PipeHandle),
    "read": (41, results.Data),
    "write": (42, results.Written),
    "close_pipe": (43, results.Done),
    "share_pipe": (44, results.Done),
    "send": (45, results.Done),
    "receive": (46, results.Mail),
    "models": (50, results.ModelList),
    "statistics": (51, results.SystemStatistics),
    "file_read": (60, results.FileData),
    "file_write": (61, results.FileInfo),
    "file_copy": (62, results.FileInfo),
    "file_move": (63, results.Done),
    "file_list": (64, results.FileList),
    "file_stat": (65, results.FileInfo),
    "file_remove": (66, results.Done),
    "file_make": (67, results.FileInfo),
    "file_versions": (68, results.VersionList),
    "file_restore": (69, results.FileInfo),
    "tool_list": (80, results.ToolList),
    "tool_call": (81, results.ToolResult),
    "tool_offer": (82, results.OfferHandle),
    "tool_next": (83, results.ToolRequests),
    "tool_result": (84, results.Done),
    "tool_withdraw": (85, results.Done),
    "sleep": (52, results.Done),
    "clock": (53, results.Clock),
    "approvals": (70, results.ApprovalList),
    "next_approval": (71, results.ApprovalList),
    "answer": (72, results.Done),
}
