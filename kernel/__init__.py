"""The kernel: a pure state machine. Calls and events with timestamps go in; batches to execute and wakeups come out."""

if __name__ != "llmos.kernel":
    raise ImportError("the folder kernel/ is imported as llmos.kernel")
