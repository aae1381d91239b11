"""What `top` shows and does, apart from the screen: rows, rates, the order, the selected one, and what a key means.

    ps, statistics --take--> [board] --lines--> text with styles, exactly as wide and high as asked
                     keys --press--> an Order to the system, or a change of view

Rates are of the time between two samples; of the first, since each process began. Draws on nothing and calls nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .render import seconds
from .terminal import ALL_VISIBLE

if TYPE_CHECKING:
    from llmos import ProcessInfo, SystemStatistics

Line = list[tuple[str, str]]
"""Pieces of one line: style and text."""

MOST_TYPED = 8
HELP = (
    ("up, down, page up, page down, home, end", "choose a process"),
    ("< >", "order by the column before or behind"),
    ("r", "turn the order round"),
    ("k", "send the chosen process a signal: TERM, or what you type"),
    ("n", "set its nice value, from -20 (served most) to 19"),
    ("space", "hold the picture still, or let it go on"),
    ("?, h", "this page, and back"),
    ("q", "leave; so does Ctrl-C"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One process, with what it did lately."""

    process: ProcessInfo
    own: int
    """Tokens of its own, without its children's."""
    rate: float
    """Of these, a second."""
    share: float
    """Of all tokens of the last while, from 0 to 1."""

    @property
    def state(self) -> str:
        process = self.process
        return f"{process.state}:{process.waiting_for}" if process.waiting_for else process.state

    @property
    def pages(self) -> int:
        return self.process.device_pages + self.process.host_pages

    def plain(self) -> dict[str, object]:
        """For --json."""
        each = self.process
        return {
            "pid": each.pid,
            "user": each.user,
            "class": each.cls.name.lower(),
            "nice": each.nice,
            "state": self.state,
            "tokens": self.own,
            "tokens_per_second": round(self.rate, 3),
            "share": round(self.share, 4),
            "pages": self.pages,
            "time": round(each.wall, 3),
            "name": each.name,
        }


@dataclass(frozen=True, slots=True)
class Column:
    head: str
    width: int
    shown: Callable[[Row], str]
    key: Callable[[Row], object]
    number: bool = True
    since: int = 0
    """The narrowest screen that has it."""


CLASSES = {"interactive": "inter", "normal": "norm", "batch": "batch", "idle": "idle"}

COLUMNS = (
    Column("PID", 5, lambda row: str(row.process.pid), lambda row: row.process.pid),
    Column("USER", 8, lambda row: row.process.user, lambda row: row.process.user, number=False, since=100),
    Column("CLASS", 5, lambda row: CLASSES[row.process.cls.name.lower()], lambda row: row.process.cls, number=False),
    Column("NI", 3, lambda row: str(row.process.nice), lambda row: row.process.nice),
    Column("STATE", 13, lambda row: row.state, lambda row: row.state, number=False),
    Column("TOKENS", 8, lambda row: count(row.own), lambda row: row.own),
    Column("TOK/S", 6, lambda row: f"{row.rate:.1f}" if row.rate < 1000 else count(int(row.rate)), lambda row: row.rate),
    Column("SHARE", 5, lambda row: f"{row.share:.0%}", lambda row: row.share),
    Column("PAGES", 6, lambda row: count(row.pages), lambda row: row.pages),
    Column("TIME", 6, lambda row: seconds(row.process.wall), lambda row: row.process.wall),
)
NAME = Column("NAME", 0, lambda row: row.process.name, lambda row: row.process.name, number=False)
BY_RATE = next(at for at, column in enumerate(COLUMNS) if column.head == "TOK/S")
STYLES = {"running": "ansigreen", "ready": "ansicyan", "stopped": "ansiyellow", "zombie": "ansired"}


@dataclass(frozen=True, slots=True)
class Order:
    """What a key asks of the system."""

    verb: str
    """kill, nice or leave."""
    pid: int = 0
    value: str = ""


class Board:
    """The state of one `top`."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.order, self.reverse = BY_RATE, True
        self.held = self.help = False
        self.message = ""
        """What happened last, until the next key."""
        self._selected: int | None = None
        self._top = self._height = 0
        self._asking, self._typed = "", ""
        self._asked_of = 0
        self._statistics: SystemStatistics | None = None
        self._tokens: dict[int, tuple[float, int]] = {}
        self._at: float | None = None

    # --- what there is

    def take(self, processes: list[ProcessInfo], statistics: SystemStatistics, now: float) -> None:
        """A new sample. `now` in seconds, of any clock that does not go back."""
        own = {each.pid: each.own_tokens for each in processes}
        rates: dict[int, float] = {}
        for each in processes:
            before = self._tokens.get(each.pid)
            if before is not None and before[0] == each.started and self._at is not None:
                span, done = now - self._at, own[each.pid] - before[1]
            else:
                span, done = each.wall, own[each.pid]
            rates[each.pid] = max(0.0, done / span) if span > 0 else 0.0
        total = sum(rates.values())
        self.rows = [Row(each, own[each.pid], rates[each.pid], rates[each.pid] / total if total else 0.0) for each in processes]
        self._tokens = {each.pid: (each.started, own[each.pid]) for each in processes}
        self._at, self._statistics = now, statistics

    def ordered(self) -> list[Row]:
        column = (*COLUMNS, NAME)[self.order]
        rows = sorted(self.rows, key=lambda row: row.process.pid)
        return sorted(rows, key=lambda row: column.key(row), reverse=self.reverse)  # type: ignore[arg-type, return-value]

    def summary(self) -> list[str]:
        """The lines above the table."""
        states: dict[str, int] = {}
        for row in self.rows:
            states[row.process.state] = states.get(row.process.state, 0) + 1
        counted = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
        found = [f"{len(self.rows)} processes: {counted}"]
        if (statistics := self._statistics) is not None:
            found[0] = f"up {seconds(statistics.uptime)}, {found[0]}"
            for each in statistics.kernel.devices:
                used = each.device_total - each.device_free
                line = f"{each.device}: {sum(row.rate for row in self.rows):.1f} tokens/s, pages {used:,} of {each.device_total:,}"
                line += f" ({each.device_cached:,} cached), host {each.host_total - each.host_free:,} of {each.host_total:,}"
                found.append(line)
        return found

    # --- what is seen

    def lines(self, width: int, height: int) -> list[Line]:
        """The whole screen: `height` lines of at most `width` columns."""
        head = [fitted(text, width) for text in self.summary()[: max(1, height // 4)]]
        drawn: list[Line] = [[("", text)] for text in head]
        foot = self._foot(width)
        if self.help:
            drawn += [[], *([("", fitted(f"  {keys:<42}{what}", width))] for keys, what in HELP)]
        else:
            drawn.append(self._heads(width))
            self._height = max(0, height - len(drawn) - 1)
            drawn += self._table(width)
        drawn = drawn[: height - 1]
        return [*drawn, *([[]] * (height - 1 - len(drawn))), foot]

    def plain(self, width: int) -> list[str]:
        """The same once, for a file or pipe."""
        rows = [self._cells(row, width) for row in self.ordered()]
        heads = "".join(text for _, text in self._heads(width))
        return [*self.summary(), heads.rstrip(), *("".join(cells).rstrip() for cells in rows)]

    def _columns(self, width: int) -> list[Column]:
        """Those for which there is room; the order's stays."""
        shown = [column for column in COLUMNS if width >= column.since]
        for head in ("USER", "SHARE", "CLASS", "PAGES", "TIME", "NI", "TOKENS", "STATE"):
            if sum(column.width + 1 for column in shown) + 8 <= width:
                break
            shown = [column for column in shown if column.head != head]
        return [*shown, NAME]

    def _heads(self, width: int) -> Line:
        order = (*COLUMNS, NAME)[self.order]
        line: Line = []
        for column in self._columns(width):
            text = (
                column.head if column is NAME else f"{column.head:>{column.width}}" if column.number else f"{column.head:<{column.width}}"
            )
            line.append(("reverse bold underline" if column is order else "reverse", text))
            line.append(("reverse", " "))
        used = sum(len(text) for _, text in line)
        line.append(("reverse", " " * (width - used)))
        return cut(line, width)

    def _cells(self, row: Row, width: int) -> list[str]:
        cells = []
        used = 0
        for column in self._columns(width):
            text = column.shown(row).translate(ALL_VISIBLE)
            if column is NAME:
                cells.append(fitted(text, max(0, width - used)))
                break
            text = fitted(text, column.width)
            cells.append((f"{text:>{column.width}}" if column.number else f"{text:<{column.width}}") + " ")
            used += column.width + 1
        return cells

    def _table(self, width: int) -> list[Line]:
        rows = self.ordered()
        at = self._place(rows)
        self._top = min(max(self._top, at - self._height + 1), at) if rows else 0
        self._top = max(0, min(self._top, len(rows) - self._height))
        drawn: list[Line] = []
        for place, row in enumerate(rows[self._top : self._top + self._height], self._top):
            style = STYLES.get(row.process.state, "")
            cells = self._cells(row, width)
            heads = [column.head for column in self._columns(width)]
            line: Line = [(style if head == "STATE" else "", text) for head, text in zip(heads, cells, strict=True)]
            if place == at:
                text = "".join(text for _, text in line)
                line = [("reverse", f"{text:<{width}}"[:width])]
            drawn.append(cut(line, width))
        return drawn

    def _foot(self, width: int) -> Line:
        if self._asking:
            return [("bold", fitted(f"{self._asking}{self._typed}_", width))]
        if self.message:
            return [("bold", fitted(self.message, width))]
        hold = "held still  " if self.held else ""
        return [("", fitted(f"{hold}q leave  k signal  n nice  < > order  r reverse  space hold  ? keys", width))]

    # --- what is pressed

    def _place(self, rows: list[Row]) -> int:
        """Where the chosen process is; the first if it has gone."""
        for at, row in enumerate(rows):
            if row.process.pid == self._selected:
                return at
        if rows:
            self._selected = rows[0].process.pid
        return 0

    def press(self, key: str) -> Order | None:
        """What a key does; `key` by its name in prompt_toolkit, or the character."""
        self.message = ""
        if key == "c-c":
            return Order("leave")
        if self._asking:
            return self._answer(key)
        if key in ("?", "h", "escape") or self.help:  # any key leaves the page of keys
            self.help = key in ("?", "h") and not self.help
            return None
        if key == "q":
            return Order("leave")
        rows = self.ordered()
        if key in ("<", ">", "left", "right"):
            self.order = (self.order + (1 if key in (">", "right") else -1)) % (len(COLUMNS) + 1)
            self.reverse = (*COLUMNS, NAME)[self.order].number
        elif key == "r":
            self.reverse = not self.reverse
        elif key == " ":
            self.held = not self.held
        elif rows and key in ("k", "n"):
            self._asked_of = rows[self._place(rows)].process.pid
            self._asking = f"signal for {self._asked_of} [TERM]: " if key == "k" else f"nice value for {self._asked_of}: "
            self._typed = ""
        elif rows:
            far = max(1, self._height - 1)
            step = {"up": -1, "down": 1, "pageup": -far, "pagedown": far, "home": -len(rows), "end": len(rows)}.get(key, 0)
            self._selected = rows[max(0, min(len(rows) - 1, self._place(rows) + step))].process.pid
        return None

    def _answer(self, key: str) -> Order | None:
        """A key while a value is asked for."""
        if key in ("enter", "c-m", "c-j"):
            verb, typed = "kill" if self._asking.startswith("signal") else "nice", self._typed.strip()
            self._asking = ""
            if verb == "nice" and not typed:
                return None
            return Order(verb, self._asked_of, typed or "TERM")
        if key == "escape":
            self._asking = ""
        elif key in ("backspace", "c-h"):
            self._typed = self._typed[:-1]
        elif len(key) == 1 and key.isprintable() and len(self._typed) < MOST_TYPED:
            self._typed += key
        return None


def count(value: int) -> str:
    """A number in at most six columns: 999,999 is 999k."""
    for unit, size in (("", 1), ("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)):
        if value < 100_000 * size:
            return f"{value // size}{unit}"
    return f"{value // 10**12}T"


def fitted(text: str, width: int) -> str:
    """`text` in at most `width` columns, with a mark where it was cut."""
    return text if len(text) <= width else f"{text[: width - 1]}…" if width > 1 else text[:width]


def cut(line: Line, width: int) -> Line:
    """As much of a line as is seen."""
    found: Line = []
    for style, text in line:
        if width <= 0:
            break
        found.append((style, text[:width]))
        width -= len(text)
    return found
