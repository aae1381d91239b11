"""The device of a remote model: a thread with an event loop, in which each request under way is a task.

    kernel's thread    send, recall  ->  the loop: a task each  ->  events, in a bundle per turn of the loop  ->  kernel's thread

Invariant: every order is answered by one Settled, however its task ends. Keeps no queue: the kernel has given a slot to whatever
is sent. The key is in the headers of requests and nowhere else: in no message, log or repr. Connections go to the configured host
only: neither redirects nor proxies nor .netrc are followed, and certificates are checked.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx

from llmos.kernel.device import Geometry
from llmos.kernel.errno import DeviceFailed, Fault
from llmos.kernel.slot import Counted, Event, Order, Settled

from .conversation import Conversation, Patience

log = logging.getLogger("llmos.remote")

KEEP_SECONDS = 30.0
"""How long a connection is kept that nobody uses."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go."""

    url: str
    """Without the path of a call: https://HOST/v1"""
    model: str
    """What the endpoint calls it."""
    key: str = field(default="", repr=False)


class RemoteDevice:
    """See the module. Implements `SlotDevice`."""

    def __init__(self, geometry: Geometry, target: Target, patience: Patience | None = None) -> None:
        self.geometry = geometry
        self._target, self._patience = target, patience or Patience()
        self._heard: Callable[[Sequence[Event]], None] = lambda events: None
        self._events: list[Event] = []
        self._tasks: dict[int, asyncio.Task[Settled]] = {}
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._warned = False
        self._idle: list[httpx.AsyncClient] = []
        """Clients without a request; as many in all as there ever were requests at once."""
        self._thread = threading.Thread(target=self._run, name=f"llmos-remote-{geometry.name}", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise DeviceFailed(f"{geometry.name}: no connection can be made: {self._failure}") from None

    # --- from any thread

    def listen(self, heard: Callable[[Sequence[Event]], None]) -> None:
        self._heard = heard

    def send(self, order: Order) -> None:
        self._soon(lambda: self._begin(order))

    def recall(self, burst: int) -> None:
        self._soon(lambda: self._cancel(burst))

    def close(self) -> None:
        self._soon(self._over.set)
        self._thread.join()

    def _soon(self, act: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(act)
        except RuntimeError:  # it is closed: what was under way has settled
            pass

    # --- in the thread

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:  # noqa: BLE001 - such as a store of certificates that cannot be read: whoever loads is told
            self._failure = error
        finally:
            self._loop.close()
            self._ready.set()

    async def _serve(self) -> None:
        self._certificates = httpx.create_ssl_context(trust_env=False)
        self._ready.set()
        await self._over.wait()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._flush()
        for client in self._idle:
            await client.aclose()

    def _client(self) -> httpx.AsyncClient:
        """A client with a connection of its own: in one pool each request would look at every connection that every other has."""
        if self._idle:
            return self._idle.pop()
        patience = self._patience
        headers = {"accept": "text/event-stream", "accept-encoding": "identity", "content-type": "application/json", "user-agent": "llmos"}
        if self._target.key:
            headers["authorization"] = f"Bearer {self._target.key}"
        return httpx.AsyncClient(
            base_url=self._target.url,
            headers=headers,
            timeout=httpx.Timeout(None, connect=patience.connect, write=patience.silence),  # for what is read: the conversation's own
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_SECONDS),
            verify=self._certificates,
            follow_redirects=False,
            trust_env=False,
        )

    def _begin(self, order: Order) -> None:
        if order.sampling.repetition_penalty != 1 and not self._warned:  # agents ask for it for the sake of small models
            self._warned = True
            log.warning("%s: repetition_penalty is not sent, since OpenAI's interface has none", self.geometry.name)
        client = self._client()
        conversation = Conversation(
            client,
            order,
            model=self._target.model,
            window=self.geometry.window,
            key=self._target.key,
            patience=self._patience,
            tell=self._tell,
        )
        task = self._tasks[order.burst] = self._loop.create_task(conversation.run())
        task.add_done_callback(lambda task: self._settled(order, conversation, task))
        task.add_done_callback(lambda task: self._idle.append(client))

    def _cancel(self, burst: int) -> None:
        task = self._tasks.get(burst)
        if task is not None:
            task.cancel()

    def _settled(self, order: Order, conversation: Conversation, task: asyncio.Task[Settled]) -> None:
        """A task has ended, maybe before it began."""
        del self._tasks[order.burst]
        counted = None if conversation.asked else Counted(0, 0)
        if task.cancelled():
            self._tell(Settled(order.burst, "cancelled", counted))
        elif (error := task.exception()) is None:
            self._tell(task.result())
        elif isinstance(error, Fault):
            self._tell(Settled(order.burst, "failed", counted, error))
        else:
            log.error("a request to %s failed: this is a bug in llmos", self.geometry.name, exc_info=error)
            fault = DeviceFailed(f"the driver of {self.geometry.name} failed with {type(error).__name__}: this is a bug; see the log")
            self._tell(Settled(order.burst, "failed", counted, fault))

    def _tell(self, event: Event) -> None:
        """Tell the kernel, together with whatever else this turn of the loop brings: a ring of its thread costs more than an event."""
        if not self._events:
            self._loop.call_soon(self._flush)
        self._events.append(event)

    def _flush(self) -> None:
        events, self._events = self._events, []
        if events:
            self._heard(events)
