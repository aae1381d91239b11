"""The check that nothing is lost or owned twice. Run after every step of the property tests, and when idle."""

from __future__ import annotations

from .burst import State
from .context import Context
from .dispatch import Dispatcher
from .errno import Panic
from .memory import Page
from .pipe import Pipe
from .process import Phase, Process
from .scheduler import Scheduler


def check_scheduler(scheduler: Scheduler, contexts: list[Context]) -> None:
    """`contexts` are all the open ones of this device. Raises Panic."""
    named: dict[Page, int] = {}
    wired: dict[Page, int] = {}
    for context in contexts:
        if context.computed > len(context.tokens) or len(context.pages) * context.slots < context.computed:
            raise Panic(f"context {context.cid}: {context.computed} of {len(context.tokens)} tokens in {len(context.pages)} pages")
        if not context.flying and (len(context.pages) - 1) * context.slots >= len(context.tokens) > 0:
            raise Panic(f"context {context.cid} holds {len(context.pages)} pages for {len(context.tokens)} tokens")
        if len(context.keys) * context.slots > len(context.tokens):
            raise Panic(f"context {context.cid} has keys of pages that are not full")
        for page in context.pages:
            named[page] = named.get(page, 0) + 1
            wired[page] = wired.get(page, 0) + context.resident
        burst = context.burst
        if context.resident != (burst is not None and burst.resident) or (context.resident and burst not in scheduler.residents):
            raise Panic(f"context {context.cid} is resident without a resident burst, or the other way round")
    if len(scheduler.residents) != sum(context.resident for context in contexts):
        raise Panic("a resident burst has no open context")
    scheduler.memory.check_integrity(named, wired)
    for key, fill in scheduler.fills.claimed.items():
        if fill.owner.done or key not in fill.owner.claims:
            raise Panic(f"a fill is owned by burst {fill.owner.bid}, which is over or does not know of it")
        for waiter in fill.waiters:
            if waiter.state is not State.WAITING or waiter.awaits != key:
                raise Panic(f"burst {waiter.bid} is listed as waiting for a fill but is {waiter.state.name}")


def check_dispatcher(dispatcher: Dispatcher, contexts: list[Context]) -> None:
    """`contexts` are all the open ones of this device. Raises Panic."""
    geometry, flying = dispatcher.geometry, dispatcher.flying
    if len(flying) > geometry.slots:
        raise Panic(f"{geometry.name} has {geometry.slots} slots and {len(flying)} requests under way")
    for context in contexts:
        if context.pages or context.computed or len(context.tokens) > geometry.window:
            raise Panic(f"context {context.cid} of {len(context.tokens)} tokens has pages where there are none, or passes the window")
        burst = context.burst
        if burst is not None and burst.state not in (State.READY, State.RUNNING, State.HELD):
            raise Panic(f"burst {burst.bid} is {burst.state.name} on a device without pages")
        if burst is not None and (burst.state is State.RUNNING) != (burst.bid in flying and burst.state is not State.HELD):
            raise Panic(f"burst {burst.bid} is {burst.state.name} and has {'a' if burst.bid in flying else 'no'} slot")
    for burst in flying.values():
        if not burst.done and burst.context.burst is not burst:
            raise Panic(f"burst {burst.bid} has a slot and its context does not know of it")
    if any(bid not in flying for bid in dispatcher.recalled):
        raise Panic("a request is recalled that is not under way")


def check_pipes(pipes: dict[int, Pipe], processes: dict[int, Process]) -> None:
    """Each pipe counts its ends and its bytes, and is charged to those who made it possible. Raises Panic."""
    made: dict[Process, int] = {}
    for number, pipe in pipes.items():
        readers = sum(process.readers.get(number, 0) for process in processes.values())
        writers = sum(process.writers.get(number, 0) for process in processes.values())
        if (readers, writers) != (pipe.readers, pipe.writers) or not len(pipe.buffer) == pipe.written - pipe.taken <= pipe.capacity:
            raise Panic(f"pipe {number} counts {pipe.readers} readers and {pipe.writers} writers; there are {readers} and {writers}")
        for above in pipe.maker.lineage():
            made[above] = made.get(above, 0) + 1
    for pid, process in processes.items():
        if process.usage.tree_pipes != made.get(process, 0):
            raise Panic(f"pid {pid} is charged for {process.usage.tree_pipes} pipes and its tree has made {made.get(process, 0)}")


def check_processes(processes: dict[int, Process], contexts: dict[int, Context]) -> None:
    """The tree is a tree, and what is charged up it adds up. Raises Panic."""
    pages: dict[Process, int] = {}
    below: dict[Process, int] = {}
    for context in contexts.values():
        if context.cid not in context.process.contexts:
            raise Panic(f"context {context.cid} is not listed by pid {context.process.pid}, which owns it")
        for process in context.process.lineage():
            pages[process] = pages.get(process, 0) + len(context.pages)
    for pid, process in processes.items():
        parent = process.parent
        if pid != 1 and (parent is None or parent.pid not in processes or parent.children.get(pid) is not process):
            raise Panic(f"pid {pid} has no parent that knows it")
        if pid != 1 and parent is not None and not parent.live:
            raise Panic(f"pid {pid} has a dead parent: it should have gone to init")
        if process.phase is Phase.ZOMBIE and (process.contexts or process.bursts or process.readers or process.writers):
            raise Panic(f"pid {pid} is a zombie and still holds something")
        for above in process.lineage():
            below[above] = below.get(above, -1) + 1
    for pid, process in processes.items():
        if process.usage.tree_children != below[process]:
            raise Panic(f"pid {pid} is charged for {process.usage.tree_children} descendants and has {below[process]}")
        if process.usage.tree_pages != pages.get(process, 0):
            raise Panic(f"pid {pid} is charged for {process.usage.tree_pages} pages and its tree maps {pages.get(process, 0)}")
