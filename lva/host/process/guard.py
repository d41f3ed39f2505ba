"""Keeps plugins from changing what belongs to the whole process, and names the one that did.

State of the process has no owner: that it has changed shows, but not who did it. So it is looked at often,
and noted which plugins ran in between. Where that was one alone, it is named; else all known ones are named.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import trio

from lva.errors import listing
from lva.host.process.logs import logging_pieces
from lva.host.process.pieces import Piece
from lva.host.process.state import Change, ProcessState
from lva.host.watch.clock import noting_who_ran
from lva.host.watch.pulse import Watched, processor_times
from lva.logs.loggers import current_plugin, plugin_logger, service_logger

LOGGER: Final = service_logger("lva.host")

#: How often the state is looked at, in seconds, besides at each change of a plugin's state.
PERIOD: Final = 0.1
#: Threads by their names: the service's own, and Trio's while they are idle.
_OWN: Final = ("lva-", "Trio thread ")
#: Those that work for the service's tasks, and asyncio loops, which are looked at apart.
_OWN_TASKS: Final = (" from console", " (spool)", " (asyncio loop)")


def state_now() -> ProcessState:
    """Return the state of the process as it is now."""
    return ProcessState(logging_pieces())


@contextlib.contextmanager
def kept_by(plugin: str, state: ProcessState | None = None) -> Iterator[None]:
    """Put back what the code inside changes, and say so. In the main thread; elsewhere, it does nothing.

    Args:
        plugin: Whose code that is.
        state: What is put back; how things are now, if left out.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    state = state or state_now()
    try:
        yield
    finally:
        for change in state.put_back():
            plugin_logger(plugin).warning("changed %s", change.text)


class ProcessGuard:
    """Watches the state of the process that `run` is called in.

    Args:
        plugins: Returns those there are by name, each with its asyncio loop if it has one.
        more: Pieces of the state besides those that every process has.
    """

    def __init__(
        self,
        plugins: Callable[[], Mapping[str, Watched]],
        more: Iterable[Piece] = (),
    ) -> None:
        self._plugins = plugins
        self._more = more
        self._state: ProcessState | None = None
        self._ran: set[str | None] = set()
        self._used: Mapping[str, tuple[int, float]] = {}
        self._told: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Look again and again.

        Cancellation: ends it; what was put back stays so.
        """
        self._state = ProcessState((*logging_pieces(), *self._more))
        with noting_who_ran() as self._ran:
            try:
                while True:
                    self.look()
                    await trio.sleep(PERIOD)
            finally:
                self._state = None

    def note_transition(self, _name: str, _before: str, _transition: object) -> None:
        """Look at a change of a plugin's state; a `Watcher`."""
        self.look()

    def look(self) -> None:
        """Put back what has changed since the last look, and say so."""
        if self._state is None:
            return
        used = processor_times(self._plugins())
        changes = self._state.put_back()
        if changes:
            ran = {name for name in self._ran if name is not None}
            ran |= {name for name, time in used.items() if self._used.get(name) != time}
            self._tell(changes, ran, [*_other_threads()])
        self._used = used
        self._ran.clear()
        with contextlib.suppress(RuntimeError):  # the event loop has failed
            self._ran.add(trio.lowlevel.current_task().context.get(current_plugin))

    def _tell(self, changes: Iterable[Change], ran: set[str], threads: list[str]) -> None:
        certain = len(ran) == 1 and not threads
        names = listing(ran) if ran else "no plugin on an event loop"
        who = names + (f"; threads: {listing(threads)}" if threads else "")
        for change in changes:
            if (who, change.name) in self._told:
                continue
            self._told.add((who, change.name))
            if certain:
                plugin_logger(names).warning("changed %s", change.text)
            else:
                LOGGER.warning("somebody changed %s; running at that time: %s", change.text, who)


def _other_threads() -> Iterator[str]:
    """Yield the names of threads that may run code of plugins, event loops apart."""
    for thread in threading.enumerate():
        name = thread.name
        ours = name.startswith(_OWN) or name.endswith(_OWN_TASKS)
        if thread is not threading.main_thread() and not ours:
            yield name
