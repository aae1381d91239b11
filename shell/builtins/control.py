"""Builtins over jobs: jobs lists them, fg brings one in front, bg lets one go on behind."""

from __future__ import annotations

import json

from ..jobs import Job
from .call import Builtin, Call, Refused, Usage, options


async def jobs(call: Call) -> int:
    found, words = options(call.args, flags=("--json",))
    if words:
        raise Usage("it takes no words")
    table = call.shell.jobs
    listed = [job for job in table.all() if job is not call.job]
    states = await _states(call, listed)
    if "--json" in found:
        rows = [
            {"job": job.number, "state": states[job.number], "status": job.status, "pids": job.pids, "command": job.text} for job in listed
        ]
        await call.say(json.dumps(rows))
    elif listed:
        from ..render import jobs_table  # rich costs 0.1 s: loaded when a table is drawn

        await call.shell.draw(call.stdout, jobs_table([(job, table.mark(job), states[job.number]) for job in listed]))
    for job in listed:
        if job.done.is_set():
            table.remove(job)
    return 0


async def _states(call: Call, jobs: list[Job]) -> dict[int, str]:
    """What each job does. One whose processes are all stopped is stopped, which only the system knows."""
    states = {job.number: job.state for job in jobs}
    system = call.shell.connection.ready
    if system is not None and any(job.children for job in jobs):
        stopped = {process.pid for process in await system.ps() if process.state == "stopped"}
        states |= {job.number: "Stopped" for job in jobs if job.children and {child.pid for child in job.children} <= stopped}
    return states


def _job(call: Call, verb: str) -> Job:
    """The one job that the words of `call` name, by default the current one."""
    if len(call.args) > 1:
        raise Usage("it takes one job")
    if not call.alone:
        raise Refused(f"only a command of its own can {verb}")
    name = call.args[0] if call.args else "%+"
    job = call.shell.jobs.find(name if not name.isdecimal() else f"%{name}") or call.shell.jobs.find(name)
    if job is None:
        raise Refused(f"no job {name}: see jobs" if call.args else "there is no job in the background")
    return job


async def fg(call: Call) -> int:
    job = _job(call, "bring a job in front")
    await call.say(job.text)
    with call.shell.attending(job):
        await job.resume()
        await job.turned.wait()
    return job.status if job.done.is_set() else await call.shell.stopped(job)


async def bg(call: Call) -> int:
    job = _job(call, "let a job go on")
    if not job.stopped:
        raise Refused(f"job {job.number} runs already: see jobs")
    await job.resume()
    await call.say(f"[{job.number}]{call.shell.jobs.mark(job)} {job.text} &")
    return 0


BUILTINS = (
    Builtin("jobs", "jobs [--json]", "list the jobs in the background", ("jobs", "spawn summarise < README.md > summary.txt & jobs"), jobs),
    Builtin(
        "fg",
        "fg [%JOB]",
        "bring a job in front: its output comes as it is made, the keyboard is its, Ctrl-C and Ctrl-Z go to it",
        ("fg", "fg %1"),
        fg,
    ),
    Builtin(
        "bg",
        "bg [%JOB]",
        "let a job that Ctrl-Z stopped go on in the background",
        ("bg", "bg %1"),
        bg,
        "What it reads from the keyboard waits until fg brings it in front.",
    ),
)
