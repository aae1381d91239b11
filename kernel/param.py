"""Every bound of the kernel, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Params:
    """Constants of one kernel. Units are in the names or the comments; tests shrink them."""

    max_processes: int = 32_768  # entries of the process table, zombies included
    max_depth: int = 64  # generations below init: charging walks up the tree
    max_contexts: int = 1_024  # per process
    max_pipes: int = 131_072  # in the whole system; a tree of processes may make as many as it leaves to others
    max_pipe_bytes: int = 16 << 20  # capacity of one pipe
    max_capabilities: int = 256  # rules that one process holds, those it inherits of its parent's included
    max_mail: int = 256  # messages that wait in one mailbox
    max_mail_bytes: int = 1 << 20  # the same in bytes; one message has at most half of them
    max_post_bytes: int = 256 << 20  # in all mailboxes; a tree of processes may have as much as it leaves to others
    term_grace_seconds: float = 5.0  # from SIGTERM (or SIGXCPU) to SIGKILL
    max_causes: int = 64  # distinct causes of delay remembered per process
    lookahead: int = 32  # bursts that a step may pass over for want of memory
    min_progress: int = 16  # tokens a burst computes before it may be preempted again
    preempt_gap: float = 256.0  # service by which a waiter must be behind to preempt within a class
    low_water: int = 8  # free frames below which dirty idle pages are written back
    write_back: int = 32  # pages written back in one step at most
    speculate: bool = True  # let steps verify guesses, on devices that say what those cost
    guesses: int = 15  # in one row at most
    lookup: int = 2_048  # tokens that are taken in for guesses, in one step at most


@dataclass(frozen=True, slots=True)
class Weights:
    """What a process is charged for, in units of one prefilled token (the virtual token counter of VTC, Sheng et al. 2024)."""

    prefill: float = 1.0
    decode: float = 2.0
    page_step: float = 1 / 256  # one page wired during one step
    credit: float = 64.0  # by how much one who was not ready may start ahead of the others


NICE_STEP = 1.25
"""One nice value is a factor of 1.25 in weight, as in CFS."""

MIN_NICE, MAX_NICE = -20, 19
