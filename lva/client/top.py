"""`lva top`: follows a running service's events, and draws them."""

from __future__ import annotations

import os
import signal
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from rich.console import ConsoleDimensions
from rich.live import Live
from trio_util import wait_any

from lva.client.events import BusyError, events
from lva.client.keys import pressed, unbuffered
from lva.client.model import Model
from lva.client.screen import screen, whole
from lva.client.target import FailedError, Target, why_not

if TYPE_CHECKING:
    from rich.console import Console

#: Seconds between two attempts to connect: at first, and at most.
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 5.0
#: How many columns are printed where there is no terminal.
_PRINTED: Final = 160
#: Least seconds between two drawings.
_FRAME: Final = 0.1
_MOVES: Final = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -10, "page down": 10}
#: What takes the screen to an end of the list.
_JUMPS: Final = {"home": 0, "end": 1_000_000}


def run_live(target: Target, console: Console) -> None:
    """Draw until q is pressed or a signal asks for the end.

    Raises:
        FailedError: There is no service at the beginning, or it refuses.
    """
    with unbuffered():
        trio.run(_Top(target, console).run)


async def print_once(target: Target, console: Console) -> None:
    """Print how things are now.

    Raises:
        FailedError: There is no service, or it refuses.
    """
    model = Model()
    await _first_event(target, model)
    frame, _ = screen(
        model,
        target.address,
        width=_PRINTED,
        height=whole(model),
        scrolled=0,
        trouble="",
        plain=_plain(console),
    )
    lines = console.render_lines(frame, console.options.update(width=_PRINTED), pad=False)
    for line in lines[:-1]:  # but for the keys
        console.print("".join(segment.text for segment in line).rstrip(), soft_wrap=True)


async def _first_event(target: Target, model: Model) -> None:
    """Take the first event in.

    Raises:
        FailedError: There is none.
    """
    import httpx

    try:
        async with aclosing(events(target)) as stream:
            async for name, data in stream:
                model.take(name, data)
                return
    except httpx.TransportError as error:
        raise target.not_there(error) from error
    except BusyError as error:
        raise FailedError(str(error)) from error
    raise FailedError("the service is stopping")


def _plain(console: Console) -> bool:
    return not console.encoding.lower().startswith("utf")


class _Top:
    """The screen while it is live."""

    def __init__(self, target: Target, console: Console) -> None:
        self._target = target
        self._console = console
        self._model = Model()
        self._scrolled = 0
        self._trouble = ""
        self._news = trio.Event()
        self._failure: FailedError | None = None

    async def run(self) -> None:
        # Before the screen is taken, so that its message stays to be read.
        await _first_event(self._target, self._model)
        with Live(console=self._console, screen=True, auto_refresh=False) as live:
            draw = partial(self._draw, live)
            await wait_any(self._follow, self._heed_keys, self._heed_signals, draw)
        if self._failure is not None:
            raise self._failure

    async def _draw(self, live: Live) -> None:
        while True:
            self._news = trio.Event()
            width, height = os.get_terminal_size(self._console.file.fileno())
            # Rich itself would rather believe COLUMNS and LINES, which say how it was at the beginning.
            self._console.size = ConsoleDimensions(width, height)
            frame, self._scrolled = screen(
                self._model,
                self._target.address,
                width=width,
                height=height,
                scrolled=self._scrolled,
                trouble=self._trouble,
                plain=_plain(self._console),
            )
            live.update(frame, refresh=True)
            with trio.move_on_after(1):  # the window may have another size by then
                await self._news.wait()
            await trio.sleep(_FRAME)

    async def _follow(self) -> None:
        """Take events in, connecting again and again; end when the service refuses."""
        import httpx

        pause = _FIRST_PAUSE
        while True:
            try:
                async with aclosing(events(self._target)) as stream:
                    async for name, data in stream:
                        pause, self._trouble = _FIRST_PAUSE, ""
                        self._model.take(name, data)
                        self._news.set()
                self._trouble = "the service has stopped; waiting for its next start"
            except httpx.TransportError as error:
                why = why_not(error)
                self._trouble = f"no response from {self._target.address} ({why}); trying again"
            except BusyError as error:
                self._trouble = f"{error}"
            except FailedError as error:
                self._failure = error
                return
            self._news.set()
            await trio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _heed_keys(self) -> None:
        async for key in pressed():
            if key in {"q", "Q"}:
                return
            if key in _MOVES:
                self._scrolled = max(0, self._scrolled + _MOVES[key])
            elif key in _JUMPS:
                self._scrolled = _JUMPS[key]
            self._news.set()
        await trio.sleep_forever()  # the input has ended, which is not the end of the screen

    async def _heed_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            await anext(signals)
