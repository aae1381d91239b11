"""Builtins over approvals: what waits for a word of yours, and your word. Also the note that tells of them while you do something else."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from llmos import Fault

from ..terminal import ALL_VISIBLE
from .call import Builtin, Call, Usage, number, options

if TYPE_CHECKING:
    from llmos import Approval, System

    from ..session import Shell

NOTE_CHARACTERS = 200
"""Of the arguments in a note."""


def _id(text: str) -> int:
    return number(text, "id of an approval: approvals shows them", least=1)


async def approvals(call: Call) -> int:
    found, words = options(call.args, flags=("--json",))
    if len(words) > 1:
        raise Usage("it takes one id, or none")
    waiting = await (await call.system()).approvals(_id(words[0]) if words else None)
    if "--json" in found:
        await call.say(json.dumps([asdict(each) for each in waiting]))
        return 0
    from ..render import plain, seconds

    for each in waiting:
        call.shell.shown_digests[each.id] = each.digest
        who = plain(f"[{each.id}] pid {each.pid} ({each.name}) wants {each.capability}, for {each.call}")
        await call.say(f"{who} ({seconds(each.waited)}, gives up in {seconds(each.left)})\n    {plain(each.arguments)}")
    return 0


async def allow(call: Call) -> int:
    if not call.args:
        raise Usage("which? approvals lists what waits")
    ids = [_id(word) for word in call.args]
    system = await call.system()
    return await call.each(ids, lambda each: system.allow(each, digest=call.shell.shown_digests.pop(each, None)))


async def deny(call: Call) -> int:
    if not call.args:
        raise Usage("which? approvals lists what waits")
    wanted, reason = _id(call.args[0]), " ".join(call.args[1:])
    system = await call.system()
    return await call.each([wanted], lambda each: system.deny(each, reason))


async def tell_of_approvals(shell: Shell, system: System) -> None:
    """A note for each call that waits for a person, for as long as the system is there."""
    known = 0
    try:
        while True:
            for each in await system.next_approvals(known):
                known = max(known, each.id)
                shell.shown_digests[each.id] = each.digest
                await shell.note_at_once(_note(each))
            if len(shell.shown_digests) > 10_000:
                shell.shown_digests.clear()
    except Fault:  # the system goes down, or this process of ours: nobody is left to tell of anything
        return


def _note(each: Approval) -> str:
    text = each.arguments
    if len(text) > NOTE_CHARACTERS:
        text = f"{text[:NOTE_CHARACTERS]}... (approvals {each.id} shows all)"
    who = f"[approval {each.id}] pid {each.pid} ({each.name}) wants {each.capability}"
    return f"{who}, for {each.call} {text}: allow {each.id}, or deny {each.id}".translate(ALL_VISIBLE)


BUILTINS = (
    Builtin(
        "approvals",
        "approvals [--json] [ID]",
        "list the calls that wait until you allow them",
        ("approvals", "approvals 3", "approvals --json"),
        approvals,
        """\
A process that holds a capability only by asking (ask:tool:send_mail) waits here with each such call, for an hour at most. What is shown
are the arguments that the call will have if you allow it; approvals ID shows them all.""",
    ),
    Builtin(
        "allow",
        "allow ID...",
        "let a call go on that waits for approval, this once",
        ("allow 3",),
        allow,
        "The same call made again asks again. If something else was shown to you under this id, nothing happens.",
    ),
    Builtin("deny", "deny ID [REASON]", "refuse a call that waits for approval", ("deny 3", "deny 3 not to that address"), deny,
            "The process is told the reason, as an error it may go on from."),
)  # fmt: skip
