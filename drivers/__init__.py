"""Drivers: everything that touches hardware or executes a model."""

if __name__ != "llmos.drivers":
    raise ImportError("the folder drivers/ is imported as llmos.drivers")
