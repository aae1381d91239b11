"""Contexts: a sequence of tokens with its page table, the address space of a process.

    tokens   t0 t1 t2 t3 | t4 t5 t6 t7 | t8 t9                computed = 9: the KV of t9 is not in its page yet
    pages    [page 11]     [page 4]      [page 30]            pages[i] holds positions i*S .. i*S + S - 1

Invariants: computed <= len(tokens); the pages cover at least `computed` positions; keys[i] is the key of page i and
depends on every token before the end of that page. A resident context has all its pages wired to the device.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

from .memory import NONE, Memory, Page

if TYPE_CHECKING:
    from .burst import Burst
    from .process import Process


@dataclass(slots=True, eq=False)
class Context:
    cid: int
    process: Process = field(repr=False)
    device: str
    memory: Memory = field(repr=False)
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    """Positions whose KV is in the pages."""
    pages: list[Page] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    burst: Burst | None = None
    """The one burst under way, if any."""
    resident: bool = False
    closed: bool = False
    flying: bool = False
    """A row of it is in the step in flight."""
    slots: int = field(init=False)
    """Token slots in a page."""
    salt: bytes = field(init=False, repr=False)
    """Keeps users' pages apart: whoever does not share it computes other keys. 16 bytes."""
    _frames: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self.slots = self.memory.geometry.page_slots
        self.salt = blake2b(self.process.user.encode(), digest_size=16).digest()

    @property
    def frames(self) -> tuple[int, ...]:
        """Device frame of every page; meaningful while resident."""
        if self._frames is None:
            self._frames = tuple([page.device for page in self.pages])
        return self._frames

    def key(self, index: int) -> bytes:
        """The key of full page `index`: a hash over the root, the user's salt, and all tokens up to its end."""
        slots = self.slots
        while len(self.keys) <= index:
            i = len(self.keys)
            parent = self.keys[i - 1] if i else self.memory.geometry.digest
            ids = array("I", self.tokens[i * slots : (i + 1) * slots]).tobytes()
            self.keys.append(blake2b(parent + self.salt + ids, digest_size=32).digest())
        return self.keys[index]

    def following(self) -> bytes | None:
        """The key of the page behind those computed, if it can be a hit: all is computed up to it, and it will be full."""
        index = self.computed // self.slots
        return self.key(index) if self.computed % self.slots == 0 and (index + 1) * self.slots <= len(self.tokens) else None

    # the page table --------------------------------------------------------------------------------------------------

    def _charge(self, pages: int) -> None:
        for process in self.process.lineage():
            process.usage.tree_pages += pages

    def add(self, page: Page) -> None:
        """Append a page that already counts this table."""
        self.pages.append(page)
        self._frames = None
        self._charge(1)

    def replace(self, index: int, page: Page) -> None:
        """Put a wired page in place of a wired one, as copy-on-write does."""
        old = self.pages[index]
        self.pages[index] = page
        self._frames = None
        old.tables -= 1  # it is wired: unwire puts it where it belongs, or frees it
        self.memory.unwire(old)

    def unmap(self, index: int) -> None:
        """Drop the pages from `index` on."""
        for page in self.pages[index:]:
            if self.resident:
                self.memory.unwire(page)
            self.memory.drop(page)
        self._charge(index - len(self.pages))
        del self.pages[index:]
        self._frames = None

    def map_hits(self) -> int:
        """Map the pages that the prefix index knows for the tokens that follow, as far as limits allow.

        Returns the number of tokens found.
        """
        slots, index = self.slots, self.memory.index
        before = self.computed
        if before % slots:
            return 0
        if len(self.pages) > before // slots:
            self.unmap(before // slots)
        while self.computed + slots <= len(self.tokens):
            page = index.get(self.key(self.computed // slots))
            if page is None or self.process.over_pages(1) is not None:
                break
            self.memory.share(page)
            self.add(page)
            self.computed += slots
        return self.computed - before

    def drop_absent(self) -> int:
        """Forget from the first page on whose bytes are in no tier. Returns the number of tokens to compute again."""
        for i, page in enumerate(self.pages):
            if page.device == NONE and page.host == NONE:
                self.unmap(i)
                lost = self.computed - i * self.slots
                self.computed = i * self.slots
                return max(lost, 0)
        return 0

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens. No page of it may be in use by a burst."""
        del self.tokens[length:]
        self.computed = min(self.computed, length)
        del self.keys[length // self.slots :]
        self.unmap(-(-self.computed // self.slots))

    def trim(self) -> None:
        """Give back the pages behind what is computed: they hold guesses that did not stand."""
        if (needed := -(-self.computed // self.slots)) < len(self.pages):
            self.unmap(needed)

    def fork(self, cid: int, process: Process) -> Context:
        """A twin that shares every page that holds something; none is copied until one of the two writes.

        While a step in flight writes the last page, only the full ones are shared.
        """
        count = -(-self.computed // self.slots)
        if self.flying:
            count = self.computed // self.slots
        computed = min(self.computed, count * self.slots)
        twin = Context(cid, process, self.device, self.memory, list(self.tokens), computed)
        if process.user == self.process.user:
            twin.keys = list(self.keys)
        for page in self.pages[:count]:
            self.memory.share(page)
            twin.pages.append(page)
        twin._charge(len(twin.pages))
        return twin

    # residence -------------------------------------------------------------------------------------------------------

    def missing(self) -> int:
        """How many of its pages are not on the device."""
        return sum(page.device == NONE for page in self.pages)

    def wire_present(self) -> None:
        """Keep the pages that are on the device there, lest making room for the others evicts them."""
        for page in self.pages:
            if page.device != NONE:
                self.memory.wire(page)

    def unwire_present(self) -> None:
        """Undo `wire_present`."""
        for page in self.pages:
            if page.device != NONE:
                self.memory.unwire(page)

    def wire_rest(self) -> None:
        """Become resident: the pages in the host tier begin to be copied in. Room must have been made."""
        for page in self.pages:
            if page.device == NONE:
                self.memory.page_in(page)
        self.memory.shared += sum(page.tables > 1 for page in self.pages)
        self.resident = True
        self._frames = None

    def unwire(self) -> None:
        self.resident = False
        for page in self.pages:
            self.memory.unwire(page)

    def close(self) -> None:
        self.unmap(0)
        self.closed = True
        self.resident = False
