"""Transcripts: turns follow the tokens through truncation and forks."""

from __future__ import annotations

from llmos.syscalls.transcript import Transcript


def decode(start: int, end: int) -> str:
    return f"<{start}:{end}>"


def conversation() -> Transcript:
    transcript = Transcript(1)
    transcript.add([("system", "s"), ("user", "u")], 0, 10)
    turn = transcript.reply(10, 12)
    turn.end, turn.settled = 20, True
    return transcript


def test_generated_text_is_decoded_from_tokens() -> None:
    assert conversation().messages(decode)[2] == {"role": "assistant", "content": "<12:20>"}


def test_truncation_shortens_a_reply_and_drops_what_was_given() -> None:
    transcript = conversation()
    transcript.truncate(15)
    assert transcript.messages(decode)[2]["content"] == "<12:15>"
    assert not transcript.turns[-1].settled
    transcript.truncate(11)
    assert [turn.role for turn in transcript.turns] == ["system", "user"]
    transcript.truncate(9)
    assert transcript.turns == []


def test_a_fork_is_independent_and_cuts_a_reply_under_way() -> None:
    transcript = conversation()
    transcript.busy = True
    transcript.reply(22, 24)
    twin = transcript.fork(2, 30)
    assert twin.turns[-1].end == 30
    assert transcript.turns[-1].end == 24
    twin.truncate(0)
    assert len(transcript.turns) == 4


def test_the_last_turn_is_one_only_at_the_very_end() -> None:
    transcript = conversation()
    assert transcript.last(20) is transcript.turns[-1]
    assert transcript.last(21) is None
