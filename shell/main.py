"""The llmsh command: reads its own arguments and decides where commands come from.

    llmsh               a person at a terminal, or commands from a pipe
    llmsh -c "..."      the commands given
    llmsh FILE [ARG]..  a script
    llmsh --demo        one question and a ps

Imports nothing heavy before the arguments are understood: --help and --version answer at once.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import llmos

EXAMPLES = """\
examples:
  llmsh                                        talk to the model, start agents, see what they do
  llmsh -c 'ask What is the capital of France?'
  llmsh -c 'spawn summarise < README.md > summary.txt'
  echo 'ps' | llmsh                            commands from a pipe, one a line
  llmsh nightly.llmsh notes.txt                a script; notes.txt is $1
  llmsh --connect tcp://gpu:7007 --key gpu.key a daemon on another machine
  llmsh --model qwen2.5 --home /data/llmos     another model, another place for models and history

exit status: 0 done, 1 failed, 2 wrong usage, 126 cannot run, 127 not found, 128+N ended by signal N"""


@dataclass(frozen=True, slots=True)
class Options:
    """How the shell was called."""

    commands: str | None
    script: str | None
    arguments: tuple[str, ...]
    demo: bool
    model: str | None
    device: str | None
    home: Path | None
    embedded: bool = False
    rc: bool = True
    """Whether llmshrc of the home is run first, at a terminal."""
    address: str | None = None
    key: Path | None = None


def system_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which system to boot, for llmsh and llmos alike."""
    parser.add_argument("--model", metavar="NAME", help="the model that agents use unless they name one (default: smollm2)")
    parser.add_argument(
        "--device", choices=("cpu", "torch", "reference", "dummy"), help="what executes it (default: cpu; dummy makes up words)"
    )
    parser.add_argument(
        "--home", metavar="DIR", type=Path, help="where models and history are kept (default: $LLMOS_HOME, or the user's data folder)"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmsh",
        description="The shell of llmos, whose processes are language-model agents.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", dest="commands", metavar="COMMANDS", help="run these commands and exit")
    parser.add_argument("script", nargs="?", metavar="FILE", help="run the commands in this file and exit")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG", help="$1, $2, ... of the commands")
    parser.add_argument("--demo", action="store_true", help="ask one question, show ps, exit")
    parser.add_argument(
        "--embedded", action="store_true", help="boot a system in this process, also where a daemon runs (llmos up); so does --device"
    )
    parser.add_argument(
        "--norc", action="store_true", help="do not run the lines of llmshrc in the home, which a shell at a terminal begins with"
    )
    parser.add_argument("--connect", dest="address", metavar="tcp://HOST:PORT", help="use the daemon there, with the key that it knows")
    parser.add_argument("--key", metavar="FILE", type=Path, help="the file that llmos keys new wrote on that machine")
    system_options(parser)
    parser.add_argument("--version", action="version", version=f"llmsh {llmos.__version__}")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of llmsh; returns its exit status."""
    parser = _parser()
    found = parser.parse_args(argv)
    words = [found.script, *found.arguments] if found.script is not None else []
    script = None
    if found.commands is None and words:
        script, *words = words
    if found.demo and (found.commands is not None or script is not None):
        parser.error("--demo runs no other commands: leave out -c or FILE")
    if (found.address is None) != (found.key is None):
        parser.error("--connect tcp://HOST:PORT takes --key FILE, and the other way round")
    if found.address is not None and (found.embedded or found.device is not None):
        parser.error("--connect is to a daemon elsewhere: leave out --embedded and --device")
    options = Options(
        found.commands, script, tuple(words), found.demo, found.model, found.device, found.home, found.embedded, not found.norc,
        found.address, found.key,
    )  # fmt: skip
    try:
        from .run import run

        return run(options)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
