"""Errors of system calls: one class per errno, each with a message that says what to do next.

* Fault                    anything a caller may catch
  x NotPermitted           EPERM      the process lacks the capability or does not own the object
  x NoSuchProcess          ESRCH      no process with that pid
  x Interrupted            EINTR      SIGINT or SIGTERM ended the call
  x InvalidArgument        EINVAL     a value is out of its bounds or of the wrong kind
  x BadHandle              EBADF      no such context, pipe or burst, or it is closed
  x NoSuchChild            ECHILD     wait for something that is not a child
  x TryAgain               EAGAIN     it would block; try again when woken
  x OutOfPages             ENOMEM     the request can never fit the device's pages
  x AlreadyExists          EEXIST     the name is taken
  x NotFound               ENOENT     no such program, model or file
  x TooLong                E2BIG      longer than the model's window or the call's bound
  x NoSpace                ENOSPC     the disk is full
  x BrokenPipe             EPIPE      nobody is left to read
  x NotSupported           ENOTSUP    this device or model cannot do that
  x BadFormat              ENOEXEC    a file is not what it says it is
  x IntegrityError         EBADMSG    a checksum does not match
  x TimedOut               ETIMEDOUT  the deadline passed
  x QuotaExceeded          EDQUOT     a limit of the process, its tree or its user was reached
  x Cancelled              ECANCELED  the work was cancelled before its end
  x DeviceFailed           EIO        the device could not execute a step
  x ShutDown               ESHUTDOWN  the system is going down

A Panic is a broken invariant of the kernel itself. It is not a Fault and is never caught.
"""

from __future__ import annotations

import errno as _errno
from typing import ClassVar


class Fault(Exception):
    """An error with an errno, reported to the process that caused it."""

    errno: ClassVar[int] = 0

    @property
    def code(self) -> str:
        """The symbolic name, such as ``ESRCH``."""
        return _errno.errorcode.get(self.errno, "E?")

    def __str__(self) -> str:
        return f"{self.args[0] if self.args else type(self).__name__} [{self.code}]"


class NotPermitted(Fault):
    errno = _errno.EPERM


class NoSuchProcess(Fault):
    errno = _errno.ESRCH


class Interrupted(Fault):
    errno = _errno.EINTR


class InvalidArgument(Fault):
    errno = _errno.EINVAL


class BadHandle(Fault):
    errno = _errno.EBADF


class NoSuchChild(Fault):
    errno = _errno.ECHILD


class TryAgain(Fault):
    errno = _errno.EAGAIN


class OutOfPages(Fault):
    errno = _errno.ENOMEM


class AlreadyExists(Fault):
    errno = _errno.EEXIST


class NotFound(Fault):
    errno = _errno.ENOENT


class TooLong(Fault):
    errno = _errno.E2BIG


class NoSpace(Fault):
    errno = _errno.ENOSPC


class BrokenPipe(Fault):
    errno = _errno.EPIPE


class NotSupported(Fault):
    errno = _errno.ENOTSUP


class BadFormat(Fault):
    errno = _errno.ENOEXEC


class IntegrityError(Fault):
    errno = _errno.EBADMSG


class TimedOut(Fault):
    errno = _errno.ETIMEDOUT


class QuotaExceeded(Fault):
    errno = _errno.EDQUOT


class Cancelled(Fault):
    errno = _errno.ECANCELED


class DeviceFailed(Fault):
    errno = _errno.EIO


class ShutDown(Fault):
    errno = _errno.ESHUTDOWN


FAULTS: dict[int, type[Fault]] = {fault.errno: fault for fault in Fault.__subclasses__()}
"""errno -> class, so that a fault survives a trip over a wire."""


class Panic(BaseException):
    """A kernel invariant is broken. Never caught: going on would corrupt other processes."""
