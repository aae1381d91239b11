"""Each native function alone, beside what this machine can do at most (roofline.cpp).

Two ceilings: memory that all threads read, and products of what registers hold. A function that does i operations for each byte it
must move can do no more than min(i * bandwidth, products a second) (Williams, Waterman and Patterson 2009). Both are measured before
and after every few functions, and a function is held against those: on a shared machine they double and halve within minutes.

Bytes are the least there are: weights or KV as laid out, once, and what goes in and comes out. Working sets are larger than a step's
own (128 MiB of copies), so that they come from memory. Knows no engine and no workload.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from client import spread
from process import machine_busy
from progress import Progress

from llmos.drivers.config import ModelConfig
from llmos.drivers.cpu.compiler import SOURCES, compile_native
from llmos.drivers.cpu.native import Native

SOURCE = Path(__file__).with_name("roofline.cpp")
WORKING_SET = 128 << 20
"""Bytes: more than the caches that threads share here, and some hundred milliseconds to lay out."""
ROUNDS = 5
ROWS = (1, 4, 8, 32, 128, 512)
HEAD_ROWS = 128
"""The head is computed for rows that want a token: no more than this come together."""
SLOTS = 16
BITS = {"bf16": 16, "int8": 8, "w8a8": 8, "4-bit groups": 8, "8-bit groups": 8, "w4a8": 8}
"""About, of a weight: how many copies make a working set."""
ARITHMETIC = {"bf16": "bf16", "int8": "int8", "w8a8": "int8", "4-bit groups": "bf16", "8-bit groups": "bf16", "w4a8": "int8"}
"""What is multiplied in the end: the ceiling that holds."""
PLANES = {"int8": 2}
"""How often a weight is multiplied where it is not once: activations of 16 bits are two planes of 8."""
FORMATS: dict[str, int] = {"bf16": 0, "int8": 4, "w8a8": 1, "4-bit groups": 2, "8-bit groups": 3, "w4a8": 5}
"""A format of weights and its number in roofline.cpp (Linear::Format); also what its products are counted against: Ceilings."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """GB/s of memory, and 10^9 operations a second of products in bf16 and in int8: the best of some rounds."""

    read: float
    bf16: float
    int8: float

    def at(self, intensity: float, format: str) -> float:
        """10^9 operations a second that a function with `intensity` operations a byte can reach."""
        peak: float = getattr(self, ARITHMETIC[format]) / PLANES.get(format, 1)
        return min(self.read * intensity, peak)

    def with_(self, other: Ceilings) -> Ceilings:
        return Ceilings(max(self.read, other.read), max(self.bf16, other.bf16), max(self.int8, other.int8))


@dataclass(frozen=True, slots=True)
class Point:
    """One function at one size. `seconds`: one number a round; `bytes` and `operations` of one call; `ceilings` of just then."""

    function: str
    format: str
    size: str
    seconds: tuple[float, ...]
    bytes: float
    operations: float
    ceilings: Ceilings | None = None

    @property
    def name(self) -> str:
        return f"{self.function} {self.format}, {self.size}"

    @property
    def second(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        return spread(self.seconds)

    @property
    def gigabytes(self) -> float:
        return self.bytes / self.second / 1e9

    @property
    def gigaflops(self) -> float:
        return self.operations / self.second / 1e9

    @property
    def intensity(self) -> float:
        return self.operations / self.bytes

    @property
    def at_most(self) -> float:
        """10^9 operations a second."""
        assert self.ceilings is not None
        return self.ceilings.at(self.intensity, self.format)

    @property
    def fractions(self) -> tuple[float, ...]:
        """Of what it could do at most, in each round."""
        return tuple(self.operations / second / 1e9 / self.at_most for second in self.seconds)


@dataclass(frozen=True, slots=True)
class Roofline:
    """`ceilings` are the best there were; `others_cores` is how much of the machine other processes used meanwhile."""

    isa: str
    threads: int
    others_cores: float
    ceilings: Ceilings
    points: tuple[Point, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(found: dict[str, Any]) -> Roofline:
        points = tuple(
            Point(**(point | {"seconds": tuple(point["seconds"]), "ceilings": Ceilings(**point["ceilings"])})) for point in found["points"]
        )
        return Roofline(**(found | {"ceilings": Ceilings(**found["ceilings"]), "points": points}))


class Bench:
    """The compiled functions of roofline.cpp on so many threads."""

    def __init__(self, cache: Path, threads: int) -> None:
        compiled = compile_native(cache, source=str(SOURCE), extra=(f"-I{SOURCES}",))
        self.isa, self.threads = compiled.isa, threads
        self.functions = Native(compiled.path).functions  # which sees to it that AMX may be used
        for name in ("roofline_multiply", "roofline_linear_bytes"):
            getattr(self.functions, name).restype = ctypes.c_double

    def ceilings(self) -> Ceilings:
        read = self._timed("roofline_read", self.threads, ctypes.c_size_t(WORKING_SET))
        rates = []
        for int8 in (0, 1):
            seconds = (ctypes.c_double * ROUNDS)()
            turns = 50_000 if self.isa == "amx" else 500_000
            rates.append(self.functions.roofline_multiply(self.threads, int8, turns, ROUNDS, seconds) / min(seconds) / 1e9)
        return Ceilings(WORKING_SET / min(read) / 1e9, *rates)

    def linear(self, function: str, out: int, inputs: int, format: str) -> Iterator[Point]:
        """A matrix [out, inputs] at each number of rows; what a head gives is not kept, as in a step."""
        head = function == "head"
        copies = max(2, WORKING_SET // (out * inputs * BITS[format] // 8))
        handle = ctypes.c_void_p()
        self._check(self.functions.roofline_linear_open(self.threads, FORMATS[format], out, inputs, copies, ctypes.byref(handle)))
        try:
            weights = self.functions.roofline_linear_bytes(handle)
            for rows in ROWS:
                if head and rows > HEAD_ROWS:
                    continue
                seconds = self._timed("roofline_linear", handle, rows, int(head))
                moved = weights + rows * (2 * inputs + (0 if head else 4 * out))
                yield Point(function, format, f"{rows} rows" if rows > 1 else "1 row", seconds, moved, 2.0 * rows * out * inputs)
        finally:
            self.functions.roofline_linear_close(handle)

    def attention(self, config: ModelConfig, rows: int, position: int, tokens: int) -> Point:
        """`rows` contexts that share nothing, `tokens` new tokens each after `position`; a layer."""
        kv = 4 * config.kv_heads * config.head_width * (position + tokens) * rows
        layers = max(4, min(200, WORKING_SET // kv))
        shape = (config.heads, config.kv_heads, config.head_width, SLOTS, layers, rows, position, tokens)
        seconds = self._timed("roofline_attention", self.threads, *shape)
        seen = sum(position + token + 1 for token in range(tokens))
        queries = rows * tokens * config.heads * config.head_width
        size = f"{rows} of {tokens} after {position}" if tokens > 1 else f"{rows} at {position + 1}"
        return Point("attention", "bf16", size, seconds, kv + 4.0 * queries, 4.0 * config.heads * config.head_width * rows * seen)

    def _timed(self, name: str, *arguments: object) -> tuple[float, ...]:
        seconds = (ctypes.c_double * ROUNDS)()
        self._check(getattr(self.functions, name)(*arguments, ROUNDS, seconds))
        return tuple(seconds)

    @staticmethod
    def _check(code: int) -> None:
        if code:
            raise MemoryError(f"the roofline needs {2 * WORKING_SET >> 20} MiB of memory")


def matrices(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """The model's matrices as the driver has them: [out, in] of each."""
    queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
    return {
        "qkv": (queries + 2 * keys, config.width),
        "output": (config.width, queries),
        "gate_up": (2 * config.ffn_width, config.width),
        "down": (config.width, config.ffn_width),
        "head": (config.vocabulary, config.width),
    }


def measure(cache: Path, threads: int, config: ModelConfig) -> Roofline:
    """The whole roofline of a model: some 30 s. `cache`: where compiled functions are kept."""
    bench = Bench(cache, threads)
    points: list[Point] = []
    shapes = matrices(config)
    window = min(2048, config.window)
    cases = ((1, window - 1, 1), (32, 319, 1), (1, 0, 512), (1, window - 512, 512))
    work: list[tuple[str, Callable[[], list[Point]]]] = [
        (f"{name} {format}", lambda name=name, format=format: [*bench.linear(name, *shapes[name], format)])  # type: ignore[misc]
        for format in FORMATS
        for name in shapes
    ]
    work += [("attention", lambda case=case: [bench.attention(config, *case)]) for case in cases]  # type: ignore[misc]
    progress = Progress(len(work))
    begin, busy, own = time.monotonic(), machine_busy(), time.process_time()
    before = best = bench.ceilings()
    for name, make in work:
        progress.show(f"roofline: {name}")
        made = make()
        after = bench.ceilings()
        points += [replace(point, ceilings=before.with_(after)) for point in made]
        before, best = after, best.with_(after)
        progress.step()
    others = max(0.0, machine_busy() - busy - (time.process_time() - own)) / (time.monotonic() - begin)
    return Roofline(bench.isa, threads, round(others, 2), best, tuple(points))


def draw(roofline: Roofline, file: Path) -> bool:
    """Both axes logarithmic, a ceiling a format, a point a function. False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    colours = dict(zip(FORMATS, ("#8d99ae", "#d1495b", "#c98a2b", "#2e7d6b", "#6a4c93", "#3a6ea5"), strict=True))
    markers = dict(zip(dict.fromkeys(point.function for point in roofline.points), "osD^vP", strict=False))
    figure, axis = pyplot.subplots(figsize=(11, 7))
    left, right = (bound(point.intensity for point in roofline.points) for bound in (min, max))
    steps = [left / 1.5 * (right / left * 2.25) ** (i / 200) for i in range(201)]
    for format, colour in colours.items():
        peak = getattr(roofline.ceilings, ARITHMETIC[format])
        axis.plot(steps, [roofline.ceilings.at(x, format) for x in steps], color=colour, lw=1.5, zorder=1)
        axis.annotate(f"{format} {peak:,.0f} GFLOP/s", (steps[-1], peak), ha="right", va="bottom", fontsize=8, color=colour)
    axis.annotate(
        f"memory {roofline.ceilings.read:.1f} GB/s", (steps[20], roofline.ceilings.at(steps[20], "bf16") * 1.15), fontsize=8, rotation=38
    )
    for index, point in enumerate(roofline.points):
        axis.plot(point.intensity, point.gigaflops, markers[point.function], color=colours[point.format], ms=5, alpha=0.8)
        attention = point.function == "attention"
        name, above = (point.size, 4 if index % 2 else -8) if attention else (point.size.split()[0], -2)
        axis.annotate(name, (point.intensity, point.gigaflops), fontsize=6, xytext=(4, above), textcoords="offset points")
    handles = [Line2D([], [], marker=marker, ls="", color="#333333", ms=5, label=name) for name, marker in markers.items()]
    handles += [Line2D([], [], color=colour, label=f"{format} weights") for format, colour in colours.items()]
    axis.legend(handles=handles, fontsize=8, loc="lower right", frameon=False)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("operations a byte (a point's number: rows; of attention: contexts at a length)", fontsize=8)
    axis.set_ylabel("GFLOP/s", fontsize=8)
    axis.set_title(f"native functions alone, {roofline.isa}, {roofline.threads} threads", fontsize=9, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    pyplot.close(figure)
    return True
