"""Stop strings: found wherever the pieces are cut, and nothing of one is ever given."""

from __future__ import annotations

from hypothesis import given, strategies as st

from llmos.syscalls.stops import Stops

letters = st.text("ab", max_size=30)
stops = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def earliest(text: str, stop_strings: list[str]) -> int | None:
    """Where the reply ends if its text is given all at once."""
    return min((at for stop in stop_strings if (at := text.find(stop)) >= 0), default=None)


@given(letters, stops, st.data())
def test_any_cut_into_pieces(text: str, stop_strings: list[str], data: st.DataObject) -> None:
    scanner, given_text, at = Stops(stop_strings), "", 0
    while at < len(text) and scanner.matched is None:
        size = data.draw(st.integers(1, len(text) - at))
        given_text += scanner.push(text[at : at + size])
        at += size
        assert text.startswith(given_text)
        if scanner.matched is None:
            assert earliest(text[:at], stop_strings) is None
    if scanner.matched is None:
        assert given_text + scanner.flush() == text
    else:
        assert given_text == text[: earliest(text[:at], stop_strings)]


def test_text_is_given_as_soon_as_it_is_safe() -> None:
    scanner = Stops(["END"])
    assert scanner.push("abc E") == "abc "
    assert scanner.push("NX") == "ENX"
    assert scanner.push("E") == ""
    assert scanner.flush() == "E"
