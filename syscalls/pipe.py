"""Handlers of the pipe family: bytes between processes, with back-pressure."""

from __future__ import annotations

from llmos.kernel.errno import InvalidArgument, TryAgain

from . import abi
from .call import Call
from .channel import sleep
from .core import Core


def pipe(core: Core, call: Call, args: abi.PipeArguments) -> abi.PipeHandle:
    """Make a pipe and hold both of its ends."""
    return abi.PipeHandle(core.kernel.pipe(core.clock(), call.pid, args.capacity))


async def read(core: Core, call: Call, args: abi.Read) -> abi.Data:
    """Take what is in a pipe, at most `most` bytes; sleep while it is empty. No bytes at all are the end of the file."""
    while True:
        try:
            return abi.Data(core.kernel.read(core.clock(), call.pid, args.pipe, args.most))
        except TryAgain:
            await sleep(("pipe", args.pipe))


async def write(core: Core, call: Call, args: abi.Write) -> abi.Written:
    """Put all of `data` into a pipe, sleeping while it is full. BrokenPipe if nobody is left to read.

    What was taken before a signal or a cancellation stays in the pipe.
    """
    data, done = memoryview(args.data), 0  # a view: what is left is not copied at every turn
    while done < len(data):
        try:
            done += core.kernel.write(core.clock(), call.pid, args.pipe, data[done:])
        except TryAgain:
            await sleep(("pipe", args.pipe))
    return abi.Written(done)


def close_pipe(core: Core, call: Call, args: abi.ClosePipe) -> abi.Done:
    """Close one's read end, write end, or both."""
    if not (args.read or args.write):
        raise InvalidArgument("close_pipe: say which end, read or write")
    core.kernel.pipe_close(core.clock(), call.pid, args.pipe, read=args.read, write=args.write)
    return abi.Done()


def share_pipe(core: Core, call: Call, args: abi.ClosePipe) -> abi.Done:
    """Hold an end of a pipe once more: it is closed when it has been closed as often as it is held."""
    if not (args.read or args.write):
        raise InvalidArgument("share_pipe: say which end, read or write")
    core.kernel.pipe_give(core.clock(), call.pid, call.pid, args.pipe, read=args.read, write=args.write)
    return abi.Done()
