"""What crosses between OS processes beside system calls: arguments, values, and the secrets of runners."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.kernel.errno import IntegrityError, InvalidArgument, NotPermitted, TooLong
from llmos.syscalls import param
from llmos.syscalls.strangers import Strangers
from llmos.syscalls.values import pack_arguments, pack_value, unpack


@pytest.mark.parametrize("value", [None, True, -1, 2**64 - 1, 0.5, "ü", b"\xff", [], [1, [None]], {"a": {1: b""}}])
def test_plain_values_come_back(value: Any) -> None:
    assert unpack(pack_value(value, 1000)) == value
    assert unpack(pack_arguments((value, value), 1000)) == [value, value]


@pytest.mark.parametrize("value", [{1}, object(), lambda: 1, 1j, 2**64, "\ud800", [[{2}]], type])
def test_what_is_not_plain_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidArgument, match=rf"argument 2, a {type(value).__name__}"):
        pack_arguments((1, value, 3), 1000)
    with pytest.raises(InvalidArgument, match=f"returned a {type(value).__name__}"):
        pack_value(value, 1000)


def test_a_value_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidArgument):
        pack_value(endless, 1000)


@pytest.mark.parametrize(("size", "fits"), [(97, True), (98, True), (99, False)])
def test_the_bound(size: int, fits: bool) -> None:
    """Two bytes say that it is bytes, and how many."""
    if fits:
        assert unpack(pack_value(b"x" * size, 100)) == b"x" * size
    else:
        with pytest.raises(TooLong, match="100"):
            pack_value(b"x" * size, 100)


@pytest.mark.parametrize("data", [b"\xc1", b"\x91", b"\x01\x02", b"\x91" * 100_000 + b"\x01", b"\xdd\xff\xff\xff\xff", b"\xa1\xff"])
def test_nonsense_is_an_error(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        unpack(data)


def test_a_secret_is_good_once_and_for_its_process_only() -> None:
    strangers = Strangers()
    one, two = strangers.expect(7), strangers.expect(8)
    assert one != two
    assert len(one) == 32
    for wrong in (b"", b"\0" * 32, one[:-1], one + b"\0"):
        with pytest.raises(NotPermitted):
            strangers.claimed(wrong)
    assert strangers.claimed(one) == 7
    with pytest.raises(NotPermitted):
        strangers.claimed(one)
    strangers.forget(8)
    with pytest.raises(NotPermitted, match="its process has ended"):
        strangers.claimed(two)
    assert one not in repr(vars(strangers)).encode()


def test_strangers_are_listened_to_up_to_a_bound() -> None:
    strangers = Strangers()
    for _ in range(param.MAX_STRANGE - 1):
        strangers.heard(b"a")
    assert not strangers.spent(b"a")
    strangers.heard(b"a")
    assert strangers.spent(b"a")
    for number in range(param.MAX_SESSIONS):
        strangers.heard(str(number).encode())
    assert not strangers.spent(b"a")  # forgotten: counts are bounded too
