"""The full screen of `top`: draws a board, hands it keys, and does what it asks of the system.

While it is up, what others want to show waits. The terminal is afterwards as it was. The board (board.py) decides everything.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
from prompt_toolkit.application import Application
from prompt_toolkit.data_structures import Size
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import Layout, Window
from prompt_toolkit.layout.controls import FormattedTextControl

from llmos import Fault
from llmos.sdk.unwrapped import unwrapped

from .board import Board, Order
from .builtins.call import Usage, nice_value
from .builtins.processes import signal_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmos import System

    from .terminal import Terminal


async def sample(system: System, board: Board) -> None:
    """One more look at the system."""
    processes, statistics = await system.ps(), await system.statistics()
    board.take(processes, statistics, time.monotonic())


async def show(system: System, terminal: Terminal, board: Board, every: float) -> None:
    """Until the person leaves. Raises the Fault of a system that has gone."""
    app = _application(board)
    orders: list[Order] = []
    news = anyio.Event()

    def pressed(key: str) -> None:
        nonlocal news
        order = board.press(key)
        if order is not None and order.verb == "leave":
            app.exit()
        elif order is not None:
            orders.append(order)
            news.set()
        app.invalidate()

    app.key_bindings = _keys(pressed)
    over = anyio.Event()

    async def wait_for_the_end(write: Callable[[], None]) -> None:
        await over.wait()
        write()

    async def follow() -> None:
        nonlocal news
        while True:
            with anyio.move_on_after(every):
                await news.wait()
            news = anyio.Event()
            while orders:
                board.message = await _do(system, orders.pop(0))
            if not board.held:
                await sample(system, board)
            app.invalidate()

    terminal.above = wait_for_the_end
    try:
        with unwrapped():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                await app.run_async(handle_sigint=False)
                tasks.cancel_scope.cancel()
    finally:
        if app.is_running:
            app.exit()
        terminal.above = None
        over.set()
        terminal.at_line_start = True


async def _do(system: System, order: Order) -> str:
    """What came of an order, for the line at the bottom."""
    try:
        if order.verb == "kill":
            if order.pid == system.pid:
                return f"pid {order.pid} is this shell itself: q leaves top, exit leaves the shell"
            name = signal_name(order.value)
            await system.kill(order.pid, name)
            return f"sent {name} to {order.pid}"
        value = nice_value(order.value)
        await system.nice(order.pid, value)
    except (Fault, Usage) as refused:
        return str(refused)
    return f"nice value of {order.pid} is {value}"


def _application(board: Board) -> Application[None]:
    def text() -> StyleAndTextTuples:
        size: Size = app.output.get_size()
        drawn: StyleAndTextTuples = []
        for at, line in enumerate(board.lines(size.columns, size.rows)):
            drawn += [("", "\n")] if at else []
            drawn += line
        return drawn

    window = Window(FormattedTextControl(text, show_cursor=False), wrap_lines=False, always_hide_cursor=True)
    app: Application[None] = Application(layout=Layout(window), full_screen=True, mouse_support=False, erase_when_done=True)
    app.ttimeoutlen = 0.05
    return app


def _keys(pressed: Callable[[str], None]) -> KeyBindings:
    bindings = KeyBindings()
    named = (
        Keys.Up,
        Keys.Down,
        Keys.Left,
        Keys.Right,
        Keys.PageUp,
        Keys.PageDown,
        Keys.Home,
        Keys.End,
        Keys.Escape,
        Keys.Enter,
        Keys.Backspace,
    )
    for key in (*named, Keys.ControlC, Keys.ControlJ):

        @bindings.add(key)
        def _(event: KeyPressEvent, name: str = key.value) -> None:
            pressed(name)

    @bindings.add(Keys.Any)
    def _(event: KeyPressEvent) -> None:
        for character in event.data:
            pressed(character)

    return bindings
