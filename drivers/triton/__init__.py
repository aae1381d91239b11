"""Triton functions over paged KV, for devices that have a page pool in GPU memory.

Importing one of its modules needs the package `triton` (the extra `gpu`); nothing outside this folder imports them
unless a GPU device is asked for. `oracle.py` and `splits.py` need no Triton. Each function runs in three ways: on a GPU; under
Triton's interpreter on CPU tensors (TRITON_INTERPRET=1 in the environment before the import, since the choice is made when
a function is decorated); and compiled ahead of time for a GPU that is not there (`resources.py`).
"""
