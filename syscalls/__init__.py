"""System calls: the wire messages, the table, the handlers and the trap that receives calls."""

if __name__ != "llmos.syscalls":
    raise ImportError("the folder syscalls/ is imported as llmos.syscalls")
