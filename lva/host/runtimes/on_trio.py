"""A plugin on the service's own Trio loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextvars import copy_context
from typing import Any

import trio

from lva.host.process.threads import AbandonableThread
from lva.host.runtimes.calls import TrioCall
from lva.host.runtimes.errors import awaitable
from lva.host.runtimes.own_tasks import OnFailure
from lva.host.runtimes.patience import Patience
from lva.host.runtimes.runtime import Across, Constructed, Runtime
from lva.logs.error_text import keep_text
from lva.logs.loggers import current_plugin


class TrioRuntime(Runtime):
    """Runs a plugin on the service's own Trio loop.

    Args:
        plugin: The plugin's name.
        nursery: The host's nursery; it must tolerate tasks that never end.
    """

    across: Across | None = None

    def __init__(self, plugin: str, nursery: trio.Nursery) -> None:
        self._plugin = plugin
        self._nursery = nursery

    def report_to(self, on_failure: OnFailure) -> None:
        """Do nothing: a task that fails ends its nursery."""

    async def construct(
        self, what: str, make: Callable[[], Any], timeout: float
    ) -> Constructed | None:
        """Call a class in a worker thread, since an `__init__` cannot be cancelled.

        A thread that does not return is abandoned.
        """
        context = copy_context()
        context.run(current_plugin.set, self._plugin)

        def work() -> Constructed:
            try:
                return Constructed(instance=context.run(make))
            except BaseException as error:
                keep_text(error)
                return Constructed(error=error)

        try:
            thread = context.copy().run(AbandonableThread, work, what)
        except RuntimeError as error:  # no thread left
            return Constructed(error=error)
        if not thread.finished.wait(Patience.BRIEFLY):
            # A stop that comes now must not abandon one that is nearly done, or got no processor yet.
            await thread.wait(timeout, Patience.LEAST)
        return thread.result

    def call(self, what: str, fn: Callable[..., Awaitable[Any]], *args: Any) -> TrioCall:
        call = TrioCall(what, self._plugin, fn, *args)
        self._nursery.start_soon(call.run, name=f"{what} (guard)")
        return call

    def begin(self, body: Callable[[], Awaitable[Any]]) -> TrioCall:
        return self.call(self._plugin, body)

    def equip(self, members: Iterable[Any], nursery: trio.Nursery) -> None:
        for member in members:
            member.nursery = nursery

    def run(self, what: str, fn: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        return awaitable(what, fn())

    follow = run

    async def all_done(self) -> None:
        """Return: leaving the body's nursery waits for them."""

    async def settle(self, patience: Patience, limit: float) -> list[str]:
        """Do nothing: the nursery's end left no task."""
        return []

    async def end(self, patience: Patience, limit: float) -> bool:
        """Do nothing: the loop is the service's."""
        return True

    def stubborn(self) -> tuple[list[str], list[str]]:
        return [], []

    def loop_thread(self) -> None:
        return None
