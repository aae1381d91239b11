"""Makes docs/architecture.svg: who lives where, and which way a request goes.

    python docs/architecture.py

One box for a thread or an OS process, one row for a folder in it. Written as plain SVG, so that a change is a change of a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 1060, 652
STYLE = """
  text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1c2733 }
  .head { font-weight: 600; font-size: 15px }
  .small { font-size: 12px; fill: #4b5b6b }
  .place { fill: #f6f8fa; stroke: #9fb0c0; stroke-width: 1.2 }
  .part { fill: #ffffff; stroke: #9fb0c0; stroke-width: 1 }
  .thinks { fill: #e8f1fb; stroke: #3b78b5; stroke-width: 1.6 }
  .executes { fill: #fdf1e3; stroke: #c77f2b; stroke-width: 1.6 }
  .way { fill: none; stroke: #3b78b5; stroke-width: 1.6; marker-end: url(#head) }
  @media (prefers-color-scheme: dark) { svg { background: #ffffff } }
"""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with a heading, and lines of smaller text below it. Lengths in pixels."""

    x: int
    y: int
    width: int
    height: int
    style: str
    heading: str
    lines: tuple[str, ...] = ()

    def drawn(self) -> str:
        parts = [f'<rect class="{self.style}" x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="7"/>']
        parts.append(f'<text class="head" x="{self.x + 14}" y="{self.y + 24}">{escape(self.heading)}</text>')
        for number, line in enumerate(self.lines):
            parts.append(f'<text class="small" x="{self.x + 14}" y="{self.y + 44 + 17 * number}">{escape(line)}</text>')
        return "\n".join(parts)


BOXES = (
    Box(20, 20, 340, 150, "place", "clients: OS processes of the user"),
    Box(36, 58, 148, 96, "part", "llmsh, llmos", ("the shell: jobs, pipes,", "ps, top, approvals")),
    Box(196, 58, 148, 96, "part", "Python", ("llmos.connect(),", "its closures, and the", "tools it offers")),
    Box(380, 20, 340, 150, "place", "runners: supervised OS processes"),
    Box(396, 58, 148, 96, "part", "a program", ("module:function,", "killed with its group,", "limited in memory")),
    Box(556, 58, 148, 96, "part", "an agent file", ("the interpreter:", "generate, call tools,", "append, until done")),
    Box(740, 20, 300, 150, "place", "tools"),
    Box(756, 58, 128, 96, "part", "MCP servers", ("over stdio or", "streamable HTTP")),
    Box(896, 58, 128, 96, "part", "commands", ("under bubblewrap:", "no network,", "a private folder")),
    Box(20, 200, 1020, 34, "place", "calls, and their answers: a unix socket (0600, ZeroMQ, msgpack), or a plain call where embedded"),
    Box(20, 264, 1020, 214, "thinks", "the kernel's thread: everything that decides, in one loop"),
    Box(
        38,
        306,
        222,
        154,
        "part",
        "the trap",
        (
            "number -> row of the table",
            "arguments, pending signal,",
            "capability, approval, audit;",
            "puts handlers to sleep and",
            "wakes them",
        ),
    ),
    Box(
        280,
        306,
        222,
        154,
        "part",
        "handlers",
        (
            "process, context, generate,",
            "pipe, mailbox, file, tool,",
            "time, system; text to tokens;",
            "what is slow goes to worker",
            "threads",
        ),
    ),
    Box(
        522,
        306,
        248,
        154,
        "part",
        "the kernel",
        (
            "processes, bursts, signals, limits",
            "pages: fork, share, seal, swap",
            "scheduler: fair, by classes",
            "page numbers, never tensors;",
            "no clock, no thread, no I/O",
        ),
    ),
    Box(
        790, 306, 232, 154, "part", "a step", ("copies of pages, then one batch", "of rows: tokens, positions,", "frames, sampling, masks")
    ),
    Box(20, 512, 1020, 120, "executes", "a thread for each device: it only executes"),
    Box(38, 550, 464, 66, "part", "a remote device", ("an OpenAI-compatible endpoint: slots instead of pages",)),
    Box(
        522,
        550,
        500,
        66,
        "part",
        "a model on this machine",
        ("C++ for AMX, AVX-512 or AVX2, or torch; frames in a device and a host tier",),
    ),
)

WAYS = (
    ((190, 170), (190, 200), ""),
    ((550, 170), (550, 200), ""),
    ((890, 200), (890, 170), ""),
    ((149, 234), (149, 264), ""),
    ((260, 383), (280, 383), ""),
    ((502, 383), (522, 383), ""),
    ((770, 383), (790, 383), ""),
    ((906, 460), (906, 512), "submit"),
    ((646, 512), (646, 460), "sampled tokens"),
)


def picture() -> str:
    """The whole file."""
    ways = []
    for (x, y), (to_x, to_y), words in WAYS:
        ways.append(f'<path class="way" d="M{x},{y} L{to_x},{to_y}"/>')
        if words:
            ways.append(f'<text class="small" x="{(x + to_x) // 2 + 12}" y="{(y + to_y) // 2 + 5}">{escape(words)}</text>')
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#3b78b5"/></marker>'
    )
    body = "\n".join([box.drawn() for box in BOXES] + ways)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">\n'
        f"<title>llmos: clients and runners call the kernel's thread, which plans steps that devices execute</title>\n"
        f'<style>{STYLE}</style>\n<defs>{head}</defs>\n<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture(), encoding="utf-8")
