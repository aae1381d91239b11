"""Builtins that talk: chat with a process that runs, and `?`, which asks the model for a command."""

from __future__ import annotations

import anyio

from ..jobs import Job
from ..suggest import MOST_CHARACTERS, NoCommand, suggest
from .call import Builtin, Call, Refused, Usage, pid

PATIENCE = 0.5
"""Seconds in which a process that reads at all has begun to read."""


async def chat(call: Call) -> int:
    if len(call.args) != 1:
        raise Usage("with whom? Give a pid, or %N for a job; to start one: spawn chat")
    shell, word = call.shell, call.args[0]
    if not (shell.interactive and shell.typed and call.alone):
        raise Refused("it takes a person at a terminal; in a script: echo TEXT | spawn AGENT")
    job = shell.jobs.find(word if word.startswith("%") else str(pid(word)))
    if job is None or job is call.job:
        raise Refused(await _why_not(call, word))
    desk = job.desk
    with anyio.move_on_after(PATIENCE):
        if desk is not None:
            await desk.wanted.wait()
    if desk is None or desk.ended or not desk.wanted.is_set():
        raise Refused(f"{word} reads no keyboard: its input is a file or a pipe, or has ended")
    await call.complain(f"you talk to {_shown(job)}: Ctrl-D leaves it running, Ctrl-C ends its reply")
    with shell.attending(job, closes=False):
        await job.resume()
        async with anyio.create_task_group() as either:
            for event in (desk.left, job.turned):
                either.start_soon(_first, event, either.cancel_scope)
    if job.done.is_set():
        return job.status
    return await shell.stopped(job) if job.stopped else 0


async def _first(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _shown(job: Job) -> str:
    return f"{job.pids[0]} ({job.text})" if job.pids else f"'{job.text}'"


async def _why_not(call: Call, word: str) -> str:
    if word.startswith("%"):
        return f"no job {word}: see jobs"
    wanted = pid(word)
    if wanted == call.shell.conversation():
        return f"{wanted} is the conversation behind the prompt: type what you want to say, without chat"
    if any(each.pid == wanted for each in await (await call.system()).ps()):
        return f"{wanted} was not started by this shell, or ends by itself: only who started a process holds its input"
    return f"no process {wanted}: see ps [ESRCH]"


async def propose(call: Call) -> int:
    """In a script: the command, and nothing is run. At a prompt the runner takes the line before it comes here."""
    request = " ".join(call.args)
    if not request.strip():
        raise Usage("a command for what?")
    await call.say(await proposal(call, request))
    return 0


async def proposal(call: Call, request: str) -> str:
    """What the model proposes. Raises Refused where that is nothing."""
    if len(request) > MOST_CHARACTERS:
        raise Refused(f"the request has more than {MOST_CHARACTERS} characters")
    system = await call.system()
    await call.shell.model_loaded(call.job)
    try:
        return await suggest(system, request, call.shell.builtins)
    except NoCommand as none:
        raise Refused(str(none)) from None


BUILTINS = (
    Builtin(
        "chat",
        "chat PID|%JOB",
        "talk to a process that runs in the background",
        ("spawn chat &", "chat 7", "chat %1"),
        chat,
        """\
What you type goes to it, a line at a time; Ctrl-C ends its reply, Ctrl-Z stops it, and Ctrl-D leaves it running, for chat or fg later.
(Ctrl-D after fg ends its input.) Only processes of this shell: who started a process holds its input.""",
    ),
    Builtin(
        "?",
        "? TEXT...",
        "ask the model for a command, which is shown and run only if you say so",
        ("? what is running", "? summarise notes.txt in the background"),
        propose,
        """\
At the prompt anything but y leaves it at that, and e puts it there to be changed. In a script it is only written.
The default model is very small: read what it proposes.""",
        uses_model=True,
    ),
)
