"""The llmos command: models come and go, the system is tried and timed, and `llmos sh` is the shell.

Imports nothing heavy before its arguments are understood: --help and --version answer at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import llmos

from .main import system_options

USAGE = 2
QUANTIZED = ("bf16", "int8", "int4", "w8a8", "w4a8")
"""Those of services/library/manifest.py."""
TO = (
    "int8: 8-bit weights, activations of 16 bits (default); int4: 4-bit weights; w8a8: int8 with activations of 8 bits, "
    "which read a prompt faster and lose much; w4a8: int4 with such, "
    "which writes twice as fast and reads a prompt at half the rate; bf16: what a quantized file says, as plain numbers"
)
INTERRUPTED = 130
UNREAD = 141
"""As a program that SIGPIPE has ended."""
ADD = "llmos models add big --url https://api.example.com/v1 --model big-2 --slots 8 --key-env BIG_KEY"
MODELS = f"llmos models --json\n  {ADD}"

EXAMPLES = """\
examples:
  llmos sh                            the shell; the same as llmsh
  llmos pull smollm2                  get a model by name
  llmos pull hf:Qwen/Qwen2.5-0.5B-Instruct
  llmos pull ~/models/tiny.gguf --name tiny
  llmos quantize smollm2 --to int8    the same model in 8 bits
  llmos models --json                 what there is, for scripts
  llmos rm tiny
  llmos new agent poet                an agent of your own: a file to edit
  llmos check poet                    what is wrong with it, line by line
  llmos models add big --url https://api.example.com/v1 --slots 8 --key-env BIG_KEY
  llmos up                            start the system in the background; llmsh and programs share it
  llmos status                        what runs there
  llmos run tool.py:main notes.txt    a Python program, in an OS process of its own there
  llmos down                          end it
  llmos tools                         the tools that agents may be given
  llmos audit --denied --since 2h     what was not permitted lately
  llmos demo                          one question, and the processes
  llmos boot --timing                 how long a start takes, part by part"""


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="llmos", description="An operating system for language-model agents.", epilog=EXAMPLES, formatter_class=raw
    )
    parser.add_argument("--version", action="version", version=f"llmos {llmos.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=f"{summary}.", epilog=f"example:\n  {example}", formatter_class=raw)
        command.set_defaults(run=run)
        return command

    commands.add_parser("sh", help="the shell, as llmsh", add_help=False)
    command = add("pull", _pull, "get a model", "llmos pull smollm2")
    command.add_argument(
        "reference", metavar="NAME|PATH|hf:OWNER/REPO", help="what to get: a known name, a GGUF file, a directory, a repository"
    )
    command.add_argument("--name", help="what to call it here")
    _home(command)
    command = add("quantize", _quantize, "add a tag of a model with smaller, faster weights", "llmos quantize smollm2 --to int8")
    command.add_argument("name", metavar="NAME", help="as llmos models shows it; NAME:TAG for one of several")
    command.add_argument("--to", choices=QUANTIZED, default="int8", help=TO)
    _home(command)
    command = add("models", _models, "list the models on this machine, or add one that is elsewhere", MODELS)
    command.add_argument("--json", action="store_true", help="for scripts")
    _home(command)
    _remote_commands(command, raw)
    command = add("rm", _remove, "remove models", "llmos rm tiny")
    command.add_argument("names", nargs="+", metavar="NAME", help="as llmos models shows it; NAME:TAG for one of several")
    _home(command)
    system_options(add("demo", _demo, "ask one question, show the processes, exit", "llmos demo"))
    command = add("boot", _boot, "boot the system, generate one token, shut down", "llmos boot --timing")
    command.add_argument("--timing", action="store_true", help="say how long each part took")
    system_options(command)
    _author_commands(add)
    _daemon_commands(add)
    _run_command(add)
    _tool_commands(add)
    return parser


def _author_commands(add: Callable[[str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]) -> None:
    """What those need who write agents."""

    def run(found: argparse.Namespace) -> int:
        from . import author

        return author.new(found) if found.command == "new" else author.check(found)

    command = add("new", run, "write a file for a new agent, to be edited", "llmos new agent poet")
    command.add_argument("kind", choices=["agent"], help="what to make")
    command.add_argument("name", metavar="NAME", help="what it is called")
    command.add_argument("--here", action="store_true", help="in ./agents instead of the agents of the home")
    command.add_argument("--json", action="store_true", help="for scripts")
    _home(command)
    command = add("check", run, "say what is wrong with agent files; status 1 if something is", "llmos check poet agents/critic.toml")
    command.add_argument("files", nargs="+", metavar="FILE", help="a file, or the name of an agent")
    command.add_argument("--json", action="store_true", help="for scripts")
    _home(command)


def _remote_commands(models: argparse.ArgumentParser, raw: type[argparse.HelpFormatter]) -> None:
    """`llmos models add`."""
    from pathlib import Path

    from .remote import options

    summary = "add a model behind an OpenAI-compatible endpoint"
    actions = models.add_subparsers(metavar="ACTION")
    command = actions.add_parser("add", help=summary, description=f"{summary}.", epilog=f"example:\n  {ADD}", formatter_class=raw)
    command.set_defaults(run=_add)
    command.add_argument("--home", default=argparse.SUPPRESS, metavar="DIR", type=Path, help="where models are kept")
    options(command)


def _daemon_commands(add: Callable[[str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]) -> None:
    """What starts, shows and ends the daemon."""

    def run(found: argparse.Namespace) -> int:
        from . import daemon, logs

        commands = {"up": daemon.up, "down": daemon.down, "status": daemon.status, "logs": logs.logs}
        return commands[found.command](found)

    command = add("up", run, "start the system in the background, for many clients", "llmos up --model smollm2")
    command.add_argument("--foreground", action="store_true", help="stay in the foreground and log to stderr, as a supervisor wants it")
    command.add_argument("--ready", type=int, help=argparse.SUPPRESS)
    command.add_argument("--no-pull", dest="pull", action="store_false", help=argparse.SUPPRESS)
    command.add_argument("--listen", metavar="tcp://HOST:PORT", help="let clients in over the network too, with keys: see llmos keys")
    command.add_argument("--idle", type=float, metavar="MINUTES", help="end by itself after so long without a client and a process")
    system_options(command)
    _home(add("down", run, "end the system that runs in the background, in order", "llmos down"))
    command = add("status", run, "say what runs in the background; status 1 if nothing does", "llmos status --json")
    command.add_argument("--json", action="store_true", help="for scripts")
    _home(command)
    command = add("logs", run, "show the log of the system in the background", "llmos logs -f")
    command.add_argument("-f", "--follow", action="store_true", help="go on as it grows, until Ctrl-C")
    command.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="the last N lines (default: 100)")
    _home(command)
    _audit_command(add)
    _key_command(add)


def _key_command(add: Callable[[str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]) -> None:
    """What says who may come over the network."""

    def run(found: argparse.Namespace) -> int:
        from .keys import keys

        return keys(found)

    summary = "say who may come to the daemon over the network: list, new NAME, add NAME PUBLIC, remove NAME"
    command = add(
        "keys", run, summary, "llmos keys new laptop --out laptop.key    (and there: llmsh --connect tcp://HOST:7007 --key laptop.key)"
    )
    command.add_argument("action", nargs="?", default="list", choices=("list", "new", "add", "remove"), help="what to do (default: list)")
    command.add_argument("name", nargs="?", metavar="NAME", help="what the client is called here")
    command.add_argument("public", nargs="?", metavar="PUBLIC", help="its public key, if it has a pair of its own")
    command.add_argument("--out", metavar="FILE", help="where new puts the client's file, for this user alone (default: stdout)")
    command.add_argument("--json", action="store_true", help="for scripts")
    _home(command)


def _audit_command(add: Callable[[str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]) -> None:
    """What shows what calls were made."""

    def run(found: argparse.Namespace) -> int:
        from .audit import audit

        return audit(found)

    command = add("audit", run, "show what calls were made; check that no record was changed", "llmos audit --denied --since 2h")
    command.add_argument("--pid", type=int, metavar="N", help="of one process")
    command.add_argument("--call", metavar="NAME", help="of one system call")
    command.add_argument("--since", metavar="TIME", help="10m, 2h, 3d: so long ago; or 2026-11-23T06:00")
    command.add_argument("--denied", action="store_true", help="only what was not permitted")
    command.add_argument("--json", action="store_true", help="for scripts: a line of JSON each")
    command.add_argument("-f", "--follow", action="store_true", help="go on as it grows, until Ctrl-C")
    command.add_argument("--verify", action="store_true", help="follow the chain of all records; status 1 if it is broken")
    command.add_argument("--anchor", metavar="NUMBER:HASH", help="verify, and that this head, printed by an earlier --verify, is in it")
    _home(command)


def _run_command(add: Callable[[str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]) -> None:
    """What runs a program in the daemon."""

    def run(found: argparse.Namespace) -> int:
        from .program import run

        return run(found)

    summary = "run a Python program in the background system, in an OS process of its own"
    command = add("run", run, summary, "llmos run tool.py:main notes.txt")
    command.add_argument("program", metavar="FILE.py:FUNCTION|MODULE:FUNCTION", help="an async function that is given its process")
    words = command.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG", help="what else it is given, as text")
    words.required = False  # Python 3.11 asks for one of what may be none
    command.add_argument("--detach", action="store_true", help="leave it running, and say its pid and where its output is kept")
    command.add_argument("--json", action="store_true", help="say pid, and then status and value, as JSON; its output goes to stderr")
    command.add_argument("--name", help="what ps calls it (default: the function's name)")
    command.add_argument(
        "--can",
        metavar="CAPABILITY,...",
        help="what it may do, such as 'llm:*,file:rw:/home/drafts/*' (default: compute, and none of your files)",
    )
    command.add_argument("--memory", type=int, metavar="MIB", help="the most that each of its OS processes may have")
    command.add_argument("--cpu", type=int, metavar="SECONDS", help="the same for CPU time")
    command.add_argument("--model", metavar="NAME", help="the model of contexts that name none")
    _home(command)


def _tool_commands(add: Callable[[str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]) -> None:
    """What shows tools, and tries those of tools.toml."""

    def run(found: argparse.Namespace) -> int:
        from . import tools

        return tools.check(found) if found.action == "check" else tools.show(found)

    command = add("tools", run, "list the tools there are, or check those of tools.toml", "llmos tools check")
    command.add_argument(
        "action", nargs="?", choices=("check",), help="start each of tools.toml, and say what is wrong; status 1 if any is"
    )
    command.add_argument("--json", action="store_true", help="for scripts")
    _home(command)


def _home(command: argparse.ArgumentParser) -> None:
    from pathlib import Path

    command.add_argument("--home", metavar="DIR", type=Path, help="where models are kept (default: $LLMOS_HOME, or the user's data folder)")


def main(argv: list[str] | None = None) -> int:
    """Entry point of llmos; returns its exit status."""
    began = time.monotonic()
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["sh"]:
        from .main import main as shell

        return shell(words[1:])
    found = _parser().parse_args(words)
    found.began = began
    try:
        return _run(found)
    except KeyboardInterrupt:
        print("llmos: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(found: argparse.Namespace) -> int:
    from llmos import Fault, InvalidArgument

    from .streams import describe
    from .terminal import abandon_closed_output, complain

    try:
        status: int = found.run(found)
        if sys.stdout is not None:  # as it is when it was closed
            sys.stdout.flush()
        return status
    except InvalidArgument as wrong:
        complain(f"llmos: {found.command}", wrong)
        return USAGE
    except Fault as fault:
        complain(f"llmos: {found.command}", fault)
        return 1
    except BrokenPipeError:  # whoever reads has read enough
        abandon_closed_output()
        return UNREAD
    except OSError as error:
        complain(f"llmos: {found.command}", describe(error))
        return 1


def _pull(found: argparse.Namespace) -> int:
    from llmos.services.init.settings import read_settings

    from .store import pull

    try:
        model = pull(read_settings(home=found.home).home, found.reference, found.name)
    except KeyboardInterrupt:
        print("llmos: pull: stopped; the next pull goes on from there", file=sys.stderr)
        return INTERRUPTED
    print(f"{model.name}:{model.tag} is here")
    return 0


def _quantize(found: argparse.Namespace) -> int:
    from llmos.services.init.settings import read_settings
    from llmos.services.init.store import library

    model = library(read_settings(home=found.home).home).quantize(found.name, found.to)
    print(f"{model.name}:{model.tag} is here; llmsh --model {model.name}:{model.tag} runs it")
    return 0


def _models(found: argparse.Namespace) -> int:
    from llmos.services.init.settings import read_settings

    from .render import models_table, plain_text, styled_text
    from .store import stored_models

    settings = read_settings(home=found.home)
    rows = stored_models(settings.home, settings.model, set())
    if found.json:
        print(json.dumps(rows))
    elif rows:
        drawing = models_table(rows)
        print(styled_text(drawing) if sys.stdout.isatty() else plain_text(drawing), end="")
    else:
        print("llmos: models: there are none yet: llmos pull smollm2", file=sys.stderr)
    return 0


def _add(found: argparse.Namespace) -> int:
    from llmos.services.init.settings import read_settings

    from .remote import add

    remote = add(read_settings(home=found.home).home, found)
    print(f"{remote.name} is {remote.model} at {remote.url}; llmsh --model {remote.name} uses it")
    return 0


def _remove(found: argparse.Namespace) -> int:
    from llmos.services.init.settings import read_settings
    from llmos.services.library import Remotes

    from .store import library
    from .terminal import complain

    home = read_settings(home=found.home).home
    models, remotes = library(home), Remotes(home)
    status = 0
    for name in found.names:
        try:
            if remotes.has(name):
                remotes.remove(name)
                print(f"{name} is removed")
                continue
            model = models.remove(name)
        except llmos.Fault as fault:
            complain("llmos: rm", fault)
            status = 1
        else:
            print(f"{model.name}:{model.tag} is removed")
    return status


def _demo(found: argparse.Namespace) -> int:
    from .main import Options
    from .run import run

    return run(Options(None, None, (), True, found.model, found.device, found.home))


def _boot(found: argparse.Namespace) -> int:
    from .timing import boot_timed

    return boot_timed(found)


if __name__ == "__main__":
    sys.exit(main())
