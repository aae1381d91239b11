"""Runners: OS processes in which programs run, one each, and what starts and ends them.

    daemon --control--> fork server --fork--> supervisor --fork--> the program, in a session of its own
       |                 (one, exec'ed,         (one a runner,        |      and whatever it starts
       |                  SDK imported)          idle until a job)    |
       +----------------- a socket pair each ---------+               |
       +----------------- the daemon's socket, a secret --------------+

The daemon's side is services/init/runners.py. Nothing here knows a system call: the program's side is sdk/runner.py.
"""
