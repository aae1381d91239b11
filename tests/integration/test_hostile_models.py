"""What came with a model runs on nobody's time but its user's: a template that is slow, a tokenizer that panics."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

import llmos
from llmos.drivers.dummy_text import DummyText
from llmos.services.init.boot import attach
from llmos.services.init.catalogue import DummyCatalogue
from llmos.services.init.models import LoadedModel
from llmos.services.init.settings import read_settings

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_thread_is_left")]


class PanicException(BaseException):  # as pyo3 calls it
    """How a library in Rust panics: it is no Exception."""


class Hostile(DummyText):
    """A text whose template waits, and whose tokenizer panics over some words."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def chat(self, messages: object, *, after: int = 0, reply: bool = False) -> list[int]:
        self.begun.set()
        self.go.wait(30)
        return [1]

    def encode(self, text: str) -> list[int]:
        if "panic" in text:
            raise PanicException("retry-limit-in-match over")
        if "invariant" in text:
            raise llmos.Panic("two owners of one frame")
        return super().encode(text)


class Catalogue(DummyCatalogue):
    def __init__(self, text: Hostile) -> None:
        super().__init__("good")
        self.text = text

    def load(self, name: str) -> LoadedModel:
        made = super().load(name)
        return LoadedModel(made.device, self.text) if name == "hostile" else made


async def test_a_short_message_through_a_slow_template_holds_up_nobody_else(tmp_path: Path) -> None:
    text = Hostile()
    async with attach(read_settings(device="dummy", home=tmp_path), Catalogue(text), preload=True) as system:
        context = await system.open(model="hostile")
        appending = asyncio.create_task(context.append(user="hi"))
        try:
            await asyncio.to_thread(text.begun.wait, 10)
            async with asyncio.timeout(10):
                assert await system.ps()
            assert not appending.done()
        finally:
            text.go.set()
        await appending


@pytest.mark.parametrize("length", [0, 5000])
async def test_a_library_that_panics_is_a_fault_of_the_call(length: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with attach(read_settings(device="dummy", home=tmp_path), Catalogue(Hostile()), preload=True) as system:
        context = await system.open(model="hostile")
        async with asyncio.timeout(10):
            with pytest.raises(llmos.Fault, match="PanicException"):
                await context.append(text="x" * length + "panic")
            await context.append(text="fine")
    assert "retry-limit" in caplog.text


async def test_a_broken_invariant_found_elsewhere_ends_the_system_all_the_same(tmp_path: Path) -> None:
    async def body() -> None:
        async with attach(read_settings(device="dummy", home=tmp_path), Catalogue(Hostile()), preload=True) as system:
            context = await system.open(model="hostile")
            async with asyncio.timeout(10):
                await context.append(text="invariant")

    with pytest.raises(llmos.Panic, match="two owners"):
        await body()
