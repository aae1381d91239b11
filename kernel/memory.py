"""Memory: the pages of one device, the frames of its tiers, and who gets a frame next.

    page          tables  wires   where it is listed
    wired         >= 1    >= 1    `doubled` if it has a finished host copy: it cannot be evicted, but spares that copy
    idle          >= 1    0       `dirty` or `clean`, while it has a device frame
    cached        0       0       `cached` while it has a device frame, else `parked` (host only)

In every tier free + used + limbo = total. A page's `tables` equals the page tables that name it. Only a page that the
prefix index names outlives its last table. An idle page with a finished host copy is clean: evicting it costs nothing.
Every list is in the order of use, least recent first.
A frame freed while a step is in flight waits in limbo until that step retires: copy, fence, then free.
Knows nothing of tensors, tokens or processes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import chain, islice

from .device import Copy, Geometry, Tier
from .errno import Panic

NONE = -1
"""No frame in that tier."""


@dataclass(slots=True, eq=False)
class Page:
    """The KV of `page_slots` consecutive tokens of a context in all layers."""

    number: int
    device: int = NONE
    """Its device frame."""
    host: int = NONE
    """Its host frame: a copy as good as the device's."""
    tables: int = 0
    """Page tables that name it."""
    wires: int = 0
    """Resident contexts that need it on the device."""
    key: bytes | None = None
    """Set when the page is sealed: full, computed, its content known by key."""
    copying: bool = False
    """A copy of it is in flight."""

    @property
    def absent(self) -> bool:
        """Its bytes are in no tier: it must be computed again."""
        return self.device == NONE and self.host == NONE


class Frames:
    """The frames of one tier: a free list, and a limbo for frames that a step in flight may still touch."""

    __slots__ = ("free", "limbo", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = list(range(total - 1, -1, -1))
        self.limbo: list[int] = []

    def give(self, frame: int, *, flying: bool) -> None:
        (self.limbo if flying else self.free).append(frame)

    def land(self) -> None:
        """The step in flight has retired."""
        self.free += self.limbo
        self.limbo.clear()

    @property
    def used(self) -> int:
        return self.total - len(self.free) - len(self.limbo)


class Memory:
    """The page pool of one device."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.device = Frames(geometry.device_frames)
        self.host = Frames(geometry.host_frames)
        self.index: dict[bytes, Page] = {}
        """Page key -> the page that is named by it, in whatever tier."""
        self.live: set[Page] = set()
        self.dirty: OrderedDict[Page, None] = OrderedDict()
        self.clean: OrderedDict[Page, None] = OrderedDict()
        self.cached: OrderedDict[Page, None] = OrderedDict()
        self.parked: OrderedDict[Page, None] = OrderedDict()
        self.doubled: OrderedDict[Page, None] = OrderedDict()
        self.flying = False
        """A step is in flight."""
        self.copies: list[Copy] = []
        """Copies of the step being planned."""
        self._writing_back: list[Page] = []
        self._paging_in: list[Page] = []
        self._count = 0
        self.swapped_out = self.swapped_in = self.copied = self.evicted = 0
        self.shared = 0
        """Pages that others wired or robbed of their host copy while several tables named them: a context wants so many fewer at most."""

    # frames ----------------------------------------------------------------------------------------------------------

    def room(self) -> int:
        """Device frames to be had at once: free, cached, or idle with a clean copy in the host tier."""
        room = len(self.device.free) + len(self.cached) + len(self.clean)
        return room - sum(page in self.cached for page in self._writing_back) if self._writing_back else room

    def take(self) -> int | None:
        """A device frame: a free one, else that of the least recently used cached page, else of an idle clean one."""
        if self.device.free:
            return self.device.free.pop()
        for pool in (self.cached, self.clean):
            for page in pool:
                if not page.copying:
                    frame = page.device
                    self._evict(page)
                    return frame
        return None

    def _evict(self, page: Page) -> None:
        """Take the device frame from an unwired page; the caller owns it now. Rows in flight never name such a page."""
        self.evicted += 1
        self._unlist(page)
        page.device = NONE
        if page.host != NONE:
            self._list(page)
        else:
            self._forget(page)  # absent: the tables that name it, if any, will compute it again
            if not page.tables:
                self.live.discard(page)

    def _forget(self, page: Page) -> None:
        """Take a page out of the prefix index."""
        if page.key is not None and self.index.get(page.key) is page:
            del self.index[page.key]
        page.key = None

    def _take_host(self) -> int | None:
        """A host frame: a free one, else the copy of a page that is wired to the device, else a page that nobody names.

        Each the least recently used of its kind. The copy of a wired page is worth least: its bytes are kept anyway.
        """
        if self.host.free:
            return self.host.free.pop()
        if self.doubled:
            page, _ = self.doubled.popitem(last=False)
            frame, page.host = page.host, NONE
            self.shared += page.tables > 1
            return frame
        if not self.parked:
            return None
        page, _ = self.parked.popitem(last=False)
        self._forget(page)
        self.live.discard(page)
        frame, page.host = page.host, NONE
        return frame

    # pages -----------------------------------------------------------------------------------------------------------

    def allocate(self) -> Page | None:
        """A new page, wired once and named by one table, with a device frame; None if no frame is to be had now."""
        frame = self.take()
        if frame is None:
            return None
        self._count += 1
        page = Page(self._count, device=frame, tables=1, wires=1)
        self.live.add(page)
        return page

    def duplicate(self, page: Page) -> Page | None:
        """Copy-on-write: a new page with the same bytes, copied in the step being planned."""
        twin = self.allocate()
        if twin is not None:
            self.copies.append(Copy(Tier.DEVICE, page.device, Tier.DEVICE, twin.device))
            self.copied += 1
        return twin

    def share(self, page: Page) -> None:
        """One more table names the page."""
        if not page.tables and not page.wires:
            self._unlist(page)
            page.tables = 1
            self._list(page)
        else:
            page.tables += 1

    def drop(self, page: Page) -> None:
        """One table fewer names the page. At none, it stays only as a cached page under its key."""
        if page.tables <= 0:
            raise Panic(f"page {page.number} is dropped more often than it is named")
        if not page.wires:
            self._unlist(page)
        page.tables -= 1
        if page.wires:
            return
        if page.tables or (page.key is not None and self.index.get(page.key) is page and not page.absent):
            self._list(page)
        else:
            self._free(page)

    def wire(self, page: Page) -> None:
        """Keep the page on the device. It must be there."""
        page.wires += 1
        if page.wires == 1:
            self._relist(page)

    def unwire(self, page: Page) -> None:
        page.wires -= 1
        if not page.wires:
            self._unlist(page)
            if page.tables:
                self._list(page)
            else:
                page.tables = 1
                self.drop(page)

    def write(self, page: Page) -> None:
        """The page is about to be written: it is no longer what its key or its host copy says."""
        self._forget(page)
        if page.host != NONE:
            self.host.give(page.host, flying=self.flying or page.copying)
            page.host = NONE
            self.doubled.pop(page, None)

    def seal(self, page: Page, key: bytes) -> None:
        """The page is full and its write has completed: from now on it is a prefix hit."""
        page.key = key
        self.index.setdefault(key, page)

    def _list(self, page: Page) -> None:
        if page.wires:
            if page.host != NONE and not page.copying:
                self.doubled[page] = None
        elif page.device != NONE:
            pool = self.cached if not page.tables else self.dirty if page.host == NONE or page.copying else self.clean
            pool[page] = None
        elif not page.tables and page.host != NONE:
            self.parked[page] = None

    def _unlist(self, page: Page) -> None:
        self.dirty.pop(page, None)
        self.clean.pop(page, None)
        self.cached.pop(page, None)
        self.parked.pop(page, None)
        self.doubled.pop(page, None)

    def _relist(self, page: Page) -> None:
        """Something about it has changed: it may belong elsewhere now."""
        self._unlist(page)
        self._list(page)

    def _free(self, page: Page) -> None:
        self._forget(page)
        if page.device != NONE:
            self.device.give(page.device, flying=self.flying or page.copying)
        if page.host != NONE:
            self.host.give(page.host, flying=self.flying or page.copying)
        page.device = page.host = NONE
        self.live.discard(page)

    # swap ------------------------------------------------------------------------------------------------------------

    def write_back(self, most: int, *, ahead: bool = False) -> int:
        """Begin to copy up to `most` dirty idle pages, least recently used first, to the host tier.

        They stay where they are; once the step has retired they are clean. Where the host tier is full, an idle page
        is dropped instead, so that memory pressure always ends. Returns how many frames this will make available.
        Ahead of need cached pages are copied too, and none is dropped.
        """
        begun = 0
        pages = chain(self.dirty, islice(self.cached, most) if ahead else ())
        dirty = islice((page for page in pages if page.host == NONE and not page.copying), most)
        for page in list(dirty):
            frame = self._take_host()
            if frame is not None:
                page.host, page.copying = frame, True
                self._writing_back.append(page)
                self.copies.append(Copy(Tier.DEVICE, page.device, Tier.HOST, frame))
                self.swapped_out += 1
            elif ahead:
                break
            else:
                device = page.device
                self._evict(page)
                self.device.give(device, flying=self.flying)
            begun += 1
        return begun

    def returning(self) -> list[Page]:
        """Pages whose write-back is under way: their frames can be had when the step has retired."""
        return [page for page in self._writing_back if not page.wires]

    def page_in(self, page: Page) -> None:
        """Begin to copy a host page to a device frame and wire it. The caller has made sure of `room`."""
        frame = self.take()
        if frame is None:
            raise Panic(f"page {page.number}: no device frame although room was promised")
        self._unlist(page)
        page.device, page.copying = frame, True
        page.wires += 1
        self._paging_in.append(page)
        self.copies.append(Copy(Tier.HOST, page.host, Tier.DEVICE, frame))
        self.swapped_in += 1

    def fly(self) -> tuple[Copy, ...]:
        """The planned step takes off; returns its copies."""
        copies = tuple(self.copies)
        self.copies.clear()
        self.flying = True
        return copies

    def land(self, ok: bool = True) -> None:
        """The step in flight has retired: its copies are complete (or, if not ok, worth nothing), its frames are free."""
        self.flying = False
        for page in self._writing_back:
            page.copying = False
            if not ok and page.host != NONE:
                self.host.give(page.host, flying=False)
                page.host = NONE
            if page in self.dirty or page.wires:
                self._relist(page)
        for page in self._paging_in:
            page.copying = False
            if not ok and page.device != NONE:  # what was copied in is worth nothing; the host copy still is
                self._unlist(page)
                self.device.give(page.device, flying=False)
                page.device = NONE
                self._list(page)
            elif page in self.dirty or page.wires:
                self._relist(page)
        self._writing_back.clear()
        self._paging_in.clear()
        self.device.land()
        self.host.land()

    # checks ----------------------------------------------------------------------------------------------------------

    def check_integrity(self, named: dict[Page, int], wired: dict[Page, int]) -> None:
        """Raises Panic if a page or frame is unaccounted for.

        `named` counts, per page, the page tables that name it; `wired` the resident contexts that do.
        """
        for tier, frames in ((Tier.DEVICE, self.device), (Tier.HOST, self.host)):
            held = [f for page in self.live if (f := page.device if tier is Tier.DEVICE else page.host) != NONE]
            everything = held + frames.free + frames.limbo
            if sorted(everything) != list(range(frames.total)):
                raise Panic(
                    f"{tier.value} tier: {len(held)} held + {len(frames.free)} free + {len(frames.limbo)} in limbo != {frames.total}"
                )
        for page in self.live:
            if page.tables != named.get(page, 0) or page.wires != wired.get(page, 0):
                raise Panic(f"page {page.number}: tables {page.tables}/{named.get(page, 0)}, wires {page.wires}/{wired.get(page, 0)}")
            if not page.tables and not page.wires and (page.key is None or self.index.get(page.key) is not page):
                raise Panic(f"page {page.number} is kept although nobody names it")
            if page.wires and page.device == NONE:
                raise Panic(f"page {page.number} is wired but not on the device")
            listed = (page in self.dirty, page in self.clean, page in self.cached, page in self.parked, page in self.doubled)
            idle = page.device != NONE and not page.wires and page.tables > 0
            clean = page.host != NONE and not page.copying
            unnamed = not page.tables and not page.wires
            right = (idle and not clean, idle and clean, unnamed and page.device != NONE, unnamed and page.device == NONE)
            if listed != (*right, page.wires > 0 and clean):
                raise Panic(f"page {page.number} is listed as {listed}, should be {right}")
        if strays := set(named) - self.live:
            raise Panic(f"page tables name {len(strays)} pages that do not live")
        for key, page in self.index.items():
            if page.key != key or page not in self.live or page.absent:
                raise Panic(f"the prefix index names page {page.number}, which is not what it says")
