"""The tools of a home: init starts the process that offers them, as tasks of the loop that it runs on, and ends it.

Not the kernel's loop: in a daemon the main thread's, which has nothing else to do, else the caller's. A home without a tools.toml has
no such process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from llmos.kernel.errno import Fault, ShutDown
from llmos.kernel.kernel import Kernel
from llmos.kernel.signal import Signal
from llmos.sdk.port import Port
from llmos.sdk.program import Programs
from llmos.sdk.system import System
from llmos.services.tools.config import ToolsFile

from .thread import KernelThread

log = logging.getLogger("llmos.init")

INIT = 1


@asynccontextmanager
async def serving(thread: KernelThread, kernel: Kernel, file: ToolsFile) -> AsyncIterator[int | None]:
    """Offer what a tools.toml names as long as the block runs. Gives the pid of the process that does. The trap must be there."""
    if not file:
        yield None
        return
    port = Port(thread, asyncio.get_running_loop())
    capabilities = frozenset({"tools:public"})
    pid = await thread.ask(lambda: kernel.spawn(time.monotonic(), INIT, name="tools", capabilities=capabilities))
    thread.on_breath(port.flush, lambda why: None)  # of its failure others tell
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serve, System(port, pid, Programs(port, tasks), (), None), file)
            try:
                yield pid
            except BaseException as raised:  # noqa: BLE001 - raised again below, outside the task group, as it is
                failure = raised
            tasks.cancel_scope.cancel()
    finally:
        port.close(ShutDown("the system has shut down"))
        thread.post(lambda: _end(kernel, pid))
    if failure is not None:
        raise failure


async def _serve(system: System, file: ToolsFile) -> None:
    from llmos.services.tools.serve import serve

    try:
        await serve(system, file)
    except* Fault as faults:  # its process was killed, or a name is taken
        log.error("the tools of tools.toml are gone until the next start: %s", faults.exceptions[0])


def _end(kernel: Kernel, pid: int) -> None:
    process = kernel.table.all.get(pid)
    if process is not None and process.live:
        kernel.kill(time.monotonic(), INIT, pid, Signal.KILL)


def tools_of(home: Path) -> ToolsFile:
    """What the tools.toml of a home says. Raises BadFormat."""
    from llmos.services.tools.config import load

    return load(home)
