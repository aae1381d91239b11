"""The audit log: one line for each system call, in files that nobody can change unseen.

log.py    writes it, on a thread of its own
chain.py  what a line is, and how each holds the one before it
read.py   reads, filters and verifies it

HOME/audit/       0700
  lock            held by whoever writes
  head            the number and hash of the last line: shows that lines were cut off at the end
  000001.jsonl    0600, the oldest file that is kept
  000002.jsonl
"""
