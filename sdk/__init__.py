"""The C library of this OS: what a Python program imports to spawn agents and make calls."""

if __name__ != "llmos.sdk":
    raise ImportError("the folder sdk/ is imported as llmos.sdk")
