"""Builtins over processes: ps, explain, kill, nice, fork, wait. The system decides; these say what it answered."""

from __future__ import annotations

from llmos import NoSuchChild, NotPermitted

from ..jobs import SIGNALS
from .call import Builtin, Call, Refused, Usage, nice_value, options, pid

SENDABLE = ("INT", "KILL", "TERM", "CONT", "STOP")


async def ps(call: Call) -> int:
    found, words = options(call.args, flags=("--json",))
    if words:
        raise Usage("it takes no words: explain PID tells more of one process")
    processes = await (await call.system()).ps()
    from ..render import processes_json, processes_table  # rich costs 0.1 s: loaded when a table is drawn

    if "--json" in found:
        await call.say(processes_json(processes))
    else:
        await call.shell.draw(call.stdout, processes_table(processes))
    return 0


async def explain(call: Call) -> int:
    found, words = options(call.args, flags=("--json",))
    wanted = _one(call, words)
    explanation = call.shell.explanations.get(wanted) or await (await call.system()).explain(wanted)
    from ..render import explanation_json, explanation_table

    if "--json" in found:
        await call.say(explanation_json(explanation))
    else:
        await call.shell.draw(call.stdout, explanation_table(explanation))
    return 0


def signal_name(text: str) -> str:
    """`-STOP`, `-SIGSTOP`, `-19` and the same without the minus: STOP."""
    name = text.removeprefix("-").upper().removeprefix("SIG")
    if name.isdecimal() and len(name) < 4:
        name = next((each for each in SENDABLE if SIGNALS[each] == int(name)), name)
    if name not in SENDABLE:
        raise Usage(f"there is no signal '{text.removeprefix('-')}': the signals are {', '.join(SENDABLE)}")
    return name


def targets(call: Call, words: list[str]) -> list[int]:
    """The pids that words mean: a pid, or `%N` for every process of a job."""
    found: list[int] = []
    for word in words:
        if not word.startswith("%"):
            found.append(pid(word))
            continue
        job = call.shell.jobs.find(word)
        if job is None:
            raise Refused(f"no job {word}: see jobs")
        found += [child.pid for child in job.children]
    return found


def _one(call: Call, words: list[str]) -> int:
    """The one process that is meant."""
    if len(words) != 1:
        raise Usage("it takes one pid, or %N for a job of one process")
    pids = targets(call, words)
    if len(pids) != 1:
        raise Refused(f"job {words[0]} has {len(pids)} processes{': ' if pids else ''}{', '.join(map(str, pids))}; it takes one")
    return pids[0]


async def kill(call: Call) -> int:
    words = list(call.args)
    signal = "TERM"
    if words and words[0] in ("-l", "--list"):
        await call.say("\n".join(f"{SIGNALS[name]:2} {name}" for name in SENDABLE))
        return 0
    if words and words[0] in ("-s", "--signal"):
        if len(words) < 2:
            raise Usage(f"{words[0]} needs a signal")
        signal, words = signal_name(words[1]), words[2:]
    elif words and words[0].startswith("-") and words[0] != "--":
        signal, words = signal_name(words[0]), words[1:]
    words = words[words[:1] == ["--"] :]
    if not words:
        raise Usage("whom? Give a pid, or %N for a job")
    pids = targets(call, words)
    held = targets(call, [word for word in words if word.startswith("%")]) if signal in ("STOP", "CONT") else []
    system = await call.system()

    async def send(each: int) -> None:
        if each == system.pid:  # stopped, no command could start anything any more, not even one that goes on
            raise NotPermitted(f"pid {each} is this shell itself: exit leaves it")
        await system.kill(each, signal, tree=each in held)

    status = await call.each(pids, send)
    for job in call.shell.jobs.all():
        named = any(word.startswith("%") and call.shell.jobs.find(word) is job for word in words)
        if named:
            for command in list(job.commands):
                await command.kill(signal)
        if signal in ("CONT", "TERM", "KILL") and (named or any(child.pid in pids for child in job.children)):
            await job.resume()
        if named and signal in ("INT", "TERM", "KILL") and (signal != "INT" or not job.pids):
            job.end(128 + SIGNALS[signal])
    return status


async def nice(call: Call) -> int:
    words = list(call.args)
    if words and words[0] in ("-n", "--nice"):
        words = words[1:]
    if len(words) < 2:
        raise Usage("it takes a nice value and a pid")
    value = nice_value(words[0])
    pids = targets(call, words[1:])
    system = await call.system()
    return await call.each(pids, lambda each: system.nice(each, value))


async def fork(call: Call) -> int:
    original = _one(call, list(call.args))
    system = await call.system()
    job = await call.shell.adopt(lambda: system.fork(original), f"fork {original}")
    call.shell.last_pid = job.pids[0]
    await call.say(str(job.pids[0]))
    if call.shell.interactive and call.shell.typed:
        await call.complain(f"[{job.number}] runs behind the prompt: fg %{job.number} brings it in front and lets you talk to it")
    return 0


async def wait(call: Call) -> int:
    shell = call.shell
    _, words = options(call.args)
    if not words:
        for each in shell.jobs.running:
            await each.done.wait()
        return 0
    status = 0
    for word in words:
        job = shell.jobs.find(word)
        if job is None and word in shell.jobs.announced:
            status = shell.jobs.announced[word]
            continue
        if job is None and word.startswith("%"):
            raise Refused(f"no job {word}: see jobs", 127)
        if job is not None:
            await job.done.wait()
            status = job.status if word.startswith("%") else shell.statuses.get(pid(word), job.status)
        elif (known := shell.statuses.get(pid(word))) is not None:
            status = known
        else:
            try:
                status = (await (await call.system()).wait(pid(word))).status
            except NoSuchChild as missing:
                raise Refused(str(missing), 127) from None
    return status


BUILTINS = (
    Builtin(
        "ps",
        "ps [--json]",
        "list the processes",
        ("ps", "ps --json"),
        ps,
        "tokens: those that it and its children read and wrote; dev and host: pages in the memory of the device and of the host.",
    ),
    Builtin(
        "explain",
        "explain [--json] PID|%JOB",
        "where the time of a process went, and why it waited",
        ("explain 7", "explain --json %1"),
        explain,
        "Processes of this shell that ended lately are remembered.",
    ),
    Builtin(
        "kill",
        "kill [-SIGNAL] PID|%JOB...",
        "send a signal: TERM, or KILL, STOP, CONT, INT",
        ("kill 7", "kill -STOP 7", "kill -CONT 7", "kill %1", "kill -l"),
        kill,
        "TERM asks a process to end, KILL ends it, STOP pauses it until CONT, INT ends its reply with what it has. STOP and CONT of %N go "
        "to all that its processes have started, too.",
    ),
    Builtin(
        "nice",
        "nice VALUE PID|%JOB...",
        "set how much of the machine a process gets beside others of its class",
        ("nice -5 7", "nice 10 %1"),
        nice,
        "From -20 (most) to 19 (least).",
    ),
    Builtin(
        "fork",
        "fork PID|%JOB",
        "copy a process with its contexts; their pages are shared until one writes",
        ("fork 7", "fork 7; fg"),
        fork,
        """\
The copy goes on from where the original is, as a job in the background. At a terminal it waits for its input until fg gives
it the keyboard, and Ctrl-D there ends it; in a script its input is at its end.""",
    ),
    Builtin(
        "wait",
        "wait [PID|%JOB]...",
        "wait until processes end; the status is that of the last one",
        ("wait", "wait 7 ; echo $?"),
        wait,
        "A job whose end was announced at the prompt has left the table; its status can be had until its number is given again.",
    ),
)
